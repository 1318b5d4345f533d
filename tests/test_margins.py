"""Every check of an exercise separates right from wrong by more than rounding: no processor decides otherwise.

The answers of test_teaching_NN.py are tried again with errors far above those of any processor: a millionth in
float32, 1e-12 in float64. Every right one has to pass and every wrong one to be told the same.
"""

import functools
import importlib
import os

import numpy as np
import pytest
import torch
from rounding import Rounding
from test_teaching import CHAPTERS

from igm_book.exercises import fault

ERRORS = {"float32": 1e-6, "float64": 1e-12}

pytestmark = pytest.mark.skipif("ROUNDING" in os.environ, reason="they round in their own way")


def decided_otherwise(chapter: int, tried) -> list[str]:
    """The answers of a chapter that are not found right or wrong as they should be; tried(exercise, answer) -> fault."""
    module, found = importlib.import_module(f"test_teaching_{chapter:02}"), []
    for exercise in module.RIGHT:
        right = [(answer, None) for answer in module.RIGHT[exercise]]
        for i, (answer, told) in enumerate([*right, *module.WRONG[exercise]]):
            said = tried(exercise, answer)
            if said is not None if told is None else told not in (said or ""):
                found.append(f"{exercise}, answer {i}: {said!r} and not {told!r}")
    return found


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_under_another_arithmetic(chapter):
    def tried(exercise, answer):
        with Rounding(seed=1, **ERRORS):
            return fault(exercise, answer)

    assert decided_otherwise(chapter, tried) == []


def off(x, draw):
    """What an answer returned, with an error."""
    if isinstance(x, torch.nn.Module):
        with torch.no_grad():
            for p in x.parameters():
                p.copy_(off(p.detach(), draw))
    elif isinstance(x, torch.Tensor) and x.is_floating_point():
        return x * torch.as_tensor(1 + ERRORS[str(x.dtype)[6:]] * draw(x.shape)).to(x.dtype)
    elif isinstance(x, (float, np.floating, np.ndarray)) and np.asarray(x).dtype.kind == "f":
        error = ERRORS[np.asarray(x).dtype.name] * draw(np.shape(x))
        return type(x)(x * (1 + error)) if np.ndim(x) == 0 else (x * (1 + error)).astype(x.dtype)
    elif isinstance(x, dict):
        return {key: off(value, draw) for key, value in x.items()}
    elif type(x) in (list, tuple):
        return type(x)(off(value, draw) for value in x)
    return x


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_where_the_answers_results_are_off(chapter):
    def tried(exercise, answer):
        generator = np.random.default_rng(1)
        if isinstance(answer, type):
            return fault(exercise, answer)
        return fault(
            exercise,
            functools.wraps(answer)(
                lambda *given, **named: off(
                    answer(*given, **named), lambda shape: generator.uniform(-1, 1, tuple(shape))
                )
            ),
        )

    assert decided_otherwise(chapter, tried) == []
