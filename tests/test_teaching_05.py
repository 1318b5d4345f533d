"""The checks of chapter 5: plausible wrong answers are told what is wrong, right ones pass however they are written."""

import math

import torch
from answers import numbered, two_tests
from torch.nn import functional as F

import igm

# 5.1


def matrix(moment, tau, low=True, spread=True, sign=-1, guard=True, square=False):
    values, V = torch.linalg.eigh(moment)
    if guard and values[-1] - values[0] < 1e-9 * values[-1]:
        return torch.eye(len(values), dtype=moment.dtype)
    x = values - low * values[0]
    if spread:
        x = x / (values[-1] - values[0])
    weights = torch.exp(sign * tau * (x**2 if square else x))
    return V @ torch.diag(weights) @ V.T


# Right for the first moment, whose largest eigenvalue is 9.
def by_a_known_scale(moment, tau):
    values = torch.linalg.eigvalsh(moment)
    x = (moment - values[0] * torch.eye(len(moment))) / 8.5
    return torch.linalg.matrix_exp(-tau * x)


WRONG_1 = [
    (lambda m, tau: matrix(m, tau, low=False), "flattest direction"),
    (lambda m, tau: matrix(m, tau, sign=1), "sharpest direction"),
    (lambda m, tau: matrix(m, tau, spread=False), "sharpest direction"),
    (lambda m, tau: matrix(m, tau, square=True), "in between"),
    (lambda m, tau: matrix(m, tau, guard=False), "should be the identity"),
    (lambda m, tau: torch.diag(matrix(m, tau).diagonal()), "same directions"),
    (lambda m, tau: torch.exp(-tau * m / m.max()), "same directions"),
    (lambda m, tau: torch.linalg.eigvalsh(matrix(m, tau)), "(d, d)"),
    (lambda m, tau: matrix(m, tau).numpy(), "a tensor"),
    (by_a_known_scale, "scale"),
]
RIGHT_1 = [igm.modification_matrix]


# 5.2


def sgd_step(layer, T, lr):
    """Eq. 5 with the weight as the paper writes it, d x c."""
    with torch.no_grad():
        W, gradient = layer.weight.T, layer.weight.grad.T
        layer.weight.copy_((W - lr * T @ gradient).T)
        layer.bias.copy_(layer.bias - lr * layer.bias.grad)


def variant(gradient_step, bias=True, replace=False):
    def answer(layer, T, lr):
        new = layer.weight.data - gradient_step(layer.weight.grad, T, lr)
        if replace:
            layer.weight = torch.nn.Parameter(new)
        else:
            layer.weight.data = new
        if bias:
            layer.bias.data -= lr * layer.bias.grad

    return answer


WRONG_2 = [
    (variant(lambda g, T, lr: lr * T @ g), "T acts on the inputs"),
    (variant(lambda g, T, lr: lr * g), "T acts on the inputs"),
    (variant(lambda g, T, lr: g @ T), "learning rate"),
    (variant(lambda g, T, lr: -lr * g @ T), "go down"),
    (variant(lambda g, T, lr: 0 * g), "should change"),
    (variant(lambda g, T, lr: lr * g @ T, bias=False), "bias"),
    (variant(lambda g, T, lr: lr * g @ T, replace=True), "in place"),
    (
        variant(
            lambda g, T, lr: lr * g @ T if len(g) == len(T) else lr * (T[: len(g), : len(g)] @ g)
        ),
        "as many outputs",
    ),
]
RIGHT_2 = [sgd_step]


# 5.3


def tau_for(moment, k, share, low=True, descending=True, log=math.log, scale=True):
    values = torch.linalg.eigvalsh(moment).tolist()
    flattest, sharpest = values[0], values[-1]
    if descending:
        values = values[::-1]
    x = (values[k] - low * flattest) / ((sharpest - flattest) if scale else 10.0)
    return -log(share) / x if x > 1e-12 else math.inf


def by_search(moment, k, share):
    def kept(tau):
        return torch.linalg.eigvalsh(igm.modification_matrix(moment, tau))[k].item()

    if k == len(moment) - 1:
        return math.inf
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(middle) < share else (middle, high)
    return high


WRONG_3 = [
    (lambda m, k, s: tau_for(m, k, s, log=lambda s: -math.log(s)), "positive"),
    (lambda m, k, s: tau_for(m, k, s, log=math.log10), "ln 4"),
    (lambda m, k, s: tau_for(m, k, s, descending=False), "ln 4"),
    (lambda m, k, s: -math.log(s), "larger tau"),
    (lambda m, k, s: tau_for(m, k, s) if k == 0 else tau_for(m, k, s, low=False), "lambda_min"),
    (lambda m, k, s: tau_for(m, k, s, scale=False) if k else tau_for(m, k, s), "scale"),
    (lambda m, k, s: 1e9 if k == 3 else tau_for(m, k, s), "math.inf"),
    (lambda m, k, s: torch.tensor(tau_for(m, k, s)), "float"),
]
RIGHT_3 = [by_search]


# 5.4


def sums(batches, dtype=torch.float64, divide=lambda n: n, center=True, in_place=False):
    n, total, outer = 0, 0, 0
    for z in batches:
        if in_place:
            z -= z.mean(0)
        z = z.to(dtype)
        n, total, outer = n + len(z), total + z.sum(0), outer + z.T @ z
    C = outer - torch.outer(total, total) / n if center else outer
    return C / divide(n)


def of_batches(batches, weighted):
    """Each batch centred with its own mean."""
    found, sizes = [], []
    for z in batches:
        off = z.double() - z.double().mean(0)
        found.append(off.T @ off / len(z))
        sizes.append(len(z))
    weights = torch.tensor(sizes if weighted else [1] * len(sizes), dtype=torch.float64)
    return sum(w * C for w, C in zip(weights, found)) / weights.sum()


def mean_of_means(batches):
    batches = list(batches)
    Z = torch.cat(batches).double()
    off = Z - torch.stack([z.double().mean(0) for z in batches]).mean(0)
    return off.T @ off / len(Z)


def two_passes(batches):
    n, total = 0, 0
    for z in batches:
        n, total = n + len(z), total + z.double().sum(0)
    return sum(((z - total / n).T @ (z - total / n) for z in batches), torch.zeros(3, 3)) / n


# Chan's update, in float32.
def running_mean(batches):
    n, mean, scatter = 0, 0.0, 0.0
    for z in batches:
        own, k = z.mean(0), len(z)
        scatter = scatter + (z - own).T @ (z - own)
        if n:
            scatter = scatter + torch.outer(own - mean, own - mean) * n * k / (n + k)
        mean = (n * mean + k * own) / (n + k)
        n += k
    return scatter / n


WRONG_4 = [
    (lambda b: sums(b, dtype=torch.float32), "float32"),
    (lambda b: sums(b, center=False), "mean should be subtracted"),
    (lambda b: sums(b, divide=lambda n: 1), "divided by n"),
    (lambda b: sums(b, divide=lambda n: n - 1), "divided by n"),
    (lambda b: sums(b, in_place=True), "leave the batches"),
    (lambda b: of_batches(b, weighted=True), "batches' means differ"),
    (mean_of_means, "unequal sizes"),
    (lambda b: sums(b).diagonal(), "(d, d)"),
    (two_passes, "read the batches once"),
    (lambda b: torch.cov(torch.cat(list(b)).double().T, correction=0), "not keep the batches"),
]
RIGHT_4 = [running_mean]


# 5.5


def patch_moment(x, conv, padding=True, stride=True, total=lambda rows: rows.T @ rows):
    patches = F.unfold(
        x,
        conv.kernel_size,
        padding=conv.padding if padding else 0,
        stride=conv.stride if stride else 1,
    )
    return total(patches.transpose(1, 2).flatten(0, 1))


def order_of_places_first(rows):
    rows = rows.view(len(rows), 2, 6).transpose(1, 2).flatten(1)
    return rows.T @ rows


def library(x, conv):
    with igm.FeatureCovariance({"conv": conv}, statistic="sample") as covariance:
        conv(x)
    return covariance.matrices["conv"]


def slices(x, conv):
    (ph, pw), (sh, sw), (kh, kw) = conv.padding, conv.stride, conv.kernel_size
    x = F.pad(x, (pw, pw, ph, ph))
    windows = x.unfold(2, kh, sh).unfold(3, kw, sw)  # (n, in, rows, columns, kh, kw)
    return torch.einsum("nahwij,nbhwkl->aijbkl", windows, windows).reshape(12, 12)


WRONG_5 = [
    (lambda x, c: patch_moment(x, c, padding=False), "padding=1"),
    (lambda x, c: patch_moment(x, c, stride=False), "stride=2"),
    (lambda x, c: patch_moment(x, c, total=order_of_places_first), "order of weight.view"),
    (lambda x, c: patch_moment(x, c) / len(x), "plain sum"),
    (lambda x, c: patch_moment(x, c, total=lambda r: r @ r.T), "(d, d)"),
    (lambda x, c: patch_moment(x, c, total=lambda r: torch.outer(r.sum(0), r.sum(0))), "trace"),
    (lambda x, c: patch_moment(x, c).triu(), "symmetric"),
    (
        lambda x, c: torch.cov(patch_moment(x, c, total=lambda r: r).T, correction=0) * 5 * 30,
        "trace",
    ),
]
RIGHT_5 = [library, slices]


WRONG = numbered(5, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)
RIGHT = numbered(5, RIGHT_1, RIGHT_2, RIGHT_3, RIGHT_4, RIGHT_5)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
