"""Handwritten digits paired by class with spoken digits: the book's main data (see data/README.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from igm.datasets.memory import SPLITS, MemorySet, assemble, read_arrays, standardise
from igm.seeds import derive_seed

CLASSES = [str(digit) for digit in range(10)]


def load_digits(
    root: Path,
    split: str = "train",
    samples: int | None = None,
    noise: Mapping[str, float] | None = None,
    image_size: int = 14,
    seed: int = 0,
) -> MemorySet:
    """Pairs (image, audio) of one digit: a picture from MNIST and a spoken digit's log-mel spectrogram.

    No picture and no speaker occurs in two splits. A pair joins a picture with a random clip of the same class,
    so the two modalities agree in the class and in nothing else.

    Args:
        root: the folder that holds digits/digits.npz.
        split: train (3,000 pairs), valid or test (1,000 each).
        samples: keep this many pairs.
        noise: modality -> noise level, the dial that makes it weak; see ``assemble``.
        image_size: 14 (2 x 2 means of the picture, quicker) or 28.
        seed: of the order, the pairs and the noise.

    Returns:
        image (n, 1, image_size, image_size) and audio (n, 1, 24, 24), both with mean 0 and variance 1.
    """
    arrays = read_arrays(root, "digits", split)
    images = handwritten(arrays, image_size)
    clips = arrays["clips"]
    clips = standardise(clips, clips[arrays["clip_split"] == 0])[:, None]

    rng = np.random.default_rng(derive_seed(seed, "digits", split))
    rows = rng.permutation(np.flatnonzero(arrays["image_split"] == SPLITS.index(split)))
    labels = arrays["image_label"][rows]
    of_split = arrays["clip_split"] == SPLITS.index(split)
    partners = draw_partners(labels, arrays["clip_label"], of_split, rng)
    inputs = {"image": images[rows], "audio": clips[partners]}
    return assemble(inputs, labels, CLASSES, split, seed, samples, noise)


def draw_partners(
    labels: np.ndarray,
    others: np.ndarray,
    allowed: np.ndarray,
    rng: np.random.Generator,
    once: bool = False,
) -> np.ndarray:
    """For each sample a random partner of its class: (n,), places among the others.

    Args:
        labels, others: the classes of the samples, (n,), and of those that could be partners, (m,).
        allowed: (m,) of bool.
        once: nobody is drawn twice, unless there are too few.
    """
    partners = np.empty(len(labels), np.int64)
    for label in range(len(CLASSES)):
        mine, there = labels == label, np.flatnonzero(allowed & (others == label))
        again = not once or mine.sum() > len(there)
        partners[mine] = rng.choice(there, size=mine.sum(), replace=again)
    return partners


def handwritten(arrays: Mapping[str, np.ndarray], size: int) -> np.ndarray:
    """The pictures of digits.npz, all splits: (5000, 1, size, size), float32, with mean 0 and variance 1 in train.

    Args:
        size: 14 (2 x 2 means of the picture) or 28.
    """
    check_image_size(size)
    images = arrays["images"]
    if size == 14:
        images = images.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    return standardise(images, images[arrays["image_split"] == 0])[:, None]


def check_image_size(size: int) -> None:
    if size not in (14, 28):
        raise ValueError(f"image_size must be 14 or 28, got {size}")
