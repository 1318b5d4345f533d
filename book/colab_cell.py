# In Colab this cell fetches the book and installs igm. Anywhere else it does nothing.
import importlib.util
import os

if importlib.util.find_spec("igm") is None:
    source = os.environ.get("IGM_SOURCE", "https://github.com/igm-book/igm-book")
    if not os.path.isdir("igm-book"):  # the version that this page was built with, or the newest
        clone = f"git clone -q --depth 1 {source} igm-book"
        !{clone} --branch v0.1.0 2> /dev/null || {clone}
    %pip install -q './igm-book[media]'
    assert importlib.util.find_spec("igm"), "igm was not installed: see above, then run this again"
if os.path.isdir("igm-book/book"):
    %cd -q igm-book/book
