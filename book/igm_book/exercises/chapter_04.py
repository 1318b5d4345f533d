"""Checks of chapter 4: alternating training and plasticity."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from igm_book.exercises import require


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(a: object, b: object, rtol: float = 1e-6) -> bool:
    """Of the same shape and equal up to rounding."""
    a, b = (np.asarray(torch.as_tensor(x).detach(), dtype=float) for x in (a, b))
    return a.shape == b.shape and np.allclose(a, b, rtol=rtol, atol=1e-8)


def exercise_1(answer):
    w, v = draw(5), draw(5, seed=1)
    before = w.clone(), v.clone()

    def answered(w, v, *settings):
        return answer(w.clone(), v.clone(), *settings)

    require(
        close(answered(w, v, 0.1, 0.9, 0.01, 0), w), "After no step at all the weight should be w."
    )
    decayed = answered(w, 0 * v, 0.1, 0.0, 0.02, 3)
    require(
        close(decayed, w * (1 - 0.1 * 0.02) ** 3),
        "Without momentum, every step should shrink the weight by the factor 1 - lr * weight_decay.",
    )
    rolled = answered(w, v, 0.1, 0.5, 0.0, 3)
    require(
        close(rolled, w - 0.1 * v * (0.5 + 0.25 + 0.125)),
        "Without weight decay, step t should move the weight by -lr * momentum^t * v: the old buffer is first multiplied by "
        "the momentum, then used.",
    )
    p = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([p], lr=0.1, momentum=0.9, weight_decay=0.3)
    sgd.state[p]["momentum_buffer"] = v.clone()
    for _ in range(4):
        p.grad = torch.zeros_like(p)
        sgd.step()
    require(
        close(answered(w, v, 0.1, 0.9, 0.3, 4), p),
        "With both, it should be what torch.optim.SGD does: weight decay is added to the gradient, so it goes through the "
        "momentum, too.",
    )
    answer(w, v, 0.1, 0.9, 0.3, 4)
    require(
        torch.equal(w, before[0]) and torch.equal(v, before[1]),
        "It should return a new weight and leave w and v as they are.",
    )


def exercise_2(answer):
    # The first layer is square: there T on the wrong side has the right shape, and only the numbers are wrong.
    x_old, x_new, y = draw(9, 6), draw(9, 6, seed=1), torch.arange(9) % 4
    weights = {"fc1": draw(6, 6, seed=2) / 3, "fc2": draw(4, 6, seed=3) / 3}

    def loss(weights, x):
        return F.cross_entropy(torch.relu(x @ weights["fc1"].T) @ weights["fc2"].T, y)

    def gradients(x):
        leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
        found = torch.autograd.grad(loss(leaves, x), list(leaves.values()))
        return dict(zip(leaves, found))

    def slope(step):
        """The derivative of the old loss along the step, by finite differences."""
        ahead, behind = (
            loss({name: w + t * step[name] for name, w in weights.items()}, x_old).item()
            for t in (1e-5, -1e-5)
        )
        return (ahead - behind) / 2e-5

    old, new = gradients(x_old), gradients(x_new)
    T = {"fc1": draw(6, 6, seed=4) @ torch.diag(torch.linspace(0.1, 1, 6)).double()}
    T["fc1"] = T["fc1"] @ T["fc1"].T / 6
    plain = float(answer(old, new, 0.1, {}))
    require(
        close(answer(old, new, 0.3, {}), 3 * plain),
        "Three times eta should give three times the change.",
    )
    wanted = 0.1 * slope({name: -g for name, g in new.items()})
    require(
        not close(plain, -wanted, 1e-4),
        "The sign: the step is -eta times the new gradient, so gradients that point the same way should make the old loss "
        "fall.",
    )
    require(
        close(plain, wanted, 1e-4),
        "Without T it should be the change of the old loss to first order, summed over the layers: minus eta times the inner "
        "products of the two gradients.",
    )
    step = {"fc1": -new["fc1"] @ T["fc1"], "fc2": -new["fc2"]}
    require(
        close(answer(old, new, 0.1, T), 0.1 * slope(step), 1e-4),
        "With T it should be the change along the modified step: T multiplies the new gradient from the right, the side of "
        "the inputs, and a layer without a T keeps its gradient.",
    )


def exercise_3(answer):
    start = draw(7, 7)
    P = torch.linalg.inv(torch.eye(7).double() + start @ start.T)
    R = draw(4, 7, seed=1)
    before = P.clone()

    def answered(P, R, alpha):
        return answer(P.clone(), R.clone(), alpha)

    def dense(P, R, alpha):
        P, R = np.asarray(P), np.asarray(R)
        return np.linalg.inv(np.linalg.inv(P) + R.T @ R / alpha)

    eye = torch.eye(7).double()
    one = answered(eye, R[:1], 0.5)
    require(
        one is not None and tuple(one.shape) == (7, 7),
        "It should return a matrix of the shape of P.",
    )
    require(
        close(one, dense(eye, R[:1], 0.5)),
        "For P = I and one feature r it should be I - r r^T / (alpha + r^T r).",
    )
    require(
        close(answered(eye, R, 0.5), dense(eye, R, 0.5)),
        "For P = I and several features it should be alpha (alpha I + R^T R)^-1. Features that are not orthogonal to each "
        "other have to be taken out together, through a matrix of their inner products.",
    )
    require(
        close(answered(P, R, 0.5), dense(P, R, 0.5)),
        "From a P that has seen features before, it should give what taking out the features one by one gives: P stands "
        "inside the inner products, too.",
    )
    twice = torch.cat([R, R[:2]])
    require(
        close(answered(P, twice, 0.5), dense(P, twice, 0.5)),
        "Features may be linearly dependent: alpha keeps the matrix that is inverted away from singular.",
    )
    require(
        close(answered(P, R, 0.01), dense(P, R, 0.01), 1e-4),
        "Another alpha should give another P: alpha I is added to the inner products.",
    )
    answer(P, R, 0.5)
    require(torch.equal(P, before), "It should return a new matrix and leave P as it is.")


def exercise_4(answer):
    features = draw(5, 8)
    moment = features.T @ features
    for M, alpha, what in (
        (moment, 0.3, "With five features of eight dimensions"),
        (0 * moment, 0.3, "Before any feature, where all is free,"),
        (moment + 0.1 * torch.eye(8).double(), 2.0, "With an alpha among the eigenvalues"),
    ):
        P = alpha * np.linalg.inv(alpha * np.eye(8) + M.numpy())
        eigenvalues = np.linalg.eigvalsh(P)
        count, share = answer(M, alpha)
        require(
            int(count) == (eigenvalues > 0.5).sum(),
            f"{what} the first number should be how many eigenvalues of P are above one half, where those of P are "
            "alpha / (alpha + lambda).",
        )
        require(not close(float(share), np.trace(P)), "The trace should be divided by d.")
        require(
            close(float(share), np.trace(P) / 8),
            f"{what} the second number should be trace(P) / d, the mean of the eigenvalues of P.",
        )
    counts = answer(1000 * moment, 300.0), answer(moment, 0.3)
    require(
        close([float(x) for x in counts[0]], [float(x) for x in counts[1]]),
        "A moment and an alpha that are both a thousand times as large should give the same.",
    )


def exercise_5(answer):
    inputs = draw(3, 6)
    rows = np.hstack([inputs.numpy(), np.ones((3, 1))])  # a bias is a weight whose input is 1
    P = torch.from_numpy(1e-9 * np.linalg.inv(1e-9 * np.eye(7) + rows.T @ rows))
    P = (P + P.T) / 2
    weight, bias = draw(4, 6, seed=1), draw(4, seed=2)
    kept = weight.clone(), bias.clone()
    same = answer(torch.eye(7).double(), weight, bias)
    require(len(same) == 2, "It should return two things: the weight's gradient and the bias's.")
    require(
        tuple(same[0].shape) == (4, 6) and tuple(same[1].shape) == (4,),
        "The two gradients should have the shapes that they came with.",
    )
    require(close(same[0], weight) and close(same[1], bias), "With P = I nothing should change.")
    w, b = answer(P, weight, bias)
    require(
        np.abs(inputs.numpy() @ w.numpy().T + b.numpy()).max() < 1e-5,
        "A step along the two new gradients should not change the layer's output for an input that was seen: weight and bias "
        "have to be projected together, as one weight whose last input is always 1.",
    )
    expected = np.hstack([weight.numpy(), bias.numpy()[:, None]]) @ P.numpy()
    require(
        close(np.hstack([w.numpy(), b.numpy()[:, None]]), expected, 1e-4),
        "They should be the orthogonal projection of the old gradients: no shorter than it has to be, so not zero.",
    )
    require(
        torch.equal(weight, kept[0]) and torch.equal(bias, kept[1]),
        "It should return new gradients and leave the old ones as they are.",
    )
