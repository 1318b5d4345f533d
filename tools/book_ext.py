"""The book's own Sphinx extension.

It leaves out what pages would load for live kernels, which the book has not; brings plotly to the pages that have a
surface to turn; measures each notebook's time and memory while it runs, and shows them; reads the library's docstrings
for the API page; and keeps what nobody loads out of the built folder.
"""

import json
import platform
import shutil
import threading
import time
from datetime import date
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path

import psutil
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.util.fileutil import copy_asset

STATUS_PAGE = "book/status"
STATUS_MARK = "<!-- notebook-status -->"
MATHJAX_KEPT = ("tex-chtml.js", "output/chtml", "input/tex/extensions", "LICENSE")


# ---- what pages load


def choose_files(app, pagename, templatename, context, doctree):
    """No thebe (Jupyter Book adds its script twice), no stored widgets, plotly where it is used."""
    if "igm-surface" in context.get("body", ""):
        app.add_js_file("plotly.min.js")
    for files in ("script_files", "css_files"):
        if files in context:
            context[files] = [file for file in context[files] if not is_left_out(file)]


def mend_roles(app, pagename, templatename, context, doctree):
    """Takes the role of a list from bibliographies: their children are no list items, which misleads screen readers."""
    context["body"] = context.get("body", "").replace(
        ' role="list" class="citation-list"', ' class="citation-list"'
    )


def is_left_out(file) -> bool:
    body = file.attributes.get("body") or ""
    return "thebe" in f"{file.filename} {body}".lower() or "widget-state" in str(
        file.attributes.get("type")
    )


def copy_plotly(app):
    import plotly

    source = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    copy_asset(str(source), str(Path(app.outdir) / "_static"))


# ---- what a notebook costs


class Peak:
    """The largest memory that the processes started inside the block held together, sampled ten times a second."""

    def __enter__(self):
        self.bytes, self.seconds, self._done = 0, 0.0, threading.Event()
        self._started = time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._thread.join()

    def _watch(self):
        while not self._done.wait(0.1):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:  # it has just ended
                    continue
            self.bytes = max(self.bytes, total)


def measured_file(app) -> Path:
    return Path(app.outdir).parent / "measured.json"


def measure_notebooks(app):
    """Every notebook that is executed, not read from the cache, leaves its time and memory in measured.json."""
    from myst_nb.core.execute.cache import NotebookClientCache

    plain = NotebookClientCache.start_client
    file = measured_file(app)

    def start_client(self):
        with Peak() as peak:
            plain(self)
        if not peak.bytes:  # no kernel was started
            return
        name = Path(self.path).relative_to(app.srcdir).with_suffix("").as_posix()
        measured = read_measured(file)
        measured[name] = {
            "seconds": round(peak.seconds, 1),
            "megabytes": round(peak.bytes / 2**20),
            "date": date.today().isoformat(),
        }
        file.write_text(json.dumps(measured, indent=1))

    NotebookClientCache.start_client = start_client


def read_measured(file: Path) -> dict:
    return json.loads(file.read_text()) if file.is_file() else {}


def show_measured(app, pagename, templatename, context, doctree):
    measured = read_measured(measured_file(app))
    body = context.get("body", "")
    if pagename in measured:
        row = measured[pagename]
        link = app.builder.get_relative_uri(pagename, STATUS_PAGE)
        line = (
            f'<p class="igm-measured">When this page was built, its notebook ran in {duration(row["seconds"])} and '
            f"took {row['megabytes']:,} MB of memory, on {machine()} "
            f'(<a href="{link}">all notebooks</a>).</p>'
        )
        context["body"] = body.replace("</h1>", f"</h1>\n{line}", 1)
    if STATUS_MARK in body:
        context["body"] = body.replace(STATUS_MARK, status_table(app, measured))


def status_table(app, measured: dict) -> str:
    rows = []
    for name in app.env.found_docs:
        if name in measured:
            title = app.env.titles[name].astext()
            link = app.builder.get_relative_uri(STATUS_PAGE, name)
            row = measured[name]
            rows.append(
                (
                    name,
                    f'<a href="{link}">{escape(title)}</a>',
                    row["seconds"],
                    row["megabytes"],
                    row["date"],
                )
            )
    rows.sort()
    cells = "".join(
        f"<tr><td>{title}</td><td>{duration(seconds)}</td><td>{megabytes:,} MB</td><td>{day}</td></tr>"
        for _, title, seconds, megabytes, day in rows
    )
    total = duration(sum(row[2] for row in rows))
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "jupyter-book"))
    return (
        "<table><thead><tr><th>notebook</th><th>time</th><th>peak memory</th><th>run on</th></tr></thead>"
        f"<tbody>{cells}</tbody></table><p>{len(rows)} notebooks, {total} in all, one after the other, on "
        f"{machine()}, {escape(platform.machine())}, Python {platform.python_version()}, {packages}.</p>"
    )


@cache
def machine() -> str:
    import torch  # slow to load: only where a page is written

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return f"{psutil.cpu_count()} cores " + (f"and {escape(gpu)}" if gpu else "without a GPU")


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


class NotebookStatus(Directive):
    def run(self):
        return [nodes.raw("", STATUS_MARK, format="html")]


# ---- the API page


def literal_blocks(app, what, name, obj, options, lines):
    """An indented block of a docstring, a formula or an example, becomes a literal block."""
    marked = []
    for line in lines:
        before = next((x for x in reversed(marked) if x.strip()), "")
        starts = (
            line.strip()
            and marked
            and not marked[-1].strip()
            and indent(line) > indent(before)
            and not before.rstrip().endswith("::")
            and not in_literal(marked)
        )
        if starts:
            marked += [" " * indent(before) + "::", ""]
        marked.append(line)
    lines[:] = marked


def indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def in_literal(lines: list[str]) -> bool:
    """Is the end of these lines inside a literal block?"""
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].strip().endswith("::"):
            margin = indent(lines[i])
            return all(not x.strip() or indent(x) > margin for x in lines[i + 1 :])
    return False


# ---- the built folder


def slim(app, exception):
    """Leaves out what no page loads: most of MathJax, source maps, the outputs in the notebooks offered for download."""
    out = Path(app.outdir)
    mathjax = out / "_static" / "mathjax"
    for path in sorted(mathjax.rglob("*"), reverse=True):
        name = path.relative_to(mathjax).as_posix()
        if path.is_file() and not name.startswith(MATHJAX_KEPT):
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for path in (out / "_static").rglob("*.map"):
        path.unlink()
    shutil.rmtree(out / "_static" / "locales", ignore_errors=True)
    for path in (out / "_sources").rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell.update(outputs=[], execution_count=None)
        path.write_text(json.dumps(notebook, indent=1), encoding="utf-8")


def setup(app):
    app.add_directive("notebook-status", NotebookStatus)
    app.connect("builder-inited", copy_plotly)
    app.connect("builder-inited", measure_notebooks)
    app.connect("env-get-outdated", lambda *_: [STATUS_PAGE])  # written last, always
    app.connect("html-page-context", choose_files)
    app.connect("html-page-context", mend_roles)
    app.connect("html-page-context", show_measured)
    app.connect("autodoc-process-docstring", literal_blocks, priority=400)  # before napoleon
    app.connect("build-finished", slim, priority=900)  # after MathJax was copied
    return {"parallel_read_safe": False, "parallel_write_safe": True}
