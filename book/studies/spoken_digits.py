"""Does what the synthetic voices showed hold for people? Six people say the ten digits, beside handwritten digits;
each person in turn is the test split, the next one the valid split, four train. Joint training against each
modality alone, which is alternating training with separate heads; alternating training, SAM and IGM, with separate
heads and with one shared head.

The protocol, written down before any test score was looked at. 800 training pairs, picture noise 2 as in the studies
of the digits, clean sound: that the persons differ is its noise. The epochs are the same for all arms. The learning
rate of each arm is the best of three by the accuracy of the summed logits on valid, averaged over three of the six
splits with a seed outside the ten; where the best two were within four points, for three arms, with three such seeds.
The model after the last epoch counts; a run that diverges counts as the untrained model. Then ten seeds with each of
the six splits: the mean over both, the spread over the seeds (of the mean of the six people) and the spread over the
people (of the mean of the ten seeds) are said apart. Two arms with a shared head, SAM and IGM with a T of random
directions, are controls that were added when results were known, as was the tuning with three seeds."""

import os
import sys
import tempfile
import zlib
from functools import lru_cache
from itertools import product
from pathlib import Path

from _study import main, train
from filelock import FileLock
from shared_head import RandomDirections
from torch import nn

import igm
from igm.analysis.imbalance import linear_probe
from igm.datasets import LAYOUTS, load_splits
from igm.datasets.layout import prepare

SPEAKERS = ["george", "jackson", "lucas", "nicolas", "theo", "yweweler"]
SETTINGS = {
    "data": {
        "repository": "github.com/Jakobovski/free-spoken-digit-dataset",
        "commit": "26eb9aa",
        "split": "igm prepare spoken_digits --split k: k is the test speaker, k + 1 valid, 4 train",
    },
    "samples": 800,
    "noise": {"image": 2.0},
    "train": {"epochs": 10, "rounds": 5, "batch_size": 32, "select": "last", "rho": 0.0},
    "rho": 0.02,
    "matrix": {"tau": 20.0, "statistic": "sample"},
    "tuning": {"seeds": [100], "splits": [0, 2, 4], "grid": [0.02, 0.05, 0.1]},
    "close": {"seeds": [100, 101, 102], "splits": [0, 2, 4], "grid": [0.05, 0.1]},
    "lr": 0.05,  # what tuning found for every arm
}
SAM = {"rho": SETTINGS["rho"]}
IGM = SAM | SETTINGS["matrix"]
ARMS = {  # name -> the model's options, the method, its settings
    "joint": ({}, "joint", {}),
    "alternating": ({}, "alternating", {}),
    "SAM": ({}, "alternating", SAM),
    "IGM": ({}, "igm", IGM),
    "shared: alternating": ({"shared_head": True}, "alternating", {}),
    "shared: SAM": ({"shared_head": True}, "alternating", SAM),
    "shared: IGM": ({"shared_head": True}, "igm", IGM),
    "shared: IGM, random T": ({"shared_head": True}, RandomDirections, IGM),
}
CONDITIONS = [f"{arm} ({speaker})" for arm in ARMS for speaker in SPEAKERS]
SEEDS = range(10)
RERUN = ("alternating (theo)", 3)
CLONE = "SPOKEN_DIGITS"  # names the folder of the clone
BESIDE = Path(__file__).resolve().parents[1] / "free-spoken-digit-dataset"


def clone() -> Path:
    return Path(os.environ.get(CLONE, BESIDE))


def missing() -> str | None:
    """Why the study cannot be run here."""
    if (clone() / "recordings").is_dir():
        return None
    return f"the recordings are not in {clone()}: clone them there, or name the clone as {CLONE}"


@lru_cache
def prepared(split: int) -> Path:
    """The folder of one split, made when it is first asked for."""
    mark = zlib.crc32(str(clone().resolve()).encode())
    out = Path(tempfile.gettempdir()) / f"igm-spoken-digits-{mark}" / f"split-{split}"
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_suffix(".lock")):
        if not (out / "manifest.json").is_file():
            options = {"split": split}
            prepare(LAYOUTS["spoken_digits"], clone(), out, options, workers=1, progress=False)
    return out


@lru_cache(maxsize=60)  # all of them: every arm has the same data
def data(split: int, seed: int) -> dict:
    given = {name: SETTINGS[name] for name in ("samples", "noise")}
    return load_splits("spoken_digits", prepared(split), seed=seed, **given)


def trained(arm: str, speaker: str, seed: int, lr: float) -> tuple[nn.Module, dict, bool]:
    """A model that an arm has trained, its data, and whether it diverged: then it is the untrained model."""
    options, method, settings = ARMS[arm]
    splits = data(SPEAKERS.index(speaker), seed)
    if options.get("shared_head"):
        settings = settings | {"modalities": ["audio", "image"]}  # audio first

    def build() -> nn.Module:
        return igm.build_model(splits["train"].shapes, 10, seed=seed, **options)

    model, common = build(), SETTINGS["train"] | {"lr": lr}
    # A look at valid after each epoch decides nothing here, so a few samples will do.
    looked_at = {name: splits[name].subset(range(20)) for name in ("valid", "test")}
    try:
        train(model, splits | looked_at, seed, common, method, **settings)
    except FloatingPointError:
        return build(), splits, True
    return model, splits, False


def fused(model: nn.Module, dataset) -> float:
    """The accuracy of the summed logits, the same rule for every arm."""
    return igm.evaluate(model, dataset, "logits")["fused"]["accuracy"]


def run(condition: str, seed: int) -> dict[str, float]:
    arm, speaker = condition.removesuffix(")").split(" (")
    model, splits, diverged = trained(arm, speaker, seed, SETTINGS["lr"])
    scores = igm.evaluate(model, splits["test"])
    result = {f"test {name}": score["accuracy"] for name, score in scores.items()}
    result["test fused logits"] = fused(model, splits["test"])
    result["valid fused logits"] = fused(model, splits["valid"])
    if arm in ("joint", "alternating"):
        for name in splits["train"].modalities:
            parts = [(splits[s].inputs[name], splits[s].labels) for s in ("train", "test")]
            result[f"probe {name}"] = linear_probe(model.encoders[name], *parts)
    return result | {"diverged": float(diverged)}


def tune(arms: list[str], tuning: dict) -> None:
    """Prints what each learning rate reaches on valid, and on nothing else, see the docstring."""
    for arm in arms:
        scores = {lr: [] for lr in tuning["grid"]}
        for lr, seed, k in product(tuning["grid"], tuning["seeds"], tuning["splits"]):
            model, splits, _ = trained(arm, SPEAKERS[k], seed, lr)
            scores[lr].append(fused(model, splits["valid"]))
        print(arm, {lr: round(sum(v) / len(v), 4) for lr, v in scores.items()}, flush=True)


if __name__ == "__main__":
    if reason := missing():
        sys.exit(reason)
    if sys.argv[1:] == ["tune"]:
        tune(list(ARMS), SETTINGS["tuning"])
        tune(["IGM", "shared: SAM", "shared: IGM, random T"], SETTINGS["close"])
    else:
        main(globals())
