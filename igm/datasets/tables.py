"""Reading annotations: text files and tables in the forms in which people have them.

A line that is wrong does not stop the reading: it is added to ``Faults``, with its file and number, so that all wrong
lines can be reported at once.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from igm.datasets.media import check_content


class Faults(list):
    """What is wrong with annotations, a sentence each, with file and line."""

    def add(self, path: Path | str, line: int | None, text: str) -> None:
        """Notes a fault; ``line`` is None for one of the whole file."""
        self.append(f"{path}:{line}: {text}" if line else f"{path}: {text}")

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


def read_table(
    path: Path, columns: int, faults: Faults, delimiter: str = ",", quotes: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table that are not blank: (number of the line, its fields without outer spaces).

    A line with fewer fields than ``columns`` is added to the faults and left out. Errors are those of ``read_text``.

    Args:
        quotes: fields may be quoted; else a quote is a character like any other, as in files of tweets.
    """
    lines = csv.reader(
        io.StringIO(read_text(path), newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=quotes,
    )
    while True:
        try:
            fields = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            faults.add(path, lines.line_num, f"not a table: {error}")
            return
        if not any(field.strip() for field in fields):
            continue
        if len(fields) < columns:
            faults.add(path, lines.line_num, _too_few(fields, columns, delimiter))
            continue
        yield lines.line_num, [field.strip() for field in fields]


def _too_few(fields: Sequence[str], columns: int, delimiter: str) -> str:
    names = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars", " ": "spaces"}
    text = f"{len(fields)} of {columns} columns"
    for other in names:
        if other != delimiter and len(fields[0].split(other)) >= columns:
            return f"{text}: separate them by {names[delimiter]}, not by {names[other]}"
    return f"{text}: separate them by {names[delimiter]}"


def plain_name(name: str) -> bool:
    """Is this the name of a file, and not a path that could lead out of its folder?"""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")
