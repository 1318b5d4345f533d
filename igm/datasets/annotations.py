"""One importer of annotations for all data sets: it finds the files, and knows what their rows mean.

Each data set describes in a ``Form`` what it needs of a row, under which names people keep that, and how its labels
are written. ``find_annotations`` looks for the files of the splits in a download, ``file_of`` in the layout, and
``read_rows`` gives the rows of a file, in any format that ``tables`` can tell. The table in book/data.md lists what is
understood. All else is a fault that says what is missing, and what is there.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeVar

from igm.datasets.files import hidden
from igm.datasets.memory import SPLITS
from igm.datasets.preparing import FOLDER, Preparation
from igm.datasets.tables import Faults, Record, plain_word, read_records

# What a part of a file's or folder's name says of its split: train_data.csv, my_test_cre.txt, dev.tsv, valid2.txt.
SPLIT_NAMES = {
    "train": ("train", "training", "trainset"),
    "valid": ("valid", "val", "validation", "validate", "dev"),
    "test": ("test", "testing", "testset"),
}
T = TypeVar("T")
DEPTH = 3  # folders below RAW in which annotations are looked for


@dataclass(frozen=True)
class Form:
    """What a data set needs of its annotations, and how they may look.

    Args:
        columns: ours -> the names that it goes under, the usual one first. In a table, upper and lower case, spaces,
            signs and a number before a name make no difference.
        needed: the columns that a row must have.
        classes: label, in lower case -> class; or a function that finds that out from a file's rows and format.
        labels: how a label may be written, for messages.
        source: where the files can be got.
        suffixes: of the files; where a split has several, the first of these counts.
        folders: in which they are most often; they come first where two folders have files.
        looks: column -> does this field look like one? For tables without a header.
        wrong: headers that are wrong in the original -> what they should be.
        format: one that only this data set has, see ``read_records``.
    """

    columns: Mapping[str, Sequence[str]]
    needed: Sequence[str]
    classes: Mapping[str, int] | Callable[[Sequence[Mapping[str, str]], str], Mapping[str, int]]
    labels: str
    source: str
    suffixes: Sequence[str] = (".csv", ".tsv", ".json", ".jsonl", ".txt")
    folders: Sequence[str] = ()
    looks: Mapping[str, Callable[[str], object]] = field(default_factory=dict)
    wrong: Mapping[Sequence[str], Sequence[str]] = field(default_factory=dict)
    format: str = ""


class Row(NamedTuple):
    """A row that is understood.

    Args:
        path, place: its file, and its line, or "entry 3" in JSON.
        values: column -> field; "" for one that is not there.
        label: the class; None for none or an unknown one, where a label is not needed.
    """

    path: Path
    place: int | str
    values: Mapping[str, str]
    label: int | None

    @property
    def line(self) -> int:
        """For an ``Item``: 0 for none."""
        return self.place if isinstance(self.place, int) else 0


def split_of(name: str) -> str | None:
    """The split that the name of a file or folder announces; None for none, or for two."""
    parts = re.split(r"[^a-z]+", name.lower())
    found = {split for split, names in SPLIT_NAMES.items() if set(names) & set(parts)}
    return found.pop() if len(found) == 1 else None


def _plain_name(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^#\d+\s*", "", column).lower())


# ---------------------------------------------------------------- the files


def files_in(folder: Path, form: Form) -> dict[str, list[Path]]:
    """split -> its files in a folder, the one that counts first: the newer version, such as valid2, comes first."""

    def rank(path: Path) -> tuple:
        words = re.split(r"[^a-z0-9]+", path.stem.lower())
        suffix = form.suffixes.index(path.suffix.lower())
        newer = any(re.fullmatch(r"(v|test|valid)2", word) for word in words)
        return suffix, "data" not in words, not newer, len(words), path.name

    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        known = path.suffix.lower() in form.suffixes and not hidden(path.name)
        if known and (split := split_of(path.stem)) and path.is_file():
            found.setdefault(split, []).append(path)
    return {split: sorted(found[split], key=rank) for split in SPLITS if split in found}


def file_of(folder: Path, split: str, form: Form) -> Path | None:
    """The annotation file of a split in a folder of the layout, or None."""
    return files_in(folder, form).get(split, [None])[0] if folder.is_dir() else None


def find_annotations(job: Preparation, given: str | None, form: Form) -> dict[str, Path]:
    """split -> its annotations, from the folder that is nearest to the given one, or to RAW, and has train and test.

    The report notes the files beside them that are not read.

    Raises:
        FileNotFoundError: there is no such folder; the message says what is missing and what is there.
        ValueError: there are two that are equally near.
    """
    base = Path(given) if given is not None else job.raw
    if not base.is_dir():
        raise FileNotFoundError(
            f"{base} is no folder: give that of the annotations as --annotations"
        )
    there = {folder: files_in(folder, form) for folder in folders_below(base, job)}
    whole = [folder for folder, found in there.items() if {"train", "test"} <= set(found)]
    if not whole:
        raise FileNotFoundError(_missing(base, there, form))

    def rank(folder: Path) -> tuple[int, bool]:
        return len(folder.relative_to(base).parts), folder.name not in form.folders

    first, *others = sorted(whole, key=rank)
    if others and rank(others[0]) == rank(first):
        raise ValueError(
            f"{first} and {others[0]} both have annotations: name one by --annotations"
        )
    taken = {split: paths[0] for split, paths in there[first].items()}
    left = [path.name for paths in there[first].values() for path in paths[1:]]
    left += [f"{folder.relative_to(base)}/" for folder in others]
    tables = set(form.suffixes) - {".txt"}
    more = [path.name for path in sorted(first.iterdir()) if path.suffix.lower() in tables]
    if left := left + [name for name in more if split_of(Path(name).stem) is None]:
        names = ", ".join(path.name for path in taken.values())
        job.note(f"the annotations are {names}; not read: {listed(first, left)}")
    return taken


def folders_below(base: Path, job: Preparation) -> Iterator[Path]:
    """The folder and those below it, without what is hidden, linked, or made by igm prepare."""
    level, out = [base], job.out.resolve()
    for _ in range(DEPTH + 1):
        yield from level
        level = [
            path
            for folder in level
            for path in sorted(folder.iterdir())
            if path.is_dir()
            and not hidden(path.name)
            and (job.follow_links or not path.is_symlink())
            and path.resolve() != out
            and not (path / FOLDER).exists()
        ]


def listed(folder: Path, names: Sequence[str] = ()) -> str:
    """These names, or those in a folder, for a message."""
    names = names or [path.name for path in sorted(folder.iterdir()) if not hidden(path.name)]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more if names else "nothing"


def _missing(base: Path, there: Mapping[Path, Mapping], form: Form) -> str:
    """The sentence where no folder has both train and test."""
    best = max(there, key=lambda folder: len(there[folder]))  # the nearest of those with most
    lacking = " and ".join(split for split in ("train", "test") if split not in there[best])
    found = [path.name for paths in there[best].values() for path in paths]
    return (
        f"no annotations of {lacking} in {best}, where there is {listed(best, found)}: {form.source}; name "
        "their folder by --annotations"
    )


def all_files(job: Preparation) -> Iterator[Path]:
    """All files below the raw folder, in a fixed order, without those of the output folder.

    Raises:
        Unreadable: a folder is a link out of the raw folder.
    """
    seen = {job.out.resolve()}
    for folder, folders, names in os.walk(job.raw, onerror=_stop, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not hidden(name))
        for name in folders:
            if (here / name).is_symlink() and (here / name).resolve() not in seen:
                job.source(here / name)  # raises where it leads out
        yield from (here / name for name in sorted(names) if not hidden(name))


def _stop(error: OSError) -> None:
    raise error


# ---------------------------------------------------------------- the rows


def read_rows(
    path: Path, form: Form, faults: Faults, needed: Sequence[str] | None = None
) -> Iterator[Row]:
    """The rows of an annotation file; what is wrong is added to the faults.

    Args:
        needed: in place of those of the form.

    Raises:
        FileNotFoundError, ValueError: see ``read_text``.
    """
    needed = form.needed if needed is None else needed
    kind, records = read_records(path, faults, len(form.needed), form.format)
    found: Iterable[Values] = _by_name(path, records, form, needed, faults)
    classes = form.classes
    if callable(classes):
        found = list(found)
        classes = classes([values for _, values in found], kind)
    for place, values in found:
        label = classes.get(plain_word(values["label"]))
        if label is None and "label" in needed:
            faults.add(path, place, f"unknown label {values['label']!r}: use {form.labels}")
        else:
            yield Row(path, place, values, label)


def once(
    found: Iterable[tuple[Row, T]], name: Callable[[T], Hashable], faults: Faults
) -> Iterator[tuple[Row, T]]:
    """Rows with what was made of them, each name once; a second row of that name is a fault."""
    seen: dict[Hashable, int | str] = {}
    for row, made in found:
        key = name(made)
        if key in seen:
            where = f"line {seen[key]}" if isinstance(seen[key], int) else seen[key]
            told = made if isinstance(made, str) else key
            faults.add(row.path, row.place, f"{told} stands in {where} already: remove one")
        else:
            seen[key] = row.place
            yield row, made


Values = tuple[int | str, dict[str, str]]  # the place of a row, and its fields by our columns


def _by_name(
    path: Path, records: Iterator[Record], form: Form, needed: Sequence[str], faults: Faults
) -> Iterator[Values]:
    first = next(records, None)
    if first is None:
        return
    if isinstance(first.fields, Mapping):
        yield from _of_entries(path, chain([first], records), form, needed, faults)
        return
    names = tuple(map(_plain_name, first.fields))
    header = form.wrong.get(names, first.fields)
    places = _places(header, form)
    data = [look(text) for look in form.looks.values() for text in first.fields]
    if len(places) > 1 or not any(data):
        lacking = [form.columns[column] for column in needed if column not in places]
        if not lacking:
            yield from _of_table(path, records, places, len(header), form, faults)
            return
        text = f"the header lacks {', '.join(_choice(names) for names in lacking)}"
        faults.add(path, first.place, f"{text}; it has {', '.join(filter(None, header))}")
        return
    records = [first, *records]
    width = Counter(len(record.fields) for record in records).most_common(1)[0][0]
    places = _places_by_content(records, width, form)
    yield from _of_table(path, records, places, width, form, faults)


def _choice(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (or {', '.join(names[1:4])})"


def _of_entries(
    path: Path, records: Iterable[Record], form: Form, needed: Sequence[str], faults: Faults
) -> Iterator[Values]:
    for place, fields in records:
        places = _places(list(fields), form) if isinstance(fields, Mapping) else {}
        values = list(fields.values()) if places else []
        found = {column: values[i] for column, i in places.items()}
        if lacking := [form.columns[column] for column in needed if column not in found]:
            there = ", ".join(fields) if isinstance(fields, Mapping) else "no names"
            text = f"has no {' and no '.join(_choice(names) for names in lacking)}; it has {there}"
            faults.add(path, place, text)
        else:
            yield place, dict.fromkeys(form.columns, "") | found


def _of_table(
    path: Path, records: Iterable[Record], places: Mapping, width: int, form: Form, faults: Faults
) -> Iterator[Values]:
    spare = [i for column, i in places.items() if column not in form.needed]
    last = max(spare, default=None) if "text" in form.columns else None
    for place, fields in records:
        if len(fields) == width - 1 == last:
            fields = [*fields, ""]  # an editor has cut off the mark before an empty target
        if len(fields) < width:
            faults.add(path, place, f"{len(fields)} of {width} columns: is a comma or tab missing?")
        elif len(fields) > width and "text" in form.columns:
            text = f"{len(fields)} columns in place of {width}: put the text in quotes"
            faults.add(path, place, f"{text}, or is there a tab too many?")
        else:
            found = {column: fields[i] for column, i in places.items()}
            yield place, dict.fromkeys(form.columns, "") | found


def _places(header: Sequence[str], form: Form) -> dict[str, int]:
    """column -> its place among these names."""
    names, places = [_plain_name(name) for name in header], {}
    for column, known in form.columns.items():
        for name in map(_plain_name, known):
            free = [
                i for i, other in enumerate(names) if other == name and i not in places.values()
            ]
            if free:
                places[column] = free[0]
                break
    return places


def _places_by_content(records: Sequence[Record], width: int, form: Form) -> dict[str, int]:
    """The same for a table without a header: by what the fields look like, and then in the order of the columns."""
    rows = [record.fields for record in records if len(record.fields) >= width]
    numbered = width > len(form.needed) and _counts_up([row[0] for row in rows])
    for start in (1, 0) if numbered else (0,):  # without an index, if all is found so
        free = list(range(start, width))
        places = {"index": 0} if start and "index" in form.columns else {}
        for column, look in form.looks.items():
            hits = {i: sum(bool(look(row[i])) for row in rows) for i in free}
            best = max(hits, key=hits.get, default=None)
            if best is not None and 2 * hits[best] > len(rows):
                places[column] = best
                free.remove(best)
        if set(form.looks) <= set(places):
            break
    lacking = [column for column in form.columns if column not in places and column != "index"]
    for column in lacking:
        wanted = sum(other in form.needed for other in lacking if other not in places)
        if free and (column in form.needed or len(free) > wanted):
            places[column] = free.pop(0)
    return dict.fromkeys(form.needed, 0) | places


def _counts_up(fields: Sequence[str]) -> bool:
    if not all(field.isdecimal() for field in fields):
        return False
    numbers = [int(field) for field in fields]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
