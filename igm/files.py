"""Writing files so that a crash, a full disk or an impatient user never leaves half of one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError


def write(path: Path, save: Callable[[str], object]) -> None:
    """Writes a file by ``save(name)`` so that its name always stands for a whole file, the old one or the new one.

    Raises:
        OSError: it could not be written, e.g. as the disk is full; the old file is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        save(str(partial))
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except (OSError, RuntimeError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise OSError(
            f"cannot write {path}: {reason}. Make room or give another folder; what was written before "
            "is still good"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    write(path, lambda name: Path(name).write_bytes(content))


def write_json(path: Path, content: Mapping | list) -> None:
    write_bytes(path, (json.dumps(content, indent=1) + "\n").encode())


def sync(path: Path | str) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
