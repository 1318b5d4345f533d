"""The data sets, one file each, and what they share.

A sample is a dict: modality -> its tensor, "label" (int64, the number of the class) and "index" (its place in the
split). The small data sets come with the book and are held in memory (``memory``). Those of the paper are media files
that you have to get. Such a data set is described by a ``Layout`` (``layout``), which loads, prepares and checks it
with the help of ``annotations`` and ``tables`` (annotations in all their forms), ``reading`` and ``text`` (from a file
to a tensor), ``files`` and ``media`` (decoding), ``cache``, ``preparing`` and ``output`` (``igm prepare``) and
``synthetic`` (``igm sample``).

A new data set goes into a new file here. If its arrays fit in memory, the file has one function, such as
``load_mfeat``, which ends in ``assemble``; add it to ``SMALL`` below. If it consists of media files, the file has the
four functions that a ``Layout`` asks for, ``rows``, ``readers``, ``prepare`` and ``sample``, and the ``Layout``, as
cremad.py does; add that to ``LAYOUTS`` below, a config to igm/configs, and what is to be expected of it to
tests/test_layouts.py. The commands of ``igm`` then know it by its name.
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
from igm.datasets.memory import SPLITS, MemorySet, shipped_data
from igm.datasets.mfeat import load_mfeat
from igm.datasets.nvgesture import NVGESTURE
from igm.datasets.reading import MediaSet
from igm.datasets.sarcasm import SARCASM
from igm.datasets.spoken_digits import SPOKEN_DIGITS
from igm.datasets.twitter2015 import TWITTER2015
from igm.settings import check_options

SMALL = {"digits": load_digits, "mfeat": load_mfeat, "emoji": load_emoji}
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (CREMAD, KINETICS_SOUNDS, TWITTER2015, SARCASM, NVGESTURE, SPOKEN_DIGITS)
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
        name: digits, mfeat or emoji, which come with the book; cremad, kinetics_sounds, twitter2015, sarcasm,
            nvgesture or spoken_digits.
        root: the folder with the data; without it, for the small data that of the book, for the others the
            folder that the environment variable IGM_DATA names.
        split: train, valid or test.
        options: of a small data set those of its function, e.g. ``noise={"image": 1.0}``; of another those of
            ``Layout.load`` and of its readers, e.g. ``frames=3``.

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
    """The layout of a name in ``LAYOUTS``.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]
