"""Files of data before they are decoded: their bytes, their names, and the one error for all that is wrong with them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

LFS = b"version https://git-lfs"


class Unreadable(ValueError):
    """A file of data that is missing, empty, cut off, or not what its name says."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return Unreadable, (self.path, self.reason)


def cut_off(path: Path, promised: str, there: str) -> Unreadable:
    """The error for a file that is shorter than its header says."""
    return Unreadable(path, f"is cut off: its header promises {promised}, {there} are there")


def read_bytes(path: Path, most: int = -1) -> bytes:
    """What is in a media file, or its first bytes.

    Raises:
        Unreadable: it is missing, empty, or a Git LFS pointer in place of the file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most)
    except FileNotFoundError:
        raise Unreadable(path, "is missing") from None
    except OSError as error:
        raise Unreadable(path, f"cannot be read: {error.strerror}") from None
    check_content(path, content)
    return content


def check_content(path: Path, content: bytes) -> None:
    """Raises Unreadable for an empty file and for a Git LFS pointer."""
    if not content:
        raise Unreadable(path, "is empty")
    if content.startswith(LFS):
        raise Unreadable(
            path,
            "is a Git LFS pointer, not the file itself: run `git lfs pull` in the clone (a download as "
            "ZIP has only pointers)",
        )


def is_there(path: Path) -> bool:
    """Is there a folder of this name, or a file with something in it?"""
    try:
        status = os.stat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) or status.st_size > 0


def hidden(name: str) -> bool:
    """Is this a file that an operating system leaves in folders: .DS_Store, ._x.jpg, Thumbs.db?"""
    return name.startswith(".") or name.lower() == "thumbs.db"


def in_counting_order(name: str) -> tuple:
    """A key that sorts names as people count: 1.jpg, 2.jpg, 10.jpg. Names with leading zeros stay as they are."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
