"""Random numbers: each draw depends on the seed and on what it is for, not on what ran before it.

So the image network starts from the same weights with or without an audio network beside it, and the batches of
its third epoch are the same whatever was trained in between. It is also why a checkpoint need not hold the state
of any generator: every epoch begins by seeding them all.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 32-bit seed for one purpose, e.g. ``derive_seed(0, "order", "audio", 3)``; the same on every machine."""
    return zlib.crc32(repr((seed, *purpose)).encode())


def seed_everything(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - augmentations draw from it
    torch.manual_seed(seed)


@contextmanager
def untouched_generators() -> Iterator[None]:
    """Whatever is drawn or seeded inside, the global generators stand afterwards where they stood before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
