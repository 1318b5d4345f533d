"""Means over seeds and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half-width of its Student t interval; nan for the width of a single value.

    For two methods run on the same seeds, give the differences seed by seed: that is the paired comparison.
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(half)


def points(values: Sequence[float], signed: bool = False) -> str:
    """The interval in percentage points, ready for a sentence: ``"57.5 ± 2.2"``; a difference gets its sign."""
    mean, half = interval(values)
    mean = round(100 * mean, 1) + 0.0  # -0.0 is 0
    return f"{mean:{'+' if signed else ''}.1f} ± {100 * half:.1f}"
