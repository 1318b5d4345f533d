"""Twitter2015: is a tweet with a picture good, bad or neutral about whom or what it names? (Yu and Jiang, 2019)

The layout::

    Twitter15/annotations/{train,valid,test}_data.tsv     index, Label, ImageID, String, Target
    Twitter15/twitter2015_images/1860693.jpg

A row is a tweet and one target in it; in the String, ``$T$`` stands in the target's place. A tweet that names two
things has two rows with one picture, and with one sentence once the targets are back in it. Their labels may differ:
then no network can be right with both that is not told the target. ``same_tweet`` counts such rows.

Other tables are read, too: the files of TomBERT as they are, whose test file has a header that is one name short, and
tables with columns Label, ImageID and String in any order, as the authors' code wants them. The raw download is the
folder absa_data/twitter2015 of github.com/jefferyYu/TomBERT, with train.tsv, dev.tsv and test.tsv, and the folder
twitter2015_images, to which its README has the link.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from igm.datasets import synthetic
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Preparation
from igm.datasets.reading import Item, Reader
from igm.datasets.tables import Faults, plain_name, read_table
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

CLASSES = ("negative", "neutral", "positive")
PUBLISHED = {
    "train": dict(zip(CLASSES, (368, 1883, 928))),
    "valid": dict(zip(CLASSES, (149, 670, 303))),
    "test": dict(zip(CLASSES, (113, 607, 317))),
}
FILES = {
    "train": ("train_data.tsv", "train.tsv"),
    "valid": ("valid_data.tsv", "valid.tsv", "dev.tsv"),
    "test": ("test_data.tsv", "test.tsv"),
}
# The order of TomBERT, whose code reads by position.
HEADER = ("index", "Label", "ImageID", "String", "Target")
IMAGES = "twitter2015_images"
TARGET = "$T$"


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
    path = first_file(root / "annotations", FILES[split])
    if path is None:
        return None
    items, seen = [], {}
    for row in _read(path, faults):
        name = row.name
        if name in seen and row.target:
            faults.add(path, row.line, f"the same as line {seen[name]}: remove one")
            continue
        if name in seen:  # without targets, rows of one tweet may well be alike
            name = f"{name}-{row.line}"
        seen[name] = row.line
        files = {"image": root / IMAGES / row.image}
        items.append(Tweet(name, row.label, row.line, files, row.text, target=row.target))
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
        annotations: the folder of train.tsv, dev.tsv and test.tsv; by default RAW, or twitter2015 or
            absa_data/twitter2015 in it.
        images: the folder of pictures; by default twitter2015_images in RAW or beside it.
    """
    inside = ("", "twitter2015", "absa_data/twitter2015", "annotations")
    source = "the folder absa_data/twitter2015 of github.com/jefferyYu/TomBERT"
    tables, faults = find_tables(job, annotations, inside, FILES, source), Faults()
    wanted = {split: _read(path, faults) for split, path in tables.items()}
    faults.stop()
    pictures = find_pictures(job, images, (IMAGES,))
    names = [row.image for found in wanted.values() for row in found]
    made = copy_pictures(job, pictures, names, IMAGES)
    for split, found in wanted.items():
        there = [row for row in found if row.image in made]
        distinct: dict[str, _Row] = {}
        for row in there:
            distinct.setdefault(row.name if row.target else str(row.line), row)
        kept = distinct.values()
        lines = [HEADER, *((r.index, str(r.label), r.image, r.text, r.target) for r in kept)]
        content = "".join("\t".join(line) + "\n" for line in lines)
        labels = [CLASSES[row.label] for row in kept]
        job.annotations(split, f"annotations/{split}_data.tsv", content, labels)
        if lost := len(found) - len(there):
            job.note(f"{split}: {lost:,} rows are left out with their pictures")
        if double := len(there) - len(kept):
            job.note(f"{split}: {double:,} rows stood there twice and are left out")
        n = same_tweet(rows(job.out, split, Faults()))
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
    line: int
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


def _read(path: Path, faults: Faults) -> list[_Row]:
    """The rows of a table in any of its forms."""
    lines = list(read_table(path, 3, faults, "\t", quotes=False))
    if not lines:
        return []
    places = _places(lines[0][1])
    if places is None:
        faults.add(
            path,
            lines[0][0],
            "the header has to name Label, ImageID and String, separated by tabs, as in TomBERT's train.tsv",
        )
        return []
    index, label, image, text, target = places
    width = max(len(lines[0][1]), 1 + max(p for p in places if p is not None))
    found = []
    for line, fields in lines:
        if line == lines[0][0] and "string" in _names(fields):
            continue  # the header
        if len(fields) == width - 1 == target:
            fields = [*fields, ""]  # an editor has cut off the tab before an empty target
        if len(fields) != width:
            faults.add(
                path, line, f"{len(fields)} columns in place of {width}: a tab too many or too few?"
            )
        elif fields[label] not in ("0", "1", "2"):
            faults.add(
                path,
                line,
                f"unknown label {fields[label]!r}: use 0 negative, 1 neutral or 2 positive",
            )
        elif not plain_name(fields[image]):
            faults.add(
                path, line, f"{fields[image]!r} is not the name of a picture, such as 1860693.jpg"
            )
        elif not fields[text]:
            faults.add(path, line, "no text")
        else:
            found.append(
                _Row(
                    line,
                    fields[index] if index is not None else str(len(found) + 1),
                    int(fields[label]),
                    fields[image],
                    fields[text],
                    fields[target] if target is not None else "",
                )
            )
    return found


def _names(header: Sequence[str]) -> list[str]:
    """The names of the columns without TomBERT's numbers before them."""
    return [re.sub(r"^#\d+\s*", "", name).lower() for name in header]


def _places(header: Sequence[str]) -> tuple[int | None, int, int, int, int | None] | None:
    """The columns of index, label, image, text and target; None for no such table."""
    names = _names(header)
    if names == ["index", "imageid", "string", "string"]:
        return 0, 1, 2, 3, 4  # the rows of TomBERT's test file have a label all the same
    if len(header) == 5 and header[1] in ("0", "1", "2") and header[0].isdigit():
        return 0, 1, 2, 3, 4  # no header
    if not {"label", "imageid", "string"} <= set(names):
        return None
    index = names.index("index") if "index" in names else None
    text = names.index("string")
    targets = [
        i for i, n in enumerate(names) if n in ("target", "string", "string.1") and i != text
    ]
    label, image = names.index("label"), names.index("imageid")
    return index, label, image, text, targets[0] if targets else None


TWITTER2015 = Layout(
    "twitter2015", "Twitter15", CLASSES, PUBLISHED, rows, readers, "text_image", prepare, sample
)
