r"""MLA: alternating training of one shared head, by gradients that are orthogonal to the features seen so far.

A step of the weight along a direction that no earlier input of the layer points in leaves the answers to those inputs
as they are. For a layer with d inputs, recursive least squares keeps the projection on such directions. It begins with
P = I, and every mean feature r of a batch, in R^d, is taken out by

    k  = P r                                        (d,)
    P <- P - k k^T / (alpha + r^T k)                (d, d)
    grad_W <- P grad_W

which is P = alpha (alpha I + sum r r^T)^-1 without an inverse (Sherman-Morrison). As alpha goes to 0, it becomes the
orthogonal projection off the span of the r. P is shared by the modalities and never grows: with every feature less is
left to learn in, where IGM's T (``igm.flat``) depends on one modality and is made anew.

Zhang et al., CVPR 2024, after OWM (Zeng et al., Nature Machine Intelligence 2019). This is our variant:

- ``alternate="batch"``, as MLA: every batch gives a step for each modality, one after the other, by one optimiser.
  ``alternate="stage"`` has the stages of ``Alternating`` instead, and takes the features out at the end of each.
- A gradient is projected by the P of the steps (stages) before it; then its own features are taken out.
- All linear layers of the head are projected, biases are not. Momentum and weight decay act after the projection.
- alpha is the setting ``mla_alpha`` and stays as it is.
- Fusion weights the modalities' probabilities by their entropy, for each sample by itself. ``fusion="entropy-logits"``
  puts the same weights on the logits, as the authors' code does with its own.

The authors' code (github.com/Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation, commit 11ae1ee) differs:

- Its projection is skipped: it looks for a parameter "module.weight" in a layer that has "weight" and "bias"
  (``GSPlugin`` in utils/utils.py, called from ``train_epoch`` in main.py).
- The formula behind it takes a step's own features out before the step, has a matrix where alpha + r^T k stands, and
  divides P by its norm. In batch b of B its alpha is 0.1^(1 + b/B), so it falls from 0.1 to 0.01 in every epoch.
- It fuses by these weights only with ``--dynamic``, and else by fixed ones. They are one number a modality for a whole
  batch: the softmax of ``calculate_entropy`` in main.py runs over the samples, and its entropy is summed over samples and
  classes. So a prediction depends on the samples beside it. The weights multiply the logits, and one softmax follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from igm.flat import FeatureCovariance, float64_device, modify_gradients, watching
from igm.methods.alternating import Alternating, AlternatingSettings
from igm.methods.base import Batch, Stage
from igm.sam import SAM


@dataclass(frozen=True)
class MLASettings(AlternatingSettings):
    """The settings of the method mla."""

    alternate: str = "batch"
    fusion: str = "entropy"
    mla_alpha: float = 0.1
    """alpha of the projection, above 0: the smaller, the less it lets through."""

    allowed: ClassVar = AlternatingSettings.allowed | {"mla_alpha": "above 0"}


def project_off(P: Tensor, features: Tensor, alpha: float) -> Tensor:
    """P with some features taken out, one after the other (recursive least squares).

    Args:
        P: (d, d), symmetric: the identity where nothing has been seen.
        features: (n, d), a row each.
        alpha: above 0; the smaller, the closer to an orthogonal projection.

    Returns:
        P, (d, d), with the features' directions shrunk further; its eigenvalues are in [0, 1].
    """
    for r in features:
        k = P @ r
        P = P - torch.outer(k, k) / (alpha + r @ k)
    return P


class MLA(Alternating):
    """Alternating training whose gradients in the head are projected off all features seen before.

    ``projections`` holds P by layer, in float64, for all modalities; a layer that saw nothing yet has none (P = I).
    Meant for a shared head. With a head for each modality, their layers of one name share P.

    Raises:
        ValueError: the modalities' layers of one name have different sizes.
    """

    Settings = MLASettings

    def __init__(self, model, modalities, settings, devices=None):
        super().__init__(model, modalities, settings, devices)
        self.layers = {j: _linear(model[j].layers("head")) for j in modalities}
        sizes: dict[str, int] = {}
        for j, layers in self.layers.items():
            for name, layer in layers.items():
                if sizes.setdefault(name, layer.in_features) != layer.in_features:
                    raise ValueError(
                        f"mla keeps one projection a layer, but {name} has {sizes[name]} inputs in one "
                        f"modality and {layer.in_features} in {j}: give the model one shared head"
                    )
        self.projections: dict[str, Tensor] = {}  # layer -> P, (d, d)
        self.sums: dict[str, Tensor] = {}  # layer -> of a step's inputs, sum and count, (d + 1,)

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        (j,) = stage.modalities
        inputs: dict[str, Tensor] = {}  # layer -> its last input, which is that at theta + eps*
        with watching(self.layers[j], lambda name, _, z: inputs.update({name: z.detach()})):
            loss = super().gradient(stage, batch, optimizer)
        for name, z in inputs.items():
            self.sums[name] = self.sums.get(name, 0) + _sum_and_count(self.layers[j][name], z)
        modify_gradients(self.layers[j], self.projections_of(j))
        return loss

    @torch.no_grad()
    def end_turn(self, turn: Stage) -> None:
        if self.settings.alternate == "batch":
            (j,) = turn.modalities
            for name, layer in self.layers[j].items():
                nothing = _place(layer, torch.zeros(layer.in_features + 1))
                total = self.devices.total(self.sums.get(name, nothing))
                self.take_out(name, (total[:-1] / total[-1])[None])  # r, (1, d)
        self.sums.clear()

    @torch.no_grad()
    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:
        if self.settings.alternate == "batch":
            return
        (j,) = stage.modalities
        network = self.model[j].eval()
        with FeatureCovariance(self.layers[j]) as seen:
            for batch in batches:
                network(batch[j])
        network.train()
        seen.reduce(self.devices.total)
        for name, moment in seen.matrices.items():
            # Rows with the same sum of r r^T as the means of all batches, also of other processes.
            eigenvalues, V = torch.linalg.eigh(moment)
            self.take_out(name, (V * eigenvalues.clamp(min=0).sqrt()).T)

    def take_out(self, name: str, features: Tensor) -> None:
        """Projects a layer's P off features, (n, d)."""
        P = self.projections.get(name)
        if P is None:
            P = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        self.projections[name] = project_off(P, features, self.settings.mla_alpha)

    def projections_of(self, j: str) -> dict[str, Tensor]:
        """The matrices for modality j's gradient, layer -> P; the book's controls replace this."""
        return {name: P for name, P in self.projections.items() if name in self.layers[j]}

    def state_dict(self) -> dict:
        return {"projections": self.projections}

    def load_state_dict(self, state_dict: Mapping) -> None:
        layers = {name: layer for each in self.layers.values() for name, layer in each.items()}
        self.projections = {
            name: _place(layers[name], P) for name, P in state_dict["projections"].items()
        }


def _linear(layers: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def _sum_and_count(layer: nn.Linear, z: Tensor) -> Tensor:
    """The sum of the inputs z, (..., d), and how many they are: (d + 1,)."""
    rows = _place(layer, z.reshape(-1, z.shape[-1]))
    return torch.cat([rows.sum(0), rows.new_tensor([len(rows)])])


def _place(layer: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(float64_device(layer), torch.float64)
