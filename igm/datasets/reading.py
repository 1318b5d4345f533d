"""``MediaSet``, the data set of media files, and the readers of sounds and pictures.

A MediaSet holds a list of samples and a reader for each modality, which turns the file of a sample into a tensor. What
a reader draws at random, such as a crop, comes from a generator whose seed is made of the data set's seed, the number
of the pass over the data (``draw``), the modality and the sample's "index". So a sample is the same whatever the number
of workers and the order in which they finish.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from igm.datasets import media
from igm.datasets.cache import Cache, cached
from igm.datasets.files import is_there
from igm.seeds import derive_seed


@dataclass(frozen=True)
class Item:
    """A sample as its line in the annotations describes it; nothing of it is read yet.

    Args:
        name: unique; most often the stem of its files.
        label: an index into the classes.
        line: of the annotation file, for messages.
        files: modality -> its file, or its folder of frames.
        text: for data sets with text.
        spans: modality -> (first, last) frame, from 0, for cuts from longer videos.
    """

    name: str
    label: int
    line: int = 0
    files: Mapping[str, Path] = field(default_factory=dict)
    text: str = ""
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Reader(Protocol):
    """What reads one modality."""

    def read(
        self, item: Item, rng: np.random.Generator, train: bool, cache: Cache | None
    ) -> Tensor:
        """The modality of a sample, always of one shape, float32 (token ids: int64).

        Args:
            rng: for all that is drawn.
            train: augment.
            cache: for what is decoded.

        Raises:
            Unreadable: the file is missing or damaged.
        """

    def verify(self, item: Item, train: bool) -> str:
        """Decodes all that ``read`` may take of a sample, whatever is drawn, for ``igm check``.

        Returns:
            what is good to know of it, in the words of many samples; most often nothing.

        Raises:
            Unreadable: as ``read`` does.
        """
        self.read(item, np.random.default_rng(0), train, None)
        return ""


class MediaSet(Dataset):
    """Samples of several modalities, each read from its files when it is asked for.

    ``dataset[i]`` is a dict with an entry a modality, "label" and "index"; a DataLoader asks for a whole batch at
    once, and its samples are then read by several threads, or by one in the worker of a DataLoader. A file that cannot
    be read is an ``Unreadable`` that names the file and the sample.

    Args:
        items: the samples.
        classes: the names of the classes.
        readers: modality -> its reader.
        train: augment, as in training.
        seed: of the augmentation.
        cache: for decoded files; None for none.
        notes: what a run's record should say of the data, e.g. what was held out.
    """

    def __init__(
        self,
        items: Sequence[Item],
        classes: Sequence[str],
        readers: Mapping[str, Reader],
        train: bool,
        seed: int = 0,
        cache: Cache | None = None,
        notes: Mapping | None = None,
    ):
        self.items = list(items)
        self.classes = list(classes)
        self.readers = dict(readers)
        self.train = train
        self.seed = seed
        self.cache = cache
        self.notes = dict(notes or {})
        self.labels = torch.tensor([item.label for item in self.items], dtype=torch.int64)
        self.index = torch.arange(len(self.items))
        self.draw = 0
        self.at_hand = False  # did the whole last batch come out of the cache?

    @property
    def modalities(self) -> list[str]:
        return list(self.readers)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """modality -> shape of one sample, found by reading the first."""
        return {name: tuple(x.shape) for name, x in self[0].items() if name in self.readers}

    def missing_files(self, modalities: Sequence[str] | None = None) -> list[Path]:
        """The files and folders of these modalities, by default of all, that are not there or empty."""
        wanted = (
            path
            for item in self.items
            for name, path in item.files.items()
            if name in self.readers and (not modalities or name in modalities)
        )
        return [path for path in dict.fromkeys(wanted) if not is_there(path)]

    def view(self, modalities: Sequence[str] | None = None, draw: int = 0) -> MediaSet:
        """The same samples for one pass: only these modalities are read, with the augmentations of this draw."""
        other = copy.copy(self)
        other.readers = {n: r for n, r in self.readers.items() if not modalities or n in modalities}
        other.draw = draw
        return other

    def subset(self, positions: Sequence[int] | Tensor) -> MediaSet:
        """The samples at these positions, in this order; they keep their "index"."""
        rows = torch.as_tensor(positions, dtype=torch.int64)
        other = copy.copy(self)
        other.items = [self.items[i] for i in rows.tolist()]
        other.labels, other.index = self.labels[rows], self.index[rows]
        return other

    def forking(self) -> AbstractContextManager:
        """Workers are started inside of it.

        librosa is then loaded, which takes a second, so that not every worker of every pass has to do it. And OpenCV
        has no threads of its own: a forked worker would not have them, and would wait for them for ever.
        """
        if any(isinstance(reader, Spectrogram) for reader in self.readers.values()):
            media.log_spectrogram(np.zeros(512, np.float32))
        return media.one_thread() if "cv2" in sys.modules else nullcontext()

    def evaluating(self) -> MediaSet:
        """The same samples without augmentation."""
        other = copy.copy(self)
        other.train = False
        return other

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        sample = {}
        for name, reader in self.readers.items():
            rng = np.random.default_rng(
                derive_seed(self.seed, "read", name, self.draw, int(self.index[i]))
            )
            try:
                sample[name] = reader.read(self.items[i], rng, self.train, self.cache)
            except media.Unreadable as error:
                raise media.Unreadable(
                    error.path,
                    f"{error.reason} (sample {self.items[i].name!r}; `igm check --full true` finds all such)",
                ) from None
        return sample | {"label": self.labels[i], "index": self.index[i]}

    def __getitems__(self, positions: Sequence[int]) -> list[dict[str, Tensor]]:
        threads = min(8, os.cpu_count() or 1, len(positions))
        if threads == 1 or get_worker_info() or self.at_hand:
            return self._counted(map(self.__getitem__, positions))
        shares = [positions[i::threads] for i in range(threads)]
        with ThreadPoolExecutor(threads) as pool:
            found = self._counted(pool.map(lambda share: [self[i] for i in share], shares))
        return [found[k % threads][k // threads] for k in range(len(positions))]

    def _counted(self, samples: Iterable) -> list:
        """The samples as a list. Notes whether all came out of the cache: then one thread is quicker than several."""
        if self.cache is None:
            return list(samples)
        hits, misses = self.cache.hits, self.cache.misses
        found = list(samples)
        self.at_hand = self.cache.misses == misses and self.cache.hits > hits
        return found


@dataclass(frozen=True)
class Spectrogram(Reader):
    """A sound file -> log(``|STFT|`` + 1e-7), (1, 257, 1 + rate * seconds // 353), as in the authors' code.

    The sound is resampled, repeated and cut to ``seconds``, and clipped to -1 ... 1. From the cache the values come
    rounded to float16, off by at most 0.004; without one they are exact.
    """

    rate: int
    seconds: float
    modality: str = "audio"

    def compute(self, path: Path) -> np.ndarray:
        samples = media.read_audio(path, self.rate)
        return media.log_spectrogram(media.fit_length(samples, round(self.rate * self.seconds)))

    def read(self, item, rng, train, cache) -> Tensor:
        path = item.files[self.modality]
        if cache is None:
            return torch.from_numpy(self.compute(path))[None]
        kind = f"spectrogram-{self.rate}-{self.seconds:g}s"
        # torch rounds ten times faster than NumPy
        x = cache.fetch(kind, path, lambda: torch.from_numpy(self.compute(path)).half().numpy())
        return torch.from_numpy(x).float()[None]


@dataclass(frozen=True)
class Pictures(Reader):
    """Frames of a clip from its folder, (count, 3, size, size), or one picture from its file, (3, size, size).

    In training all frames of a clip get the same random crop and flip; otherwise each is resized. Then they are
    normalised by ImageNet's mean and standard deviation.

    Args:
        modality: whose file or folder is read.
        size: height and width.
        count: frames of a folder; None for a picture that is a file.
        choice: which frames. first: the first of them. spread: at equal distances over the clip. random: in training
            drawn anew in each pass, otherwise as spread. A clip that has fewer than ``count`` gives all that it has,
            and its last one again and again, as NVGesture's readers do.
        order: of the colour channels: RGB, or BGR, which is OpenCV's default.
        mean, std: of the normalisation.
    """

    modality: str
    size: int = 224
    count: int | None = None
    choice: str = "first"
    order: str = "RGB"
    mean: tuple[float, ...] = media.MEAN
    std: tuple[float, ...] = media.STD

    def __post_init__(self):
        if self.choice not in ("first", "random", "spread"):
            raise ValueError(f"unknown frame choice {self.choice!r}: use first, random or spread")
        if self.order not in ("RGB", "BGR"):
            raise ValueError(f"unknown channel order {self.order!r}: use RGB or BGR")
        if self.size < 16 or (self.count is not None and self.count < 1):
            raise ValueError("pictures need a size of 16 or above and one frame or more")

    def paths(self, item: Item, rng: np.random.Generator, train: bool) -> list[Path]:
        """The files of the frames that this sample takes."""
        path = item.files[self.modality]
        if self.count is None:
            return [path]
        there = media.pictures_in(path)
        if len(there) < self.count or self.choice == "first":
            rows = np.minimum(np.arange(self.count), len(there) - 1)
        elif self.choice == "random" and train:
            rows = np.sort(rng.choice(len(there), self.count, replace=False))
        else:  # the middles of equal parts
            rows = ((np.arange(self.count) + 0.5) * len(there) / self.count).astype(int)
        return [there[i] for i in rows]

    def verify(self, item, train) -> str:
        paths = self.paths(item, np.random.default_rng(0), False)
        if len(set(paths)) < len(paths):
            note = f"fewer than {self.count} frames in {self.modality}: the last is repeated"
        else:
            note = ""
        if train and self.count and self.choice == "random":
            paths = media.pictures_in(item.files[self.modality])
        images = [media.read_image(path) for path in dict.fromkeys(paths)]
        if train:
            _alike(images, paths)
        return note

    def read(self, item, rng, train, cache) -> Tensor:
        paths = self.paths(item, rng, train)
        if train:
            images = [_decoded(path, cache) for path in paths]
            images = _alike(images, paths)
            x = media.random_crop(torch.from_numpy(images).permute(0, 3, 1, 2), self.size, rng)
        else:
            x = torch.stack([_resized(path, self.size, cache) for path in paths])
        x = media.normalise(x if self.order == "RGB" else x.flip(-3), self.mean, self.std)
        return x[0] if self.count is None else x


def _decoded(path: Path, cache: Cache | None) -> np.ndarray:
    return cached(cache, "image", path, lambda: media.read_image(path))


def _resized(path: Path, size: int, cache: Cache | None) -> Tensor:
    def compute() -> np.ndarray:
        image = torch.from_numpy(media.read_image(path)).permute(2, 0, 1)
        return media.resize(image, size).numpy()

    return torch.from_numpy(cached(cache, f"image-{size}", path, compute))


def _alike(images: Sequence[np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    for image, path in zip(images, paths):
        if image.shape != images[0].shape:
            raise media.Unreadable(path, "has another size than the first frame of its clip")
    return images[0][None] if len(images) == 1 else np.stack(images)
