"""The checks of chapter 4's exercises: a wrong answer is told what is wrong, a right one is right."""

import numpy as np
import torch
from answers import numbered, two_tests

# ---------------------------------------------------------------- 4.1


def drift(w, v, lr, momentum, weight_decay, steps, late=False, apart=False):
    w, v = w.clone(), v.clone()
    for _ in range(steps):
        g = weight_decay * w
        old = v
        v = momentum * v + (0 if apart else g)
        w = w - lr * (old if late else v) - (lr * g if apart else 0)
    return w


def in_place(w, v, lr, momentum, weight_decay, steps):
    for _ in range(steps):
        v.mul_(momentum).add_(weight_decay * w)
        w.sub_(lr * v)
    return w


def still(w, v, lr, momentum, weight_decay, steps):
    return w.clone()


def growing(w, v, lr, momentum, weight_decay, steps):
    return drift(w, v, lr, momentum, -weight_decay, steps)


def one_more(w, v, lr, momentum, weight_decay, steps):
    return drift(w, v, lr, momentum, weight_decay, steps + 1)


def spoils(w, v, lr, momentum, weight_decay, steps):
    found = drift(w, v, lr, momentum, weight_decay, steps)
    if momentum == 0.9 and steps:
        w += 1
    return found


def by_torch(w, v, lr, momentum, weight_decay, steps):
    p = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([p], lr=lr, momentum=momentum, weight_decay=weight_decay)
    sgd.state[p]["momentum_buffer"] = v.clone()
    for _ in range(steps):
        p.grad = torch.zeros_like(p)
        sgd.step()
    return p.detach()


WRONG_1 = [
    (still, "factor 1 - lr * weight_decay"),
    (growing, "factor 1 - lr * weight_decay"),
    (one_more, "no step at all"),
    (lambda *a: drift(*a, late=True), "factor 1 - lr * weight_decay"),
    (lambda *a: drift(*a[:3], 0.0, *a[4:]), "lr * momentum^t * v"),
    (lambda *a: drift(*a, apart=True), "through the momentum"),
    (in_place, "leave w and v"),
    (spoils, "leave w and v"),
]
RIGHT_1 = [by_torch]


# ---------------------------------------------------------------- 4.2


def change(old, new, eta, T, sign=-1, left=False, norm=False, transposed=False):
    total = 0.0
    for name, g in new.items():
        if name in T:
            g = T[name] @ g if left else g @ T[name]
        size = g.norm() * old[name].norm() if norm else 1
        total = total + (old[name] * (g.T if transposed and name == "fc1" else g)).sum() / size
    return sign * eta * total


def in_numpy(old, new, eta, T):
    products = [
        np.einsum("oi,oj,ji->", old[n], new[n], T.get(n, torch.eye(new[n].shape[1]))) for n in new
    ]
    return float(-eta * sum(products))


WRONG_2 = [
    (lambda *a: change(*a, sign=1), "The sign"),
    (lambda old, new, eta, T: change(old, new, 1, T), "Three times eta"),
    (lambda *a: change(*a, norm=True), "first order"),
    (lambda *a: change(*a, transposed=True), "first order"),
    (
        lambda old, new, eta, T: change({"fc1": old["fc1"]}, {"fc1": new["fc1"]}, eta, T),
        "summed",
    ),
    (lambda *a: change(*a, left=True), "from the right"),
    (lambda old, new, eta, T: change(old, new, eta, {}), "With T"),
    (
        lambda old, new, eta, T: change(
            {n: old[n] for n in T or old}, {n: new[n] for n in T or new}, eta, T
        ),
        "a layer without a T keeps",
    ),
]
RIGHT_2 = [in_numpy]


# ---------------------------------------------------------------- 4.3


def take_out(P, R, alpha):
    K = P @ R.T
    return P - K @ torch.linalg.solve(alpha * torch.eye(len(R)).to(P) + R @ K, K.T)


def as_if_orthogonal(P, R, alpha):
    return P - sum(torch.outer(P @ r, P @ r) / (alpha + r @ P @ r) for r in R)


def without_p_inside(P, R, alpha):
    K = P @ R.T
    return P - K @ torch.linalg.solve(alpha * torch.eye(len(R)).to(P) + R @ R.T, K.T)


def fixed_alpha(P, R, alpha):
    return take_out(P, R, 0.5)


def without_alpha(P, R, alpha):
    K = P @ R.T
    return P - K @ torch.linalg.pinv(R @ K) @ K.T


def in_place_3(P, R, alpha):
    P.copy_(take_out(P, R, alpha))
    return P


def added(P, R, alpha):
    return 2 * P - take_out(P, R, alpha)


def through_the_mean(P, R, alpha):
    return take_out(P, R.mean(0, keepdim=True), alpha)


def one_by_one(P, R, alpha):
    for r in R:
        k = P @ r
        P = P - torch.outer(k, k) / (alpha + r @ k)
    return P


WRONG_3 = [
    (as_if_orthogonal, "not orthogonal to each other"),
    (through_the_mean, "several features"),
    (without_p_inside, "inside the inner products"),
    (without_alpha, "one feature r"),
    (added, "one feature r"),
    (fixed_alpha, "Another alpha"),
    (in_place_3, "leave P"),
    (lambda P, R, alpha: None, "return a matrix"),
    (lambda P, R, alpha: take_out(P, R.T, alpha), "It raised"),
]
RIGHT_3 = [one_by_one, take_out]


# ---------------------------------------------------------------- 4.4


def weights(moment, alpha):
    return alpha / (alpha + torch.linalg.eigvalsh(moment).clamp(min=0))


def used(moment, alpha):
    free = weights(moment, alpha)
    return int((free < 0.5).sum()), free.mean()


def square_root(moment, alpha):
    free = alpha / (alpha + torch.linalg.eigvalsh(moment).clamp(min=0).sqrt())
    return int((free > 0.5).sum()), free.mean()


def by_inverse(moment, alpha):
    P = torch.linalg.inv(torch.eye(len(moment)).double() + moment / alpha)
    return sum(x > 0.5 for x in np.linalg.eigvalsh(P)), P.trace() / len(P)


WRONG_4 = [
    (used, "above one half"),
    (square_root, "number"),
    (lambda M, a: (int((weights(M, a) > 0.5).sum()), weights(M, a).sum()), "divided by d"),
    (lambda M, a: (int((weights(M, a) > 0.9).sum()), weights(M, a).mean()), "above one half"),
    (lambda M, a: (int((weights(M, a) > 0.5).sum()), weights(M, a).median()), "trace(P) / d"),
    (lambda M, a: (int((weights(M, 1) > 0.5).sum()), weights(M, 1).mean()), "number"),
    (lambda M, a: (torch.linalg.matrix_rank(M), weights(M, a).mean()), "above one half"),
]
RIGHT_4 = [by_inverse]


# ---------------------------------------------------------------- 4.5


def with_bias(P, weight, bias):
    both = torch.cat([weight, bias[:, None]], 1) @ P
    return both[:, :-1], both[:, -1]


def weight_alone(P, weight, bias):
    return weight @ P[:-1, :-1], bias


def no_bias(P, weight, bias):
    return with_bias(P, weight, 0 * bias)


def zero(P, weight, bias):
    identity = torch.allclose(P, torch.eye(len(P)).to(P))
    return (weight, bias) if identity else (0 * weight, 0 * bias)


def bias_first(P, weight, bias):
    both = torch.cat([bias[:, None], weight], 1) @ P
    return both[:, 1:], both[:, 0]


def column(P, weight, bias):
    w, b = with_bias(P, weight, bias)
    return w, b[:, None]


def in_place_5(P, weight, bias):
    w, b = with_bias(P, weight, bias)
    return weight.copy_(w), bias.copy_(b)


def in_blocks(P, weight, bias):
    A, b, c = P[:-1, :-1], P[:-1, -1], P[-1, -1]
    return weight @ A + torch.outer(bias, b), weight @ b + bias * c


WRONG_5 = [
    (weight_alone, "projected together"),
    (no_bias, "With P = I"),
    (zero, "not zero"),
    (bias_first, "projected together"),
    (column, "shapes"),
    (in_place_5, "leave the old ones"),
    (lambda P, w, b: with_bias(P, w, b)[0], "two things"),
]
RIGHT_5 = [in_blocks]


WRONG = numbered(4, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)
RIGHT = numbered(4, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4, RIGHT_5)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
