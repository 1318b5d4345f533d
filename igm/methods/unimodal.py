"""Each modality alone, one after the other: the network that no other modality could have disturbed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from igm.methods.base import Batch, Method, Stage
from igm.models import Concatenation
from igm.settings import Settings


@dataclass(frozen=True)
class UnimodalSettings(Settings):
    """The settings of the methods that train one modality at a time."""

    mixup: float = 0.0
    """alpha of mixup's Beta distribution, one mixing weight a batch (Zhang et al., ICLR 2018); 0 for none."""

    allowed: ClassVar = Settings.allowed | {"mixup": "0 or above"}


class EachAlone(Method):
    """Trains encoder and head of each modality by its own cross-entropy (Eq. 1).

    Raises:
        ValueError: the model is a Concatenation.
    """

    Settings = UnimodalSettings

    def __init__(self, model, modalities, settings, devices=None):
        super().__init__(model, modalities, settings, devices)
        if isinstance(model, Concatenation):
            raise ValueError(
                f"{settings.method} trains one network a modality: give it late fusion, or train "
                "the concatenation by joint"
            )

    def stages(self) -> list[Stage]:
        return [Stage((name,), self.settings.epochs) for name in self.modalities]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        networks = [self.model[name] for name in stage.modalities]
        parameters = [p for network in networks for p in network.parameters()]
        return list(dict.fromkeys(parameters))  # a shared head's once

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        (name,) = stage.modalities
        x, y = batch[name], batch["label"]
        if not self.settings.mixup or not x.is_floating_point():
            return F.cross_entropy(self.model[name](x), y)  # Eq. 1; words cannot be mixed
        lam, partner = draw_mixup(self.settings.mixup, len(y))
        logits = self.model[name](mix(x, lam, partner))
        return mixed_cross_entropy(logits, y, lam, partner)


def draw_mixup(alpha: float, n: int) -> tuple[float, Tensor]:
    """One mixing weight lambda ~ Beta(alpha, alpha) for a batch, and the partner (n,) of each of its samples."""
    return Beta(alpha, alpha).sample().item(), torch.randperm(n)


def mix(x: Tensor, lam: float, partner: Tensor) -> Tensor:
    """lambda x + (1 - lambda) x[partner], (n, ...) (Zhang et al., ICLR 2018)."""
    return torch.lerp(x[partner.to(x.device)], x, lam)


def mixed_cross_entropy(logits: Tensor, y: Tensor, lam: float, partner: Tensor) -> Tensor:
    """lambda L(y) + (1 - lambda) L(y[partner]): the loss that goes with ``mix``."""
    other = F.cross_entropy(logits, y[partner.to(y.device)])
    return lam * F.cross_entropy(logits, y) + (1 - lam) * other
