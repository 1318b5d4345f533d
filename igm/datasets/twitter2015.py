"""Twitter2015: is a tweet with a picture good, bad or neutral about whom or what it names? (Yu and Jiang, 2019)

The layout::

    Twitter15/annotations/{train,valid,test}_data.tsv     index, Label, ImageID, String, Target
    Twitter15/twitter2015_images/1860693.jpg

A row is a tweet and one target in it; in the String, ``$T$`` stands in the target's place. A tweet that names two
things has two rows with one picture, and with one sentence once the targets are back in it. Their labels may differ:
then no network can be right with both that is not told the target. ``same_tweet`` counts such rows.

Other forms are read, too, such as the files of TomBERT as they are, whose test file has a header that is one name
short; book/data.md has the table. The raw download is the folder absa_data/twitter2015 of
github.com/jefferyYu/TomBERT, with train.tsv, dev.tsv and test.tsv, and the folder twitter2015_images, to which its
README has the link.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from igm.datasets import synthetic
from igm.datasets.annotations import Form, file_of, find_annotations, read_rows
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Preparation
from igm.datasets.reading import Item, Reader
from igm.datasets.tables import Faults, file_name, looks_like_picture, plain_word
from igm.datasets.text import Photo, Tokens, copy_pictures, find_pictures, tiny_bert
from igm.seeds import derive_seed

CLASSES = ("negative", "neutral", "positive")
PUBLISHED = {
    "train": dict(zip(CLASSES, (368, 1883, 928))),
    "valid": dict(zip(CLASSES, (149, 670, 303))),
    "test": dict(zip(CLASSES, (113, 607, 317))),
}
# The order of TomBERT, whose code reads by position.
HEADER = ("index", "Label", "ImageID", "String", "Target")
IMAGES = "twitter2015_images"
TARGET = "$T$"
WORDS_OF_LABELS = {"negative": 0, "neg": 0, "neutral": 1, "neu": 1, "positive": 2, "pos": 2}


def _labels(rows: Sequence[Mapping[str, str]], form: str) -> dict[str, int]:
    """label -> class: 0, 1, 2 as in TomBERT's tables, or -1, 0, 1 as in its blocks of lines and where there is a -1."""
    signed = form == "blocks" or any(plain_word(row["label"]) == "-1" for row in rows)
    return WORDS_OF_LABELS | {str(label - signed): label for label in range(3)}


FORM = Form(
    columns={
        "label": ("Label", "sentiment", "polarity", "class", "labels"),
        "image": ("ImageID", "image", "image_path", "img", "file", "image_name", "photo", "path"),
        "text": ("String", "text", "tweet", "sentence", "content", "caption"),
        "target": ("target", "aspect", "String", "String.1", "term", "entity", "aspect_term"),
        "index": ("index", "id"),
    },
    needed=("label", "image", "text"),
    classes=_labels,
    labels="0 negative, 1 neutral or 2 positive, or -1, 0 and 1, or these words",
    source="they are in the folder absa_data/twitter2015 of github.com/jefferyYu/TomBERT",
    suffixes=(".tsv", ".csv", ".json", ".jsonl", ".txt"),
    folders=("twitter2015", "annotations"),
    looks={
        "image": looks_like_picture,
        "label": lambda text: plain_word(text) in (*WORDS_OF_LABELS, "-1", "0", "1", "2"),
    },
    # TomBERT's test file: its rows have a label all the same
    wrong={
        ("index", "imageid", "string", "string"): ("index", "Label", "ImageID", "String", "String")
    },
    format="blocks",
)


@dataclass(frozen=True)
class Tweet(Item):
    """A sample whose text has ``$T$`` in the place of ``target``, which is empty where the table does not tell."""

    target: str = ""


@dataclass(frozen=True)
class TweetTokens(Tokens):
    """Tokens of a tweet; ``target=True`` tells whom it is asked about: "lima : so happy for lima"."""

    target: bool = False

    def sentence(self, item: Tweet) -> str:
        if not self.target:
            return self.cleaned(item.text)
        if not item.target:
            raise Unreadable(item.name, "has no target: prepare the data from the files of TomBERT")
        whole = item.text.replace(TARGET, item.target)
        return f"{self.cleaned(item.target)} : {self.cleaned(whole)}"


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = file_of(root / "annotations", split, FORM)
    if path is None:
        return None
    items, seen = [], {}
    for row in _read(path, faults):
        name = row.name
        if name in seen and row.target:
            faults.add(path, row.place, f"the same as line {seen[name]}: remove one")
            continue
        if name in seen:  # without targets, rows of one tweet may well be alike
            name = f"{name}-{row.place}"
        seen[name] = row.place
        items.append(row.item(root, name))
    return items


def readers(
    tokenizer: str = "bert-base-uncased",
    max_tokens: int = 128,
    max_words: int | None = 50,
    clean: str = "letters",
    target: bool = False,
    size: int = 224,
    augment: str = "released",
    normalisation: str = "clip",
) -> dict[str, Reader]:
    """Text (max_tokens,) and image (3, size, size); the defaults are what the authors' code does.

    Args:
        tokenizer, max_tokens, max_words, clean: of the text, see ``Tokens``.
        target: False as in the authors' code: the target is not named, its place is a "t" in the sentence. True fills
            it in and puts it before the sentence.
        size, augment, normalisation: of the picture, see ``Photo``.
    """
    return {
        "text": TweetTokens(tokenizer, max_tokens, max_words, clean, target),
        "image": Photo(size, augment, normalisation),
    }


def same_tweet(items: Iterable[Item]) -> dict[str, float]:
    """What rows of one tweet, that is, with one picture, mean for a model that is not told the target.

    Returns:
        tweets, rows; shared: rows of tweets with several rows; disputed: rows of tweets with several labels;
        ceiling: the highest accuracy that is possible from the picture alone.
    """
    labels: dict[str, Counter] = defaultdict(Counter)
    for item in items:
        labels[item.files["image"].name][item.label] += 1
    counts = {"tweets": len(labels), "rows": sum(c.total() for c in labels.values())}
    counts["shared"] = sum(c.total() for c in labels.values() if c.total() > 1)
    counts["disputed"] = sum(c.total() for c in labels.values() if len(c) > 1)
    counts["ceiling"] = sum(max(c.values()) for c in labels.values()) / max(1, counts["rows"])
    return counts


def prepare(job: Preparation, annotations: str | None = None, images: str | None = None) -> None:
    """From the files of TomBERT and the folder of pictures: copies the pictures that can be read.

    Args:
        annotations: the folder of train.tsv, dev.tsv and test.tsv; by default RAW or a folder in it, such as
            absa_data/twitter2015. Other names and forms are understood, see the table in the book's appendix on data.
        images: the folder of pictures; by default twitter2015_images in RAW or beside it.
    """
    tables, faults = find_annotations(job, annotations, FORM), Faults()
    if "2017" in (folder := tables["train"].parent).name:
        raise ValueError(f"{folder} is Twitter2017, another data set: give the folder twitter2015")
    wanted = {split: _read(path, faults) for split, path in tables.items()}
    faults.stop()
    pictures = find_pictures(job, images, (IMAGES,))
    names = [row.image for found in wanted.values() for row in found]
    made = copy_pictures(job, pictures, names, IMAGES)
    for split, found in wanted.items():
        there = [row for row in found if row.image in made]
        distinct: dict[str, _Row] = {}
        for row in there:
            distinct.setdefault(row.name if row.target else str(row.place), row)
        kept = distinct.values()
        lines = [HEADER, *((r.index, str(r.label), r.image, r.text, r.target) for r in kept)]
        content = "".join("\t".join(line) + "\n" for line in lines)
        labels = [CLASSES[row.label] for row in kept]
        job.annotations(split, "annotations/{}_data.tsv", content, labels)
        if lost := len(found) - len(there):
            job.note(f"{split}: {lost:,} rows are left out with their pictures")
        if double := len(there) - len(kept):
            job.note(f"{split}: {double:,} rows stood there twice and are left out")
        n = same_tweet(row.item(job.out, row.name) for row in kept)
        if n["shared"]:
            job.note(
                f"{split}: {n['shared']:,} of {n['rows']:,} rows share their tweet with another target's, "
                f"{n['disputed']:,} where the labels differ: from the picture alone at most "
                f"{100 * n['ceiling']:.1f} % can be right"
            )


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a raw download of 240 tiny rows and a tiny BERT: the words tell the label clearly, the picture less so."""
    rng = np.random.default_rng(derive_seed(seed, "twitter2015"))
    sentences, number = [], 10_000
    for split, n in (("train", 150), ("dev", 45), ("test", 45)):
        lines: list[tuple[int, str, str, str]] = []
        while len(lines) < n:
            number += int(rng.integers(1, 900))
            tweet = _tweet(len(lines), n - len(lines), rng)
            label = tweet[int(rng.integers(len(tweet)))][0]
            picture = synthetic.picture(label, len(CLASSES), 48, rng, noise=0.6)
            synthetic.write_jpeg(raw / IMAGES / f"{number}.jpg", picture)
            lines += [(label, f"{number}.jpg", text, target) for label, text, target in tweet]
        header = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n"
        if split == "test":  # the header of the real one, too, is one name short
            header = "index\t#1 ImageID\t#2 String\t#2 String\n"
        table = "".join(
            f"{i}\t" + "\t".join(map(str, line)) + "\n" for i, line in enumerate(lines, 1)
        )
        (raw / "twitter2015").mkdir(parents=True, exist_ok=True)
        (raw / "twitter2015" / f"{split}.tsv").write_bytes((header + table).encode())
        sentences += [text.replace(TARGET, target) for _, _, text, target in lines]
    tiny_bert(raw / "tiny-bert", sentences, seed)


WORDS = (
    ("awful", "sad", "worst", "lost", "broken", "hate", "terrible", "angry"),
    ("today", "opens", "report", "station", "map", "monday", "at", "update"),
    ("love", "great", "happy", "best", "wins", "beautiful", "amazing", "thanks"),
)
TARGETS = ("Lima", "Leeds United", "Ada Byron", "# E3", "Oslo", "Nora", "São Paulo", "Chicago")
USERS = ("anna", "Daily_News", "b3rt", "museum", "the fan club")


def _tweet(done: int, room: int, rng: np.random.Generator) -> list[tuple[int, str, str]]:
    """(label, text, target) of the rows of one tweet: one row, or two if there is room for them."""

    def say(label: int) -> str:
        return " ".join(
            rng.choice(WORDS[label if rng.random() < 0.85 else rng.integers(3)]) for _ in range(3)
        )

    a, b = (TARGETS[i] for i in rng.permutation(len(TARGETS))[:2])
    label = done % 3
    start = rng.choice(["", '" ', *(f"RT @ {user} : " for user in USERS)])
    end = rng.choice(["", " !", ' " so they say', " 😀", " # tbt"])
    if room < 2 or rng.random() < 0.6:
        return [(label, f"{start}{say(label)} {TARGET}{end}", a)]
    other = (label + 1) % 3 if rng.random() < 0.5 else label
    first, second = say(label), say(other)
    return [
        (label, f"{start}{first} {TARGET} , {second} {b}{end}", a),
        (other, f"{start}{first} {a} , {second} {TARGET}{end}", b),
    ]


class _Row(NamedTuple):
    place: int | str
    index: str
    label: int
    image: str
    text: str
    target: str

    @property
    def name(self) -> str:
        """The picture's, and a mark of the words, as a picture may have several rows."""
        mark = hashlib.sha256(f"{self.text}\t{self.target}".encode()).hexdigest()[:8]
        return f"{Path(self.image).stem}-{mark}"

    def item(self, root: Path, name: str) -> Tweet:
        line = self.place if isinstance(self.place, int) else 0
        files = {"image": root / IMAGES / self.image}
        return Tweet(name, self.label, line, files, self.text, target=self.target)


def _read(path: Path, faults: Faults) -> list[_Row]:
    """The rows of an annotation file."""
    found = []
    for row in read_rows(path, FORM, faults):
        index, image, *words = (row.values[name] for name in ("index", "image", "text", "target"))
        # a text in JSON or in quotes may have what separates rows and columns of the layout
        text, target = (re.sub(r"[\t\r\n]+", " ", word) for word in words)
        try:
            image = file_name(image)
        except ValueError as error:
            faults.add(path, row.place, str(error))
            continue
        if text:
            found.append(
                _Row(row.place, index or str(len(found) + 1), row.label, image, text, target)
            )
        else:
            faults.add(path, row.place, "no text")
    return found


TWITTER2015 = Layout(
    "twitter2015", "Twitter15", CLASSES, PUBLISHED, rows, readers, "text_image", prepare, sample
)
