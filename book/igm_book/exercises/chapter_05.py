"""Checks of chapter 5: flat directions."""

from __future__ import annotations

import math
import weakref

import numpy as np
import torch
from torch import nn

from igm_book.exercises import require


def _moment(eigenvalues: list[float]) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues along random directions, (d, d), float64."""
    d = len(eigenvalues)
    V = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    return V @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ V.T


def exercise_1(matrix):
    """T without a decomposition."""
    moment, tau = _moment([0.5, 2.0, 3.0, 9.0]), 1.3
    values, V = np.linalg.eigh(moment.numpy())
    T = matrix(moment.clone(), tau)
    require(
        isinstance(T, torch.Tensor) and T.shape == (4, 4), "It should return T, (d, d), a tensor."
    )
    weights = np.diag(V.T @ T.double().numpy() @ V)
    off_diagonal = V.T @ T.double().numpy() @ V - np.diag(weights)
    require(
        np.abs(off_diagonal).max() < 1e-6, "T should have the same directions as the moment matrix."
    )
    require(
        abs(weights[0] - 1) < 1e-6,
        "The flattest direction should keep its whole gradient, weight 1, also where lambda_min is not 0.",
    )
    require(
        abs(weights[-1] - math.exp(-tau)) < 1e-6, "The sharpest direction should get exp(-tau)."
    )
    between = np.exp(-tau * (values - 0.5) / 8.5)
    require(
        np.abs(weights - between).max() < 1e-6, "The directions in between should follow Eq. 4 too."
    )
    require(
        torch.allclose(matrix(1000 * moment, tau), T, atol=1e-6),
        "T should not depend on the scale of the moment.",
    )
    equal = matrix(4 * torch.eye(4, dtype=torch.float64), tau)
    require(
        torch.allclose(equal.double(), torch.eye(4, dtype=torch.float64)),
        "Where all eigenvalues are equal no direction is flatter than another: T should be the identity.",
    )


def exercise_2(sgd_step):
    """Eq. 5 on an nn.Linear."""
    T = _moment([0.2, 0.5, 1.0])

    def stepped(c: int):
        """The layer after the step, its gradients, and its weight and bias before it; c outputs."""
        layer = nn.Linear(3, c).double()
        (layer(torch.randn(5, 3).double()) ** 2).sum().backward()
        gradients = layer.weight.grad.clone(), layer.bias.grad.clone()
        before = layer.weight, layer.weight.detach().clone(), layer.bias.detach().clone()
        sgd_step(layer, T.clone(), 0.1)
        return layer, gradients, before

    # As many outputs as inputs: here T on the wrong side raises no error.
    layer, (g, g_bias), (parameter, W, b) = stepped(3)
    require(
        layer.weight is parameter and layer.weight.is_leaf and layer.weight.requires_grad,
        "The layer should keep its own weight, changed in place: an optimiser holds on to that parameter.",
    )
    step = (W - layer.weight.detach()).numpy()
    g, T_np = g.numpy(), T.numpy()
    require(np.abs(step).max() > 0, "The weight should change.")
    expected = np.array([0.1 * T_np @ row for row in g])  # each output unit's gradient is a row
    require(
        not np.allclose(step, -expected),
        "The step should go down: minus the learning rate times T g.",
    )
    require(
        np.allclose(step, expected, atol=1e-10),
        "Each row of weight.grad, the gradient of one output unit, should be multiplied by T "
        "and by the learning rate: T acts on the inputs.",
    )
    require(
        np.allclose((b - layer.bias.detach()).numpy(), 0.1 * g_bias.numpy()),
        "The bias should take a plain step: it has no input direction.",
    )
    layer, (g, _), (_, W, _) = stepped(2)
    require(
        np.allclose((W - layer.weight.detach()).numpy(), 0.1 * g.numpy() @ T_np, atol=1e-10),
        "It should work for a layer with as many outputs as you like.",
    )


def exercise_3(tau_for):
    """The tau at which a direction keeps a given share."""
    moment = _moment([1.0, 2.0, 5.0, 11.0])
    sharpest = tau_for(moment, 0, 0.25)
    require(isinstance(sharpest, float), "It should return a float.")
    require(sharpest > 0, "tau should be positive.")
    require(
        abs(sharpest - 2 * math.log(2)) < 1e-6,
        "For the sharpest direction, k = 0, the weight is exp(-tau): a quarter is kept at tau = ln 4.",
    )
    second = tau_for(moment, 1, 0.25)
    require(
        second > sharpest + 0.01,
        "k counts from the sharpest direction: a flatter one needs a larger tau.",
    )
    for k in (1, 2):
        tau = tau_for(moment, k, 0.25)
        values = np.linalg.eigvalsh(moment.numpy())[::-1]
        kept = math.exp(-tau * (values[k] - values[-1]) / (values[0] - values[-1]))
        require(
            abs(kept - 0.25) < 1e-6,
            f"With your tau, direction k = {k} of the eigenvalues 11, 5, 2, 1 keeps {kept:.3f} "
            "where 0.25 was asked for. Eq. 4 measures from lambda_min.",
        )
    require(
        abs(tau_for(1000 * moment, 1, 0.25) - second) < 1e-6,
        "tau should not depend on the scale of the moment.",
    )
    require(
        tau_for(moment, 3, 0.25) == math.inf,
        "The flattest direction keeps everything at every tau: give math.inf.",
    )


class _Once:
    """Batches that can be read once, like a generator, and how many loops have begun to read them."""

    def __init__(self, batches: list[torch.Tensor]):
        self.batches, self.readers = iter(batches), 0

    def __iter__(self):
        self.readers += 1
        return self.batches

    def __next__(self):
        return next(self.batches)


def exercise_4(streamed_covariance):
    """A centred covariance in one pass."""
    # Unequal batches around a large mean: sums of squares in float32 lose the small variance.
    d, sizes = 3, (7, 1, 40, 12)
    mean = torch.tensor([3000.0, -1000.0, 500.0])
    chunks = [mean + torch.randn(size, d) + i for i, size in enumerate(sizes)]
    Z = torch.cat(chunks).double().numpy()
    before = [chunk.clone() for chunk in chunks]
    C = streamed_covariance(batches := _Once(chunks))
    require(isinstance(C, torch.Tensor) and C.shape == (d, d), "It should return a tensor, (d, d).")
    require(all(map(torch.equal, chunks, before)), "It should leave the batches as they are.")
    C = C.double().numpy()
    require(np.isfinite(C).all(), "It should give finite numbers.")
    require(
        batches.readers == 1,
        "It should read the batches once: they may come from a generator, which is then empty.",
    )
    require(
        np.trace(C) < 1e4,
        "The mean should be subtracted: what you return is nearer to the uncentred second moment.",
    )
    expected = np.cov(Z.T, bias=True)
    within = sum(len(c) * np.cov(c.numpy().T, bias=True) for c in chunks if len(c) > 1) / len(Z)
    averaged = [np.cov(c.numpy().T, bias=True) for c in chunks if len(c) > 1]
    require(
        not any(np.allclose(C, wrong, rtol=1e-3) for wrong in (within, np.mean(averaged, axis=0))),
        "How the batches' means differ should count too: centre with the mean of all inputs.",
    )
    n = len(Z)
    require(
        not any(np.allclose(C, f * expected, rtol=1e-3) for f in (n, n / (n - 1))),
        "The sum should be divided by n, the number of all inputs.",
    )
    batch_means = np.stack([c.double().numpy().mean(0) for c in chunks]).mean(0)
    off = Z - batch_means
    wrong = (off.T @ off / n, Z.T @ Z / n - np.outer(batch_means, batch_means))
    require(
        not any(np.allclose(C, w, rtol=1e-3) for w in wrong),
        "The mean is that of all inputs, not of the batch means: the batches have unequal sizes.",
    )
    require(
        np.allclose(C, expected, rtol=1e-3, atol=1e-3),
        f"It is off by up to {np.abs(C - expected).max():.2g}. The mean is large beside the spread "
        "here: sums of squares in float32 lose it.",
    )
    given, alive = [], []

    def counted():
        for chunk in chunks:
            batch = chunk.clone()
            given.append(weakref.ref(batch))
            yield batch
            del batch
            alive.append(sum(reference() is not None for reference in given))

    streamed_covariance(counted())
    require(
        max(alive) <= 2,
        "It should not keep the batches: only sums, whose size does not grow with their number.",
    )


def exercise_5(patch_moment):
    """The moment of the inputs of a convolution."""
    for settings in ({}, {"padding": 1}, {"stride": 2}, {"padding": 2, "stride": (1, 3)}):
        conv = nn.Conv2d(2, 4, (3, 2), bias=False, **settings).double()
        x = torch.randn(5, 2, 7, 6, dtype=torch.float64)
        Y = patch_moment(x.clone(), conv)
        case = ", ".join(f"{k}={v}" for k, v in settings.items()) or "no padding, stride 1"
        require(
            isinstance(Y, torch.Tensor) and Y.shape == (12, 12),
            "It should return (d, d) with d = in_channels * kernel height * kernel width, here 12.",
        )
        require(torch.allclose(Y, Y.T), "A moment is symmetric.")
        expected = _patch_moment(x.numpy(), conv)
        scale = np.trace(Y.numpy()) / np.trace(expected)
        same_up_to_scale = np.allclose(Y.numpy(), scale * expected)
        require(
            abs(scale - 1) < 1e-3 or not same_up_to_scale,
            f"It should be the plain sum over all samples and places: yours is {scale:.3g} times that ({case}).",
        )
        same_values = np.allclose(np.linalg.eigvalsh(Y.numpy()), np.linalg.eigvalsh(expected))
        require(
            np.allclose(Y.numpy(), expected) or not same_values,
            "The entries of a patch should stand in the order of weight.view(out, -1): channel, row, column.",
        )
        W = conv.weight.detach().view(4, -1)
        require(
            torch.allclose((W @ Y @ W.T).trace(), conv(x).square().sum()),
            f"The squared outputs of the convolution should add up to trace(W Y W^T) ({case}): "
            "take the patches that it really sees.",
        )


def _patch_moment(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """By loops over samples and places."""
    (ph, pw), (sh, sw), (kh, kw) = conv.padding, conv.stride, conv.kernel_size
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    n, _, height, width = x.shape
    total = 0
    for i in range(n):
        for row in range(0, height - kh + 1, sh):
            for column in range(0, width - kw + 1, sw):
                patch = x[i, :, row : row + kh, column : column + kw].ravel()
                total = total + np.outer(patch, patch)
    return total
