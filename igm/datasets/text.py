"""What Twitter2015 and Sarcasm have in common: the readers of tweets and their pictures, and preparing the two.

``Tokens`` makes token ids of a sentence, ``Photo`` a tensor of a picture; their defaults are what the authors' code
does. Below them is what ``igm prepare`` and ``igm sample`` need for both data sets.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from igm.datasets import media
from igm.datasets.annotations import folders_below, listed
from igm.datasets.cache import cached
from igm.datasets.files import Unreadable, hidden
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Reader
from igm.seeds import derive_seed, untouched_generators

# ---------------------------------------------------------------- sentences


def letters(text: str) -> str:
    """The words of Latin letters alone, in lower case: the authors' cleaning of Twitter2015.

    Everything else is lost: numbers, emoji, words with a digit or an accent, such as E3 or José. "don't" comes out as
    "don t", and "$T$", which stands for the target, as "t".
    """
    return " ".join(re.findall(r"\b[A-Za-z]+\b", text)).lower()


def caption(text: str) -> str:
    """Lower case, without , . ' ! ? " ( ) * # : ; ~ and with spaces for - and /: the authors' cleaning of Sarcasm.

    Last, "<person>" becomes "person"; "<user>" and the like stay (datasets/sarcasm_dataset.py in njustkmg/IJCAI25-IGM,
    commit 19aa8e5).
    """
    plain = text.lower().translate(_CAPTION).replace("<person>", "person")
    return re.sub(r"\s{2,}", " ", plain).rstrip("\n").strip(" ")


def _as_it_is(text: str) -> str:
    return text


_CAPTION = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
CLEAN: dict[str, Callable[[str], str]] = {"letters": letters, "caption": caption, "none": _as_it_is}


@dataclass(frozen=True)
class Tokens:
    """A sentence -> its token ids, (max_tokens,), int64, with the tokenizer's padding id behind them.

    The authors cut a sentence after 50 words, and not after a number of tokens: their ``max_length`` has no effect
    without ``truncation``. Here ``max_tokens`` is the end in any case.

    Args:
        tokenizer: of the text encoder: a folder with its files, or a name on the Hugging Face hub.
        max_tokens: the length; a longer sentence loses its end, not the closing token. It is less where the
            encoder takes less, as CLIP does with 77.
        max_words: words that are kept, separated by spaces; None for all.
        clean: letters, caption or none, see ``CLEAN``.
    """

    tokenizer: str = "bert-base-uncased"
    max_tokens: int = 128
    max_words: int | None = 50
    clean: str = "letters"

    def __post_init__(self):
        if self.clean not in CLEAN:
            raise ValueError(f"unknown clean {self.clean!r}: use one of {', '.join(CLEAN)}")
        if self.max_tokens < 3:
            raise ValueError(f"max_tokens must be 3 or above, got {self.max_tokens}")
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"max_words must be 1 or above, got {self.max_words}")

    def sentence(self, item) -> str:
        """What the tokenizer gets to read of a sample."""
        return self.cleaned(item.text)

    def cleaned(self, text: str) -> str:
        return " ".join(CLEAN[self.clean](text).split(" ")[: self.max_words])

    def read(self, item, rng, train, cache) -> Tensor:
        return self.ids(self.sentence(item))

    def ids(self, sentence: str) -> Tensor:
        """The token ids of a sentence that is clean already."""
        encode, padding, longest = _tokenizer(self.tokenizer)
        ids = encode(sentence)
        length = min(self.max_tokens, longest)
        if len(ids) > length:
            ids = ids[: length - 1] + ids[-1:]
        return torch.tensor(ids + [padding] * (length - len(ids)), dtype=torch.int64)


_loaded: dict[str, tuple[Callable[[str], list[int]], int, int]] = {}
_lock = threading.Lock()


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()


# If another thread holds the lock while a process is forked, the lock would stay locked in the child for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _tokenizer(name: str) -> tuple[Callable[[str], list[int]], int, int]:
    """sentence -> ids, the padding id and the most tokens that the encoder takes; loaded once a process.

    Raises:
        FileNotFoundError: it is neither in a folder of that name nor on the hub, or there is no network.
        ValueError: its files are damaged.
    """
    if name not in _loaded:
        with _lock:
            if name not in _loaded:
                _loaded[name] = _load(name)
    return _loaded[name]


def _load(name: str) -> tuple[Callable[[str], list[int]], int, int]:
    # Its threads are for many sentences at once, and they complain when a process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from huggingface_hub import HfApi
    from transformers import AutoConfig, AutoTokenizer

    folder = Path(name).expanduser()
    if folder.is_dir():
        name, places = str(folder), [True]
    elif folder.is_absolute() or name.startswith((".", "~")) or len(folder.parts) > 2:
        raise FileNotFoundError(f"there is no folder {name}: {_REMEDY}")
    else:
        places = [True, False]  # what was downloaded before needs no network
    for local in places:
        try:
            if not local:  # asked once: without a network transformers would ask again and again
                HfApi().model_info(name, timeout=10)
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
            # Without a vocabulary, transformers 5 makes do with the special tokens and says nothing.
            if len(tokenizer) > len(tokenizer.all_special_tokens):
                break
            why = "no vocabulary"
        except Exception as error:  # damaged files and missing ones make it raise nearly anything
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    else:
        failure = ValueError if folder.is_dir() else FileNotFoundError
        raise failure(f"{name} gives no tokenizer ({why}): {_REMEDY}")
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {name} has no padding token: {_REMEDY}")
    longest = tokenizer.model_max_length
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
    except (OSError, ValueError):
        config = None  # the encoder will say so
    config = getattr(config, "text_config", config)
    longest = min(longest, getattr(config, "max_position_embeddings", longest))

    def encode(sentence: str) -> list[int]:
        return tokenizer(sentence, verbose=False)["input_ids"]

    # The first call switches off the padding and truncation that the tokenizer may come with. Later calls change
    # nothing in it, so that several threads can make them at once.
    encode("")
    return encode, tokenizer.pad_token_id, longest


_REMEDY = (
    "the tokenizer comes with network.text_encoder (or network.clip). Download config.json, vocab.txt or "
    "tokenizer.json, and model.safetensors, e.g. of https://huggingface.co/google-bert/bert-base-uncased, into a "
    "folder and give that folder"
)


# ---------------------------------------------------------------- pictures

NORMALISATIONS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "imagenet": (media.MEAN, media.STD),
}
AUGMENTS = ("released", "crop", "none")
GREY = (128, 128, 128)


@dataclass(frozen=True)
class Photo(Reader):
    """One picture, from its file -> (3, size, size), float32.

    In training a random crop of half of the picture or more, a flip every other time, and two operations drawn from
    the ten of ``OPERATIONS``, each carried out every other time (RandAugment; Cubuk et al., 2020). Otherwise the whole
    picture, squeezed into the square. The authors normalise with the mean and deviation of CLIP, though their
    ResNet was trained with those of ImageNet.

    Args:
        size: height and width.
        augment: released: all of this. crop: without the operations. none: the whole picture in training, too.
        normalisation: clip or imagenet.
    """

    size: int = 224
    augment: str = "released"
    normalisation: str = "clip"
    modality: str = "image"

    def __post_init__(self):
        for name, known in (("augment", AUGMENTS), ("normalisation", NORMALISATIONS)):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise ValueError(f"unknown {name} {value!r}: use one of {', '.join(known)}")
        if self.size < 16:
            raise ValueError(f"pictures need a size of 16 or above, got {self.size}")

    def read(self, item, rng, train, cache) -> Tensor:
        path = item.files[self.modality]
        square = (self.size, self.size)

        def decode() -> np.ndarray:
            return media.read_image(path)

        def whole() -> np.ndarray:
            return np.asarray(Image.fromarray(decode()).resize(square, Image.Resampling.BICUBIC))

        if train and self.augment != "none":
            image = Image.fromarray(cached(cache, "image", path, decode))
            top, left, height, width = media.crop_box(image.height, image.width, rng, area=(0.5, 1))
            image = image.crop((left, top, left + width, top + height))
            image = image.resize(square, Image.Resampling.BICUBIC)
            if rng.random() < 0.5:
                image = ImageOps.mirror(image)
            if self.augment == "released":
                image = _operate(image, rng)
            pixels = np.asarray(image)
        else:
            pixels = cached(cache, f"image-{self.size}-bicubic", path, whole)
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        return media.normalise(x, *NORMALISATIONS[self.normalisation])


def _operate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for operation in rng.integers(len(OPERATIONS), size=2):
        if rng.random() < 0.5:
            image = OPERATIONS[operation](image, 1 if rng.random() < 0.5 else -1)
    return image


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY
    )


# Strength 7 of 10 each; the sign is that of the slant, shift or turn.
OPERATIONS: tuple[Callable[[Image.Image, int], Image.Image], ...] = (
    lambda image, sign: image,
    lambda image, sign: ImageOps.autocontrast(image),
    lambda image, sign: ImageOps.equalize(image),
    lambda image, sign: ImageEnhance.Brightness(image).enhance(1.36),
    lambda image, sign: ImageEnhance.Sharpness(image).enhance(1.36),
    lambda image, sign: _affine(image, 1, 0.21 * sign, 0, 0, 1, 0),
    lambda image, sign: _affine(image, 1, 0, 0, 0.21 * sign, 1, 0),
    lambda image, sign: _affine(image, 1, 0, 7 * sign, 0, 1, 0),
    lambda image, sign: _affine(image, 1, 0, 0, 0, 1, 7 * sign),
    lambda image, sign: image.rotate(21 * sign, Image.Resampling.BILINEAR, fillcolor=GREY),
)


# ---------------------------------------------------------------- igm prepare and igm sample


def find_pictures(job: Preparation, given: str | None, names: Sequence[str]) -> Path:
    """The folder of pictures: the given one, or the first with one of the names in RAW, beside it, or deeper in it.

    Raises:
        FileNotFoundError: there is none.
    """
    if given is not None:
        if not Path(given).is_dir():
            raise FileNotFoundError(
                f"the folder {given} is not there: give that of the pictures as --images"
            )
        return Path(given)
    for name in names:
        if (job.raw / name).is_dir():
            return job.source(job.raw / name)
    for name in names:
        if (beside := job.raw.resolve().parent / name).is_dir():
            return beside
    for folder in folders_below(job.raw, job):
        for name in names:
            if folder.name == name:
                return job.source(folder)
    raise FileNotFoundError(
        f"no folder {' or '.join(names)} in {job.raw} or beside it, where there is {listed(job.raw)}: name "
        "that of the pictures by --images"
    )


def copy_pictures(job: Preparation, folder: Path, names: Iterable[str], target: str) -> set[str]:
    """Copies those pictures that can be read whole into the folder ``target`` of the layout; returns their names.

    Those that are missing, damaged or links out of their folder are skipped.
    """
    tasks, below = [], None
    for name in dict.fromkeys(names):
        source = folder / name
        if not source.is_file():  # one folder deeper, or .JPG
            below = _pictures_below(folder) if below is None else below
            source = below.get(name.lower(), source)
        try:
            if not source.is_file():
                raise Unreadable(source, "is missing")
            if not job.follow_links and folder.resolve() not in source.resolve().parents:
                raise Unreadable(
                    source,
                    f"is a link out of {folder.name}: allow it with --follow_links true",
                )
        except Unreadable as error:
            job.skip(name, str(error))
        else:
            tasks.append(Task(name, copy_picture, (f"{target}/{name}", source), (source,)))
    return job.run(tasks)


def _pictures_below(folder: Path) -> dict[str, Path]:
    """name in lower case -> file, in a folder and those in it; the nearest counts."""
    found: dict[str, Path] = {}
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not hidden(name):
                found.setdefault(name.lower(), Path(here, name))
    return found


def copy_picture(output: Output, relative: str, source: Path) -> None:
    """The task of one picture."""
    media.read_image(source)  # raises where it cannot be read
    output.copy(relative, source)


def tiny_bert(folder: Path, sentences: Iterable[str], seed: int) -> None:
    """Writes a BERT of two layers and 64 features that knows the words of these sentences; its weights are random.

    It has the files of a folder with bert-base-uncased: config.json, vocab.txt, model.safetensors.
    """
    from transformers import BertConfig, BertModel
    from transformers.utils import logging

    words = sorted({w for s in sentences for w in re.findall(r"[a-z0-9]+", s.lower())})
    single = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [f"##{c}" for c in single if c.isalnum()]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *single, *pieces]
    vocabulary += [word for word in words if len(word) > 1]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    with untouched_generators():
        torch.manual_seed(derive_seed(seed, "tiny bert"))
        model = BertModel(config)
    folder.mkdir(parents=True, exist_ok=True)
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
