"""The checks of chapter 8: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import numpy as np
import torch
from answers import numbered, two_tests

import igm

# 8.1

WRONG_1 = [
    (lambda j, m: j - 1, "the last one, of the round before"),
    (lambda j, m: (j - 1) % m, "the last one, of the round before"),
    (lambda j, m: (j + m - 2) % m, "right before"),
    (lambda j, m: j % m + 1, "right before"),
    (lambda j, m: max(j - 1, 1), "the last one, of the round before"),
    (lambda j, m: 3 - j, "right before"),
    (lambda j, m: (j + m - 2) / m, "whole number"),
    (lambda j, m: j - 1 if j > 1 else m if m > 1 else 0, "follows itself"),
]
RIGHT_1 = [lambda j, m: list(range(1, m + 1))[j - 2]]


# 8.2


def moved(weights, gradient, rho, norm=torch.linalg.vector_norm):
    return (weights + rho * gradient / norm(gradient) != weights).float().mean()


def in_place(weights, gradient, rho):
    before = weights.clone()
    weights += rho * gradient / gradient.norm()
    return (weights != before).float().mean()


def one_threshold_for_all(w, g, rho):  # half a unit in the last place, but not for zeros
    eps = rho * g / g.norm()
    half = 2.0 ** (torch.log2(w.abs().clamp_min(1e-30)).floor() - 24)
    return ((eps.abs() > half) & (w != 0)).float().mean()


def by_numpy(w, g, rho):
    w, g = w.numpy(), g.numpy()
    return np.count_nonzero(w + np.float32(rho) * (g / np.linalg.norm(g)) - w) / len(w)


WRONG_2 = [
    (lambda w, g, rho: 100 * moved(w, g, rho), "from 0 to 1"),
    (lambda w, g, rho: w + rho * g / g.norm() != w, "one number"),
    (lambda w, g, rho: (w + rho * g / g.norm() != w).sum(), "from 0 to 1"),
    (lambda w, g, rho: moved(w.double(), g, rho), "add in float32"),
    (lambda w, g, rho: moved(w, g, rho, norm=lambda g: 1), "A longer gradient"),
    (lambda w, g, rho: moved(w, g, rho, norm=lambda g: g.abs().sum()), "exactly"),
    (lambda w, g, rho: moved(w, g, rho, norm=lambda g: g.abs().max()), "exactly"),
    (lambda w, g, rho: (w + rho * g.sign() != w).float().mean(), "exactly"),
    (lambda w, g, rho: (w + rho * g / g.norm() > w).float().mean(), "up or down"),
    (lambda w, g, rho: 1 - moved(w, g, rho), "At rho = 0 no weight"),
    (lambda w, g, rho: (rho * g / g.norm()).abs().gt(1e-7).float().mean(), "exactly"),
    (lambda w, g, rho: float(rho > 0) * moved(w, g + 1e-3, rho), "gradient is zero"),
    (in_place, "leave the weights"),
    (one_threshold_for_all, "exactly zero"),
]
RIGHT_2 = [by_numpy]


# 8.3


def turned(T, Q, transpose=True):
    weights = torch.linalg.eigvalsh(T)
    return Q @ torch.diag(weights) @ (Q.T if transpose else Q)


def orthogonal(T, generator):
    return torch.linalg.qr(torch.randn(T.shape, generator=generator, dtype=T.dtype)).Q


def shuffled(T, generator):
    weights, V = torch.linalg.eigh(T)
    return (V * weights[torch.randperm(len(T), generator=generator)]) @ V.T


def nearby(T, generator):
    """A turn by a small angle."""
    S = 0.1 * torch.randn(T.shape, generator=generator, dtype=T.dtype)
    Q = torch.linalg.matrix_exp(S - S.T)
    return Q @ T @ Q.T


def overwritten(T, generator):
    T.copy_(turned(T, orthogonal(T, generator)))
    return T


def t_itself_turned(T, generator):
    M = torch.randn(T.shape, generator=generator, dtype=T.dtype)
    Q = torch.linalg.svd(M).U
    return Q @ T @ Q.T


WRONG_3 = [
    (lambda T, g: turned(T, torch.randn(T.shape, generator=g, dtype=T.dtype)), "eigenvalues"),
    (lambda T, g: turned(T, orthogonal(T, g), transpose=False), "symmetric"),
    (shuffled, "others than those of T"),
    (lambda T, g: T.clone(), "others than those of T"),
    (lambda T, g: turned(T, orthogonal(T, None)), "same state"),
    (lambda T, g: turned(T, orthogonal(T, torch.Generator().manual_seed(0))), "Another state"),
    (
        lambda T, g: turned(T, torch.eye(len(T), dtype=T.dtype)[torch.randperm(5, generator=g)]),
        "along the axes",
    ),
    (nearby, "preferred"),
    (lambda T, g: orthogonal(T, g) @ T, "symmetric"),
    (lambda T, g: turned(T.float(), orthogonal(T.float(), g)), "precision"),
    (lambda T, g: orthogonal(T, g)[0], "(d, d)"),
    (overwritten, "leave T"),
]
RIGHT_3 = [t_itself_turned]


# 8.4


def scaled(moments, scale=torch.trace):
    return sum(moment / scale(moment) for moment in moments)


def product(moments, tau):
    T = torch.eye(4, dtype=torch.float64)
    for moment in moments:
        T = T @ igm.modification_matrix(moment, tau)
    return T


def in_the_first(moments, tau):
    for moment in moments[1:]:
        moments[0] += moment
    return igm.modification_matrix(moments[0], tau)


def by_the_mean_moment(moments, tau):
    stack = torch.stack(moments)
    traces = torch.einsum("kii->k", stack)
    mean = torch.einsum("kij,k->ij", stack, 1 / traces) / len(moments)  # the scale is free
    values, V = torch.linalg.eigh(mean)
    x = (values - values.min()) / (values.max() - values.min())
    return V @ torch.diag(torch.exp(-tau * x)) @ V.T


WRONG_4 = [
    (lambda Y, tau: igm.modification_matrix(Y[-1], tau), "only the first modality"),
    (lambda Y, tau: igm.modification_matrix(Y[0], tau), "only the last modality"),
    (
        lambda Y, tau: sum(igm.modification_matrix(y, tau) for y in Y) / len(Y),
        "add the moments",
    ),
    (product, "symmetric"),
    (lambda Y, tau: igm.modification_matrix(sum(Y), tau), "larger features"),
    (
        lambda Y, tau: igm.modification_matrix(scaled(Y, torch.linalg.matrix_norm), tau),
        "trace 1",
    ),
    (lambda Y, tau: igm.modification_matrix(scaled(Y), 0.4), "Eq. 4"),
    (
        lambda Y, tau: igm.modification_matrix(
            sum((i + 1) * y / y.trace() for i, y in enumerate(Y)), tau
        ),
        "to exp(-tau)",
    ),
    (lambda Y, tau: scaled(Y), "Eq. 4"),
    (in_the_first, "leave the moments"),
    (lambda Y, tau: igm.modification_matrix(scaled(Y), tau).diagonal(), "(d, d)"),
]
RIGHT_4 = [by_the_mean_moment]


WRONG = numbered(8, WRONG_1, WRONG_2, WRONG_3, WRONG_4)
RIGHT = numbered(8, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
