"""The settings that all methods share. A method adds its own in a subclass, e.g. ``igm.methods.IGMSettings``.

Every field has the default that is used, and under it a line that says what it is; ``igm train --help`` and the
book's pages show both.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from igm.models import FUSIONS
from igm.sam import NORMS

# Settings that say where and how a run computes, not what: a resumed run may have others.
ON_A_MACHINE = ("device", "precision", "eval_batch_size", "workers")


RANGES = {
    "1 or above": lambda x: x >= 1,
    "0 or above": lambda x: x >= 0,
    "above 0": lambda x: x > 0,
    "from 0 to 1": lambda x: 0 <= x <= 1,
    "0 or above and below 1": lambda x: 0 <= x < 1,
}


@dataclass(frozen=True)
class Settings:
    """How a run trains.

    Raises:
        ValueError: a value is out of its range; the message names the setting.
    """

    method: str = ""
    """The name of the method; ``igm.train`` fills it in."""
    modalities: list[str] | None = None
    """Those to train, in this order; by default all, in the order of the data."""
    epochs: int = 20
    """Epochs a modality (joint training: epochs)."""
    batch_size: int = 32
    """Samples a step, of all processes together."""
    accumulation: int = 1
    """Parts in which a process takes its share of a step, one after the other, to save memory. SAM perturbs by the
    gradient of each part."""
    drop_last: bool = False
    """Leave out the last batch of an epoch where it is smaller than the others, and of the pass at the end of a stage
    in which igm and mla look at the features."""
    eval_batch_size: int = 256
    """Samples at once in evaluation; it does not change what is learnt."""
    optimizer: str = "sgd"
    """The optimiser inside SAM: sgd or adam."""
    lr: float = 0.02
    """Learning rate at the start."""
    momentum: float = 0.9
    """Momentum of SGD."""
    beta2: float = 0.999
    """Of Adam, its memory of squared gradients; the authors' code has 0.99."""
    weight_decay: float = 1e-4
    """Weight decay."""
    schedule: str = "cosine"
    """Of the learning rate over a modality's epochs. cosine; constant; step: times lr_factor at each milestone;
    plateau: times lr_factor after 5 epochs without a better validation score."""
    milestones: list[int] | None = None
    """The epochs after which step lowers the learning rate; 0 lowers it from the start."""
    lr_factor: float = 0.1
    """What the learning rate is multiplied with, for step and plateau."""
    warmup: int = 0
    """Epochs at the start of each schedule, w of them, over which the learning rate rises linearly: the e-th, from 1,
    has the rate of the schedule times (1/3) (1 - e/w) + e/w, as in the authors' code. With 2 that is 2/3, then all of
    it; 0 and 1 are none. Not with plateau."""
    restart: bool = False
    """Begin each stage with a fresh optimiser and schedule, over the stage's epochs."""
    from_best: bool = False
    """Begin each stage with the best weights so far, and take the matrices from them: a stage that did not improve
    is thrown away."""
    clip: float | None = None
    """The largest norm of the gradient, over all parameters; what is longer is shortened to it."""
    rho: float = 0.0
    """Radius of SAM, 0 or above, 0 for none (Eq. 6)."""
    rho_norm: str = "all"
    """all: rho is the norm over all parameters (Eq. 7). tensor: each tensor moves by rho."""
    fusion: str = "mean"
    """Of the modalities' predictions: mean, entropy, logits or entropy-logits, see ``igm.fuse``."""
    select: str = "best"
    """Keep the weights of the best epoch on the validation split (best), of the last epoch (last), or of the best
    epoch on the test split (test), as the authors' code does. The last of these is no fair estimate, and the run says
    so."""
    score: str = "accuracy"
    """What best means: accuracy, macro_f1 or map of the fused prediction."""
    precision: str | None = None
    """no for float32, bf16 or fp16 for mixed precision; by default what accelerate launch says."""
    seed: int = 0
    """Of the order of the batches and all else that is random in training."""
    device: str = "auto"
    """cpu, cuda, mps, ..., or auto for a GPU where there is one."""
    workers: int = 0
    """Processes that read the data beside this one; what they read does not depend on their number."""

    # What a value may be: one of some words, or numbers of a range.
    allowed: ClassVar[Mapping[str, str | tuple[str, ...]]] = {
        "optimizer": ("sgd", "adam"),
        "schedule": ("cosine", "constant", "step", "plateau"),
        "rho_norm": NORMS,
        "fusion": FUSIONS,
        "select": ("best", "last", "test"),
        "score": ("accuracy", "macro_f1", "map"),
        "precision": ("no", "bf16", "fp16"),
        **dict.fromkeys(("epochs", "batch_size", "eval_batch_size"), "1 or above"),
        "accumulation": "1 or above",
        **dict.fromkeys(("lr", "lr_factor", "clip"), "above 0"),
        **dict.fromkeys(("momentum", "weight_decay", "rho", "workers"), "0 or above"),
        **dict.fromkeys(("milestones", "warmup"), "0 or above"),
        "beta2": "0 or above and below 1",
    }

    @classmethod
    def make(cls, **given) -> Self:
        """Settings with these values, and else with this method's defaults.

        Raises:
            ValueError: the method has no such setting, or a value is out of its range.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                method = given.get("method") or "the method"
                raise ValueError(f"{method} has no setting {name!r}: it has {', '.join(known)}")
        return cls(**(cls.defaults(given) | given))

    @classmethod
    def defaults(cls, given: Mapping) -> dict:
        """The defaults that are not those of the fields, where some of the settings are ``given``."""
        return {}

    def __post_init__(self):
        for name, allowed in self.allowed.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(allowed, tuple):
                if value not in allowed:
                    raise ValueError(f"unknown {name} {value!r}: use one of {', '.join(allowed)}")
                continue
            numbers = value if isinstance(value, list | tuple) else [value]
            if not numbers or not all(map(RANGES[allowed], numbers)):
                raise ValueError(f"{name} must be {allowed}, got {value}")
        if self.schedule == "step" and self.milestones is None:
            raise ValueError("the step schedule needs milestones, e.g. [40]")
        if self.schedule == "plateau" and self.warmup:
            raise ValueError("the plateau schedule has no warmup: give warmup 0")
        if self.from_best and self.select == "last":
            raise ValueError("from_best goes with select best or test: give from_best false")


def check_options(
    kind: str,
    name: str,
    options: Iterable[str],
    function: Callable,
    decided: Iterable[str] = ("root", "split"),
) -> None:
    """Raises ValueError for an option that a function does not take, or whose value is ``decided`` elsewhere."""
    decided = set(decided)
    known = [p for p in inspect.signature(function).parameters if p not in decided]
    for option in options:
        if option not in known:
            raise ValueError(
                f"unknown {kind} option {option!r} of {name}: use some of {', '.join(known)}"
            )
