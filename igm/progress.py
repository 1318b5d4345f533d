"""Progress bars for long work."""

from __future__ import annotations

from tqdm.auto import tqdm


def progress_bar(shown: bool = True, **options) -> tqdm:
    """A bar of tqdm; none where it is not to be shown, or where the environment variable TQDM_DISABLE is set."""
    return tqdm(**options) if shown else tqdm(**options, disable=True)  # given, it counts more
