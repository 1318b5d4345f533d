"""Decoded pictures and spectrograms on the disk, so that a file is decoded once and not once an epoch.

A kind of entry, such as "image-224", has two files in the cache's folder: ``KIND.bin``, the arrays one after the
other, which is read as a memory map, and ``KIND.index``, a line of JSON an array. An entry counts as long as its
file has the size and the time of change that it had, and as the entry's checksum is right. Processes append in
turn, under a lock, and learn of each other's entries from the index, so a cache may serve several runs at once.
After a crash or on a full disk the worst that happens is that a file is decoded again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

log = logging.getLogger("igm")


class Cache:
    """``fetch`` gives a stored array, or computes and stores it.

    Args:
        folder: made when the first array is stored.
        limit: gigabytes that the cache may take on the disk; what comes later is computed each time.
    """

    def __init__(self, folder: Path, limit: float = 20.0):
        self.folder = Path(folder)
        self.limit = limit * 1e9
        self.full = False
        self.hits = self.misses = 0  # of this process
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()

    def fetch(self, kind: str, path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a kind made from a file: from the cache, or ``compute()``."""
        try:
            status = os.stat(path)
        except OSError:
            return compute()  # which says what is wrong with the file
        stamp = [status.st_size, status.st_mtime_ns]
        with self._lock:
            table = self._kinds.setdefault(kind, _Kind(self.folder / kind))
            entry = table.find(str(path), stamp)
        if entry is not None and (array := table.read(entry)) is not None:
            self.hits += 1
            return array
        self.misses += 1
        array = np.asarray(compute(), order="C")
        if not self.full:
            try:
                self.full = not table.append(str(path), stamp, array, self.limit, self._lock)
            except OSError as error:  # the disk is full or read-only: reading goes on without
                self.full = True
                log.warning(
                    "cannot write to the cache %s: %s; going on without", self.folder, error
                )
            else:
                if self.full:
                    log.warning(
                        "the cache %s has reached its limit of %.0f GB: what is not in it is decoded "
                        "each time",
                        self.folder,
                        self.limit / 1e9,
                    )
        return array

    def refresh(self) -> None:
        """Reads what other processes have added, e.g. before this one forks workers."""
        with self._lock:
            for table in self._kinds.values():
                table.catch_up()

    def __getstate__(self) -> dict:  # for workers that are spawned
        return {"folder": self.folder, "limit": self.limit, "full": self.full}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"], state["limit"] / 1e9)
        self.full = state["full"]


def cached(
    cache: Cache | None, kind: str, path: Path, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """``cache.fetch``, or ``compute()`` where there is no cache."""
    return compute() if cache is None else cache.fetch(kind, path, compute)


class _Kind:
    """The two files of one kind of entries."""

    def __init__(self, stem: Path):
        self.data, self.index = (
            stem.with_name(stem.name + ".bin"),
            stem.with_name(f"{stem.name}.index"),
        )
        self.entries: dict[str, dict] = {}
        self.seen = 0  # bytes of the index that have been read
        self.map: np.ndarray = np.empty(0, np.uint8)
        self.others: int | None = None  # bytes of the other kinds when this process first wrote

    def find(self, path: str, stamp: list[int]) -> dict | None:
        entry = self.entries.get(path)
        if entry is None or entry["stamp"] != stamp:
            self.catch_up()
            entry = self.entries.get(path)
        return entry if entry is not None and entry["stamp"] == stamp else None

    def catch_up(self) -> None:
        try:
            with open(self.index, "rb") as file:
                file.seek(self.seen)
                new = file.read()
        except OSError:
            return
        whole = new.rfind(b"\n") + 1  # the last line may still be on its way
        self.seen += whole
        for line in new[:whole].splitlines():
            try:
                entry = json.loads(line)
                self.entries[entry["path"]] = entry
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash

    def read(self, entry: dict) -> np.ndarray | None:
        """The array of an entry, or None where the file does not hold what the entry says."""
        dtype, end = np.dtype(entry["dtype"]), entry["offset"] + entry["bytes"]
        if end > len(self.map):
            try:
                # "c": pages that nobody writes to, though torch may not know that
                self.map = np.memmap(self.data, np.uint8, "c")
            except (OSError, ValueError):
                return None
        raw = self.map[entry["offset"] : end]
        if "checked" not in entry:  # once in each process
            if len(raw) < entry["bytes"] or zlib.crc32(raw) != entry["crc"]:
                return None
            entry["checked"] = True
        return np.asarray(raw).view(dtype).reshape(entry["shape"])

    def append(
        self, path: str, stamp: list[int], array: np.ndarray, limit: float, threads: threading.Lock
    ) -> bool:
        """Stores an array; False where the limit does not allow it.

        Only the place in the file is taken under locks, so that several threads and processes write at once. Where a
        crash comes before the line in the index, there is a gap in the file, and that is all.
        """
        entry = {
            "path": path,
            "stamp": stamp,
            "offset": 0,
            "bytes": array.nbytes,
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "crc": zlib.crc32(array),
        }
        if self.others is None:
            self.data.parent.mkdir(parents=True, exist_ok=True)
            self.others = sum(f.stat().st_size for f in self.data.parent.glob("*.bin"))
            self.others -= self.data.stat().st_size if self.data.exists() else 0
        with threads, _locked(self.data) as data:
            known = self.entries.get(path)
            self.catch_up()
            if (new := self.entries.get(path)) is not known and new["stamp"] == stamp:
                return True  # another process was quicker
            end = os.fstat(data).st_size
            entry["offset"] = end + -end % 64  # where any type may begin
            if self.others + entry["offset"] + array.nbytes > limit:
                return False
            os.truncate(data, entry["offset"] + array.nbytes)
        handle = os.open(self.data, os.O_WRONLY)
        try:
            _write(handle, memoryview(array).cast("B") if array.size else b"", entry["offset"])
        finally:
            os.close(handle)
        # One line in one call: those of several processes do not mix. It begins anew where a crash tore the last.
        handle = os.open(self.index, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, b"\n" + json.dumps(entry).encode() + b"\n")
        finally:
            os.close(handle)
        with threads:
            self.entries[path] = entry
        return True


def _write(handle: int, content: memoryview | bytes, offset: int) -> None:
    while len(content):
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file, open for writing, while no other process has it so."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)  # which opens the lock, too
