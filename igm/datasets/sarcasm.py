"""Sarcasm: is a tweet with a picture meant as it says? (Cai, Cai and Wan, 2019)

The layout::

    sarcasm/annotations/{train,valid,test}_data.csv       image,text,label with the text in quotes
    sarcasm/images/908913372199915520.jpg

Also read are the raw files train.txt, valid2.txt and test2.txt: a Python list a line, ['908913372199915520',
'haha . # lol', 1], in the last two with a label by hashtags and one by a person, of which the last counts; the
authors' {train,valid,test}_data.json, a list of {"image", "text", "label"}; and other forms, of which book/data.md has
the table.

The raw download is a clone of github.com/headacheboy/data-of-multimodal-sarcasm-detection with its folder text, or one
of github.com/feiLinX/Multi-modal-Sarcasm-Detection, which has the same rows in text_data/{train,valid,test}.txt, and the
pictures, in a folder dataset_image. The MMSD2.0 of Qin et al. (2023) is read, too, but its texts and labels are other
ones. Rows with a word that gives the answer away, ``TELLING``, are no part of the
data set, and their pictures are not in the download. Of the 29,040 rows of train 19,816 are left; valid and test have
no such rows.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from igm.datasets import synthetic
from igm.datasets.annotations import Form, Row, file_of, find_annotations, once, read_rows
from igm.datasets.layout import Layout
from igm.datasets.preparing import Preparation
from igm.datasets.reading import Item, Reader
from igm.datasets.tables import Faults, file_name, looks_like_picture, plain_word
from igm.datasets.text import Photo, Tokens, copy_pictures, find_pictures, tiny_bert
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
COLUMNS = ("image", "text", "label")
LABELS = {"0": 0, "not sarcastic": 0, "non sarcastic": 0, "nonsarcastic": 0} | {
    "1": 1,
    "sarcastic": 1,
    "sarcasm": 1,
}
FORM = Form(
    columns={
        "image": ("image", "image_id", "image_path", "img", "file", "id", "image_name", "path"),
        "text": ("text", "tweet", "sentence", "caption", "content"),
        "label": ("label", "human_label", "sarcasm", "class", "group"),
    },
    needed=COLUMNS,
    classes=LABELS,
    labels="0 or 1 for sarcastic, or these words",
    source="they are in the folder text of github.com/headacheboy/data-of-multimodal-sarcasm-detection, or in "
    "text_data of github.com/feiLinX/Multi-modal-Sarcasm-Detection",
    folders=("text", "text_data", "annotations"),
    looks={"image": looks_like_picture, "label": lambda text: plain_word(text) in LABELS},
    format="lists",
)


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = file_of(root / "annotations", split, FORM)
    if path is None:
        return None
    left_out = [] if path.suffix.lower() == ".txt" else None
    return [
        Item(
            Path(image).stem,
            row.label,
            row.line,
            {"image": root / "images" / image},
            row.values["text"],
        )
        for image, row in _read(path, faults, left_out)
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
        annotations: the folder of the text files; by default RAW or a folder in it, such as text. Other names and forms
            are understood, see the table in the book's appendix on data.
        images: the folder of pictures; by default dataset_image, images or image_data in RAW or beside it.
    """
    tables = find_annotations(job, annotations, FORM)
    faults, wanted = Faults(), {}
    for split, path in tables.items():
        left_out: list[set[str]] = []
        wanted[split] = list(_read(path, faults, left_out))
        if left_out:
            words = sorted(Counter(word for row in left_out for word in row).items())
            told = ", ".join(f"{word} {n:,}" for word, n in words)
            job.note(f"{split}: {len(left_out):,} rows are left out for a telling word: {told}")
    faults.stop()
    pictures = find_pictures(job, images, ("dataset_image", "images", "image_data"))
    names = [image for kept in wanted.values() for image, _ in kept]
    made = copy_pictures(job, pictures, names, "images")
    for split, kept in wanted.items():
        there = [(image, row.values["text"], row.label) for image, row in kept if image in made]
        table = io.StringIO()
        writer = csv.writer(table, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerows([COLUMNS, *there])
        labels = [CLASSES[label] for _, _, label in there]
        job.annotations(split, "annotations/{}_data.csv", table.getvalue(), labels)


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


def _read(path: Path, faults: Faults, left_out: list[set[str]] | None) -> Iterator[tuple[str, Row]]:
    """The rows of an annotation file, each with the name of its picture, which is named once.

    Args:
        left_out: gets the telling words of each row that has some, and those rows are left out; None to keep them.
    """
    kept = []
    for row in read_rows(path, FORM, faults):
        if left_out is not None and (words := telling(row.values["text"])):
            left_out.append(words)
            continue
        try:
            kept.append((row, file_name(row.values["image"])))
        except ValueError as error:
            faults.add(path, row.place, str(error))
    for row, image in once(kept, str, faults):
        yield image, row


SARCASM = Layout(
    "sarcasm", "sarcasm", CLASSES, PUBLISHED, rows, readers, "text_image", prepare, sample
)
