"""igm_book.exercises, and the exercises of the book: each with a hint, a solution that was run, and a check of it.

(What each check accepts and finds is tested in test_teaching_NN.py, chapter by chapter.)
"""

import importlib
import pkgutil
import re
from pathlib import Path

import nbformat
import pytest
import torch

from igm_book import check, exercises
from igm_book.exercises import fault, require

BOOK = Path(__file__).parents[1] / "book"
CHAPTERS = [int(module.name[-2:]) for module in pkgutil.iter_modules(exercises.__path__)]


def checks(chapter: int) -> set[str]:
    module = importlib.import_module(f"igm_book.exercises.chapter_{chapter:02}")
    names = [name for name in vars(module) if name.startswith("exercise_")]
    return {f"{chapter}.{name.removeprefix('exercise_')}" for name in names}


def notebook(chapter: int):
    (path,) = BOOK.glob(f"{chapter:02}-*.ipynb")
    return nbformat.read(path, as_version=4)


def test_chapters_have_checks():
    assert [*range(1, 14), 15, 16] == CHAPTERS


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_what_it_needs(chapter):
    text = "\n".join(c.source for c in notebook(chapter).cells if c.cell_type == "markdown")
    posed = re.findall(
        r"^### Exercise (\d+\.\d+): .+ \((?:easy|medium|hard), \d+ minutes\)$", text, re.M
    )
    assert len(posed) == len(re.findall(r"^#+ Exercise \d", text, re.M))
    assert 3 <= len(posed) <= 5
    assert set(posed) == checks(chapter)
    for number in posed:
        assert f"<summary>Hint for {number}</summary>" in text
        assert f'igm_book.check("{number}"' in text, "the exercise does not say how to check"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_solution_was_run_and_is_right(chapter):
    right = set()
    for cell in notebook(chapter).cells:
        found = re.match(r"# @title Solution of (\d+\.\d+)\n", cell.source)
        if cell.cell_type == "code" and found:
            assert "hide-cell" in cell.metadata.tags, "a solution is folded"
            printed = "".join(o.get("text", "") for o in cell.outputs)
            assert f"{found[1]}: right" in printed
            right.add(found[1])
    assert right == checks(chapter)


# The check itself


@pytest.fixture
def exercise(monkeypatch):
    """A made-up exercise 5.9: double a number."""
    module = importlib.import_module("igm_book.exercises.chapter_05")

    def exercise_9(answer):
        require(answer(2) == 4, "answer(2) should be 4.")
        require(answer(-1) == -2, "a negative number should stay negative.")

    monkeypatch.setattr(module, "exercise_9", exercise_9, raising=False)
    return "5.9"


def test_a_right_answer(exercise, capsys):
    assert fault(exercise, lambda x: 2 * x) is None
    check(exercise, lambda x: 2 * x)
    assert capsys.readouterr().out == "5.9: right\n"


def test_a_wrong_answer_is_told_what_fails(exercise, capsys):
    check(exercise, lambda x: x**2)
    assert capsys.readouterr().out == "5.9: not yet. a negative number should stay negative.\n"


@pytest.mark.parametrize("answer", [None, lambda: 1, lambda x: x / 0])
def test_an_answer_that_raises_is_not_right(exercise, answer):
    assert fault(exercise, answer).startswith("It raised")


@pytest.mark.parametrize("number", ["5.77", "99.1", "x", "5"])
def test_an_unknown_exercise_is_said(number):
    with pytest.raises(ValueError, match="there is no check"):
        check(number, print)


def test_a_check_leaves_random_numbers_alone(exercise):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    fault(exercise, lambda x: torch.rand(5) and 2 * x)
    assert torch.equal(torch.random.get_rng_state(), before)
