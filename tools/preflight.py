"""Is this machine able to hold the book's environment? One clear line if not. Runs on any Python 3.

python3 tools/preflight.py VENV    checks the Python, its venv module and the free space for the folder VENV
"""

import glob
import importlib.util
import os
import shutil
import sys
import tempfile

GB = 1e9


def check_python(version=None):
    version = version or sys.version_info
    if tuple(version[:2]) < (3, 11):
        return (
            "Python %d.%d is too old, the book needs 3.11 or newer. If you have one, name it: "
            "make book PYTHON=python3.11" % tuple(version[:2])
        )


def check_venv(find_spec=importlib.util.find_spec):
    if not (find_spec("venv") and find_spec("ensurepip")):
        return (
            "this Python cannot create virtual environments. On Debian or Ubuntu: "
            "apt install python3-venv (or python%d.%d-venv)" % sys.version_info[:2]
        )


def needed_gb(environ, platform=sys.platform):
    """PyTorch for Linux brings CUDA (7 GB); elsewhere, or with the CPU build, it is much smaller."""
    if "MIN_FREE_GB" in environ:
        return float(environ["MIN_FREE_GB"])
    indexes = environ.get("PIP_INDEX_URL", "") + environ.get("PIP_EXTRA_INDEX_URL", "")
    return 10 if platform.startswith("linux") and "/whl/cpu" not in indexes else 4


def check_space(venv, environ=os.environ, disk_usage=shutil.disk_usage):
    folder = os.path.dirname(os.path.abspath(venv))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free, needed = disk_usage(folder).free / GB, needed_gb(environ)
    if glob.glob(os.path.join(glob.escape(venv), "lib", "python3*", "site-packages", "torch")):
        needed = min(needed, 1)  # the bulk is there: a renewal, or conda's environment
    if free < needed:
        return (
            "%.1f GB free in %s, the installation needs about %g GB. Free some space, or set VENV "
            "to a folder on another disk (MIN_FREE_GB=3 make book if you know that less is enough; "
            "on Linux without a GPU, PyTorch's CPU build needs 4 GB, see README)"
            % (free, folder, needed)
        )
    try:
        temporary = tempfile.gettempdir()
    except OSError:
        return "no folder for temporary files can be written: is the disk full? Else set TMPDIR"
    if disk_usage(temporary).free / GB < min(needed, 2):
        return (
            "less than 2 GB free in %s, where pip unpacks: set TMPDIR to a roomier folder"
            % temporary
        )


def main(venv):
    error = check_python() or check_venv() or check_space(venv)
    if error:
        sys.stderr.write("error: %s\n" % error)
    return 1 if error else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ".venv"))
