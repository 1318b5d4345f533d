"""Joint training: all modalities at once, one loss on the fused prediction."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from igm.methods.base import Batch, Method, Stage


class Joint(Method):
    """One cross-entropy on the sum of the logits: late fusion, or the single output of a Concatenation."""

    defaults = {"fusion": "logits"}

    def stages(self) -> list[Stage]:
        held = getattr(self.model, "modalities", None) or getattr(self.model, "encoders", ())
        if len(self.modalities) < len(held):
            raise ValueError(
                "joint training takes all modalities of the model: build it with those you want"
            )
        if self.settings.mixup:
            raise ValueError("mixup is for methods that train one modality at a time: give mixup 0")
        return [Stage(tuple(self.modalities), self.settings.epochs)]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return self.model(batch)

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        logits = sum(self.predict(batch).values())  # (n, c)
        return F.cross_entropy(logits, batch["label"])
