"""IGM, the paper's Algorithm 1: alternating training, flat gradient modification (GM) and SAM.

    T^(k) = I for every modality k
    for each round, for each modality j:                    # Alternating.stages
        for each batch of modality j:
            g = gradient of the loss at theta + eps*        # Eqs. 1, 7, 8
            k = the modality before j in the cycle
            theta^(j) <- theta^(j) - eta T^(k) g            # Eq. 9, in the head's layers
        Ybar^(j) from the head's inputs, T^(j) from Ybar^(j)    # Eqs. 2, 4

Without SAM it is ``rho=0``; without GM it is the method ``alternating`` with the same rho.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from igm.flat import FeatureCovariance, modification_matrix, modify_gradients
from igm.methods.alternating import Alternating
from igm.methods.base import Batch, Stage
from igm.sam import SAM


class IGM(Alternating):
    """Alternating training whose head gradients are modified by the previous modality's flat directions."""

    default_rho = 0.02

    def __init__(self, model, modalities, settings):
        super().__init__(model, modalities, settings)
        self.matrices: dict[str, dict[str, Tensor]] = {}  # modality -> layer -> T; none yet: T = I

    def previous(self, modality: str) -> str:
        """k = mod(j + m - 2, m) + 1: the modality before j in the cycle."""
        return self.modalities[self.modalities.index(modality) - 1]

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        loss = super().gradient(stage, batch, optimizer)  # Eqs. 1, 7, 8
        (j,) = stage.modalities
        k = self.previous(j)
        modify_gradients(self.model[j].head_layers(), self.matrices.get(k, {}))  # Eq. 9
        return loss

    @torch.no_grad()
    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:
        (j,) = stage.modalities
        network = self.model[j].eval()
        statistic, center = self.settings.statistic, self.settings.center
        with FeatureCovariance(network.head_layers(), statistic, center) as covariance:
            for batch in batches:
                network(batch[j])  # Eq. 2
        self.matrices[j] = {
            layer: self.modification(moment) for layer, moment in covariance.matrices.items()
        }
        network.train()

    def modification(self, moment: Tensor) -> Tensor:
        """T of one layer (Eq. 4); the book's controls replace this."""
        return modification_matrix(moment, self.settings.tau)
