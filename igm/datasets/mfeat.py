"""UCI Multiple Features: 2,000 handwritten digits seen through six sets of features (see data/README.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from igm.datasets.memory import SPLITS, MemorySet, assemble, read_arrays, standardise
from igm.seeds import derive_seed

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
CLASSES = [str(digit) for digit in range(10)]


def load_mfeat(
    root: Path,
    split: str = "train",
    views: Sequence[str] = VIEWS,
    samples: int | None = None,
    noise: Mapping[str, float] | None = None,
    seed: int = 0,
) -> MemorySet:
    """Up to six views of a digit, each a vector: for quick experiments with 2 to 6 modalities.

    fou Fourier coefficients (76), fac profile correlations (216), kar Karhunen-Loeve coefficients (64),
    pix 2 x 3 pixel means (240), zer Zernike moments (47), mor morphological features (6); each column has
    mean 0 and variance 1 over the training split. 1,200 / 400 / 400 samples.

    Args:
        root: the folder that holds mfeat/mfeat.npz.
        split: train, valid or test.
        views: those to take, in this order.
        samples, noise: see ``assemble``.
        seed: of the order and the noise.

    Raises:
        ValueError: an unknown view, or none.
    """
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        raise ValueError(
            f"unknown view {', '.join(unknown) or '(none)'}: use some of {', '.join(VIEWS)}"
        )
    arrays = read_arrays(root, "mfeat", split)
    training = arrays["split"] == 0
    rng = np.random.default_rng(derive_seed(seed, "mfeat", split))
    rows = rng.permutation(np.flatnonzero(arrays["split"] == SPLITS.index(split)))
    inputs = {v: standardise(arrays[v][rows], arrays[v][training], axis=0) for v in views}
    return assemble(inputs, arrays["label"][rows], CLASSES, split, seed, samples, noise)
