"""A data set that fits in memory, and the noise dial that makes one of its modalities weak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from igm.seeds import derive_seed

SPLITS = ("train", "valid", "test")


class MemorySet(Dataset):
    """Samples of several modalities held as tensors.

    ``dataset[i]`` is a dict with an entry a modality, "label" and "index"; any DataLoader can batch them.
    ``dataset.fetch(positions)`` takes a whole batch at once, which is quicker.

    Args:
        inputs: modality -> (n, ...), float32.
        labels: (n,), int64.
        classes: the names of the classes; a label is an index into them.
        index: (n,), what "index" says of each sample; by default its position.

    Raises:
        ValueError: a modality has more or fewer rows than there are labels.
    """

    def __init__(
        self,
        inputs: Mapping[str, Tensor],
        labels: Tensor,
        classes: Sequence[str],
        index: Tensor | None = None,
    ):
        self.inputs = dict(inputs)
        for name, x in self.inputs.items():
            if len(x) != len(labels):
                raise ValueError(
                    f"{len(x)} rows of {name} beside {len(labels)} labels: give each label one row"
                )
        self.labels = labels
        self.classes = list(classes)
        self.index = torch.arange(len(labels)) if index is None else index

    @property
    def modalities(self) -> list[str]:
        return list(self.inputs)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """modality -> shape of one sample."""
        return {name: tuple(x.shape[1:]) for name, x in self.inputs.items()}

    def subset(self, positions: Sequence[int] | Tensor) -> MemorySet:
        """The samples at these positions, in this order; they keep their "index"."""
        batch = self.fetch(positions)
        inputs = {name: batch[name] for name in self.inputs}
        return MemorySet(inputs, batch["label"], self.classes, batch["index"])

    def fetch(self, positions: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The batch of the samples at these positions."""
        rows = torch.as_tensor(positions)
        batch = {name: x[rows] for name, x in self.inputs.items()}
        return batch | {"label": self.labels[rows], "index": self.index[rows]}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return self.fetch(i)


def shipped_data() -> Path:
    """The book's data folder: inside an installed package, else beside it in a checkout.

    Raises:
        FileNotFoundError: there is neither.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data", package.parent / "data"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError("the book's data folder was not found: give its place as --data_root")


def read_arrays(root: Path, name: str, split: str) -> dict[str, np.ndarray]:
    """The arrays of ``root/NAME/NAME.npz``, by their names; ``split`` is only checked.

    Raises:
        ValueError: an unknown split, or a damaged file.
        FileNotFoundError: there is no such file.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
    path = Path(root) / name / f"{name}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there: point --data_root at the book's data folder, or make it with "
            f"`python data/make.py {name}`"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (BadZipFile, ZlibError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged: fetch it again, or make it with `python data/make.py {name}`"
        ) from error


def standardise(values: np.ndarray, reference: np.ndarray, axis: int | None = None) -> np.ndarray:
    """(values - mean) / standard deviation, float32, in the shape of ``values``.

    Args:
        reference: whose mean and standard deviation are taken, e.g. the training split.
        axis: 0 for those of each column, None for those of all numbers together.
    """
    reference = reference.astype(np.float64)
    mean, std = reference.mean(axis), reference.std(axis)
    return ((values - mean) / np.where(std > 0, std, 1)).astype(np.float32)


def assemble(
    inputs: Mapping[str, np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    split: str,
    seed: int,
    samples: int | None,
    noise: Mapping[str, float] | None,
) -> MemorySet:
    """A MemorySet of standardised arrays, (n, ...) each: the first ``samples`` of them, with noise if asked for.

    ``noise[modality] = s`` adds Gaussian noise of s standard deviations and divides by sqrt(1 + s^2): the inputs
    keep their size and lose their content. s = 0 is the clean modality, s = 1 as much noise as signal.

    Raises:
        ValueError: an unknown modality, a negative noise level, or more samples than there are.
    """
    noise = dict(noise or {})
    for name, level in noise.items():
        if name not in inputs:
            raise ValueError(f"unknown modality {name!r} in noise: there is {', '.join(inputs)}")
        if not level >= 0:
            raise ValueError(f"the noise of {name!r} must be 0 or above, got {level}")
    if samples is not None and not 0 < samples <= len(labels):
        raise ValueError(
            f"samples must be from 1 to {len(labels)} in the {split} split, got {samples}"
        )
    tensors = {}
    for name, values in inputs.items():
        values = values[:samples]
        level = noise.get(name, 0.0)
        if np.issubdtype(values.dtype, np.integer):  # token ids
            if level > 0:
                raise ValueError(f"{name!r} is token ids, which take no noise: leave it out")
            tensors[name] = torch.from_numpy(values)
            continue
        if level > 0:
            rng = np.random.default_rng(derive_seed(seed, "noise", split, name))
            values = values + level * rng.standard_normal(values.shape, dtype=np.float32)
            values /= np.float32(np.sqrt(1 + level**2))
        tensors[name] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    label = torch.from_numpy(labels[:samples].astype(np.int64))
    return MemorySet(tensors, label, classes)
