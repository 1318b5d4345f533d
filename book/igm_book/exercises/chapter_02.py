"""Checks of chapter 2: modality imbalance."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from igm_book.exercises import require

NAMES = ("image", "audio", "text", "touch")


def close(a: object, b: object) -> bool:
    """Of the same shape and equal up to rounding."""
    a, b = (np.asarray(torch.as_tensor(x).detach(), dtype=float) for x in (a, b))
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4)


def draw(m: int, n: int = 6, c: int = 4) -> tuple[dict[str, Tensor], Tensor]:
    """Logits (n, c) of m modalities, and labels (n,)."""
    generator = torch.Generator().manual_seed(m)
    o = {name: 2 * torch.randn(n, c, generator=generator) for name in NAMES[:m]}
    return o, torch.randint(c, (n,), generator=generator)


def probabilities(logits: Tensor) -> np.ndarray:
    e = np.exp(logits.detach().double().numpy())
    return e / e.sum(1, keepdims=True)


def exercise_1(answer):
    a = [0.81, 0.84, 0.79, 0.9, 0.85]
    b = [0.80, 0.81, 0.79, 0.86, 0.83]
    mean, half = (float(x) for x in answer(a, b))
    test = stats.ttest_rel(a, b).confidence_interval(0.95)
    require(close(mean, np.mean(a) - np.mean(b)), "The first number should be the mean of a - b.")
    wanted = (test.high - test.low) / 2
    differences = np.subtract(a, b)
    require(
        not close(half, wanted * np.sqrt(4 / 5)),
        "The standard deviation should divide by n - 1, not by n.",
    )
    require(
        not close(half, 1.959964 * differences.std(ddof=1) / np.sqrt(5)),
        "Five seeds are few: the factor should be Student's t with n - 1 degrees of freedom, not the 1.96 of the normal "
        "distribution.",
    )
    require(
        not close(half, 2 * wanted), "The second number should be half of the interval's width."
    )
    shifted = np.linspace(0, 0.5, 5)
    require(
        close(float(answer(a + shifted, b + shifted)[1]), half),
        "The interval should be that of the differences, seed by seed: what both methods gain on a seed should not change "
        "it.",
    )
    require(
        close(half, wanted),
        "The second number should be t times the standard deviation of the differences, divided by the root of n.",
    )


def exercise_2(answer):
    for m in (2, 3, 4):
        generator = np.random.default_rng(m)
        names = NAMES[:m]
        subsets = [frozenset(S) for size in range(m + 1) for S in combinations(names, size)]
        v = {S: float(generator.uniform(0.1, 1)) for S in subsets}
        phi = answer(dict(v))
        require(
            set(phi) == set(names),
            "The answer should be a dictionary with one entry for each modality.",
        )
        full, empty = frozenset(names), frozenset()
        require(
            close(sum(phi.values()), v[full] - v[empty]),
            "The values should add up to the score of all modalities minus that of none.",
        )
        wanted = dict.fromkeys(names, 0.0)
        orders = list(permutations(names))
        for order in orders:
            for i, j in enumerate(order):
                before = frozenset(order[:i])
                wanted[j] += (v[before | {j}] - v[before]) / len(orders)
        require(
            all(close(phi[j], wanted[j]) for j in names),
            "Each value should be what the modality adds to those that came before it, averaged over all orders (the weight "
            f"of a subset depends on its size; {m} modalities here).",
        )


def exercise_3(answer):
    for m in (1, 2, 3):
        o, y = draw(m)
        given = answer({k: z.clone() for k, z in o.items()}, y)
        require(set(given) == set(o), "The answer should have an entry for each modality.")
        require(
            all(given[k].shape == o[k].shape for k in o),
            "Each entry should have a row for each sample and a column for each class: (n, c).",
        )
        leaves = {k: z.double().requires_grad_() for k, z in o.items()}
        p = sum(z.softmax(1) for z in leaves.values()) / m
        (-p[range(len(y)), y].log()).sum().backward()
        wanted = {k: z.grad for k, z in leaves.items()}
        require(
            not all(close(given[k], wanted[k] / len(y)) for k in o),
            "Each row should belong to that sample's own loss: do not divide by n.",
        )
        require(
            not all(close(given[k], -wanted[k]) for k in o),
            "The answer should be the derivative of the loss, which is negative at the true class.",
        )
        require(
            all(close(given[k].sum(1), np.zeros(len(y))) for k in o),
            "Each row should add up to 0: the same number added to all logits of a sample changes nothing.",
        )
        if m == 1:
            require(
                close(given["image"], wanted["image"]),
                "With a single modality the answer should be its own residual, softmax(o) - y.",
            )
        require(
            all(close(given[k], wanted[k]) for k in o),
            f"The answer should be the gradient that autograd gives ({m} modalities here): the own residual, times the "
            "modality's share in the probability of the true class.",
        )


def exercise_4(answer):
    for m in (2, 3):
        o, y = draw(m)
        rows = np.arange(len(y)), y.numpy()
        own = {k: -np.log(probabilities(z)[rows]).mean() for k, z in o.items()}
        joint = -np.log(probabilities(sum(o.values()))[rows]).mean()
        leaves = {k: z.clone().requires_grad_() for k, z in o.items()}
        loss = torch.as_tensor(answer(leaves, y))
        require(loss.numel() == 1, "The loss should be one number for the batch.")
        value = loss.item()
        require(
            not close(value, joint), "The loss should contain that of each modality alone, too."
        )
        require(
            not close(value, sum(own.values())),
            "The loss should contain the joint loss, on the sum of the logits, too.",
        )
        require(
            not close(value, joint + np.mean(list(own.values()))),
            "The modalities' own losses should be added, not averaged.",
        )
        require(
            close(value, joint + sum(own.values())),
            "The loss should be the cross-entropy of the summed logits plus that of each modality's logits, each a mean over "
            "the batch.",
        )
        loss.backward()
        y_onehot = np.eye(4)[y]
        r = probabilities(sum(o.values())) - y_onehot
        for k, leaf in leaves.items():
            wanted = (r + probabilities(o[k]) - y_onehot) / len(y)
            require(
                leaf.grad is not None and close(leaf.grad, wanted),
                "Each head should receive the joint residual plus its own, r + r^(j): let the gradient through everywhere.",
            )
