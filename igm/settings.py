"""The settings of a run, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from igm.flat import STATISTICS
from igm.models import FUSIONS
from igm.sam import NORMS

CHOICES = {
    "optimizer": ("sgd", "adam"),
    "schedule": ("cosine", "constant", "step", "plateau"),
    "alternate": ("stage", "batch"),
    "rho_norm": NORMS,
    "statistic": STATISTICS,
    "ogm_layers": ("all", "conv"),
    "fusion": FUSIONS,
    "select": ("best", "last", "test"),
    "score": ("accuracy", "macro_f1", "map"),
    "precision": ("no", "bf16", "fp16"),
}
AT_LEAST_ONE = ("epochs", "rounds", "batch_size", "accumulation", "eval_batch_size")
POSITIVE = ("lr", "lr_factor", "tau", "mla_alpha", "ogm_epochs", "clip")
NOT_NEGATIVE = (
    "momentum",
    "weight_decay",
    "rho",
    "ogm_alpha",
    "mixup",
    "flat_ratio",
    "warmup",
    "workers",
)


@dataclass(frozen=True)
class Settings:
    """How a run trains.

    Where None is the default, the method and the variant decide; ``run.settings`` says what was used.

    Args:
        method: joint, unimodal, alternating, igm, ogm or mla.
        variant: of the method igm. paper: Algorithm 1 as printed. released: the arithmetic of the authors' code.
            igm: what this book found to work. It decides the settings below that are not given.
        modalities: those to train, in this order; by default all, in the order of the data.
        epochs: epochs a modality (joint training: epochs).
        rounds: rounds over the modalities, for alternating, igm and mla; they share the epochs.
        stage_epochs: for alternating, igm and mla, the epochs of each stage in place of epochs and rounds, e.g.
            [25, 50, 25, 50]: the stages take the modalities in turn.
        alternate: for alternating and mla, when it is another modality's turn: stage, after some epochs, or batch, after
            every batch; then there are no rounds, and one optimiser for all.
        batch_size: samples a step, of all processes together.
        accumulation: parts in which a process takes its share of a step, one after the other, to save memory. SAM
            perturbs by the gradient of each part.
        drop_last: leave out the last batch of an epoch where it is smaller than the others.
        eval_batch_size: samples at once in evaluation; it does not change what is learnt.
        optimizer: sgd or adam.
        lr: learning rate at the start.
        momentum: momentum of SGD.
        beta2: of Adam, its memory of squared gradients; the authors' code has 0.99.
        weight_decay: weight decay.
        schedule: of the learning rate over a modality's epochs. cosine, constant, step: times lr_factor at each
            milestone, plateau: times lr_factor after 5 epochs without a better validation score.
        milestones: the epochs after which step lowers the learning rate.
        lr_factor: what the learning rate is multiplied with, for step and plateau.
        warmup: epochs at the start of each schedule over which the learning rate rises linearly to lr, w of them:
            lr times 1 / (w + 1), 2 / (w + 1), ...; from then on it is that of the schedule, which counts these
            epochs, too. The authors' text-image configs have 2. Not with plateau.
        restart: begin each stage with a fresh optimiser and schedule, over the stage's epochs.
        from_best: begin each stage with the best weights so far, and take the matrices from them: a stage that
            did not improve is thrown away.
        clip: the largest norm of the gradient, over all parameters; what is longer is shortened to it.
        mixup: alpha of mixup's Beta distribution, one mixing weight a batch (Zhang et al., ICLR 2018); 0 for none.
        tau: strength of the gradient modification, above 0 (Eq. 4); igm only.
        gm: which matrix modifies which gradient, as pairs such as ["audio>image"]: T of audio for the image's
            gradient. By default that of the previous modality in the cycle; [] for no modification.
        scope: the lowest module whose layers are modified, with all above it: head, or e.g. encoder.5.
        statistic: moment of the features, batch-mean (the paper) or sample; igm only.
        center: subtract the mean from that moment; igm only.
        cumulative: add up the moments over the rounds, as Algorithm 1 does, or begin anew at each stage.
        mla_alpha: alpha of MLA's projection, above 0: the smaller, the less it lets through; mla only.
        ogm_alpha: how strongly a modality that is ahead is held back, 0 or above, 0 for not at all; ogm only.
        ogm_noise: add the noise of GE to the gradients; ogm only.
        ogm_layers: of the encoders whose gradients ogm changes: all (the paper), or conv (the authors' code).
        ogm_epochs: of the epochs, the first so many are modulated; by default all of them; ogm only.
        rho: radius of SAM, 0 or above, 0 for none (Eq. 6).
        rho_norm: all: rho is the norm over all parameters (Eq. 7). tensor: each tensor moves by rho.
        adaptive: scale the perturbation by the weights (ASAM).
        flat_ratio: share of the second loss in the authors' code, in place of SAM; 0 for SAM.
        fast: with flat_ratio and rho <= 1e-10, take one backward pass in place of two: the same gradient.
        fusion: of the modalities' predictions, mean, entropy or logits.
        select: keep the weights of the best epoch on the validation split (best), of the last epoch (last), or of
            the best epoch on the test split (test), as the authors' code does. The last of these is no fair
            estimate, and the run says so.
        score: what best means, accuracy, macro_f1 or map of the fused prediction.
        precision: no for float32, bf16 or fp16 for mixed precision; by default what accelerate launch says.
        seed: of the order of the batches and all else that is random in training.
        device: cpu, cuda, mps, ..., or auto for a GPU where there is one.
        workers: processes that read the data beside this one; what they read does not depend on their number.

    Raises:
        ValueError: a value is out of its range; the message names the setting.
    """

    method: str = "igm"
    variant: str = "igm"
    modalities: list[str] | None = None
    epochs: int = 20
    rounds: int = 2
    stage_epochs: list[int] | None = None
    alternate: str | None = None
    batch_size: int = 32
    accumulation: int = 1
    drop_last: bool | None = None
    eval_batch_size: int = 256
    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    milestones: list[int] | None = None
    lr_factor: float = 0.1
    warmup: int = 0
    restart: bool | None = None
    from_best: bool | None = None
    clip: float | None = None
    mixup: float | None = None
    tau: float | None = None
    gm: list[str] | None = None
    scope: str | None = None
    statistic: str | None = None
    center: bool | None = None
    cumulative: bool | None = None
    mla_alpha: float | None = None
    ogm_alpha: float | None = None
    ogm_noise: bool | None = None
    ogm_layers: str | None = None
    ogm_epochs: int | None = None
    rho: float | None = None
    rho_norm: str | None = None
    adaptive: bool | None = None
    flat_ratio: float | None = None
    fast: bool = True
    fusion: str | None = None
    select: str = "best"
    score: str | None = None
    precision: str | None = None
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def __post_init__(self):
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"unknown {name} {value!r}: use one of {', '.join(allowed)}")
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or above, got {getattr(self, name)}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in NOT_NEGATIVE:
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be 0 or above, got {value}")
        if self.flat_ratio is not None and not self.flat_ratio <= 1:
            raise ValueError(f"flat_ratio must be from 0 to 1, got {self.flat_ratio}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be 0 or above and below 1, got {self.beta2}")
        for name in ("stage_epochs", "milestones"):
            value = getattr(self, name)
            if value is not None and (not value or min(value) < 1):
                raise ValueError(f"{name} must be whole numbers of 1 or above, got {value}")
        if self.schedule == "step" and self.milestones is None:
            raise ValueError("the step schedule needs milestones, e.g. [40]")
        if self.schedule == "plateau" and self.warmup:
            raise ValueError(
                "the plateau schedule has no warmup: give warmup 0, or another schedule"
            )

    def filled(self, defaults: Mapping) -> Settings:
        """These settings, with ``defaults`` where they have None."""
        gaps = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        return replace(self, **gaps)
