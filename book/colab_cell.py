# Finds igm and the book's files. In Colab it fetches what is missing; anywhere else it says how to get it.
import importlib.util
import os
import sys


def find_book():
    """What is not installed, and the folders that hold the book's files."""
    needed = ["igm", "av", "librosa", "transformers", "ipywidgets", "plotly"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    package = importlib.util.find_spec("igm_book")  # in a clone the files lie beside it
    beside = os.path.dirname(os.path.dirname(package.origin)) if package else "."
    places = [".", "igm-book/book", beside]
    return missing, [p for p in places if os.path.isfile(f"{p}/studies/fusion.json")]


missing, folders = find_book()
if missing or not folders:
    source = os.environ.get("IGM_SOURCE", "https://github.com/igm-book/igm-book")
    clone = f"git clone -q --depth 1 {source} igm-book"
    if "google.colab" in sys.modules or "IGM_SOURCE" in os.environ:
        # the version that this page was built with, or the newest
        !test -d igm-book || {clone} --branch v0.1.0 2> /dev/null || {clone}
        %pip install -q './igm-book[media,notebook]'
        missing, folders = find_book()
    if missing or not folders:
        lacking = ", ".join(missing) or "the folder studies of the book"
        install = "pip install './igm-book[media,notebook]'"
        raise ImportError(f"not found: {lacking}. In this folder run: {clone} && {install}")
os.chdir(folders[0])
