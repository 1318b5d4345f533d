"""Alternating training: one modality at a time, round after round or batch after batch."""

from dataclasses import dataclass
from typing import ClassVar

from igm.methods.base import Stage
from igm.methods.unimodal import EachAlone, UnimodalSettings


@dataclass(frozen=True)
class AlternatingSettings(UnimodalSettings):
    """The settings of the methods that train the modalities in turn."""

    rounds: int = 2
    """Rounds over the modalities; they share the epochs."""
    stage_epochs: list[int] | None = None
    """The epochs of each stage in place of epochs and rounds, e.g. [25, 50, 25, 50]: the stages take the modalities
    in turn."""
    alternate: str = "stage"
    """When it is another modality's turn. stage: after some epochs. batch: after every batch; then there are no
    rounds, and one optimiser for all."""

    allowed: ClassVar = UnimodalSettings.allowed | {
        "rounds": "1 or above",
        "stage_epochs": "1 or above",
        "alternate": ("stage", "batch"),
    }


class Alternating(EachAlone):
    """The epochs of each modality spread over some rounds; in a round every modality has its turn.

    With separate encoders and heads nothing passes from one modality to the other, so this trains exactly the
    networks of ``EachAlone``. It differs where modalities share a head.

    With ``alternate="batch"`` the turns are as short as can be: there is one stage, every batch of it gives a step for
    each modality, one after the other, and one optimiser takes them all.

    Raises:
        ValueError: more rounds than epochs, or the epochs of stages where there are no stages.
    """

    Settings = AlternatingSettings

    def stages(self) -> list[Stage]:
        if self.settings.alternate == "batch":
            if self.settings.stage_epochs:
                raise ValueError("stage_epochs needs stages: give alternate stage, or epochs")
            return [Stage(tuple(self.modalities), self.settings.epochs)]
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

    def turns(self, stage: Stage) -> list[Stage]:
        return [Stage((name,), stage.epochs, stage.round) for name in stage.modalities]
