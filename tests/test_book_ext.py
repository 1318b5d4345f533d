"""The book's Sphinx extension: docstrings, measuring, what stays in the built folder."""

import json
import subprocess
import sys
from types import SimpleNamespace

import book_ext


def literal(text: str) -> str:
    lines = text.split("\n")
    book_ext.literal_blocks(None, "function", "f", None, None, lines)
    return "\n".join(lines)


def test_an_indented_formula_becomes_a_literal_block():
    assert literal("The rule is\n\n    y = x\n    z = y\n\nand no other.") == (
        "The rule is\n\n::\n\n    y = x\n    z = y\n\nand no other."
    )


def test_sections_and_lists_stay():
    text = "Does it.\n\nArgs:\n    x: what\n        goes on.\n    y: more.\n\nReturns:\n    z."
    assert literal(text) == text


def test_a_literal_block_that_is_one_stays():
    text = "So::\n\n    a\n\n    b\n\nend."
    assert literal(text) == text


def test_an_example_below_another_goes_into_the_same_block():
    assert literal("One\n\n    a\n\n    b").count("::") == 1


def test_the_peak_is_that_of_the_process_that_was_started():
    code = "import time; x = bytearray(150 * 2**20); time.sleep(0.5)"
    with book_ext.Peak() as peak:
        subprocess.run([sys.executable, "-c", code], check=True)
    assert 150 <= peak.bytes / 2**20 < 300
    assert 0.5 < peak.seconds < 30


def test_without_a_process_there_is_no_peak():
    with book_ext.Peak() as peak:
        pass
    assert peak.bytes == 0


def test_slim_keeps_what_pages_load(tmp_path):
    mathjax = tmp_path / "_static" / "mathjax"
    kept = ["tex-chtml.js", "output/chtml/fonts/woff-v2/a.woff", "input/tex/extensions/ams.js"]
    dropped = ["tex-svg.js", "sre/mathmaps/en.json", "output/svg.js"]
    for name in kept + dropped:
        path = mathjax / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "_static" / "theme.css.map").write_text("x")
    source = tmp_path / "_sources" / "a.ipynb"
    source.parent.mkdir()
    cells = [
        {"cell_type": "code", "source": "1", "outputs": [{"data": 1}], "execution_count": 3},
        {"cell_type": "markdown", "source": "text"},
    ]
    source.write_text(json.dumps({"cells": cells}))
    book_ext.slim(SimpleNamespace(outdir=str(tmp_path)), None)
    left = {p.relative_to(mathjax).as_posix() for p in mathjax.rglob("*") if p.is_file()}
    assert left == set(kept)
    assert not (mathjax / "sre").exists()
    assert not (tmp_path / "_static" / "theme.css.map").exists()
    code, text = json.loads(source.read_text())["cells"]
    assert (code["source"], code["outputs"], code["execution_count"]) == ("1", [], None)
    assert text == cells[1]


def test_durations_read_well():
    assert [book_ext.duration(s) for s in (3.4, 99, 150)] == ["3 s", "99 s", "2.5 min"]
