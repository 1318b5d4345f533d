"""What the training loop asks of a method: its stages, a gradient for a batch, and what to do when a stage ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

from igm.sam import SAM
from igm.settings import Settings

Batch = Mapping[str, Tensor]

PLAIN = {  # what settings are where neither the user nor the method says more
    "drop_last": False,
    "restart": False,
    "from_best": False,
    "alternate": "stage",
    "mixup": 0.0,
    "tau": 0.4,
    "scope": "head",
    "statistic": "batch-mean",
    "center": False,
    "cumulative": False,
    "mla_alpha": 0.1,
    "rho": 0.0,
    "rho_norm": "all",
    "adaptive": False,
    "flat_ratio": 0.0,
    "fusion": "mean",
    "score": "accuracy",
}


@dataclass(frozen=True)
class Stage:
    """Some epochs in which the same modalities are trained; the next round comes back to them."""

    modalities: tuple[str, ...]
    epochs: int
    round: int = 0

    @property
    def name(self) -> str:
        return "+".join(self.modalities)


class Method:
    """Base of the training methods.

    Args:
        model: a LateFusion, or for joint training also a Concatenation.
        modalities: the modalities to train, in order.
        settings: where it leaves a setting open, ``defaults`` and then ``PLAIN`` fill it; ``self.settings`` has
            the result.

    ``autocast``, ``backward`` and ``total`` belong to the training loop, which sets them for mixed precision and
    several processes.
    """

    defaults: Mapping = {}  # this method's own values of settings

    def __init__(self, model: nn.Module, modalities: list[str], settings: Settings):
        self.model = model
        self.modalities = modalities
        self.settings = settings.filled(self.defaults).filled(PLAIN)

    autocast = nullcontext  # around the computation of a loss

    @staticmethod
    def backward(loss: Tensor) -> None:
        loss.backward()

    @staticmethod
    def total(sums: Tensor) -> Tensor:
        """The sum over all processes."""
        return sums

    def stages(self) -> list[Stage]:
        raise NotImplementedError

    def turns(self, stage: Stage) -> list[Stage]:
        """The steps that each batch gives, one after the other: by default one, for all modalities of the stage."""
        return [stage]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters that a stage trains."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (n, c) of each trained modality."""
        return {name: self.model[name](batch[name]) for name in self.modalities}

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """What is evaluated: ``predict`` in the run's precision, its result in float32."""
        with self.autocast():
            return {name: z.float() for name, z in self.predict(batch).items()}

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        raise NotImplementedError

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        """Leaves in ``.grad`` what the optimiser is to step along; returns the loss."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            with self.autocast():
                loss = self.loss(stage, batch)
            self.backward(loss)
            return loss

        return optimizer.gradient(closure)

    def end_turn(self, turn: Stage) -> None:  # noqa: B027
        """Called after each step."""

    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called once after the last epoch of a stage, with the training batches (a process's share of them)."""

    def state_dict(self) -> dict:
        """What a checkpoint must keep of the method beside the model: tensors, numbers, strings, dicts and lists."""
        return {}

    def load_state_dict(self, state_dict: Mapping) -> None:  # noqa: B027
        """Goes on from ``state_dict``."""
