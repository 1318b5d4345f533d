"""What the tests of `igm prepare` share: running it, and looking at what it left."""

from pathlib import Path

from igm.datasets.layout import prepare


def run(layout, raw, out, workers=1, strict=False, follow_links=False, **options):
    """The report of a preparation."""
    running = {"workers": workers, "strict": strict, "follow_links": follow_links}
    return prepare(layout, raw, out, options, progress=False, **running)


def tree(folder, but=(".prepare",)):
    """relative name -> content of every file."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not set(but) & set(path.relative_to(folder).parts)
    }


def half_written(folder):
    return [str(path) for path in Path(folder).rglob("*") if "partial" in path.name]
