"""Checks of chapter 8: IGM, assembled and ablated."""

from __future__ import annotations

import math
from itertools import cycle, islice, pairwise

import numpy as np
import torch

from igm_book.exercises import require


def _moment(eigenvalues: list[float]) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues along random directions, (d, d), float64."""
    d = len(eigenvalues)
    V = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    return V @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ V.T


def _T(moment: np.ndarray, tau: float) -> np.ndarray:
    """Eq. 4."""
    values, V = np.linalg.eigh(moment)
    weights = np.exp(-tau * (values - values[0]) / (values[-1] - values[0]))
    return V @ np.diag(weights) @ V.T


def exercise_1(previous):
    """The modality before j in the cycle."""
    require(
        isinstance(previous(2, 3), int),
        "It should return the number of a modality, a whole number.",
    )
    for m in (2, 3, 5):
        before = {j: k for k, j in pairwise(islice(cycle(range(1, m + 1)), m + 1))}
        for j in range(2, m + 1):
            require(
                previous(j, m) == before[j],
                f"Of {m} modalities, number {before[j]} is trained right before number {j}: "
                f"previous({j}, {m}) should be {before[j]}, it is {previous(j, m)}.",
            )
        require(
            previous(1, m) == before[1],
            "Before the first modality comes the last one, of the round before: "
            f"previous(1, {m}) should be {m}, it is {previous(1, m)}.",
        )
    require(previous(1, 1) == 1, "A single modality follows itself.")


def exercise_2(moved):
    """The share of weights that SAM moves."""
    n = 20_000
    weights, gradient = 0.1 * torch.rand(n) - 0.05, torch.randn(n)
    before = weights.clone(), gradient.clone()
    share = moved(weights, gradient, 0.02)
    require(
        np.ndim(share) == 0 and 0 <= float(share) <= 1 + 1e-6,
        "It should return the share of the weights, one number from 0 to 1.",
    )
    require(
        torch.equal(weights, before[0]) and torch.equal(gradient, before[1]),
        "It should leave the weights and the gradient as they are.",
    )
    require(float(moved(weights, gradient, 0.0)) == 0, "At rho = 0 no weight moves.")
    require(float(share) > 0.99, "At rho = 0.02 nearly all of these weights move, up or down.")
    require(
        float(moved(weights, gradient, 1e-12)) < 0.01,
        "At rho = 1e-12 next to none of these weights move: add in float32, the weights' own precision.",
    )
    # The share that is expected, in NumPy's float32.
    w, g = weights.numpy(), gradient.numpy().astype(np.float64)
    for rho in (1e-8, 1e-7, 1e-6):
        eps = (rho * g / np.sqrt((g**2).sum())).astype(np.float32)
        expected = np.mean(w + eps != w)
        found = float(moved(weights, gradient, rho))
        longer = float(moved(weights, 1000 * gradient, rho))
        require(
            abs(longer - found) < 0.01,
            "A longer gradient should move no more weights: eps* has the length rho, over all weights "
            "at once, whatever the length of the gradient (Eq. 7).",
        )
        require(
            abs(found - expected) < 0.01,
            f"At rho = {rho:g} the share is {expected:.3f} for a test of {n} weights, not {found:.3f}: "
            "compare the weights after theta + eps* with those before, exactly.",
        )
    gradient[: n // 2] = 0
    require(
        abs(float(moved(weights, gradient, 0.02)) - 0.5) < 0.01,
        "A weight whose gradient is zero stays where it is.",
    )
    zeros = torch.zeros(n)
    require(
        float(moved(zeros, before[1], 1e-15)) > 0.99,
        "A weight that is exactly zero moves at every rho above 0: small numbers have a precision of their own.",
    )


def exercise_3(random_directions):
    """T's eigenvalues along random directions."""
    d = 5
    torch.manual_seed(803)  # an answer that seeds with 0 should not meet the same directions
    T = torch.from_numpy(_T(_moment([0.1, 1.0, 2.0, 4.0, 9.0]).numpy(), 3.0))
    before = T.clone()
    R = random_directions(T, torch.Generator().manual_seed(1))
    require(torch.equal(T, before), "It should leave T as it is.")
    require(isinstance(R, torch.Tensor) and R.shape == (d, d), "It should return a tensor, (d, d).")
    require(R.dtype == T.dtype, "It should have the precision of T.")
    R = R.numpy()
    require(np.allclose(R, R.T, atol=1e-10), "It should be symmetric, as T is.")
    require(
        np.allclose(np.linalg.eigvalsh(R), np.linalg.eigvalsh(T.numpy()), atol=1e-8),
        "It should have the eigenvalues of T: its directions have to be orthogonal and of length 1.",
    )
    commutator = R @ T.numpy() - T.numpy() @ R
    require(
        np.abs(commutator).max() > 1e-3,
        "Its directions should be others than those of T, not the same ones in another order.",
    )
    again = random_directions(T, torch.Generator().manual_seed(1)).numpy()
    require(np.allclose(R, again), "The same state of the generator should give the same matrix.")
    other = random_directions(T, torch.Generator().manual_seed(2)).numpy()
    require(
        not np.allclose(R, other), "Another state of the generator should give other directions."
    )
    require(
        np.abs(R - np.diag(np.diag(R))).max() > 1e-3,
        "Its directions should point anywhere, not along the axes.",
    )
    generator = torch.Generator().manual_seed(3)
    draws = np.mean([random_directions(T, generator).numpy() for _ in range(400)], 0)
    even = np.trace(T.numpy()) / d * np.eye(d)
    require(
        np.abs(draws - even).max() < 0.1,
        "No direction should be preferred: over many draws the mean should be near a multiple of the identity.",
    )


def exercise_4(combined):
    """One matrix that protects several modalities."""
    tau = 5.0
    A, B, C = _moment([0.0, 0.5, 2.0, 6.0]), _moment([0.1, 0.2, 1.0, 3.0]), _moment([1.0, 2, 3, 4])
    before = [A.clone(), B.clone(), C.clone()]
    alone = combined([A], tau)
    require(
        isinstance(alone, torch.Tensor) and alone.shape == (4, 4),
        "It should return T, (d, d), a tensor.",
    )
    require(
        np.allclose(alone.numpy(), _T(A.numpy(), tau), atol=1e-8),
        "For one moment it should be T of Eq. 4.",
    )
    three = combined([A, B, C], tau).numpy()
    require(
        all(torch.equal(x, y) for x, y in zip((A, B, C), before, strict=True)),
        "It should leave the moments as they are.",
    )
    require(np.allclose(three, three.T, atol=1e-8), "T should be symmetric.")
    # Two modalities that use one direction each, at right angles.
    V = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    a, b, flat = V[:, 0], V[:, 1], V[:, 2]
    pair = combined([torch.outer(a, a), torch.outer(b, b)], tau)
    for direction, whose in ((a, "first"), (b, "last")):
        weight = (direction @ pair @ direction).item()
        require(
            abs(weight - math.exp(-tau)) < 1e-6,
            f"A direction that only the {whose} modality uses should be damped to exp(-tau) = "
            f"{math.exp(-tau):.4f} too, it keeps {weight:.4f}: add the moments up, then make one T.",
        )
    require(
        abs((flat @ pair @ flat).item() - 1) < 1e-6,
        "A direction that no modality uses should keep its whole gradient.",
    )
    louder = combined([1000 * A, B, C], tau).numpy()
    require(
        np.allclose(louder, three, atol=1e-8),
        "A modality with larger features should not count more: scale each moment first.",
    )
    require(
        np.allclose(combined([C, A, B], tau).numpy(), three, atol=1e-8),
        "The order of the modalities should not matter.",
    )
    moments = [x.numpy() for x in (A, B, C)]
    expected = _T(sum(x / np.trace(x) for x in moments), tau)
    require(
        np.allclose(three, expected, atol=1e-8),
        "Each moment should be scaled to trace 1, then they should be added.",
    )
