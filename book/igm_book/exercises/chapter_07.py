"""Checks of chapter 7: the loss landscape."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from igm_book.exercises import require


def exercise_1(rescale_neurons):
    """``rescale_neurons(first, second, factors)``: two linear layers that compute the same through a ReLU."""
    first, second = nn.Linear(5, 4), nn.Linear(4, 3)
    factors = torch.tensor([0.25, 1.0, 3.0, 8.0])
    before = copy.deepcopy(nn.ModuleList([first, second])).state_dict()
    found = rescale_neurons(first, second, factors)
    require(
        isinstance(found, tuple | list)
        and [getattr(layer, "weight", torch.zeros(())).shape for layer in found]
        == [first.weight.shape, second.weight.shape],
        "It should return two linear layers, of the same shapes as the old ones.",
    )
    after = nn.ModuleList([first, second]).state_dict()
    require(
        all(torch.equal(before[name], after[name]) for name in before),
        "The two layers should be as they were before: change copies of them.",
    )
    x = 2 * torch.randn(50, 5)
    with torch.no_grad():
        hidden, wanted = found[0](x).relu(), first(x).relu()
        require(
            torch.allclose(hidden, wanted * factors, atol=1e-5),
            "Each hidden neuron should answer its own factor times as much as before: scale its weights and its bias.",
        )
        require(
            torch.allclose(found[1](hidden), second(wanted), atol=1e-5),
            "The output should not change: the second layer takes each factor back from the weights that read its "
            "neuron, and keeps its bias.",
        )


def exercise_2(loss_between):
    """``loss_between(network, other, alphas, x, y)``: the loss on the straight line from one network to another."""
    network, other = (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2))
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    alphas = [-0.5, 0.0, 0.3, 1.0]
    before = [p.detach().clone() for p in (*network.parameters(), *other.parameters())]
    found = torch.as_tensor(loss_between(network, other, alphas, x, y))
    require(found.shape == (4,), "It should return one loss for each alpha.")
    require(not found.requires_grad, "The losses should not drag a graph along: use no_grad.")
    after = [*network.parameters(), *other.parameters()]
    require(
        all(torch.equal(p, q) for p, q in zip(before, after)),
        "Both networks should be as they were before.",
    )
    found = found.numpy()
    expected = np.array([_loss_at(network, other, alpha, x, y) for alpha in alphas])
    require(
        np.isclose(found[1], expected[1], rtol=1e-4),
        "At alpha = 0 it should be the mean cross-entropy of the first network.",
    )
    require(
        np.isclose(found[3], expected[3], rtol=1e-4),
        "At alpha = 1 it should be the loss of the other network.",
    )
    require(
        np.allclose(found, expected, rtol=1e-4),
        "Between them, and beyond, every parameter should be on the line: (1 - alpha) theta + alpha theta'. Mix the "
        "weights, biases too, and not the losses.",
    )


def _loss_at(network: nn.Sequential, other: nn.Sequential, alpha: float, x, y) -> float:
    """By NumPy, in float64."""
    theta, theta_other = (
        [p.detach().numpy().astype(np.float64) for p in net.parameters()]
        for net in (network, other)
    )
    W1, b1, W2, b2 = [p + alpha * (q - p) for p, q in zip(theta, theta_other)]
    logits = np.maximum(x.numpy() @ W1.T + b1, 0) @ W2.T + b2
    log_sum = np.log(np.exp(logits).sum(1))
    return float((log_sum - logits[np.arange(len(y)), y.numpy()]).mean())


def exercise_3(product):
    """``product(gradient, w, v)``: the Hessian-vector product from two gradients."""
    generator = np.random.default_rng(0)
    A = generator.standard_normal((4, 4))
    hessian = torch.from_numpy(A + A.T)
    b = torch.from_numpy(generator.standard_normal(4))
    asked = []

    def of_quadratic(w: Tensor) -> Tensor:
        asked.append(w.detach().clone())
        return hessian @ w + b

    w, v = (torch.from_numpy(generator.standard_normal(4)) for _ in range(2))
    before = w.clone(), v.clone()
    found = product(of_quadratic, w, v)
    require(
        isinstance(found, Tensor) and found.shape == w.shape,
        "It should return a vector as long as w.",
    )
    require(torch.equal(w, before[0]) and torch.equal(v, before[1]), "w and v should not change.")
    require(
        torch.allclose(found, hessian @ v, rtol=1e-4, atol=1e-5),
        "For a quadratic it should be H v: the change of the gradient along v, divided by the length of the way.",
    )
    require(len(asked) == 2, "Two gradients should do.")
    require(
        ((asked[0] + asked[1]) / 2 - w).norm() < 0.01 * (asked[0] - asked[1]).norm(),
        "The two points should lie on both sides of w: then the error is of second order.",
    )
    # The Hessian of sum(exp(w)) is diag(exp(w)); its third derivative is large, so the step must be small.
    w = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    v = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    exact = torch.from_numpy(np.exp(w.numpy()) * v.numpy())
    for length in (1.0, 1000.0):
        require(
            torch.allclose(product(torch.exp, w, length * v), length * exact, rtol=1e-4),
            "It should be exact to four digits for a long v, too: choose the step by the length of v, small against "
            "the weights, but not so small that the gradients' difference rounds away.",
        )


def exercise_4(smallest_eigenvalue):
    """``smallest_eigenvalue(product, d, steps)``: by power iteration on a shifted matrix."""
    for *pairs, where in [
        ((1.0, 0.5), (4.0, -2.0), (-1.0, 2.0), "the largest in magnitude is positive"),
        ((1.0, 0.5), (2.0, -2.0), (-4.0, 4.0), "the largest in magnitude is negative"),
        ((2.0, 0.5), (4.0, -1.0), (2.0, 1.0), "none is negative"),
        ((-2.0, -0.5), (-2.0, -1.0), (-4.0, 2.0), "none is positive"),
    ]:
        asked = []

        def product(v: Tensor, pairs=pairs, asked=asked) -> Tensor:
            asked.append(1)
            return _of_pairs(pairs, v.double())

        found = float(smallest_eigenvalue(product, 6, 200))
        exact = pairs[-1][0] - pairs[-1][1]
        require(
            np.isclose(found, exact, atol=1e-2),
            f"It should be the smallest eigenvalue, with its sign, where {where} (here {exact:g}).",
        )
        require(len(asked) <= 500, "It should not need more than about 2 steps products.")


def _of_pairs(pairs: list[tuple[float, float]], v: Tensor) -> Tensor:
    """v times blocks [[a, b], [b, a]] along the diagonal: eigenvalues a + b along (1, 1) and a - b along (1, -1).

    The smallest and the largest eigenvalue belong to (1, -1) of the last two blocks. An iteration that begins with
    (1, 1, ...) or with (1, 0, 0, ...) never sees them: a component along an eigenvector that is less than a millionth
    of v counts as zero, so that no processor's rounding brings in what the vector does not have.
    """
    along = torch.stack([v[::2] + v[1::2], v[::2] - v[1::2]]) / 2  # of each block: (1, 1), (1, -1)
    along[along.abs() < 1e-6 * v.norm()] = 0.0
    a, b = torch.tensor(pairs, dtype=v.dtype).T
    even, odd = along * torch.stack([a + b, a - b])
    return torch.stack([even + odd, even - odd], 1).flatten()


def exercise_5(mean_curvature):
    """``mean_curvature(weight, hessian)``: of filter-normalised random directions of one layer."""
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.standard_normal((3, 4)) * [[0.1], [1.0], [5.0]])
    A = generator.standard_normal((12, 12))
    hessian = torch.from_numpy(A @ A.T)
    identity = float(mean_curvature(weight, torch.eye(12, dtype=weight.dtype)))
    length = float((weight.numpy() ** 2).sum())
    require(
        np.isclose(identity, length),
        "Where H is the identity it should be the squared length of the direction, which is that of the weights.",
    )
    found = float(mean_curvature(weight, hessian))
    require(
        np.isclose(float(mean_curvature(weight, 3 * hessian)), 3 * found),
        "It should be three times as large for three times the Hessian.",
    )
    require(
        np.isclose(float(mean_curvature(10 * weight, hessian / 100)), found),
        "It should not change when the weights are ten times larger and the Hessian a hundred times smaller.",
    )
    # 20,000 directions, drawn and normalised as in Li et al.
    noise = generator.standard_normal((20000, 3, 4))
    noise /= np.linalg.norm(noise, axis=2, keepdims=True)
    delta = (noise * np.linalg.norm(weight.numpy(), axis=1)[:, None]).reshape(-1, 12)
    curvature = np.einsum("ni,ij,nj->n", delta, hessian.numpy(), delta)
    require(
        np.isclose(found, curvature.mean(), rtol=0.03),
        "It should be the mean of delta^T H delta over random directions, each filter (row) with its own length.",
    )
    blocks = hessian.clone()
    for i in range(3):
        blocks[4 * i : 4 * i + 4, 4 * i : 4 * i + 4] = 0
    require(
        abs(float(mean_curvature(weight, blocks))) < 1e-6,
        "What H says of two different weights should cancel: only its diagonal counts.",
    )
