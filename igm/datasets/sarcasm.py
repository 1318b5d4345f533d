"""Sarcasm: is a tweet with a picture meant as it says? (Cai, Cai and Wan, 2019)

The layout::

    sarcasm/annotations/{train,valid,test}_data.csv       image,text,label with the text in quotes
    sarcasm/images/908913372199915520.jpg

Also read are the authors' {train,valid,test}_data.json, a list of {"image", "text", "label"}, and the raw files
train.txt, valid2.txt and test2.txt: a Python list a line, ['908913372199915520', 'haha . # lol', 1], in the last two
with a label by hashtags and one by a person, of which the last counts.

The raw download is a clone of github.com/headacheboy/data-of-multimodal-sarcasm-detection with its folder text, and
the pictures, in a folder dataset_image. Rows with a word that gives the answer away, ``TELLING``, are no part of the
data set, and their pictures are not in the download. Of the 29,040 rows of train 19,816 are left; valid and test have
no such rows.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from igm.datasets import synthetic
from igm.datasets.layout import Layout
from igm.datasets.preparing import Preparation
from igm.datasets.reading import Item, Reader
from igm.datasets.tables import Faults, plain_name, read_table, read_text
from igm.datasets.text import (
    Photo,
    Tokens,
    copy_pictures,
    find_pictures,
    find_tables,
    first_file,
    tiny_bert,
)
from igm.seeds import derive_seed

CLASSES = ("not sarcastic", "sarcastic")
PUBLISHED = {
    "train": dict(zip(CLASSES, (11_174, 8_642))),
    "valid": {"all": 2_410},
    "test": {"all": 2_409},
}
TELLING = frozenset(
    ("exgag", "sarcasm", "sarcastic", "reposting", "<url>", "joke", "jokes")
    + ("humor", "humour", "irony", "ironic")
)
FILES = {
    "train": ("train_data.csv", "train_data.json", "train.csv", "train.json", "train.txt"),
    "valid": ("valid_data.csv", "valid_data.json", "valid.csv", "valid.json", "valid2.txt"),
    "test": ("test_data.csv", "test_data.json", "test.csv", "test.json", "test2.txt"),
}
COLUMNS = ("image", "text", "label")


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = first_file(root / "annotations", FILES[split])
    if path is None:
        return None
    left_out = [] if path.suffix == ".txt" else None
    return [
        Item(
            Path(row.image).stem,
            row.label,
            row.line,
            {"image": root / "images" / row.image},
            row.text,
        )
        for row in _read(path, faults, left_out)
    ]


def readers(
    tokenizer: str = "bert-base-uncased",
    max_tokens: int = 128,
    max_words: int | None = 50,
    clean: str = "caption",
    size: int = 224,
    augment: str = "released",
    normalisation: str = "clip",
) -> dict[str, Reader]:
    """Text (max_tokens,) and image (3, size, size); the defaults are what the authors' code does.

    Args:
        tokenizer, max_tokens, max_words, clean: of the text, see ``Tokens``.
        size, augment, normalisation: of the picture, see ``Photo``.
    """
    return {
        "text": Tokens(tokenizer, max_tokens, max_words, clean),
        "image": Photo(size, augment, normalisation),
    }


def telling(text: str) -> set[str]:
    """The words of a tweet, between spaces, that give away whether it is sarcastic; in raw texts # is one by itself."""
    return TELLING.intersection(text.split())


def prepare(job: Preparation, annotations: str | None = None, images: str | None = None) -> None:
    """From the raw text files, or those of the authors' code, and the folder of pictures: copies what can be read.

    Args:
        annotations: the folder of the text files; by default text in RAW, RAW itself, or annotations in it.
        images: the folder of pictures; by default dataset_image or images in RAW or beside it.
    """
    source = "the folder text of github.com/headacheboy/data-of-multimodal-sarcasm-detection"
    tables = find_tables(job, annotations, ("text", "", "annotations"), FILES, source)
    faults, wanted = Faults(), {}
    for split, path in tables.items():
        left_out: list[set[str]] = []
        wanted[split] = list(_read(path, faults, left_out))
        if left_out:
            words = sorted(Counter(word for row in left_out for word in row).items())
            told = ", ".join(f"{word} {n:,}" for word, n in words)
            job.note(f"{split}: {len(left_out):,} rows are left out for a telling word: {told}")
    faults.stop()
    pictures = find_pictures(job, images, ("dataset_image", "images"))
    names = [row.image for kept in wanted.values() for row in kept]
    made = copy_pictures(job, pictures, names, "images")
    for split, kept in wanted.items():
        there = [row for row in kept if row.image in made]
        table = io.StringIO()
        writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((row.image, row.text, row.label) for row in there)
        labels = [CLASSES[row.label] for row in there]
        job.annotations(split, f"annotations/{split}_data.csv", table.getvalue(), labels)


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a raw download of 240 tiny rows and a tiny BERT: the words tell the label clearly, the picture less so.

    Some rows more have a telling word and no picture.
    """
    rng = np.random.default_rng(derive_seed(seed, "sarcasm"))
    sentences, number = [], 900_000_000_000_000_000
    for name, n in (("train", 150), ("valid2", 45), ("test2", 45)):
        lines = []
        for i in range(n + n // 15):
            number += int(rng.integers(1, 10**15))
            label = (i + i // 16) % 2
            text = _tweet(label, rng)
            if i % 16 == 15:  # one row in 16 is to be dropped
                text += f" # {sorted(TELLING)[int(rng.integers(len(TELLING)))]}"
            else:
                picture = synthetic.picture(label, len(CLASSES), 48, rng, noise=0.6)
                synthetic.write_jpeg(raw / "dataset_image" / f"{number}.jpg", picture)
            hashtag = [] if name == "train" else [label if rng.random() < 0.9 else 1 - label]
            lines.append(repr([str(number), text, *hashtag, label]) + "\n")
            sentences.append(text)
        (raw / "text").mkdir(parents=True, exist_ok=True)
        (raw / "text" / f"{name}.txt").write_bytes("".join(lines).encode())
    tiny_bert(raw / "tiny-bert", sentences, seed)


WORDS = (
    ("sunset", "garden", "puppy", "concert", "birthday", "coffee", "morning", "beach"),
    ("monday", "traffic", "queue", "delay", "update", "parking", "meeting", "rain"),
)


def _tweet(label: int, rng: np.random.Generator) -> str:
    praise = rng.choice(["so much fun", "i just love it", "what a great day", "thanks <user>"])
    things = [
        rng.choice(WORDS[label if rng.random() < 0.85 else rng.integers(2)]) for _ in range(3)
    ]
    end = rng.choice(["", " !", " emoji_15", ' . it \'s " nice "', " …\n.\n# lol"])
    return f"{praise} , {things[0]} and {things[1]} # {things[2]}{end}"


class _Row(NamedTuple):
    line: int
    image: str
    text: str
    label: int


def _read(path: Path, faults: Faults, left_out: list[set[str]] | None) -> Iterator[_Row]:
    """The rows of a file in any of its forms, each picture once.

    Args:
        left_out: gets the telling words of each row that has some, and those rows are left out; None to keep them.
    """
    form = {".csv": _csv, ".json": _json}.get(path.suffix, _lists)
    seen: dict[str, int] = {}
    for line, image, text, label in form(path, faults):
        if left_out is not None and (words := telling(text)):
            left_out.append(words)
            continue
        where = None if path.suffix == ".json" else line
        entry = f"entry {line}: " if path.suffix == ".json" else ""
        name = image if Path(image).suffix.lower() in (".jpg", ".jpeg", ".png") else f"{image}.jpg"
        if not image or not plain_name(name):
            faults.add(path, where, f"{entry}{image!r} is not the name of a picture")
        elif label not in ("0", "1"):
            faults.add(path, where, f"{entry}unknown label {label!r}: use 0 or 1 for sarcastic")
        elif name in seen:
            faults.add(
                path, where, f"{entry}{name} is there already, as number {seen[name]}: remove one"
            )
        else:
            seen[name] = line
            yield _Row(0 if entry else line, name, text, int(label))


_Fields = Iterator[tuple[int, str, str, str]]  # line, image, text, label


def _csv(path: Path, faults: Faults) -> _Fields:
    lines = read_table(path, len(COLUMNS), faults)
    _, header = next(lines, (1, []))
    names = [name.lower() for name in header]
    if not set(COLUMNS) <= set(names):
        if header:
            faults.add(path, 1, f"the header has to name {', '.join(COLUMNS)}")
        return
    places = [names.index(column) for column in COLUMNS]
    for line, fields in lines:
        if len(fields) != len(names):
            faults.add(
                path,
                line,
                f"{len(fields)} columns in place of {len(names)}: put the text in quotes",
            )
        else:
            yield line, *(fields[place] for place in places)


def _json(path: Path, faults: Faults) -> _Fields:
    try:
        entries = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        faults.add(path, error.lineno, f"not JSON: {error.msg}")
        return
    except RecursionError:
        entries = None
    if not isinstance(entries, list):
        faults.add(path, None, 'has to be a list of {"image": ..., "text": ..., "label": ...}')
        return
    for number, entry in enumerate(entries, 1):
        fields = [entry.get(c) for c in COLUMNS] if isinstance(entry, dict) else [None]
        if any(isinstance(f, bool) or not isinstance(f, str | int) for f in fields):
            faults.add(path, None, f"entry {number}: has to have an image, a text and a label")
            continue
        image, text, label = (str(field).strip() for field in fields)
        folder, _, name = image.rpartition("/")
        outside = folder.startswith("/") or ".." in folder.split("/")
        yield number, image if outside else name, text, label


def _lists(path: Path, faults: Faults) -> _Fields:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a backslash in a text
                fields = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            fields = None
        if (
            not isinstance(fields, list)
            or len(fields) not in (3, 4)
            or not all(isinstance(f, str) for f in fields[:2])
        ):
            faults.add(path, number, "not a list such as ['908913372199915520', 'haha . # lol', 1]")
        else:
            yield number, fields[0].strip(), fields[1].strip(), str(fields[-1])


SARCASM = Layout(
    "sarcasm", "sarcasm", CLASSES, PUBLISHED, rows, readers, "text_image", prepare, sample
)
