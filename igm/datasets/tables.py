"""Reading annotations: the rows of a text file, whatever its format. What the rows mean is known to ``annotations``.

The format is told from the content, not from the name: a table with tabs, commas, semicolons or bars, with or without
quotes; "NAME LABEL" with a space; fields KEY:VALUE; blocks of four lines; a Python list a line; JSON, whole or an
entry a line. At the end there is what can stand in a field: a path, a picture's name, a label.

A row that is wrong does not stop the reading: it is added to ``Faults``, with its file and line, so that all of them
can be reported at once.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from igm.datasets.files import check_content


class Faults(list):
    """What is wrong with annotations, a sentence each, with file and line."""

    def add(self, path: Path | str, place: int | str | None, text: str) -> None:
        """Notes a fault; ``place`` is a line, or words such as "entry 3", or None for one of the whole file."""
        where = {int: f":{place}:", str: f": {place}:"}.get(type(place), ":")
        self.append(f"{path}{where} {text}")

    def stop(self) -> None:
        """Raises ValueError with the first of them, if there is one."""
        if self:
            more = f" (and {len(self) - 1} more lines like it)" if len(self) > 1 else ""
            raise ValueError(f"{self[0]}{more}")


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, a Git LFS pointer, or not UTF-8; the message says in which line.
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise FileNotFoundError(f"{path} is not there") from None
    check_content(path, content)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path}: has NUL characters: this is no text file")
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return text


class Record(NamedTuple):
    """A row as it stands in a file.

    Args:
        place: its line, or "entry 3" in JSON.
        fields: by position, or by name; without outer spaces.
    """

    place: int | str
    fields: Sequence[str] | Mapping[str, str]


def read_records(
    path: Path, faults: Faults, columns: int = 2, form: str = ""
) -> tuple[str, Iterator[Record]]:
    """The name of a file's format, and its rows that are not blank.

    Args:
        columns: that a table needs.
        form: a format that only this data set has: lists, blocks or pairs; "" for none.

    Returns:
        table, words, pairs, blocks, lists or json; of a table with a header, that is the first record.

    Raises:
        FileNotFoundError, ValueError: see ``read_text``. A row that is wrong is a fault instead.
    """
    text = read_text(path)
    lines = [(i, line.strip()) for i, line in enumerate(re.split("\r\n|\r|\n", text), 1)]
    lines = [(i, line) for i, line in lines if line]
    if form == "pairs":
        return form, _pairs(path, lines, faults)
    if path.suffix.lower().startswith(".json") or re.match(r"\s*(\[\s*)?\{", text):
        return "json", _json(path, text, lines, faults)
    if form == "lists" and (text.lstrip().startswith("[") or not _delimiter(lines, columns)):
        return form, _lists(path, lines, faults)
    if form == "blocks" and len(lines) > 3 and re.fullmatch(r"[-+]?\d", lines[2][1]):
        return form, _blocks(path, lines, faults)
    delimiter = _delimiter(lines, columns)
    if delimiter is None and columns == 2 and " " in lines[0][1]:
        return "words", (Record(i, line.split(None, 1)) for i, line in lines)
    return "table", _table(path, text, delimiter or ",", columns, faults)


def read_table(path: Path, columns: int, faults: Faults) -> Iterator[Record]:
    """The rows of a table with commas that are not blank: (line, fields). Errors are those of ``read_text``."""
    return _table(path, read_text(path), ",", columns, faults)


# ---------------------------------------------------------------- a function a format


def _delimiter(lines: Sequence[tuple[int, str]], columns: int) -> str | None:
    """The mark that makes enough columns of the first line, and if several do, as many of the next ones."""
    marks = [mark for mark in "\t,;|" if lines[0][1].count(mark) + 1 >= columns]
    head = [line for _, line in lines[:50]]
    for mark in marks:
        if len({len(row) for row in csv.reader(head, delimiter=mark)}) == 1:
            return mark
    return marks[0] if marks else None


def _table(path: Path, text: str, delimiter: str, columns: int, faults: Faults) -> Iterator[Record]:
    quoted = delimiter != "\t" or _is_quoted(text)
    lines = _csv(text, delimiter, quoted)
    while True:
        try:
            fields = [field.strip() for field in next(lines)]
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(path, lines.line_num, f"not a table: {error}")
            return
        if any(fields) and len(fields) < columns:
            text = f"{len(fields)} of {columns} columns: separate them by commas or tabs"
            faults.add(path, lines.line_num, text)
        elif any(fields):
            yield Record(lines.line_num, fields)


def _csv(text: str, delimiter: str, quoted: bool):
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    file = io.StringIO(text, newline="")
    return csv.reader(file, delimiter=delimiter, quoting=quoting, strict=quoted)


def _is_quoted(text: str) -> bool:
    """Are quotes around fields of this table with tabs marks, or characters, as in the files of TomBERT?

    Marks, if the table comes out whole by reading them so, and more speaks for it: the first name is quoted, a
    quote in a field is doubled, or without them there would be a row of another length.
    """
    try:
        widths = {len(row) for row in _csv(text, "\t", True) if row}
    except csv.Error:
        return False
    plain = {len(row) for row in _csv(text, "\t", False) if row}
    doubled = re.search(r'(?:^|[\t\n])"[^\t\n]*""', text)
    return len(widths) == 1 and bool(text.startswith('"') or doubled or len(plain) > 1)


def pairs(fields: Sequence[str]) -> dict[str, str]:
    """Fields such as "label:1" by their keys; ValueError says what is wrong."""
    values: dict[str, str] = {}
    for field in fields:
        key, colon, value = field.partition(":")
        if not colon or key in values:
            raise ValueError(f"{field!r} is no field KEY:VALUE, or stands twice")
        values[key] = value
    return values


def _pairs(path: Path, lines: Sequence[tuple[int, str]], faults: Faults) -> Iterator[Record]:
    for i, line in lines:
        try:
            yield Record(i, pairs(line.split()))
        except ValueError as error:
            faults.add(path, i, str(error))


def _blocks(path: Path, lines: Sequence[tuple[int, str]], faults: Faults) -> Iterator[Record]:
    names = ("text", "target", "label", "image")
    for k in range(0, len(lines), 4):
        block = lines[k : k + 4]
        if len(block) == 4:
            yield Record(block[0][0], dict(zip(names, (line for _, line in block))))
        else:
            text = f"the last block has {len(block)} of 4 lines: {', '.join(names)}"
            faults.add(path, block[0][0], text)


def _lists(path: Path, lines: Sequence[tuple[int, str]], faults: Faults) -> Iterator[Record]:
    """[name, text, label], or with a label by hashtags before that by a person, which counts."""
    for i, line in lines:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a backslash in a text
                fields = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            fields = None
        if (
            not isinstance(fields, list)
            or len(fields) not in (3, 4)
            or not all(isinstance(field, str) for field in fields[:2])
        ):
            faults.add(path, i, "not a list such as ['908913372199915520', 'haha . # lol', 1]")
        else:
            values = (fields[0].strip(), fields[1].strip(), str(fields[-1]))
            yield Record(i, dict(zip(("image", "text", "label"), values)))


def _json(
    path: Path, text: str, lines: Sequence[tuple[int, str]], faults: Faults
) -> Iterator[Record]:
    """The entries of a list, of an object of entries by their names, or of a file with an entry a line."""
    found = _loaded(path, text, 1, faults, lines=len(lines) > 1)
    if found is ...:  # an entry a line
        entries = [(i, _loaded(path, line, i, faults)) for i, line in lines]
        entries = [(i, entry) for i, entry in entries if entry is not None]
    elif isinstance(found, dict) and path.suffix.lower() == ".jsonl":
        entries = [(1, found)]
    else:
        if isinstance(found, dict) and found and all(isinstance(v, dict) for v in found.values()):
            found = [{"id": name} | entry for name, entry in found.items()]
        elif isinstance(found, dict) and [type(v) for v in found.values()] == [list]:
            (found,) = found.values()
        if not isinstance(found, list):
            if not faults:
                faults.add(path, None, 'has to be a list of {"image": ..., "label": ..., ...}')
            return
        entries = [(f"entry {n}", entry) for n, entry in enumerate(found, 1)]
    for place, entry in entries:
        if isinstance(entry, dict):
            yield Record(place, {str(name): _words(value) for name, value in entry.items()})
        elif isinstance(entry, list):
            yield Record(place, [_words(value) for value in entry])
        else:
            faults.add(path, place, 'is no entry such as {"image": ..., "label": ..., ...}')


def _loaded(path: Path, text: str, line: int, faults: Faults, lines: bool = False):
    """What JSON says; ... where it may be an entry a line; None after a fault."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if lines and error.msg == "Extra data":
            return ...
        faults.add(path, line + error.lineno - 1, f"not JSON: {error.msg}")
    except RecursionError:
        faults.add(path, line, "not JSON: too many brackets")
    return None


def _words(value: object) -> str:
    return "" if value is None else str(value).strip()


# ---------------------------------------------------------------- what stands in a field


def plain_name(name: str) -> bool:
    """Is this the name of a file, and not a path that could lead out of its folder?"""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")


def last_part(path: str) -> str:
    """The name of a file without folders, however they are separated: the same file lies elsewhere here."""
    return re.split(r"[/\\]", path.strip())[-1]


def stem_of(clip: str) -> str:
    """The same without the suffix of a sound or a video."""
    suffix = r"\.(wav|mp3|flv|mp4|avi|mov|mkv|webm|npy)$"
    return re.sub(suffix, "", last_part(clip), flags=re.I)


def file_name(name: str, suffixes: Sequence[str] = (".jpg", ".jpeg", ".png", ".gif")) -> str:
    """The name of a picture's file, from a path, a name or a number: the first suffix where there is none.

    Raises:
        ValueError: there is no name, or a spreadsheet has rounded the number.
    """
    name = last_part(name)
    if re.fullmatch(r"[\d.,]+[eE]\+?\d+", name):
        raise ValueError(
            f"{name} is a number that a spreadsheet has rounded: take the file as it was"
        )
    if name in ("", ".", ".."):
        raise ValueError(f"{name!r} is not the name of a picture")
    return name if Path(name).suffix.lower() in suffixes else name + suffixes[0]


def looks_like_picture(text: str) -> bool:
    """Is this the name of a picture, with or without folders, or a number of three digits or more?"""
    return bool(re.fullmatch(r"\d{3,}|\S[^<>|\"?*]*\.(jpe?g|png|gif)", text, re.I))


def plain_word(label: str) -> str:
    """A label in lower case with single spaces, and a whole number without its ".0"."""
    word = " ".join(re.sub(r"(?<=\w)[-_]+(?=\w)", " ", label.lower()).split())
    return re.sub(r"^([-+]?\d+)\.0*$", r"\1", word).removeprefix("+")
