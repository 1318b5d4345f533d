"""Each modality alone, one after the other: the network that no other modality could have disturbed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from igm.methods.base import Batch, Method, Stage
from igm.models import Concatenation


class Unimodal(Method):
    """Trains encoder and head of each modality by its own cross-entropy (Eq. 1)."""

    def __init__(self, model, modalities, settings):
        super().__init__(model, modalities, settings)
        if isinstance(model, Concatenation):
            raise ValueError(
                f"{settings.method} trains one network a modality: give it late fusion, or train "
                "the concatenation by joint"
            )

    def stages(self) -> list[Stage]:
        return [Stage((name,), self.settings.epochs) for name in self.modalities]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        (name,) = stage.modalities
        return list(self.model[name].parameters())

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        (name,) = stage.modalities
        return F.cross_entropy(self.model[name](batch[name]), batch["label"])  # Eq. 1
