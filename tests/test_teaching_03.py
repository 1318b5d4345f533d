"""The checks of chapter 3's exercises: a wrong answer is told what is wrong, a right one is right."""

import math

import numpy as np
import torch
from answers import numbered, two_tests

from igm.rivals.ogm import head_shares

# ---------------------------------------------------------------- 3.1


def gentle(s, alpha, others=np.mean, ahead=lambda x: 1 - math.tanh(x), shift=1.0):
    k = {}
    for j in s:
        rho = s[j] / others([s[i] for i in s if i != j])
        k[j] = ahead(alpha * (rho - shift)) if rho > 1 else 1.0
    return k


def in_tensors(s, alpha):
    values = torch.tensor(list(s.values()))
    rho = values * (len(s) - 1) / (values.sum() - values)
    k = 1 - torch.tanh(alpha * torch.relu(rho - 1))
    return dict(zip(s, k.tolist()))


WRONG_1 = [
    (lambda s, alpha: list(gentle(s, alpha).values()), "dictionary"),
    (lambda s, alpha: {"audio": gentle(s, alpha)["audio"]}, "dictionary"),
    (lambda s, alpha: gentle(s, alpha, shift=0.0), "no jump"),  # OGM's own
    (lambda s, alpha: dict.fromkeys(s, 0.5), "level"),
    (lambda s, alpha: gentle(s, alpha, ahead=lambda x: 1 - x), "1 - tanh"),
    (lambda s, alpha: gentle(s, 2 * alpha), "1 - tanh"),
    (lambda s, alpha: dict(zip(s, reversed(gentle(s, alpha).values()))), "behind"),
    (
        lambda s, alpha: {
            j: 1 - math.tanh(alpha * (s[j] / (sum(s.values()) - s[j]) - 1)) for j in s
        },
        "behind",
    ),
    (lambda s, alpha: gentle(s, alpha, others=max), "mean of the other two"),
    (lambda s, alpha: gentle(s, alpha, others=sum), "mean of the other two"),
    (lambda s, alpha: None, "dictionary"),
]
RIGHT_1 = [in_tensors]


# ---------------------------------------------------------------- 3.2


def one_hot(k, size, c):
    b = torch.zeros(c).double()
    b[k] = size
    return b


def rarest(y):
    return torch.bincount(y).argmin()


def in_numpy(a, v, y):
    counts = np.bincount(y.numpy(), minlength=a.shape[1])
    return 40.0 * (np.arange(len(counts)) == counts.argmin()) - 3.0


WRONG_2 = [
    (lambda a, v, y: torch.zeros(4), "should be behind"),
    (lambda a, v, y: one_hot(rarest(y), -50.0, 4), "should be behind"),
    (lambda a, v, y: one_hot(torch.bincount(y).argmax(), 50.0, 4), "should be behind"),
    (lambda a, v, y: one_hot(0, 50.0, 4), "should be behind"),
    (lambda a, v, y: one_hot(rarest(y), 0.5, 4), "should be behind"),
    (lambda a, v, y: torch.full((4,), 50.0), "should be behind"),
    (lambda a, v, y: v - a, "one vector for all samples"),
    (lambda a, v, y: torch.tensor(50.0), "one vector for all samples"),
    (lambda a, v, y: one_hot(rarest(y), 1e30, 4), "so small"),
    (lambda a, v, y: one_hot(rarest(y), math.inf, 4), "so small"),
    (lambda a, v, y: a.add_(one_hot(rarest(y), 50.0, 4))[0], "as they are"),
]
RIGHT_2 = [in_numpy]


# ---------------------------------------------------------------- 3.3


def scaled_gradient(optimizer, parameters, k):
    for p in parameters:
        p.grad = p.grad * k
    optimizer.step()


def scaled_all(optimizer, parameters, k):
    everything = [p for group in optimizer.param_groups for p in group["params"]]
    scaled(optimizer, everything, k)


@torch.no_grad()
def scaled(optimizer, parameters, k):
    before = [p.clone() for p in parameters]
    optimizer.step()
    for p, old in zip(parameters, before):
        p.copy_(old + k * (p - old))


@torch.no_grad()
def scaled_weights(optimizer, parameters, k):
    optimizer.step()
    for p in parameters:
        p.mul_(k)


@torch.no_grad()
def no_copy(optimizer, parameters, k):
    before = list(parameters)
    optimizer.step()
    for p, old in zip(parameters, before):
        p.copy_(old + k * (p - old))


def two_steps(optimizer, parameters, k):
    scaled(optimizer, parameters, k)
    optimizer.step()


def scaled_learning_rate(optimizer, parameters, k):
    for group in optimizer.param_groups:
        group["lr"] = group["lr"] * k
    optimizer.step()


# Without weight decay SGD's first step cannot tell; Adam can.
def decay_apart(optimizer, parameters, k):  # right for SGD, by hand
    if isinstance(optimizer, torch.optim.SGD):
        return scaled(optimizer, parameters, k)
    return scaled_gradient(optimizer, parameters, k)


def with_lerp(optimizer, parameters, k):
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    for p, old in zip(parameters, before):
        p.data = torch.lerp(old, p.data, k)


WRONG_3 = [
    (scaled_gradient, "should move k times"),
    (scaled_all, "not in the list should move"),
    (scaled_learning_rate, "not in the list should move"),
    (scaled_weights, "should move k times"),
    (no_copy, "should move k times"),
    (lambda o, parameters, k: scaled(o, parameters, 1 - k), "should move k times"),
    (lambda o, parameters, k: o.step(), "should move k times"),
    (lambda o, parameters, k: None, "call step"),
    (two_steps, "not in the list should move"),
    (decay_apart, "With Adam and k = 0.25"),
]
RIGHT_3 = [with_lerp]


# ---------------------------------------------------------------- 3.4


def f(head, a, v):
    return head(torch.cat([a, v], dim=1))


def agm(head, a, v):
    both, only_a, only_v = f(head, a, v), f(head, a, 0 * v), f(head, 0 * a, v)
    return (both - only_v + only_a) / 2, (both - only_a + only_v) / 2


def halves(head, a, v):
    both = f(head, a, v)
    return both / 2, both / 2


def without_centre(head, a, v):
    nothing = f(head, 0 * a, 0 * v)
    return f(head, a, 0 * v) - nothing, f(head, 0 * a, v) - nothing


def first_comes_first(head, a, v):
    only_a = f(head, a, 0 * v)
    return only_a, f(head, a, v) - only_a


def rest_in_halves(head, a, v):
    """What neither has alone is halved, with the head's answer to nothing at all counted once for each."""
    only_a, only_v, nothing = f(head, a, 0 * v), f(head, 0 * a, v), f(head, 0 * a, 0 * v)
    rest = (f(head, a, v) - only_a - only_v) / 2
    return only_a + rest + nothing, only_v + rest - nothing


def by_derivative(head, a, v):
    """Exact for a linear head; elsewhere all that is not linear goes to v."""
    nothing = f(head, 0 * a, 0 * v)
    J = f(head, 1e-6 * a, 0 * v) - nothing
    share = J * 1e6 + nothing / 2
    return share, f(head, a, v) - share


def by_library(head, a, v):
    return tuple(head_shares(head, {"a": a, "v": v}).values())


WRONG_4 = [
    (lambda h, a, v: (f(h, a, 0 * v), f(h, 0 * a, v)), "add up"),
    (without_centre, "add up"),
    (lambda h, a, v: agm(h, a, v)[0], "two tensors"),
    (halves, "block of the weights"),
    (first_comes_first, "block of the weights"),
    (lambda h, a, v: agm(h, a, v)[::-1], "block of the weights"),
    (rest_in_halves, "block of the weights"),
    (lambda h, a, v: agm(h, v, a), "add up"),
    (by_derivative, "comes first"),
]
RIGHT_4 = [by_library, agm, lambda h, a, v: list(agm(h, a, v))]


# ---------------------------------------------------------------- 3.5


def raw(g1, g2):
    g1, g2 = g1.flatten(), g2.flatten()
    return ((g2 @ g2 - g1 @ g2) / ((g1 - g2) @ (g1 - g2))).item()


def min_norm(g1, g2):
    if torch.equal(g1, g2):
        return 0.5
    return min(max(raw(g1, g2), 0.0), 1.0)


def by_length(g1, g2):
    return (g2.norm() / (g1.norm() + g2.norm())).item()


def unguarded(g1, g2):
    return float(np.clip(raw(g1, g2), 0, 1)) if not torch.equal(g1, g2) else float("nan")


def by_search(g1, g2):
    """Ternary search on a convex function."""
    low, high = 0.0, 1.0

    def length(k):
        return (k * g1 + (1 - k) * g2).norm().item()

    for _ in range(100):
        third = (high - low) / 3
        if length(low + third) < length(high - third):
            high -= third
        else:
            low += third
    return (low + high) / 2


WRONG_5 = [
    (raw, "longer copy"),
    (lambda g1, g2: 1 - min_norm(g1, g2), "shortest"),
    (lambda g1, g2: 0.5, "shortest"),
    (by_length, "shortest"),
    (unguarded, "not nan"),
    (lambda g1, g2: min_norm(g1, -g2), "shortest"),
    (lambda g1, g2: 3.0, "between 0 and 1"),
    (lambda g1, g2: min_norm(g1, g2) if g1.dim() == 1 else min_norm(g1[0], g2[0]), "any shape"),
    (lambda g1, g2: min(max(raw(g1, g2), 0.001), 0.999), "longer copy"),
]
RIGHT_5 = [by_search, min_norm]


WRONG = numbered(3, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)
RIGHT = numbered(3, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4, RIGHT_5)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
