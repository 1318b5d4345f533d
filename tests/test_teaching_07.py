"""The checks of chapter 7 find wrong answers, say what is wrong, and accept another right one."""

import copy

import torch
from answers import numbered, two_tests
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn import functional as F

from igm.analysis.landscape import loss_surface, random_direction

# ---------------------------------------------------------------- 7.1


def rescaled(change):
    """An answer that changes copies of both layers by ``change(first, second, factors)``."""

    def answer(first, second, factors):
        first, second = copy.deepcopy(first), copy.deepcopy(second)
        with torch.no_grad():
            change(first, second, factors)
        return first, second

    return answer


def all_right(first, second, factors):
    first.weight *= factors[:, None]
    first.bias *= factors
    second.weight /= factors


def without_bias(first, second, factors):
    first.weight *= factors[:, None]
    second.weight /= factors


def wrong_way(first, second, factors):
    first.weight /= factors[:, None]
    first.bias /= factors
    second.weight *= factors


def second_too(first, second, factors):
    all_right(first, second, factors)
    second.bias /= factors.mean()


def first_alone(first, second, factors):
    first.weight *= factors[:, None]
    first.bias *= factors


def second_multiplied(first, second, factors):
    first_alone(first, second, factors)
    second.weight *= factors


def one_factor(first, second, factors):
    first.weight *= factors.mean()
    first.bias *= factors.mean()
    second.weight /= factors.mean()


def in_place(first, second, factors):
    with torch.no_grad():
        all_right(first, second, factors)
    return first, second


WRONG_1 = [
    (rescaled(without_bias), "and its bias"),
    (rescaled(wrong_way), "own factor times as much"),
    (rescaled(one_factor), "own factor times as much"),
    (rescaled(second_too), "keeps its bias"),
    (rescaled(first_alone), "takes each factor back"),
    (rescaled(second_multiplied), "takes each factor back"),
    (in_place, "as they were before"),
    (lambda first, second, factors: rescaled(all_right)(first, second, factors)[0], "two linear"),
    (lambda first, second, factors: (first.weight * factors[:, None], second.weight), "two linear"),
    (lambda *all: rescaled(all_right)(*all)[::-1], "two linear"),
]

# ---------------------------------------------------------------- 7.2


def between(mix=lambda p, q, alpha: (1 - alpha) * p + alpha * q, loss=F.cross_entropy):
    def answer(network, other, alphas, x, y):
        moved, losses = copy.deepcopy(network), []
        for alpha in alphas:
            with torch.no_grad():
                for p, q, r in zip(network.parameters(), other.parameters(), moved.parameters()):
                    r.copy_(mix(p, q, alpha))
                losses.append(loss(moved(x), y).item())
        return losses

    return answer


def weights_only(p, q, alpha):
    return p + alpha * (q - p) * (p.ndim > 1)


def mixes_losses(network, other, alphas, x, y):
    with torch.no_grad():
        first, second = (F.cross_entropy(net(x), y) for net in (network, other))
    return torch.stack([(1 - alpha) * first + alpha * second for alpha in alphas])


def mixes_logits(network, other, alphas, x, y):
    with torch.no_grad():
        first, second = network(x), other(x)
        return [F.cross_entropy((1 - a) * first + a * second, y) for a in alphas]


def moves_the_network(network, other, alphas, x, y):
    start, losses = [p.detach().clone() for p in network.parameters()], []
    for alpha in alphas:
        with torch.no_grad():
            for p, q, r in zip(start, other.parameters(), network.parameters()):
                r.copy_((1 - alpha) * p + alpha * q)
        losses.append(F.cross_entropy(network(x), y).item())
    return losses


def keeps_the_graph(network, other, alphas, x, y):
    theta = {n: (p, q) for (n, p), q in zip(network.named_parameters(), other.parameters())}
    return torch.stack(
        [
            F.cross_entropy(
                torch.func.functional_call(
                    network, {n: (1 - a) * p + a * q for n, (p, q) in theta.items()}, (x,)
                ),
                y,
            )
            for a in alphas
        ]
    )


WRONG_2 = [
    (between(lambda p, q, alpha: alpha * p + (1 - alpha) * q), "At alpha = 0"),
    (between(lambda p, q, alpha: p + alpha * q), "At alpha = 1"),
    (between(weights_only), "At alpha = 1"),
    (between(lambda p, q, alpha: torch.lerp(p, q, min(max(alpha, 0), 1))), "and beyond"),
    (between(loss=lambda z, y: F.cross_entropy(z, y, reduction="sum")), "mean cross-entropy"),
    (between(loss=lambda z, y: F.nll_loss(z, y)), "mean cross-entropy"),
    (mixes_losses, "not the losses"),
    (mixes_logits, "on the line"),
    (moves_the_network, "as they were before"),
    (keeps_the_graph, "no_grad"),
    (lambda *all: sum(between()(*all)), "one loss for each"),
]

# ---------------------------------------------------------------- 7.3


def central(gradient, w, v, size=1e-4):
    h = size / v.norm()
    return (gradient(w + h * v) - gradient(w - h * v)) / (2 * h)


def one_sided(gradient, w, v):
    h = 1e-6 / v.norm()
    return (gradient(w + h * v) - gradient(w)) / h


def moves_w(gradient, w, v):
    h = 1e-4 / v.norm()
    found = central(gradient, w, v)
    w += h * v
    return found


WRONG_3 = [
    (one_sided, "both sides"),
    (moves_w, "should not change"),
    (lambda g, w, v: central(g, w, v) * 2, "H v"),
    (lambda g, w, v: -central(g, w, v), "H v"),
    (lambda g, w, v: central(g, w, v / v.norm()), "H v"),
    (lambda g, w, v: central(g, w, v) @ v, "as long as w"),
    (lambda g, w, v: g(v), "H v"),
    (lambda g, w, v: (g(w + 1e-4 * v) - g(w - 1e-4 * v)) / 2e-4, "long v"),
    (lambda g, w, v: (g(w + v) - g(w - v)) / 2, "small against"),
    (lambda g, w, v: central(g, w, v, 1e-15), "H v"),
    (lambda g, w, v: (central(g, w, v) + central(g, w, v)) / 2, "Two gradients"),
]

# ---------------------------------------------------------------- 7.4


def iterate(product, v, steps):
    for _ in range(steps):
        w = product(v)
        v = w / w.norm()
    return (v @ product(v)).item()


def start(d):
    return torch.randn(d, dtype=torch.float64)


def shifted(product, d, steps):
    largest = iterate(product, start(d), steps)
    return largest + iterate(lambda v: product(v) - largest * v, start(d), steps)


def guarded(product, d, steps):
    largest = iterate(product, start(d), steps)
    return min(largest, largest + iterate(lambda v: product(v) - largest * v, start(d), steps))


def always_from(first):
    """Begins both iterations with the same vector, which may be orthogonal to what is looked for."""

    def answer(product, d, steps):
        v = torch.tensor(first, dtype=torch.float64)
        largest = iterate(product, v, steps)
        return min(largest, largest + iterate(lambda v: product(v) - largest * v, v, steps))

    return answer


WRONG_4 = [
    (lambda p, d, steps: iterate(p, start(d), steps), "smallest eigenvalue"),
    (lambda p, d, steps: -iterate(lambda v: -p(v), start(d), steps), "smallest eigenvalue"),
    (lambda p, d, steps: -abs(iterate(p, start(d), steps)), "smallest eigenvalue"),
    (shifted, "largest in magnitude is negative"),
    (lambda *all: abs(guarded(*all)), "with its sign"),
    (always_from([1] * 6), "smallest eigenvalue"),
    (always_from([1, 0, 0, 0, 0, 0]), "smallest eigenvalue"),
    (lambda p, d, steps: guarded(p, d, 4 * steps), "2 steps products"),
    (lambda p, d, steps: guarded(p, d, 2), "smallest eigenvalue"),
]

# ---------------------------------------------------------------- 7.5


def trace_of(blocks):
    return torch.stack([block.trace() for block in blocks])


def filter_blocks(weight, hessian):
    n, k = weight.shape
    H = hessian.reshape(n, k, n, k)
    return [H[i, :, i] for i in range(n)]


def expected(weight, hessian):
    traces = trace_of(filter_blocks(weight, hessian))
    return (weight.square().sum(1) * traces).sum().item() / weight.shape[1]


WRONG_5 = [
    (lambda w, H: expected(w, H) * w.shape[1], "squared length"),
    (lambda w, H: H.trace().item() / w.numel(), "squared length"),
    (lambda w, H: (w.square().sum() * H.trace() / w.numel()).item(), "own length"),
    (lambda w, H: (w.flatten() @ H @ w.flatten()).item(), "over random directions"),
    (lambda w, H: (w.flatten() ** 2 @ H.diagonal()).item(), "over random directions"),
    (
        lambda w, H: (w.norm(dim=1) * trace_of(filter_blocks(w, H))).sum().item() / 4,
        "squared length",
    ),
    (lambda w, H: w.square().sum().item(), "three times"),
    (lambda w, H: expected(w.T, H), "over random directions"),
    (lambda w, H: expected(w, H) + 1e-3 * H[0, 11].item(), "different weights"),
]

WRONG = numbered(7, WRONG_1, WRONG_2, WRONG_3, WRONG_4, WRONG_5)


# ---------------------------------------------------------------- right ones


def right_1(first, second, factors):
    """By matrices: D W1, D b1, W2 D^-1."""
    new = [torch.nn.Linear(layer.in_features, layer.out_features) for layer in (first, second)]
    D = torch.diag(factors)
    new[0].load_state_dict({"weight": D @ first.weight, "bias": D @ first.bias})
    new[1].load_state_dict({"weight": second.weight @ D.inverse(), "bias": second.bias})
    return new


def right_2(network, other, alphas, x, y):
    direction = {
        name: q.detach() - p.detach()
        for (name, p), q in zip(network.named_parameters(), other.parameters())
    }
    return loss_surface(network, [(x, y)], [direction], alphas, progress=False)


def right_3(gradient, w, v):
    unit = v / v.norm()
    return v.norm() * (gradient(w - 1e-5 * unit) - gradient(w + 1e-5 * unit)) / -2e-5


def right_4(product, d, steps):
    """Lanczos, as SciPy has it."""
    operator = LinearOperator(
        (d, d), lambda v: product(torch.from_numpy(v.ravel())).numpy(), dtype="float64"
    )
    return eigsh(operator, 1, which="SA", return_eigenvectors=False)[0]


def right_5(weight, hessian):
    """By drawing, with the normalised directions of the library's function."""
    layer = torch.nn.Linear(*reversed(weight.shape), bias=False).double()
    layer.weight.data = weight
    each = []
    for i in range(len(weight)):  # E[u u^T] = I / k for a unit vector u of k weights
        k = weight.shape[1]
        rows = slice(i * k, (i + 1) * k)
        delta = random_direction(layer)["weight"][i]
        each.append(delta @ delta * torch.linalg.eigvalsh(hessian[rows, rows]).mean())
    return sum(each).item()


RIGHT = numbered(
    7,
    [rescaled(all_right), right_1],
    [between(), right_2],
    [central, right_3],
    [guarded, right_4],
    [expected, right_5],
)
test_a_wrong_answer_is_told_why, test_a_right_answer_passes = two_tests(WRONG, RIGHT)
