"""Checks for the book's exercises: ``igm_book.check("5.2", your_function)`` says that it is right, or what is wrong.

A new exercise 5.2 goes into ``chapter_05.py`` as a function ``exercise_2(answer)``. It tries the answer and calls
``require`` for every property that the answer must have; the first one that fails is what the reader is told.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import torch

__all__ = ["Wrong", "check", "fault", "require"]


class Wrong(Exception):
    """A property that an answer lacks."""


def require(condition: object, what: str) -> None:
    """Raises Wrong, with what the answer should have done, where the condition does not hold."""
    if not condition:
        raise Wrong(what)


def check(exercise: str, answer: object) -> None:
    """Tries an answer and prints whether it is right; if not, which property fails.

    Args:
        exercise: its number in the book, e.g. "5.2".
        answer: what the exercise asks for, most often a function.

    Raises:
        ValueError: there is no such exercise.
    """
    found = fault(exercise, answer)
    print(f"{exercise}: right" if found is None else f"{exercise}: not yet. {found}")


def fault(exercise: str, answer: object) -> str | None:
    """The first property that the answer lacks, or None where it is right. See ``check``."""
    check_answer = _find(exercise)
    # An answer may draw random numbers. Afterwards the notebook's generator is as it was.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            check_answer(answer)
        except Wrong as wrong:
            return str(wrong)
        except Exception as error:  # the answer is the reader's code and may raise anything
            return f"It raised {type(error).__name__}: {error}"
    return None


def _find(exercise: str):
    chapter, _, number = str(exercise).partition(".")
    module = f"{__name__}.chapter_{chapter:0>2}"
    if not chapter.isdigit() or find_spec(module) is None:
        raise ValueError(f"there is no check for exercise {exercise!r}: give e.g. '5.2'")
    checks = vars(import_module(module))
    if f"exercise_{number}" not in checks:
        there = sorted(name.removeprefix("exercise_") for name in checks if "exercise_" in name)
        raise ValueError(
            f"there is no check for exercise {exercise!r}: chapter {chapter} has "
            + ", ".join(f"{chapter}.{n}" for n in there)
        )
    return checks[f"exercise_{number}"]
