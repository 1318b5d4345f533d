"""The checks of chapter 6 find wrong answers, say what is wrong, and accept another right one."""

import numpy as np
import torch
from answers import numbered, two_tests

from igm.sam import perturbation as library_perturbation


def gradient(loss, w):
    w = w.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(w), w)
    return g


def norm_of(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm()


def in_place(gradients, rho):
    norm = norm_of(gradients)
    return [g.mul_(rho / norm) for g in gradients] if norm else gradients


WRONG_1 = [
    (lambda gs, rho: torch.cat([g.flatten() for g in gs]) * rho / norm_of(gs), "same shape"),
    (lambda gs, rho: [rho * g / g.norm() for g in gs], "one norm"),
    (lambda gs, rho: [rho * g for g in gs], "one norm"),
    (lambda gs, rho: [rho * g / norm_of(gs) ** 2 for g in gs], "one norm"),
    (lambda gs, rho: [rho * g / sum(g.norm() for g in gs) for g in gs], "one norm"),
    (lambda gs, rho: [rho * g / max(g.norm() for g in gs) for g in gs], "one norm"),
    (lambda gs, rho: [-rho * g / norm_of(gs) for g in gs], "climb"),
    (lambda gs, rho: [rho * g / norm_of(gs) for g in gs], "not NaN"),
    (
        lambda gs, rho: [rho * g.sign() / sum(g.numel() for g in gs) ** 0.5 for g in gs],
        "exactly along",
    ),
    (in_place, "as they were"),
]


def from_the_top(loss, w, rho, lr):
    g = gradient(loss, w)
    up = w + rho * g / g.norm()
    return up - lr * gradient(loss, up)


def downhill(loss, w, rho, lr):
    g = gradient(loss, w)
    return w - lr * gradient(loss, w - rho * g / g.norm())


def unnormalised(loss, w, rho, lr):
    return w - lr * gradient(loss, w + rho * gradient(loss, w))


def by_sign(loss, w, rho, lr):
    return w - lr * gradient(loss, w + rho * gradient(loss, w).sign())


def uphill_step(loss, w, rho, lr):
    g = gradient(loss, w)
    return w + lr * gradient(loss, w + rho * g / g.norm())


def both_terms(loss, w, rho, lr):
    x = w.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(x), x, create_graph=True)
    (full,) = torch.autograd.grad(loss(x + rho * g / g.norm()), x)
    return w - lr * full


def moves_w(loss, w, rho, lr):
    g = gradient(loss, w)
    w -= lr * gradient(loss, w + rho * g / g.norm())
    return w


def keeps_the_graph(loss, w, rho, lr):
    x = w.clone().requires_grad_()
    g = gradient(loss, w)
    return x - lr * gradient(loss, w + rho * g / g.norm())


WRONG_2 = [
    (lambda loss, w, rho, lr: w - lr * gradient(loss, w), "at w + eps*"),
    (from_the_top, "taken back"),
    (downhill, "uphill"),
    (unnormalised, "length rho"),
    (by_sign, "length rho"),
    (uphill_step, "gradient descent"),
    (both_terms, "Eq. 8"),
    (moves_w, "as it was"),
    (keeps_the_graph, "detach"),
]

WRONG_3 = [
    (lambda w: np.abs(np.spacing(w)), "smaller step"),
    (lambda w: np.spacing(w) / 2, "positive"),
    (lambda w: np.finfo(np.float32).eps * np.abs(w) / 2, "smaller step"),
    (lambda w: np.finfo(np.float32).eps * np.abs(w) / 4, "larger step"),
    (lambda w: np.abs(np.spacing(w.astype(np.float64))) / 2, "larger step"),
    (lambda w: np.abs(np.spacing(w)).max() / 2, "for each weight"),
    (lambda w: np.abs(np.spacing(w)) / 4, "larger step"),
]


def sampled(draw, reduce=max):
    """An answer that evaluates w + rho * draw(d) n times."""

    def answer(loss, w, rho, n):
        return reduce([loss(w + rho * draw(len(w))).item() for _ in range(n)])

    return answer


def unit(x):
    return x / x.norm()


def even(d):
    return unit(torch.randn(d)) * torch.rand(1) ** (1 / d)


def box_direction(d):
    return unit(2 * torch.rand(d) - 1) * torch.rand(1) ** (1 / d)


def shifts_w(loss, w, rho, n):
    largest = sampled(even)(loss, w, rho, n)
    w += rho * even(len(w))
    return largest


WRONG_4 = [
    (sampled(lambda d: unit(torch.randn(d))), "evenly"),
    (sampled(lambda d: unit(torch.randn(d)) * torch.rand(1)), "evenly"),
    (sampled(lambda d: 2 * torch.rand(d) - 1), "further than rho"),
    (sampled(torch.randn), "further than rho"),
    (sampled(box_direction), "equally likely"),
    (sampled(lambda d: even(d).abs()), "equally likely"),
    (sampled(even, reduce=lambda x: sum(x) / len(x)), "largest"),
    (sampled(even, reduce=min), "largest"),
    (lambda loss, w, rho, n: sampled(even)(loss, w, rho, n - 1), "n points"),
    (shifts_w, "as they were"),
]


def adaptive(top, bottom, joint=True):
    """eps = rho w^top g / ||w^bottom g||."""

    def answer(weights, gradients, rho):
        tops = [w.abs() ** top * g for w, g in zip(weights, gradients)]
        bottoms = [w.abs() ** bottom * g for w, g in zip(weights, gradients)]
        norms = [norm_of(bottoms)] * len(tops) if joint else [b.norm() for b in bottoms]
        return [rho * t / n for t, n in zip(tops, norms)]

    return answer


def most_relative_step(weights, gradients, rho):
    n = sum(w.numel() for w in weights)
    return [rho * w.abs() * g.sign() / n**0.5 for w, g in zip(weights, gradients)]


WRONG_5 = [
    (adaptive(0, 0), "Relative to the weights"),  # plain SAM
    (adaptive(1, 1), "Relative to the weights"),
    (adaptive(2, 2), "Relative to the weights"),
    (adaptive(2, 0), "Relative to the weights"),
    (adaptive(2, 1, joint=False), "over all tensors"),
    (most_relative_step, "most"),
    (lambda ws, gs, rho: [-e for e in adaptive(2, 1)(ws, gs, rho)], "most"),
    (lambda ws, gs, rho: adaptive(2, 1)(ws, gs, rho)[:1], "each weight"),
]

WRONG = numbered(6, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)


def right_1(gradients, rho):
    return library_perturbation(gradients, gradients, rho)


def right_2(loss, w, rho, lr):
    from igm import SAM

    p = torch.nn.Parameter(w.clone())
    optimizer = SAM(torch.optim.SGD([p], lr=lr), rho)

    def closure():
        optimizer.zero_grad()
        value = loss(p)
        value.backward()
        return value

    optimizer.step(closure)
    return p.detach()


def right_3(w):
    away = np.nextafter(w, np.where(w > 0, np.inf, -np.inf).astype(np.float32))
    return np.abs(away.astype(np.float64) - w) / 2


def right_4(loss, w, rho, n):
    """By rejection from the box."""
    largest = -torch.inf
    while n:
        point = 2 * torch.rand(len(w)) - 1
        if point.norm() <= 1:
            largest = max(largest, loss(w + rho * point).item())
            n -= 1
    return largest


def right_5(weights, gradients, rho):
    return library_perturbation(weights, gradients, rho, adaptive=True)


RIGHT = numbered(6, [right_1], [right_2], [right_3], [right_4], [right_5])
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
