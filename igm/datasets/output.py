"""``Output``, which writes the files of one task of ``igm prepare``, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from igm.runs import sync, write_bytes


class Output:
    """Writes the files of one task below a folder, and remembers their checksums."""

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, dict] = {}

    def file(self, relative: str, content: bytes) -> None:
        """A file with this content, whole or not at all."""
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        self._note(relative, content)

    def copy(self, relative: str, source: Path) -> None:
        """A copy of the source."""
        self.file(relative, source.read_bytes())

    def link(self, relative: str, source: Path) -> None:
        """The source under a second name, a hard link, which takes no space; a copy where there can be none."""
        path, source = self.root / relative, source.resolve()
        content = source.read_bytes()
        if not path.exists() or not path.samefile(source):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.name}.partial")
            try:
                partial.unlink(missing_ok=True)
                os.link(source, partial)
                os.replace(partial, path)
                sync(path.parent)
            except OSError:  # another disk, or a file system without links
                partial.unlink(missing_ok=True)
                write_bytes(path, content)
        self._note(relative, content)

    def folder(self, relative: str, contents: Mapping[str, bytes]) -> None:
        """A folder with all of its files, or none."""
        target = self.root / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for name, content in contents.items():
                (partial / name).write_bytes(content)
                sync(partial / name)
            if target.exists():
                shutil.rmtree(target)
            os.replace(partial, target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(f"cannot write {target}: {error.strerror or error}") from error
        for name, content in contents.items():
            self._note(f"{relative}/{name}", content)

    def _note(self, relative: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self.files[relative] = {"bytes": len(content), "sha256": digest}
