"""Checks of chapter 15: what the paper says and what the code does."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch
from scipy import stats

from igm_book.exercises import require


def exercise_1(reported):
    """What three rules of selection report of one run."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        epochs = int(rng.integers(1, 12))
        # Few values, so that there are ties.
        valid, test = (rng.integers(0, 5, size=epochs) / 10 for _ in range(2))
        found = reported(valid.tolist(), test.tolist())
        require(
            isinstance(found, dict) and set(found) == {"valid", "test", "last"},
            'It should return a dict with the keys "valid", "test" and "last".',
        )
        require(
            math.isclose(found["last"], test[-1]),
            "Of the last epoch the test score should be reported.",
        )
        best = 0
        for epoch in range(epochs):
            if valid[epoch] > valid[best]:
                best = epoch
        ties = test[np.flatnonzero(valid == valid.max())]
        of_valid = (
            math.isclose(found["valid"], valid.max()) and not np.isclose(test, valid.max()).any()
        )
        require(
            not of_valid,
            "Chosen on validation data, it is still the test score of that epoch that is reported.",
        )
        require(
            math.isclose(found["valid"], test[best]) or not np.isclose(ties, found["valid"]).any(),
            "Of several epochs with the same best validation score the first should be taken.",
        )
        require(
            math.isclose(found["valid"], test[best]),
            "Chosen on validation data, the test score should be that of the epoch with the best validation score.",
        )
        require(
            math.isclose(found["test"], test.max()),
            "Chosen on the test split, the highest test score should be reported.",
        )


def exercise_2(seeds_needed):
    """How many seeds an effect needs."""
    rng, seeds = np.random.default_rng(2), np.arange(2, 3000)
    for n, scale, effect in [(10, 1.0, 0.5), (5, 0.02, 0.01), (8, 3.0, 10.0), (20, 1.0, 0.1)]:
        pilot = scale * rng.standard_normal(n) + 7
        needed = seeds_needed(pilot.tolist(), effect)
        deviation = math.sqrt(((pilot - pilot.mean()) ** 2).sum() / (n - 1))
        half, by_normal = (
            [math.inf, math.inf, *(t * deviation / np.sqrt(seeds))]
            for t in (stats.t(seeds - 1).interval(0.95)[1], 1.96)
        )
        least, by_normal = (
            next(k for k, width in enumerate(widths) if width < effect)
            for widths in (half, by_normal)
        )
        require(needed == int(needed), "It should return a whole number of seeds.")
        require(needed >= 2, "An interval needs two seeds at least.")
        require(
            needed == least or needed != by_normal,
            "The factor should be Student's, which depends on the number of seeds that you try: with few seeds it is "
            "well above 1.96.",
        )
        require(
            needed >= least,
            f"With {needed} seeds and a deviation of {deviation:.3g} the half-width is {half[int(needed)]:.3g}, not "
            f"below {effect}.",
        )
        require(
            needed == least,
            f"It should be the smallest number: {least} seeds are enough, not {needed}.",
        )


def exercise_3(per_tensor):
    """The perturbation with a norm for each tensor."""
    gradients = [torch.randn(4, 3), torch.randn(7), torch.zeros(5), 1e-3 * torch.randn(2, 2, 2)]
    before = [g.clone() for g in gradients]
    rho = 0.05
    eps = per_tensor(gradients, rho)
    require(len(eps) == 4, "It should return a list with a perturbation for each gradient.")
    require(
        all(e.shape == g.shape for e, g in zip(eps, gradients)),
        "Each perturbation should have the shape of its gradient.",
    )
    require(all(map(torch.equal, gradients, before)), "The gradients should be left as they are.")
    require(
        bool(torch.isfinite(eps[2]).all()) and not eps[2].any(),
        "A gradient that is zero has no direction: its perturbation should be zero, not nan.",
    )
    whole = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    shared = [rho * g / whole for g in gradients]
    require(
        not all(torch.allclose(e, s, atol=1e-7) for e, s in zip(eps, shared)),
        "Each tensor should be divided by its own norm, not all by one.",
    )
    for e, g in zip(eps, gradients):
        if g.any():
            length = math.sqrt(float(e.double().square().sum()))
            require(abs(length - rho) < 1e-5, "Each perturbation should be rho long.")
            cosine = float((e * g).sum()) / (length * math.sqrt(float(g.square().sum())))
            require(
                abs(cosine - 1) < 1e-4,
                "Each perturbation should point along its gradient: it climbs.",
            )


def exercise_4(survivors):
    """Holm's correction, checked against the closed test of Bonferroni's rule, which has the same result."""
    rng = np.random.default_rng(4)
    cases = [dict(zip("abcde", rng.beta(0.3, 3, size=5))) for _ in range(30)]
    cases += [{"a": 0.012, "b": 0.02, "c": 0.04}, {"a": 0.03, "b": 0.04}, {"a": 0.04}]
    cases = [{name: float(value) for name, value in case.items()} for case in cases]
    found = [survivors(dict(p), 0.05) for p in cases]
    require(
        all(isinstance(names, set) and names <= set(p) for names, p in zip(found, cases)),
        "It should return a set of the names.",
    )
    require(
        found != [{name for name in p if p[name] <= 0.05} for p in cases],
        "Each p-value by itself is what we had before: the smallest one of m must pass level / m.",
    )
    require(
        found != [{name for name in p if p[name] <= 0.05 / len(p)} for p in cases],
        "That is Bonferroni's rule. Holm's gets easier step by step: after one passes, the next smallest must pass "
        "level / (m - 1), and so on.",
    )
    for p, names in zip(cases, found):
        expected = _closed(p, 0.05)
        require(
            names == expected,
            f"For the p-values {', '.join(f'{name} {value:.4f}' for name, value in sorted(p.items()))} the survivors "
            f"should be {sorted(expected)}, not {sorted(names)}: go from the smallest up, stop at the first that fails.",
        )
    require(
        all(survivors(dict(p), 0.2) == _closed(p, 0.2) for p in cases),
        "It should use the level that it is given: at 0.2 more may survive than at 0.05.",
    )


def _closed(p: dict[str, float], level: float) -> set[str]:
    """Those for which every intersection of hypotheses with them in it is rejected by Bonferroni's rule."""
    names = list(p)
    groups = [set(c) for size in range(1, len(p) + 1) for c in combinations(names, size)]
    return {
        name
        for name in names
        if all(min(p[k] for k in group) <= level / len(group) for group in groups if name in group)
    }
