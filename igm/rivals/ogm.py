r"""OGM-GE: joint training that holds back the encoder of the modality that is ahead.

With o^(j) what modality j brings to the joint logits o = o^(1) + ... + o^(m), and a batch B:

    s_j   = sum over B of softmax(o^(j))[y]
    rho_j = s_j / mean of the other s_k                         discrepancy ratio, see ``igm.analysis.imbalance``
    k_j   = 1 - tanh(alpha rho_j)  where rho_j > 1,  else 1     coefficient (on-the-fly gradient modulation, OGM)
    g     <- k_j g + h,  h ~ N(0, std(g)^2)                     for each gradient g of the encoder of modality j

The noise h is the generalisation enhancement, GE. All encoders get it, also those with k = 1; a head's gradient stays
as it is. Peng et al., CVPR 2022; what they leave open is here as in their code:

- They argue by the covariance of SGD's gradients. Drawn is for each entry of g, independently, noise with the standard
  deviation of g's entries, + 1e-8, before the coefficient. Such noise is about as long as g itself.
- Their equations speak of all parameters of an encoder (``ogm_layers="all"``). Their code takes those whose gradient
  has four dimensions, the convolutions (``"conv"``), and by default modulates in the first half of the epochs only
  (``ogm_epochs``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igm.analysis.imbalance import discrepancy_ratio, shapley, subsets
from igm.methods.base import Batch, Stage
from igm.methods.joint import Joint, JointSettings
from igm.models import Concatenation
from igm.sam import SAM, frozen_batchnorm_statistics


@dataclass(frozen=True)
class OGMSettings(JointSettings):
    """The settings of the method ogm."""

    ogm_alpha: float = 0.8
    """How strongly a modality that is ahead is held back, 0 or above, 0 for not at all."""
    ogm_noise: bool = True
    """Add the noise of GE to the gradients."""
    ogm_layers: str = "all"
    """Of the encoders whose gradients are changed: all (the paper), or conv (the authors' code)."""
    ogm_epochs: int | None = None
    """Of the epochs, the first so many are modulated; by default all of them."""

    allowed: ClassVar = JointSettings.allowed | {
        "ogm_alpha": "0 or above",
        "ogm_layers": ("all", "conv"),
        "ogm_epochs": "1 or above",
    }


class OGM(Joint):
    """Joint training whose encoders' gradients are scaled by the coefficients above, for late fusion or a
    Concatenation.

    What a modality brings to the logits is, in late fusion, its own logits. In a Concatenation it is its share of what
    the head answers, see ``head_shares``. Either way the o^(j) add up to o.

    ``shares`` holds o^(j) of the last batch (with SAM, at the perturbed weights).

    Raises:
        ValueError: fewer than two modalities.
    """

    Settings = OGMSettings

    def __init__(self, model, modalities, settings, devices=None):
        super().__init__(model, modalities, settings, devices)
        if len(modalities) < 2:
            raise ValueError(
                f"ogm compares modalities: give it two or more, not {', '.join(modalities)} alone"
            )
        self.shares: dict[str, Tensor] = {}  # modality -> (n, c)

    def stages(self) -> list[Stage]:
        """The modulated epochs, and where some remain, a second stage without modulation."""
        (stage,) = super().stages()
        modulated = self.settings.ogm_epochs or stage.epochs
        if modulated > stage.epochs:
            raise ValueError(
                f"ogm_epochs must be at most epochs, got {modulated} of {stage.epochs}"
            )
        parts = [Stage(stage.modalities, modulated)]
        if rest := stage.epochs - modulated:
            parts.append(Stage(stage.modalities, rest, round=1))
        return parts

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        if not isinstance(self.model, Concatenation):
            logits = self.predict(batch)
            self.shares = {name: o.detach() for name, o in logits.items()}
            return F.cross_entropy(sum(logits.values()), batch["label"])
        z = {name: encoder(batch[name]) for name, encoder in self.model.encoders.items()}
        logits = self.model.head(torch.cat(list(z.values()), dim=1))
        self.shares = head_shares(self.model.head, z)
        return F.cross_entropy(logits, batch["label"])

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        loss = super().gradient(stage, batch, optimizer)
        if stage.round:
            return loss  # past the modulated epochs
        for name, k in self.coefficients(batch).items():
            modulate(self.held_back(name), k, self.settings.ogm_noise)
        return loss

    def coefficients(self, batch: Batch) -> dict[str, float]:
        """k of each modality, for the batch whose ``shares`` are there; the book's controls replace this."""
        ratios = discrepancy_ratio(self.shares, batch["label"])
        return {name: coefficient(rho, self.settings.ogm_alpha) for name, rho in ratios.items()}

    def held_back(self, name: str) -> list[nn.Parameter]:
        """The parameters of a modality's encoder whose gradients are changed."""
        conv = self.settings.ogm_layers == "conv"
        return [p for p in self.model.encoders[name].parameters() if p.dim() == 4 or not conv]


def coefficient(ratio: float, alpha: float) -> float:
    """k = 1 - tanh(alpha rho) for a modality that is ahead (rho > 1), and 1 for one that is not."""
    return 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0


@torch.no_grad()
def modulate(parameters: list[nn.Parameter], k: float, noise: bool) -> None:
    """Replaces each ``.grad`` by k g, and with ``noise`` adds h ~ N(0, (std(g) + 1e-8)^2) to each of its entries."""
    for p in parameters:
        if p.grad is None:
            continue
        g = p.grad
        p.grad = k * g
        if noise:
            std = g.std(correction=min(1, g.numel() - 1))
            p.grad += (std + 1e-8) * torch.randn_like(g)


@torch.no_grad()
def head_shares(head: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
    """What each modality brings to the logits of a head over all features side by side: its Shapley value.

    v(S) is the head's answer where the features of all modalities outside S are 0, and v(empty) = 0. For two
    modalities that is AGM's (Li et al., ICCV 2023) 1/2 (f(a, v) - f(0, v) + f(a, 0)); for the linear head of OGM's
    paper, and any number of modalities, it is W^(j) z^(j) + b/m.

    Args:
        features: modality -> z, (n, d), in the head's order; at most five.

    Returns:
        modality -> o, (n, c). Together they are the head's answer to all features.
    """
    v = {}
    with frozen_batchnorm_statistics(set(head.modules())):
        for S in subsets(features):
            z = [z if name in S else torch.zeros_like(z) for name, z in features.items()]
            v[S] = head(torch.cat(z, dim=1))  # (n, c)
    v[frozenset()] = torch.zeros_like(v[frozenset()])
    return shapley(v)
