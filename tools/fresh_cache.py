"""Drop from _build what is out of date although Jupyter Book does not see it.

Its execution cache looks at the notebooks alone, and pages that left the table of contents stay. So
a hash of what the notebooks run on, and one of what every page depends on, are kept beside them.
"""

import hashlib
import shutil
import sys
from pathlib import Path

RUN_ON = ("igm", "book/igm_book", "data", "book/studies", "constraints.txt")
SHARED_BY_PAGES = ("_toc.yml", "_config.yml", "tools/book_ext.py")


def fingerprint(root: Path, sources: tuple) -> str:
    digest = hashlib.sha256()
    for source in sources:
        top = root / source
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def changed(root: Path, sources: tuple, key: Path) -> bool:
    """True where the hash is not the one in the file key, which then holds the new one."""
    now = fingerprint(root, sources)
    if key.is_file() and key.read_text() == now:
        return False
    key.parent.mkdir(exist_ok=True)
    key.write_text(now)
    return True


def refresh(root: Path) -> list[str]:
    """The names of what was out of date: "notebooks", "pages"."""
    build = root / "_build"
    stale = []
    if changed(root, RUN_ON, build / "notebooks.key"):
        stale.append("notebooks")
        shutil.rmtree(build / ".jupyter_cache", ignore_errors=True)
    if changed(root, SHARED_BY_PAGES, build / "pages.key") or stale:
        stale.append("pages")
        for folder in ("html", ".doctrees"):
            shutil.rmtree(build / folder, ignore_errors=True)
    return stale


if __name__ == "__main__":
    stale = refresh(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("made anew:", ", ".join(stale) or "only what changed", flush=True)
