"""Each modality alone, both jointly, and IGM, on the small synthetic sets that `igm sample` makes in the form of the
paper's five data sets."""

import tempfile
from pathlib import Path

from _study import main, scores, train

from igm.datasets import LAYOUTS
from igm.datasets.layout import make_sample
from igm.encoders.build import build_network

AUDIO_VIDEO = {
    "reading": {"size": 48, "seconds": 0.5},
    "network": {"size": "tiny"},
    "train": {"lr": 0.02, "batch_size": 8},
}
TEXT_IMAGE = {
    "reading": {"size": 32, "tokenizer": "raw/tiny-bert"},
    "network": {"text_encoder": "raw/tiny-bert", "image_encoder": "tiny"},
    "train": {"optimizer": "adam", "lr": 0.001, "batch_size": 8},
}
SETTINGS = {
    "train": {"epochs": 10, "rounds": 2, "select": "last", "device": "cpu"},
    "cremad": AUDIO_VIDEO,
    "kinetics_sounds": AUDIO_VIDEO | {"train": {"lr": 0.01, "batch_size": 4}},
    "twitter2015": TEXT_IMAGE,
    "sarcasm": TEXT_IMAGE,
    "nvgesture": {
        "reading": {"frames": 8, "size": 32},
        "network": {"size": "tiny"},
        "train": {"lr": 0.02, "batch_size": 4, "epochs": 20},
    },
}
METHODS = {
    "unimodal": {"method": "unimodal"},
    "joint": {"method": "joint"},
    "igm": {"method": "igm"},
    "igm without SAM": {"method": "igm", "rho": 0.0},
}
PAPER = ["cremad", "kinetics_sounds", "twitter2015", "sarcasm", "nvgesture"]
CONDITIONS = [f"{data}: {method}" for data in PAPER for method in METHODS]
SEEDS = range(5)
RERUN = ("nvgesture: joint", 0)  # the cheapest that reads files as they are trained on


def run(condition: str, seed: int) -> dict[str, float]:
    data, method = condition.split(": ")
    layout, settings = LAYOUTS[data], SETTINGS[data]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sample"
        make_sample(layout, out, seed)
        reading, network = (
            {k: str(out / v) if str(v).startswith("raw/") else v for k, v in settings[part].items()}
            for part in ("reading", "network")
        )
        splits = {
            split: layout.load(out, split, seed=seed, **reading)
            for split in ("train", "valid", "test")
        }
        model = build_network(
            layout.network, len(layout.classes), splits["train"].modalities, seed=seed, **network
        )
        common = {**SETTINGS["train"], **settings["train"]}
        trained = train(model, splits, seed, common, **METHODS[method])
    return scores(trained, "test")


if __name__ == "__main__":
    main(globals())
