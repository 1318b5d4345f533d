"""Decoded pictures and spectrograms on the disk, so that a file is decoded once and not once an epoch.

An entry is one NumPy file, ``KIND/NAME.npy``, which ``np.load`` reads, too; behind the array it has a checksum of
four bytes. KIND says what was made of the source, e.g. "image-224". NAME is a hash of the source's path, size and
time of change: a source that has changed has a new name, and so has one that is decoded otherwise than before. An
entry is written under a temporary name and then renamed, so threads and other processes see it whole or not at all,
and need no lock. An entry that a crash has damaged is computed again.
"""

from __future__ import annotations

import ast
import hashlib
import io
import logging
import os
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

log = logging.getLogger("igm")

# Part of every name: one more whenever a file is decoded into other values than before, or is refused.
# 2: 16-bit grey pictures, and sounds that were cut off.
DECODING = 2


class Cache:
    """``fetch`` gives a stored array, or computes and stores it.

    A folder that cannot be written to, or a full disk, only costs time: a warning says so once, and what is not in
    the cache is computed each time.

    Args:
        folder: made when the first array is stored.
        limit: gigabytes that the cache may take on the disk. What other processes write is looked up now and then:
            each of them may pass the limit by a hundredth.
    """

    def __init__(self, folder: Path, limit: float = 20.0):
        self.folder = Path(folder)
        self.limit = limit * 1e9
        self.full = False
        self.hits = self.misses = 0  # of this process
        self._checked: set[str] = set()  # entries whose checksum this process knows to be right
        self._room: float | None = None  # bytes that this process may write before it looks again
        self._lock = threading.Lock()

    def fetch(self, kind: str, path: Path, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The array of a kind made from a source file: from the cache, or ``compute()``.

        It may be changed: the file on the disk stays as it is. Errors of ``compute`` pass through.
        """
        try:
            status = os.stat(path)
        except OSError:
            return compute()  # which says what is wrong with the file
        stamp = f"{DECODING} {status.st_size} {status.st_mtime_ns} ".encode()
        name = hashlib.sha256(stamp + os.fsencode(os.path.abspath(path))).hexdigest()[:32]
        entry = os.path.join(self.folder, kind, f"{name}.npy")
        if (array := self._read(entry)) is not None:
            self.hits += 1
            return array
        self.misses += 1
        array = np.asarray(compute(), order="C")
        if not self.full:
            try:
                self._store(Path(entry), array)
            except OSError as error:  # the disk is full or read-only
                self._stop(f"cannot write to the cache {self.folder}: {error}; going on without")
        return array

    def _read(self, entry: str) -> np.ndarray | None:
        """The array of a file, or None where there is none, or a damaged one.

        ``np.load`` would do; without its many checks a pass over small files takes a tenth less time.
        """
        try:
            with open(entry, "rb", buffering=0) as file:
                content = bytearray(os.fstat(file.fileno()).st_size)
                file.readinto(content)
            whole = memoryview(content)
            if entry not in self._checked:
                if zlib.crc32(whole[:-4]) != int.from_bytes(whole[-4:], "little"):
                    return None
                self._checked.add(entry)
            start = 10 + int.from_bytes(whole[8:10], "little")
            header = ast.literal_eval(str(whole[10:start], "latin1"))
            values = np.frombuffer(whole[start:-4], np.dtype(header["descr"]))
            return values.reshape(header["shape"])
        except (OSError, ValueError, SyntaxError, KeyError, TypeError):
            return None

    def _store(self, entry: Path, array: np.ndarray) -> None:
        header = io.BytesIO()
        npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
        header = header.getvalue()
        # np.save would copy the values first
        values = memoryview(array).cast("B") if array.size else b""
        checksum = zlib.crc32(values, zlib.crc32(header)).to_bytes(4, "little")
        if not self._take(len(header) + array.nbytes + len(checksum)):
            self._stop(
                f"the cache {self.folder} has reached its limit of {self.limit / 1e9:.0f} GB: what is "
                "not in it is decoded each time"
            )
            return
        entry.parent.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{os.getpid()}-{threading.get_ident()}.partial")
        try:
            with open(partial, "wb") as file:
                file.writelines((header, values, checksum))
            os.replace(partial, entry)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _take(self, size: int) -> bool:
        """Takes ``size`` bytes of the room that is left, or says that there is not so much."""
        with self._lock:
            if self._room is None or self._room < size:
                left = self.limit - _bytes_below(self.folder)
                if left < size:
                    return False
                self._room = max(size, min(left, self.limit / 100))
            self._room -= size
            return True

    def _stop(self, why: str) -> None:
        """Stores nothing more, and says so once."""
        if not self.full:
            log.warning(why)
        self.full = True

    def __getstate__(self) -> dict:  # for workers that are spawned
        return {"folder": self.folder, "limit": self.limit, "full": self.full}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"], state["limit"] / 1e9)
        self.full = state["full"]


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process has just renamed it
            total += path.stat().st_size if path.is_file() else 0
    return total


def cached(
    cache: Cache | None, kind: str, path: Path, compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """``cache.fetch``, or ``compute()`` where there is no cache."""
    return compute() if cache is None else cache.fetch(kind, path, compute)
