"""Data sets, one file each. A batch is a dict: an entry a modality, "label" (int64, (n,)), "index".

The small ones come with the book and are held in memory. Those of the paper are files that you have to get; what a
data set says of itself is a ``Layout``.
"""

from __future__ import annotations

import os
from pathlib import Path

from torch.utils.data import Dataset

from igm.datasets.cremad import CREMAD
from igm.datasets.digits import load_digits
from igm.datasets.emoji import load_emoji
from igm.datasets.kinetics_sounds import KINETICS_SOUNDS
from igm.datasets.layout import Layout
from igm.datasets.memory import SPLITS, MemorySet
from igm.datasets.mfeat import load_mfeat
from igm.datasets.nvgesture import NVGESTURE
from igm.datasets.reading import MediaSet
from igm.datasets.sarcasm import SARCASM
from igm.datasets.twitter2015 import TWITTER2015
from igm.settings import check_options

SMALL = {"digits": load_digits, "mfeat": load_mfeat, "emoji": load_emoji}
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (CREMAD, KINETICS_SOUNDS, TWITTER2015, SARCASM, NVGESTURE)
}
DATASETS = {**SMALL, **{name: layout.load for name, layout in LAYOUTS.items()}}

__all__ = [
    "DATASETS",
    "LAYOUTS",
    "SMALL",
    "SPLITS",
    "Layout",
    "MediaSet",
    "MemorySet",
    "find_layout",
    "load_dataset",
    "load_splits",
    "shipped_data",
]


def load_dataset(
    name: str, root: str | Path | None = None, split: str = "train", **options
) -> Dataset:
    """One split of a data set.

    Args:
        name: digits, mfeat or emoji, which come with the book; cremad, kinetics_sounds, twitter2015, sarcasm or
            nvgesture.
        root: the folder with the data; without it, for the small data that of the book, for the others the
            folder that the environment variable IGM_DATA names.
        split: train, valid or test.
        options: those of the data set's own function, e.g. ``noise={"image": 1.0}``, and of its readers, e.g.
            ``frames=3``.

    Raises:
        ValueError: an unknown name, split or option, or a bad value of one.
        FileNotFoundError: the data is not there.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    if root is None:
        root = shipped_data() if name in SMALL else os.environ.get("IGM_DATA")
    if root is None:
        raise FileNotFoundError(
            f"{name} does not come with the book: give its folder as --data_root, or the folder of all "
            f"your data sets as IGM_DATA. `igm sample {name} OUT` makes a small synthetic set to try"
        )
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"the data folder {root} is not there: give an existing one as --data_root"
        )
    if name in SMALL:
        check_options("reading", name, options, SMALL[name])
    return DATASETS[name](root, split, **options)


def load_splits(
    name: str, root: str | Path | None = None, samples: int | None = None, **options
) -> dict[str, Dataset]:
    """All splits of a data set by name, the training split cut to ``samples``; see ``load_dataset``."""
    sizes = {"train": samples, "valid": None, "test": None}
    return {s: load_dataset(name, root, s, samples=n, **options) for s, n in sizes.items()}


def find_layout(name: str) -> Layout:
    """Raises ValueError: it is none of the paper's data sets."""
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def shipped_data() -> Path:
    """The book's data folder: inside an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the book's data folder was not found: give its place as --data_root")
