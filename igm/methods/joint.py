"""Joint training: all modalities at once, one loss on the fused prediction."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from igm.methods.base import Batch, Method, Stage
from igm.models import held_modalities
from igm.settings import Settings


@dataclass(frozen=True)
class JointSettings(Settings):
    """The settings of joint training."""

    fusion: str = "logits"


class Joint(Method):
    """One cross-entropy on the sum of the logits: late fusion, or the single output of a Concatenation.

    Raises:
        ValueError: a modality of the model is left out.
    """

    Settings = JointSettings

    def stages(self) -> list[Stage]:
        if len(self.modalities) < len(held_modalities(self.model)):
            raise ValueError(
                "joint training takes all modalities of the model: build it with those you want"
            )
        return [Stage(tuple(self.modalities), self.settings.epochs)]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return self.model(batch)

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        logits = sum(self.predict(batch).values())  # (n, c)
        return F.cross_entropy(logits, batch["label"])
