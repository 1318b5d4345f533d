"""The notebooks as they lie in the repository: really executed, short cells, described figures.

(What their cells give, at first and again, is compared by nbval, in another run: tests/test_alone.py.)
"""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from statistics import median

import nbformat
import pytest
from cell_names import check_names, names, python_of
from nbconvert import ScriptExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rerun import ONCE
from strip_notebooks import METADATA, strip

BOOK = Path(__file__).parents[1] / "book"
COLAB_CELL = (BOOK / "colab_cell.py").read_text().strip()
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))

MAX_LINES = 15
MEDIAN_LINES = 6
MAX_BYTES = 2**20
TAGS = {
    "nbval-ignore-output",
    *(f"{verb}-{part}" for verb in ("hide", "remove") for part in ("input", "output", "cell")),
    "full-width",
    "margin",
}
MACHINE_PATH = re.compile(r"ipykernel_\d+|(?<![\w.])/(home|root|work|Users|content|tmp)/|[A-Z]:\\")


def images(cell) -> list:
    outputs = cell.get("outputs", [])
    return [o for o in outputs if any(k.startswith("image/") for k in o.get("data", {}))]


def texts(cell):
    """Everything readable in the cell's outputs."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from output.get("traceback", [])
        for mime, data in output.get("data", {}).items():
            if mime.startswith("text/"):
                yield data


def is_caption(cell) -> bool:
    """A markdown cell whose first paragraph is emphasised: *What the figure above shows.*"""
    if cell is None or cell.cell_type != "markdown":
        return False
    first = cell.source.strip().split("\n\n")[0].strip()
    return len(first) > 2 and first[0] == first[-1] == "*" and first[:2] != "**"


def check_execution(notebook) -> list[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        return [f"not executed once from top to bottom: execution counts {counts}"]
    return []


def check_cell(cell, following=None) -> list[str]:
    faults = []
    lines = [line for line in cell.source.splitlines() if line.strip()]
    tags = set(cell.metadata.get("tags", []))
    if len(lines) > MAX_LINES and cell.source.strip() != COLAB_CELL:
        faults.append(f"{len(lines)} lines, at most {MAX_LINES}")
    if tags - TAGS:
        faults.append(f"unknown tags {sorted(tags - TAGS)}")
    if any(output.output_type == "error" for output in cell.outputs):
        faults.append("an error is stored as output")
    for text in texts(cell):
        if found := MACHINE_PATH.search(text):
            faults.append(f"a path of some machine in its output: {found.group()}")
    if images(cell) or any('class="igm-' in text for text in texts(cell)):
        shown = cell.metadata.get("mystnb", {})
        if not shown.get("image", {}).get("alt", "").strip():
            faults.append("a figure without alternative text: metadata mystnb.image.alt")
        if not (shown.get("figure", {}).get("caption", "").strip() or is_caption(following)):
            faults.append(
                "a figure without caption: metadata mystnb.figure.caption, or *text* below"
            )
        if "nbval-ignore-output" not in tags:
            faults.append("a figure without the tag nbval-ignore-output")
    return faults


def check_notebook(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    faults = check_execution(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or code[0].source.strip() != COLAB_CELL:
        faults.append("the first code cell is not book/colab_cell.py")
    faults += check_names([cell.source for cell in code])
    if sum(ONCE in cell.source for cell in code) > 1:
        faults.append(f"more than one cell that says {ONCE!r}")
    if notebook.metadata != METADATA:
        faults.append("other metadata than tools/strip_notebooks.py leaves")
    if path.stat().st_size > MAX_BYTES:
        faults.append(f"{path.stat().st_size / 1e6:.1f} MB, at most 1")
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "code":
            start = cell.source.strip().split("\n")[0][:50]
            faults += [f"cell {start!r}: {fault}" for fault in check_cell(cell, following)]
    return faults


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    assert not check_notebook(path)


def test_most_code_cells_are_short():
    """Half of the book's cells have at most six lines (the Colab cell aside, which is the same in each notebook)."""
    lengths = []
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        code = [c.source for c in cells if c.cell_type == "code"][1:]
        lengths += [sum(bool(line.strip()) for line in source.splitlines()) for source in code]
    assert median(lengths) <= MEDIAN_LINES


PROJECT = tomllib.loads((BOOK.parent / "pyproject.toml").read_text())["project"]


def installed_with(lines: list[str]) -> set[str]:
    """The distributions that these requirements bring, theirs included."""
    found, new = set(), {canonicalize_name(Requirement(line).name) for line in lines}
    while new:
        found |= new
        needed = (Requirement(line) for name in new for line in requires(name) or [])
        asked = {
            canonicalize_name(r.name)
            for r in needed
            if r.marker is None or r.marker.evaluate({"extra": ""})
        }
        new = asked - found
    return found


def test_the_first_cell_installs_what_the_notebooks_import():
    extras = re.search(r"igm-book\[([\w,]+)\]'", COLAB_CELL)[1].split(",")
    lines = sum((PROJECT["optional-dependencies"][extra] for extra in extras), [])
    there = installed_with([*PROJECT["dependencies"], *lines, "ipython"])  # a notebook has IPython
    sources = [path.read_text() for path in (BOOK / "igm_book").rglob("*.py")]
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        sources += [python_of(cell.source) for cell in cells if cell.cell_type == "code"]
    imported = set().union(*map(modules, sources)) - sys.stdlib_module_names - {"igm", "igm_book"}
    owners = packages_distributions()
    assert not {m for m in imported if not there & set(map(canonicalize_name, owners[m]))}


def modules(source: str) -> set[str]:
    """The top packages that a text in Python imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


# Does the check find what it is there to find?


def figure_cell(tags=("nbval-ignore-output",), **mystnb):
    """A code cell as a plot leaves it."""
    output = new_output("display_data", data={"image/png": "iVBORw0KGgo=", "text/plain": "<Fig>"})
    return new_code_cell(
        "draw()", outputs=[output], metadata={"tags": list(tags), "mystnb": mystnb}
    )


GOOD = {"image": {"alt": "A falling curve."}, "figure": {"caption": "The loss falls."}}


def written(folder: Path, *cells, first=COLAB_CELL, executed=True) -> Path:
    notebook = new_notebook(cells=[new_markdown_cell("# Title"), new_code_cell(first), *cells])
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, 1):
        cell.execution_count = number if executed else None
    nbformat.write(strip(notebook), folder / "notebook.ipynb")
    return folder / "notebook.ipynb"


def test_a_good_notebook_passes(tmp_path):
    assert check_notebook(written(tmp_path, new_code_cell("1 + 1"), figure_cell(**GOOD))) == []


def test_a_caption_may_stand_below_the_figure(tmp_path):
    figure = figure_cell(image=GOOD["image"])
    assert check_notebook(written(tmp_path, figure, new_markdown_cell("*It falls.*"))) == []
    assert check_notebook(written(tmp_path, figure, new_markdown_cell("Then it falls.")))


def with_output(output):
    return new_code_cell("run()", outputs=[output])


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (figure_cell(figure=GOOD["figure"]), "alternative text"),
        (figure_cell(image={"alt": " "}, figure=GOOD["figure"]), "alternative text"),
        (figure_cell(image=GOOD["image"]), "caption"),
        (figure_cell(tags=(), **GOOD), "nbval-ignore-output"),
        (new_code_cell("\n".join(["x = 1"] * (MAX_LINES + 1))), "16 lines"),
        (new_code_cell("1", metadata={"tags": ["hide-inputs"]}), "unknown tags"),
        (with_output(new_output("error", ename="E", evalue="", traceback=[])), "error is stored"),
        (with_output(new_output("stream", text="/home/ada/x.py")), "path of some machine"),
        (with_output(new_output("stream", text="in /tmp/ipykernel_12/3.py")), "path of some"),
        (new_code_cell("x = 1\n" + "#" * MAX_BYTES), "MB"),
    ],
)
def test_a_fault_is_found(tmp_path, cell, fault):
    (found,) = check_notebook(written(tmp_path, cell))
    assert fault in found


def test_a_slider_needs_a_caption(tmp_path):
    output = new_output("execute_result", data={"text/html": '<div class="igm-frames"></div>'})
    bare = new_code_cell("x", outputs=[output], metadata={"tags": ["nbval-ignore-output"]})
    assert len(check_notebook(written(tmp_path, bare))) == 2


def test_a_notebook_that_was_never_executed_is_found(tmp_path):
    (fault,) = check_notebook(written(tmp_path, new_code_cell("1"), executed=False))
    assert "not executed" in fault


def test_a_notebook_executed_out_of_order_is_found(tmp_path):
    path = written(tmp_path, new_code_cell("1"), new_code_cell("2"))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].execution_count = 7
    nbformat.write(notebook, path)
    assert "counts [1, 2, 7]" in check_notebook(path)[0]


def test_another_first_cell_is_found(tmp_path):
    (fault,) = check_notebook(written(tmp_path, first="import igm"))
    assert "colab_cell.py" in fault


def test_a_notebook_becomes_a_script(tmp_path):
    script, made = ScriptExporter().from_filename(written(tmp_path, new_code_cell("x = 1")))
    assert made["output_extension"] == ".py" and "\nx = 1\n" in script


def test_a_notebook_that_may_be_any_language_is_found(tmp_path):
    path = written(tmp_path)
    notebook = nbformat.read(path, as_version=4)
    del notebook.metadata["language_info"]
    nbformat.write(notebook, path)
    assert "metadata" in check_notebook(path)[0]


def test_one_cell_may_say_that_it_cannot_run_again(tmp_path):
    once = [new_code_cell(f"{ONCE}it asks for word {i}\n1") for i in range(2)]
    assert check_notebook(written(tmp_path, once[0])) == []
    assert "more than one" in check_notebook(written(tmp_path, *once))[0]


@pytest.mark.parametrize(
    ("cells", "fault"),
    [
        (["x = 1", "print(x)", "x = 2"], "x means several things"),
        (["x = 1", "def f():\n    return x", "for x in []:\n    pass"], "x means several things"),
        (["x = 1\ndef f():\n    return x", "x, y = 2, 3"], "x means several things"),
        (["x = 1", "[x for _ in 'ab']", "def x():\n    pass"], "x means several things"),
        (["x = 1", "x += 1"], "x means several things"),
        (["x = 'ls'", "!{x}", "with open('x') as x:\n    pass"], "x means several things"),
        (["from a import x", "x()", "from b import x"], "x means several things"),
        (["x = []", "x.append(1)"], "cell 1 changes x"),
        (["x = {}", "def f():\n    x['a'] = 1"], "cell 1 changes x"),
        (["x = {'a': {}}", "x['a']['b'] = 1"], "cell 1 changes x"),
    ],
)
def test_a_name_with_two_meanings_is_found(cells, fault):
    (found,) = check_names(cells)
    assert fault in found


@pytest.mark.parametrize(
    "cells",
    [
        ["x = 1\nprint(x)", "x = 2\nprint(x)"],
        ["x = 1", "print(x)", "[x for x in 'ab']", "def f(x):\n    return x", "lambda x: x"],
        ["import a", "a.b()", "import a"],
        ["x = []", "x = [2]\nx.append(1)"],
        ["x = {}\ndef f():\n    x['a'] = 1", "f()"],
        ["def f():\n    y = 1\n    return lambda: y", "y = 2", "y = 3"],
        ["class C:\n    x = 1\n\n    def f(self):\n        return self.x", "x = 2", "x = 3"],
        ["try:\n    pass\nexcept OSError as x:\n    print(x)", "x = 1"],
    ],
)
def test_names_of_a_cell_s_own_may_come_again(cells):
    assert check_names(cells) == []


def test_the_names_of_a_cell():
    found = names("import os\ny = f(x, key=lambda a: a + z)\ndef g(k=w):\n    return v + y")
    assert set(found.bound) == {"os", "y", "g"}
    assert found.needed == {"f", "x", "z", "w"}
    assert found.later == {"v", "y"}


@pytest.mark.parametrize(
    "path",
    sorted({*BOOK.glob("_static/*.svg")} - {BOOK / "_static/icon.svg"}),
    ids=lambda p: p.stem,
)
def test_letters_of_a_drawing_are_legible_on_a_phone(path):
    drawing = path.read_text()
    width = float(re.search(r'viewBox="0 0 (\d+)', drawing)[1])
    sizes = [float(size) for size in re.findall(r'font-size[=:] ?"?([\d.]+)', drawing)]
    assert min(sizes) / width * 350 >= 9, "pixels, where the drawing is 350 wide"
