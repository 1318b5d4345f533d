"""Data sets, one file each. A batch is a dict: an entry a modality, "label" (int64, (n,)), "index"."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import Dataset

from igm.datasets.digits import load_digits
from igm.datasets.emoji import load_emoji
from igm.datasets.memory import SPLITS, MemorySet
from igm.datasets.mfeat import load_mfeat

DATASETS = {"digits": load_digits, "mfeat": load_mfeat, "emoji": load_emoji}

__all__ = ["DATASETS", "SPLITS", "MemorySet", "load_dataset", "load_splits", "shipped_data"]


def load_dataset(
    name: str, root: str | Path | None = None, split: str = "train", **options
) -> Dataset:
    """One split of a data set.

    Args:
        name: digits, mfeat or emoji.
        root: the folder with the data; without it, the small data that comes with the book.
        split: train, valid or test.
        options: those of the data set's own function, e.g. ``noise={"image": 1.0}``.

    Raises:
        ValueError: an unknown name, split or option value.
        FileNotFoundError: the data is not there.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}: use one of {', '.join(DATASETS)}")
    root = shipped_data() if root is None else Path(root)
    if not root.is_dir():
        raise FileNotFoundError(
            f"the data folder {root} is not there: give an existing one as --data_root"
        )
    return DATASETS[name](root, split, **options)


def load_splits(
    name: str, root: str | Path | None = None, samples: int | None = None, **options
) -> dict[str, Dataset]:
    """All splits of a data set by name, the training split cut to ``samples``; see ``load_dataset``."""
    sizes = {"train": samples, "valid": None, "test": None}
    return {s: load_dataset(name, root, s, samples=n, **options) for s, n in sizes.items()}


def shipped_data() -> Path:
    """The book's data folder: inside an installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the book's data folder was not found: give its place as --data_root")
