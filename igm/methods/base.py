"""What the training loop asks of a method: its stages, a gradient for a batch, and what to do when a stage ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from igm.sam import SAM

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """Some epochs in which the same modalities are trained; the next round comes back to them."""

    modalities: tuple[str, ...]
    epochs: int
    round: int = 0


class Method:
    """Base of the training methods.

    Args:
        model: a LateFusion, or for joint training also a Concatenation.
        modalities: the modalities to train, in order.
        settings: anything with the attributes of ``igm.train.Settings``.
    """

    default_rho = 0.0  # SAM's radius where the user gives none; 0 is no SAM
    default_fusion = "mean"

    def __init__(self, model: nn.Module, modalities: list[str], settings):
        self.model = model
        self.modalities = modalities
        self.settings = settings

    def stages(self) -> list[Stage]:
        raise NotImplementedError

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters that a stage trains."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (n, c) of each trained modality."""
        return {name: self.model[name](batch[name]) for name in self.modalities}

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        raise NotImplementedError

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        """Leaves in ``.grad`` what the optimiser is to step along; returns the loss."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss(stage, batch)
            loss.backward()
            return loss

        return optimizer.gradient(closure)

    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called once after the last epoch of a stage, with the training batches."""
