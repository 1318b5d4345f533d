"""The house: who imports whom, how large the core is, what `import igm` loads."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NEIGHBOURS = {"analysis", "cli", "datasets", "encoders", "rivals"}
# Beside the core, which everyone may import; cli and igm_book may import everything.
ALLOWED = {"rivals": {"analysis"}}  # a rival may use a measure
FILES = sorted((ROOT / "igm").rglob("*.py")) + sorted((ROOT / "book/igm_book").rglob("*.py"))
CORE = [p for p in FILES if p.parent.name in ("igm", "methods")]
BOOK = "igm_book"


def imported(tree: ast.AST) -> set[str]:
    """The modules of our own that some code imports, e.g. "igm.runs"; of a package also what is taken from it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in ("igm", BOOK)}


def room(module: str) -> str:
    """ "igm.datasets.media" -> "datasets", "igm.runs" and "igm.methods" -> "core"."""
    top, *rest = module.split(".")
    return BOOK if top == BOOK else rest[0] if rest and rest[0] in NEIGHBOURS else "core"


def name_of(path: Path) -> str:
    relative = path.relative_to(ROOT if path.is_relative_to(ROOT / "igm") else ROOT / "book")
    return ".".join(relative.with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_arrows_only_point_to_the_core(path):
    here = room(name_of(path))
    for module in imported(ast.parse(path.read_text())):
        if here not in ("cli", BOOK) and path.name != "__main__.py":
            assert room(module) in {"core", here, *ALLOWED.get(here, ())}, module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_are_at_the_top_and_are_no_trick(path):
    """Inside a function nothing of our own is imported, but where the command line puts off what is slow to load."""
    text = path.read_text()
    assert "TYPE_CHECKING" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and room(name_of(path)) != "cli":
            assert imported(node) == set(), node.name


def test_there_is_no_circle():
    """A module comes after all that it imports; the packages' own files, which only gather names, are looked through."""
    graph = {name_of(p): imported(ast.parse(p.read_text())) for p in FILES}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module not in done:
            for other in sorted(graph[module] & graph.keys() - {module}):
                if not other.startswith(module + "."):
                    visit(other, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_the_core_is_small():
    lines = {name_of(p): len(p.read_text().splitlines()) for p in CORE}
    assert max(lines.values()) <= 400, lines
    assert len(list((ROOT / "igm").glob("[!_]*"))) + 2 <= 20  # and __init__ and __main__
    for path in [*CORE, *(p for p in FILES if room(name_of(p)) == "cli")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                assert node.end_lineno - first.lineno < 45, (path.name, node.name)


def test_import_igm_loads_the_core_alone():
    script = (
        "import sys, igm; "
        "print(*[m for m in sys.modules if m.split('.')[0] in "
        "('igm', 'igm_book', 'matplotlib', 'torchvision', 'transformers', 'cv2', 'scipy')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert all(name.split(".")[0] == "igm" and room(name) == "core" for name in loaded), loaded
    assert len(loaded) <= 25


def test_the_front_door_names_every_room():
    import igm

    there = {
        p.name
        for p in (ROOT / "igm").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    for name in there - {"__init__.py", "__main__.py"}:
        assert f"    {name}{'' if name.endswith('.py') else '/'} " in igm.__doc__, name
    for name in igm.__all__:
        assert getattr(igm, name).__doc__


def test_readme_has_the_table_of_the_variants():
    from igm_book.variants import markdown, variants_table

    assert markdown(variants_table()) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_of_the_library_has_the_core_in_its_order():
    import igm

    page = (ROOT / "book/api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. automodule:: (\S+)$", page, re.M)
    modules = [name for name in documented if room(name) == "core" and name != "igm"]
    assert {name_of(p) for p in CORE} - {"igm", "igm.__main__"} == set(modules)
    order = re.findall(r"^    (\w+)(?:\.py|/) ", igm.__doc__, re.M)
    tops = list(dict.fromkeys(name.split(".")[1] for name in modules))
    assert tops == [name for name in order if name not in NEIGHBOURS]
