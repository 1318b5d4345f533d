"""The checks of chapter 15: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import math

import numpy as np
import torch
from answers import numbered, two_tests
from scipy import stats

from igm.sam import perturbation

# 15.1


def reported(valid, test, last=False, own=False, of_valid=False, swap=False, overfit=False):
    epochs = range(len(valid))
    best = max(epochs, key=lambda e: (valid[e], e if last else -e))
    chosen = valid[best] if of_valid else test[best]
    top = max(test)
    if overfit:
        top = test[max(epochs, key=lambda e: valid[e] + test[e])]
    found = {"valid": chosen, "test": top, "last": valid[-1] if own else test[-1]}
    if swap:
        found["valid"], found["test"] = found["test"], found["valid"]
    return found


def by_numpy(valid, test):
    return {"valid": test[np.argmax(valid)], "test": np.max(test), "last": test[-1]}


WRONG_1 = [
    (lambda v, t: reported(v, t, last=True), "the first should be taken"),
    (lambda v, t: reported(v, t, of_valid=True), "validation data"),
    (lambda v, t: reported(v, t, own=True), "last epoch"),
    (lambda v, t: reported(v, t, swap=True), "hosen on"),
    (lambda v, t: reported(v, t, overfit=True), "highest test score"),
    (lambda v, t: reported(t, t), "best validation score"),
    (lambda v, t: tuple(reported(v, t).values()), "a dict"),
]
RIGHT_1 = [by_numpy]


# 15.2


def seeds(pilot, effect, quantile=None, ddof=1, centred=True, root=True, start=2, slack=0):
    pilot = np.asarray(pilot)
    deviation = pilot.std(ddof=ddof) if centred else math.sqrt((pilot**2).mean())
    for n in range(start, 10**6):
        t = quantile or stats.t.ppf(0.975, max(n - 1, 1))
        if t * deviation / (math.sqrt(n) if root else n) < effect:
            return n + slack
    raise AssertionError


def by_bisection(pilot, effect):
    deviation = torch.tensor(pilot).double().std().item()

    def wide(n):
        return stats.t.ppf(0.975, n - 1) * deviation / n**0.5 >= effect

    low, high = 1, 2
    while wide(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return high


WRONG_2 = [
    (lambda p, e: seeds(p, e, quantile=1.96), "Student's"),
    (lambda p, e: seeds(p, e, quantile=stats.t.ppf(0.975, len(p) - 1)), "seeds"),
    (lambda p, e: seeds(p, e, quantile=stats.norm.ppf(0.95)), "half-width"),
    (lambda p, e: seeds(p, e, ddof=0), "half-width"),
    (lambda p, e: seeds(p, e, root=False), "half-width"),
    (lambda p, e: seeds(p, e, centred=False), "smallest number"),
    (lambda p, e: seeds(p, e, slack=1), "smallest number"),
    (lambda p, e: seeds(p, e) if e < 5 else 1, "two seeds"),
    (lambda p, e: seeds(p, e) + 0.5, "whole number"),
]
RIGHT_2 = [by_bisection]


# 15.3


def own(gradients, rho, sign=1, guard=True, power=1, norm=2):
    found = []
    for g in gradients:
        length = torch.linalg.vector_norm(g, norm) ** power
        if guard and length == 0:
            found.append(torch.zeros_like(g))
        else:
            found.append(sign * rho * g / length)
    return found


def in_place(gradients, rho):
    found = own(gradients, rho)
    for g, eps in zip(gradients, found):
        g.copy_(eps)
    return found


WRONG_3 = [
    (lambda g, rho: own(g, rho, guard=False), "nan"),
    (lambda g, rho: own(g, rho, sign=-1), "climbs"),
    (lambda g, rho: own(g, rho, power=2), "rho long"),
    (lambda g, rho: own(g, rho, norm=1), "rho long"),
    (lambda g, rho: [rho * x.sign() for x in g], "rho long"),
    (lambda g, rho: perturbation(g, g, rho), "own norm"),
    (lambda g, rho: [e.flatten() for e in own(g, rho)], "shape"),
    (lambda g, rho: [e for e in own(g, rho) if e.any()], "each gradient"),
    (in_place, "left as they are"),
]
RIGHT_3 = [lambda g, rho: perturbation(g, g, rho, norm="tensor")]


# 15.4


def holm(p, level, step=True, stop=True, strict=0):
    passed = set()
    for i, name in enumerate(sorted(p, key=p.get)):
        if p[name] <= level / (len(p) - (i if step else 0) + strict):
            passed.add(name)
        elif stop:
            break
    return passed


def hochberg(p, level):
    """Steps up, from the largest."""
    names = sorted(p, key=p.get, reverse=True)
    for i, name in enumerate(names):
        if p[name] <= level / (i + 1):
            return set(names[i:])
    return set()


def by_adjusted_p_values(p, level):
    names = sorted(p, key=p.get)
    adjusted = np.maximum.accumulate([p[k] * (len(p) - i) for i, k in enumerate(names)])
    return {k for k, q in zip(names, adjusted) if q <= level}


WRONG_4 = [
    (lambda p, level: {k for k in p if p[k] <= level}, "by itself"),
    (lambda p, level: holm(p, level, step=False), "Bonferroni"),
    (lambda p, level: holm(p, level, stop=False), "first that fails"),
    (lambda p, level: holm(p, level, strict=1), "survivors should be"),
    (hochberg, "survivors should be"),
    (lambda p, level: len(holm(p, level)), "a set"),
    (lambda p, level: set(p) - holm(p, level), "survivors should be"),
    (lambda p, level: holm(p, 0.05), "level that it is given"),
]
RIGHT_4 = [by_adjusted_p_values]


WRONG = numbered(15, WRONG_1, WRONG_2, WRONG_3, WRONG_4)
RIGHT = numbered(15, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
