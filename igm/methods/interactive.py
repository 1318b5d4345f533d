"""The method ``igm``, the paper's Algorithm 1: alternating training, flat gradient modification (GM) and SAM.

    T^(k) = I for every modality k
    for each round, for each modality j:                    # Alternating.stages
        k = the modality before j in the cycle              # Interactive.begin_stage: T^(k) for the optimiser
        for each batch of modality j:
            g = gradient of the loss at theta + eps*        # Eqs. 1, 7, 8
            theta^(j) <- theta^(j) - eta T^(k) g            # Eq. 9, in the head's layers: igm.IGM
        Ybar^(j) from the head's inputs                     # Eq. 2, Interactive.end_stage

The paper, the authors' code and what works are three settings of this method, its ``VARIANTS``. Every ablation is a
setting too: without SAM ``rho=0``, without GM ``gm=[]``, in one direction ``gm=["audio>image"]``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from igm.flat import STATISTICS, FeatureCovariance, modification_matrix
from igm.methods.alternating import Alternating, AlternatingSettings
from igm.methods.base import Batch, Stage
from igm.methods.released import released_gradient
from igm.optimizer import IGM
from igm.sam import SAM

VARIANTS = {
    # Algorithm 1 as printed, with the paper's rho for audio (it has 1e-15 for images and text).
    "paper": {
        "tau": 0.4,
        "statistic": "batch-mean",
        "cumulative": True,
        "rho": 1e-10,
        "fusion": "entropy",
    },
    # The arithmetic of the authors' code; they choose on the test split, which is select="test".
    "released": {
        "tau": 0.4,
        "statistic": "batch-mean",
        "rho": 1e-10,
        "rho_norm": "tensor",
        "flat_ratio": 0.3,
        "mixup": 1.0,
        "drop_last": True,
        "restart": True,
        "from_best": True,
        "score": "macro_f1",
    },
    # What the book's experiments found to act: the defaults of IGMSettings.
    "igm": {},
}


@dataclass(frozen=True)
class IGMSettings(AlternatingSettings):
    """The settings of the method igm."""

    variant: str = "igm"
    """paper: Algorithm 1 as printed. released: the arithmetic of the authors' code. igm: what this book found to
    work. It decides the defaults of the other settings."""
    tau: float = 20.0
    """Strength of the gradient modification, above 0 (Eq. 4)."""
    gm: list[str] | None = None
    """Which matrix modifies which gradient, as pairs such as ["audio>image"]: T of audio for the image's gradient. By
    default that of the previous modality in the cycle; [] for no modification."""
    scope: str = "head"
    """The lowest module whose layers are modified, with all above it: head, or e.g. encoder.5."""
    statistic: str = "sample"
    """Moment of the features: batch-mean (the paper) or sample."""
    center: bool = False
    """Subtract the mean from that moment."""
    cumulative: bool = False
    """Add up the moments over the rounds, as Algorithm 1 does, or begin anew at each stage."""
    rho: float = 0.02
    flat_ratio: float = 0.0
    """Share of the second loss in the authors' code, in place of SAM; 0 for SAM."""
    fast: bool = True
    """With flat_ratio and rho <= 1e-10, take one backward pass in place of two: the same gradient."""

    allowed: ClassVar = AlternatingSettings.allowed | {
        "variant": tuple(VARIANTS),
        "tau": "above 0",
        "statistic": STATISTICS,
        "flat_ratio": "from 0 to 1",
    }

    @classmethod
    def defaults(cls, given: Mapping) -> dict:
        return VARIANTS.get(given.get("variant", "igm"), {})

    def __post_init__(self):
        super().__post_init__()
        if self.alternate == "batch":
            raise ValueError("igm makes its matrices when a stage ends: give alternate stage")


class Interactive(Alternating):
    """Alternating training whose gradients are modified by the previous modality's flat directions.

    ``covariances`` holds the moments by modality, after its first stage. Between networks of different shapes T passes
    where the layers' names and sizes agree; elsewhere it is the identity. Where none agrees, the optimiser warns.

    Raises:
        ValueError: ``gm`` names pairs that make no sense, or whose networks have no layer in common; ``scope`` names no
            layer; or no layer of a stage's network saw an input.
    """

    Settings = IGMSettings

    def __init__(self, model, modalities, settings, devices=None):
        super().__init__(model, modalities, settings, devices)
        self.layers = {j: model[j].layers(settings.scope) for j in modalities}
        self.sources = {j: self.previous(j) for j in modalities}
        if settings.gm is not None:
            self.sources = _sources(settings.gm, modalities)
            for j, k in self.sources.items():
                _check_pair(k, self.layers[k], j, self.layers[j])
        self.covariances: dict[str, FeatureCovariance] = {}

    def previous(self, modality: str) -> str:
        """k = mod(j + m - 2, m) + 1: the modality before j in the cycle."""
        return self.modalities[self.modalities.index(modality) - 1]

    def optimizer(self, stage: Stage, base: Optimizer) -> IGM:
        (j,), s = stage.modalities, self.settings
        return IGM(
            base, self.layers[j], s.rho, s.tau, norm=s.rho_norm, modification=self.modification
        )

    def begin_stage(self, stage: Stage, optimizer: IGM) -> None:
        (j,) = stage.modalities
        optimizer.protect(self.protected(j))

    def protected(self, j: str) -> Mapping[str, Tensor]:
        """What j's gradient must leave alone: the moments of its source.

        layer -> (d, d); empty where the source has none yet.
        """
        covariance = self.covariances.get(self.sources.get(j))
        return covariance.matrices if covariance else {}

    @staticmethod
    def modification(moment: Tensor, tau: float) -> Tensor:
        """T of one layer, (d, d), from its moment, (d, d) (Eq. 4); the book's controls replace this."""
        return modification_matrix(moment, tau)

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        if not self.settings.flat_ratio:
            return super().gradient(stage, batch, optimizer)  # Eqs. 1 and 7 to 9
        loss = released_gradient(self, stage, batch, optimizer)
        optimizer.modify()
        return loss

    @torch.no_grad()
    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:
        (j,) = stage.modalities
        if j not in self.sources.values():
            return  # no gradient uses its T
        covariance = self._covariance(j)
        network = self.model[j].eval()
        with covariance:
            for batch in batches:
                network(batch[j])  # Eq. 2
        network.train()
        covariance.reduce(self.devices.total)
        if self.settings.cumulative and j in self.covariances:
            covariance.add(self.covariances[j])
        self.covariances[j] = covariance

    def state_dict(self) -> dict:
        return {j: covariance.state_dict() for j, covariance in self.covariances.items()}

    def load_state_dict(self, state_dict: Mapping) -> None:
        self.covariances = {j: self._covariance(j) for j in state_dict}
        for j, sums in state_dict.items():
            self.covariances[j].load_state_dict(sums)

    def _covariance(self, j: str) -> FeatureCovariance:
        return FeatureCovariance(self.layers[j], self.settings.statistic, self.settings.center)


def _sources(pairs: list[str], modalities: list[str]) -> dict[str, str]:
    """["audio>image"] -> {"image": "audio"}: whose T modifies whose gradient."""
    sources = {}
    for pair in pairs:
        source, _, target = (part.strip() for part in pair.partition(">"))
        for name in (source, target):
            if name not in modalities:
                raise ValueError(
                    f"gm has the pair {pair!r}: give pairs such as {modalities[0]}>{modalities[-1]}, "
                    f"of {', '.join(modalities)}"
                )
        if target in sources:
            raise ValueError(f"gm modifies {target} by two matrices: give one pair that ends in it")
        sources[target] = source
    return sources


def _check_pair(k: str, source: Mapping, j: str, target: Mapping) -> None:
    """Raises ValueError where T of k, by the layers of k's network, cannot act on any layer of j."""
    inputs = [{name: m.weight[0].numel() for name, m in each.items()} for each in (source, target)]
    if not inputs[0].items() & inputs[1].items():
        raise ValueError(
            f"gm has the pair '{k}>{j}', but no layer of {j} in the scope has the name and the number of inputs of "
            f"one of {k}: give both a head of the same shape, or leave the pair out"
        )
