"""The index of equations, the notation page and the glossary: what they name is there.

book/equations.md leads from each equation of the paper to its place in the book, a function and a test. The table is
read here, and every link of it is followed.
"""

import ast
import re
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
import torch

import igm

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "book"
INDEX = BOOK / "equations.md"
HEADER = ["In the paper", "What it says", "In the book", "Function", "Test"]
NUMBERED = {f"Eq. {number}" for number in range(1, 10)}
OTHERS = {"Algorithm 1", "Table 4, scope", "Figure 1, cosine", "Figure 4, surface"}


def rows(text: str) -> list[dict[str, str]]:
    """The rows of the first table of a Markdown page."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == HEADER
    assert all(len(row) == len(HEADER) for row in cells), "a row with too many or too few cells"
    return [dict(zip(HEADER, row)) for row in cells[2:]]


def named(path: str):
    """What a dotted path such as igm.flat.modification_matrix names; AttributeError where there is no such thing."""
    parts = path.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            # A field without a default is no attribute of its dataclass.
            fields = getattr(found, "__dataclass_fields__", {})
            found = fields[name] if name in fields else getattr(found, name)
        return found
    raise ModuleNotFoundError(path)


def sources(page: Path) -> list[str]:
    """What an author wrote: the whole page, or the Markdown cells of a notebook."""
    if page.suffix == ".md":
        return [page.read_text(encoding="utf-8")]
    cells = nbformat.read(page, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


@pytest.fixture(scope="module")
def labels() -> dict[str, list[str]]:
    """label of an equation -> the pages that define it."""
    found = {}
    for page in sorted([*BOOK.glob("[!.]*.ipynb"), *BOOK.glob("*.md")]):
        for source in sources(page):
            for label in re.findall(r"^:label: (\S+)", source, re.MULTILINE):
                found.setdefault(label, []).append(page.stem)
    return found


def faults(row: dict[str, str], labels: dict[str, list[str]]) -> list[str]:
    """What a row of the index names and is not there."""
    found = []
    chapters = re.findall(r"{doc}`([^`<>]+)`", row["In the book"])
    if len(chapters) != 1:
        found.append("it should name one chapter")
    for chapter in chapters:
        if not any((BOOK / f"{chapter}{kind}").is_file() for kind in (".ipynb", ".md")):
            found.append(f"no chapter {chapter}")
    for label in re.findall(r"{eq}`([^`]+)`", row["In the book"]):
        if labels.get(label) != chapters:
            found.append(f"{label} is not defined once, in {chapters}: {labels.get(label)}")
    if row["In the paper"].startswith("Eq.") and "{eq}" not in row["In the book"]:
        found.append("it should lead to a labelled equation")
    functions = re.findall(r"`([^`]+)`", row["Function"])
    tests = re.findall(r"`([^`]+)`", row["Test"])
    if not functions or not tests:
        found.append("it should name a function and a test")
    for function in functions:
        try:
            if not callable(named(function)):
                found.append(f"{function} is no function")
        except (ImportError, AttributeError):
            found.append(f"no function {function}")
    for test in tests:
        path, _, name = test.partition("::")
        if not (ROOT / path).is_file() or name not in defined(ROOT / path):
            found.append(f"no test {test}")
    return found


def defined(path: Path) -> set[str]:
    """The test functions of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize(
    "row", rows(INDEX.read_text(encoding="utf-8")), ids=lambda row: row["In the paper"]
)
def test_what_a_row_names_is_there(row, labels):
    assert faults(row, labels) == []


def test_every_equation_has_a_row():
    names = [row["In the paper"] for row in rows(INDEX.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names))
    assert set(names) >= NUMBERED | OTHERS


def test_labels_are_unique_in_the_book(labels):
    assert {label: where for label, where in labels.items() if len(where) > 1} == {}


GOOD = {
    "In the paper": "Eq. 4",
    "What it says": "T",
    "In the book": "{eq}`eq-T` in {doc}`05-flat-directions`",
    "Function": "`igm.flat.modification_matrix`",
    "Test": "`tests/test_flat.py::test_tau_must_be_positive`",
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"Function": "`igm.flat.modification`"}, "no function igm.flat.modification"),
        ({"Function": "`igm.nothing.at_all`"}, "no function"),
        ({"Function": "`igm.flat.STATISTICS`"}, "is no function"),
        ({"Function": ""}, "a function and a test"),
        ({"Test": "`tests/test_flat.py::test_that_is_not_there`"}, "no test"),
        ({"Test": "`tests/test_flat.py::two_batches`"}, "no test"),
        ({"Test": "`tests/test_none.py::test_tau`"}, "no test"),
        ({"In the book": "{eq}`eq-none` in {doc}`05-flat-directions`"}, "eq-none is not defined"),
        ({"In the book": "{eq}`eq-T` in {doc}`08-igm`"}, "eq-T is not defined once, in"),
        ({"In the book": "{eq}`eq-T` in {doc}`17-none`"}, "no chapter 17-none"),
        ({"In the book": "{doc}`05-flat-directions`"}, "labelled equation"),
        ({"In the book": "{eq}`eq-T`"}, "one chapter"),
    ],
)
def test_a_broken_link_is_found(labels, change, told):
    assert faults(GOOD, labels) == []
    assert told in " ".join(faults(GOOD | change, labels))


def test_a_row_that_is_cut_short_is_found():
    head = "| " + " | ".join(HEADER) + " |\n| --- | --- | --- | --- | --- |\n"
    assert rows(head + "| Eq. 1 | a | b | c | d |\n")[0]["Test"] == "d"
    with pytest.raises(AssertionError, match="too few"):
        rows(head + "| Eq. 1 | a | b | c |\n")


@pytest.mark.parametrize("page", ["notation.md", "glossary.md"])
def test_names_in_code_are_there(page):
    text = (BOOK / page).read_text(encoding="utf-8")
    names = re.findall(r"`(igm(?:\.\w+)+)`", text)
    assert names or page == "glossary.md"
    for name in names:
        named(name)


def test_a_glossary_term_leads_to_a_chapter():
    body = (BOOK / "glossary.md").read_text(encoding="utf-8").split("```")[1]
    terms = dict(re.findall(r"^(\S[^\n]*)\n((?:  [^\n]*\n)+)", body, re.MULTILINE))
    assert len(terms) >= 30
    for term, text in terms.items():
        assert "{doc}`" in text, term
    used = re.findall(r"{term}`([^`]+)`", body)
    assert set(used) <= set(terms)


# Eq. 3, which no other test compares with an SVD.


def test_equation_3():
    """Moving a weight by gamma v_i changes the outputs of the batch means by gamma sqrt(lambda_i) in norm."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 1, bias=False).double()
    batches = [torch.randn(5, 6).double() + 0.5 for _ in range(8)]
    with igm.FeatureCovariance({"layer": layer}) as covariance, torch.no_grad():
        for batch in batches:
            layer(batch)
    eigenvalues, V = torch.linalg.eigh(covariance.matrices["layer"])
    means = torch.stack([batch.mean(0) for batch in batches])  # (t, d)
    before, gamma = layer(means).detach(), 0.3
    for i, eigenvalue in enumerate(eigenvalues):
        moved = torch.nn.Linear(6, 1, bias=False).double()
        moved.weight.data = layer.weight.data + gamma * V[:, i]
        change = (moved(means) - before).norm()
        assert change.item() == pytest.approx(gamma * eigenvalue.clamp_min(0).sqrt().item())
    singular = torch.linalg.svdvals(means)
    assert torch.allclose(singular.flip(0) ** 2, eigenvalues)
