"""Emoji: a picture and a name, to be sorted into one of eight groups (see data/README.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from igm.datasets.memory import SPLITS, MemorySet, assemble, read_arrays, standardise
from igm.datasets.text import Tokens
from igm.seeds import derive_seed


def load_emoji(
    root: Path,
    split: str = "train",
    samples: int | None = None,
    noise: Mapping[str, float] | None = None,
    tokenizer: str | Path | None = None,
    seed: int = 0,
) -> MemorySet:
    """Real pictures and real text: picture (n, 3, 24, 24) and name (n, 512), hashed three-letter pieces.

    With a tokenizer the name is (n, 24), int64: token ids for a pretrained text encoder. Emoji of one base name ("woman
    singer", "man singer") are in one split.

    Args:
        root: the folder that holds emoji/emoji.npz.
        split: train, valid or test.
        samples, noise: see ``assemble``; token ids take no noise.
        tokenizer: of a pretrained text encoder: a folder with its files, or a name on the Hugging Face hub.
        seed: of the order and the noise.
    """
    arrays = read_arrays(root, "emoji", split)
    training = arrays["split"] == 0
    pictures = arrays["pictures"].transpose(0, 3, 1, 2)
    rng = np.random.default_rng(derive_seed(seed, "emoji", split))
    rows = rng.permutation(np.flatnonzero(arrays["split"] == SPLITS.index(split)))
    if tokenizer is None:
        names = embed_names(arrays["names"])
        names = standardise(names[rows], names[training])
    else:
        names = token_ids(arrays["names"][rows], str(tokenizer))
    inputs = {"picture": standardise(pictures[rows], pictures[training]), "name": names}
    classes = [str(group) for group in arrays["groups"]]
    return assemble(inputs, arrays["label"][rows], classes, split, seed, samples, noise)


def embed_names(names: Sequence[str], d: int = 512) -> np.ndarray:
    """Counts of the three-letter pieces of each name, hashed to d columns: (n, d)."""
    from sklearn.feature_extraction.text import HashingVectorizer  # slow to load

    vectorizer = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 3), n_features=d)
    return vectorizer.transform([str(name) for name in names]).toarray()


def token_ids(names: Sequence[str], tokenizer: str, length: int = 24) -> np.ndarray:
    """What a pretrained text encoder reads of each name: (n, length), int64, padded; the longest has 19 ids.

    Raises:
        FileNotFoundError, ValueError: the tokenizer is not there, or damaged.
    """
    reader = Tokens(tokenizer, max_tokens=length, clean="none")
    return np.stack([reader.ids(str(name)).numpy() for name in names])
