"""Alternating training: one modality at a time, round after round."""

from __future__ import annotations

from igm.methods.base import Stage
from igm.methods.unimodal import Unimodal


class Alternating(Unimodal):
    """The epochs of each modality spread over some rounds; in a round every modality has its turn.

    With separate encoders and heads nothing passes from one modality to the other, so this trains exactly the
    networks of ``Unimodal``. It differs where modalities share a head.
    """

    def stages(self) -> list[Stage]:
        m = len(self.modalities)
        if self.settings.stage_epochs:
            return [
                Stage((self.modalities[i % m],), epochs, round=i // m)
                for i, epochs in enumerate(self.settings.stage_epochs)
            ]
        epochs, rounds = self.settings.epochs, self.settings.rounds
        if rounds > epochs:
            raise ValueError(
                f"{rounds} rounds need at least {rounds} epochs a modality, got {epochs}"
            )
        share, rest = divmod(epochs, rounds)
        stages = []
        for i in range(rounds):
            for name in self.modalities:
                stages.append(Stage((name,), share + (i < rest), round=i))
        return stages
