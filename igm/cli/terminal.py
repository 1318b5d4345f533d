"""What a command says when it cannot go on: one line, on any terminal, and the code with which it ends."""

from __future__ import annotations

import codecs
import os
import re
import sys
from pathlib import Path

BAD_INPUT, STOPPED = 2, 130  # exit codes; the second is what a shell expects after Ctrl-C

MEDIA = {  # the libraries of the extra "media" -> what pip calls them
    "av": "av",
    "cv2": "opencv-python-headless",
    "librosa": "librosa",
    "PIL": "pillow",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "transformers": "transformers",
}
SYSTEM = {  # a library of the operating system -> its package in Debian and Ubuntu
    "libGL": "libgl1",
    "libgthread": "libglib2.0-0",
    "libglib": "libglib2.0-0",
    "sndfile": "libsndfile1",
    "libgomp": "libgomp1",
    "libstdc++": "libstdc++6",
}


def plain_output() -> None:
    """Lets a terminal that knows only some characters show the others in its own, instead of failing at them."""
    codecs.register_error("igm", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="igm")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    signs = {"±": "+/-", "–": "-", "—": "--", "…": "...", "×": "x", "−": "-"}
    lost = error.object[error.start : error.end]
    return "".join(signs.get(c) or ascii(c)[1:-1] for c in lost), error.end


def sentence(error: Exception) -> str | None:
    """What is wrong and what to do, or None for an error of the program itself."""
    text = str(error)
    last = text.strip().splitlines()[-1] if text.strip() else ""
    if isinstance(error, ImportError) or _no_library(error, last):
        return _import_error(error, last)
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        return text
    if _homeless():  # librosa, pathlib and others raise a RuntimeError or a KeyError
        return f"this user has no home folder ({last}): set HOME to a folder that you may write to"
    return None


def _no_library(error: Exception, text: str) -> bool:
    """Did a Python package not find the system's library that it is made for? Some raise an OSError then."""
    pattern = r"library not found|cannot load library|cannot open shared object|Library not loaded"
    return isinstance(error, OSError) and error.errno is None and bool(re.search(pattern, text))


def _import_error(error: Exception, text: str) -> str | None:
    name = (getattr(error, "name", None) or "").split(".")[0]
    # In an error that comes from another process only the text is left.
    missing = re.search(r"No module named '(\w+)", text)
    if isinstance(error, ModuleNotFoundError) or missing:
        name = missing[1] if missing else name
        if not name or name == "igm":
            return None
        if name in MEDIA:
            return (
                f"{name} is not installed, which reading media files needs: in the book's folder "
                "`pip install '.[media]'`"
            )
        return f"{name} is not installed: `pip install {name}`"
    if name == "igm":
        return None
    for library, package in SYSTEM.items():
        if library in text:
            other = ""
            if library == "libGL":
                other = ", or `pip install opencv-python-headless` in place of opencv-python"
            return (
                f"the system's library for {name or library} cannot be loaded ({text}): on Debian or "
                f"Ubuntu `apt-get install {package}`{other}"
            )
    package = MEDIA.get(name, name) or "the package that is named"
    return f"a library cannot be loaded ({text}): install {package} anew, or what it needs"


def _homeless() -> bool:
    try:
        Path.home()
    except (RuntimeError, KeyError):
        return True
    return False


def speaks() -> bool:
    """Is this the one of several processes that prints? A rank that an earlier launcher left behind does not count."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def one_line(message: str) -> str:
    return " ".join(message.split())
