"""The checks of chapter 2's exercises: a wrong answer is told what is wrong, a right one is right."""

import numpy as np
import torch
from answers import numbered, two_tests
from scipy import stats
from torch.nn import functional as F

# ---------------------------------------------------------------- 2.1


def t_interval(a, b, ddof=1, t=None):
    d = np.subtract(a, b)
    t = t or stats.t.ppf(0.975, len(d) - 1)
    return d.mean(), t * d.std(ddof=ddof) / np.sqrt(len(d))


def unpaired(a, b):
    half = np.hypot(t_interval(a, np.zeros(5))[1], t_interval(b, np.zeros(5))[1])
    return np.mean(a) - np.mean(b), half


def whole_width(a, b):
    mean, half = t_interval(a, b)
    return mean, 2 * half


def without_root(a, b):
    mean, half = t_interval(a, b)
    return mean, half / np.sqrt(5)


def by_scipy(a, b):
    d = np.subtract(a, b)
    low, high = stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d))
    return (high + low) / 2, (high - low) / 2


WRONG_1 = [
    (lambda a, b: t_interval(b, a), "mean of a - b"),
    (lambda a, b: t_interval(a, b, ddof=0), "n - 1, not by n"),
    (lambda a, b: t_interval(a, b, t=stats.norm.ppf(0.975)), "Student's t"),
    (lambda a, b: t_interval(a, b, t=stats.t.ppf(0.95, 4)), "t times"),
    (unpaired, "seed by seed"),
    (whole_width, "half"),
    (without_root, "root of n"),
]
RIGHT_1 = [by_scipy]


# ---------------------------------------------------------------- 2.2


def names(v):
    return max(v, key=len)


def last_only(v):
    """What is lost when a modality leaves."""
    return {j: v[names(v)] - v[names(v) - {j}] for j in names(v)}


def first_only(v):
    return {j: v[frozenset({j})] - v[frozenset()] for j in names(v)}


def scaled_to_the_sum(v):
    phi = first_only(v)
    total = v[names(v)] - v[frozenset()]
    return {j: value * total / sum(phi.values()) for j, value in phi.items()}


def same_weight(v):
    """Every subset counts the same (Banzhaf)."""
    phi = {}
    for j in names(v):
        steps = [v[S | {j}] - v[S] for S in v if j not in S]
        phi[j] = sum(steps) / len(steps)
    return phi


def without_the_empty_set(v):
    return shapley(v | {frozenset(): 0.0})


def one_order(v):
    phi, before = {}, frozenset()
    for j in sorted(names(v)):
        phi[j] = v[before | {j}] - v[before]
        before |= {j}
    return phi


def shapley(v, sign=1):
    """By recursion: a modality comes last with probability 1/m, otherwise another one does."""
    everyone = names(v)
    if len(everyone) == 1:
        (j,) = everyone
        return {j: v[everyone] - v[frozenset()]}
    phi = {j: (v[everyone] - v[everyone - {j}]) / len(everyone) for j in everyone}
    for last in everyone:
        for j, value in shapley({S: x for S, x in v.items() if last not in S}).items():
            phi[j] += value / len(everyone)
    return phi


WRONG_2 = [
    (last_only, "add up"),
    (first_only, "add up"),
    (scaled_to_the_sum, "averaged over all orders"),
    (same_weight, "add up"),
    (without_the_empty_set, "add up"),
    (one_order, "averaged over all orders"),
    (lambda v: list(shapley(v).values()), "dictionary"),
    (
        lambda v: {frozenset({j}): x for j, x in shapley(v).items()},
        "one entry for each modality",
    ),
]
RIGHT_2 = [shapley]


# ---------------------------------------------------------------- 2.3


def parts(o, y):
    p = {k: z.softmax(1) for k, z in o.items()}
    onehot = F.one_hot(y, 4)
    true = {k: (q * onehot).sum(1, keepdim=True) for k, q in p.items()}
    return p, onehot, true


def own(o, y):
    p, onehot, _ = parts(o, y)
    return {k: p[k] - onehot for k in p}


def of_the_sum(o, y):
    r = sum(o.values()).softmax(1) - F.one_hot(y, 4)
    return dict.fromkeys(o, r)


def of_the_mean(o, y):
    p, onehot, _ = parts(o, y)
    return dict.fromkeys(o, sum(p.values()) / len(p) - onehot)


def by_m(o, y):
    return {k: r / len(o) for k, r in own(o, y).items()}


def right_residual(o, y):
    p, onehot, true = parts(o, y)
    return {k: true[k] / sum(true.values()) * (p[k] - onehot) for k in p}


def scaled(factor):
    return lambda o, y: {k: factor * g for k, g in right_residual(o, y).items()}


def logarithm_forgotten(o, y):
    p, onehot, true = parts(o, y)
    return {k: true[k] / len(p) * (p[k] - onehot) for k in p}


def without_onehot(o, y):
    p, _, true = parts(o, y)
    return {k: true[k] / sum(true.values()) * (p[k] - true[k]) for k in p}


def of_the_batch(o, y):
    return {k: g.mean(0) for k, g in right_residual(o, y).items()}


def by_autograd(o, y):
    leaves = {k: z.clone().requires_grad_() for k, z in o.items()}
    p = torch.stack([z.softmax(1) for z in leaves.values()]).mean(0)
    loss = -p.gather(1, y[:, None]).log().sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


WRONG_3 = [
    (own, "share"),
    (of_the_sum, "share"),
    (of_the_mean, "share"),
    (by_m, "share"),
    (scaled(1 / 6), "divide by n"),
    (scaled(-1), "negative at the true class"),
    (logarithm_forgotten, "own residual"),
    (without_onehot, "add up to 0"),
    (of_the_batch, "(n, c)"),
]
RIGHT_3 = [by_autograd]


# ---------------------------------------------------------------- 2.4


def joint_loss(o, y):
    return F.cross_entropy(sum(o.values()), y)


def own_losses(o, y):
    return [F.cross_entropy(z, y) for z in o.values()]


def mean_of_own(o, y):
    return joint_loss(o, y) + sum(own_losses(o, y)) / len(o)


def summed_over_samples(o, y):
    return len(y) * (joint_loss(o, y) + sum(own_losses(o, y)))


def mean_of_logits(o, y):
    return F.cross_entropy(sum(o.values()) / len(o), y) + sum(own_losses(o, y))


def detached(o, y):
    return joint_loss(o, y) + sum(own_losses({k: z.detach() for k, z in o.items()}, y))


def first_only_own(o, y):
    return joint_loss(o, y) + own_losses(o, y)[0]


def each(o, y):
    return sum(F.cross_entropy(z, y, reduction="none") for z in [sum(o.values()), *o.values()])


def by_log_softmax(o, y):
    total = 0
    for z in [sum(o.values()), *o.values()]:
        total = total - z.log_softmax(1).gather(1, y[:, None]).mean()
    return total


WRONG_4 = [
    (joint_loss, "each modality alone"),
    (lambda o, y: sum(own_losses(o, y)), "the joint loss"),
    (mean_of_own, "not averaged"),
    (summed_over_samples, "mean over"),
    (mean_of_logits, "summed logits"),
    (first_only_own, "each modality's logits"),
    (detached, "r + r^(j)"),
    (each, "one number"),
]
RIGHT_4 = [by_log_softmax]


WRONG = numbered(2, WRONG_1, WRONG_2, WRONG_3, WRONG_4)
RIGHT = numbered(2, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
