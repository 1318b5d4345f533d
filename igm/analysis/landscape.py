r"""The loss around trained weights: surfaces, curvature and the worst case nearby.

A surface is the mean loss on a line or a plane through the weights theta,

    f(alpha, beta) = L(theta + alpha delta_1 + beta delta_2)

along random directions whose filters are as long as those of the weights (Li et al., "Visualizing the Loss
Landscape of Neural Nets", NeurIPS 2018),

    delta_i  <-  delta_i / ||delta_i||  ||theta_i||         i: a filter, the weights of one output

A ReLU network computes the same when a layer's weights are ten times larger and the next one's ten times smaller;
only steps measured by the weights can be compared between networks. Biases and normalisation layers do not move.

Two measures of sharpness need no picture: the largest eigenvalues and the trace of the Hessian of L, and the loss
that SAM minimises (Eq. 6),

    max_{||eps||_2 <= rho} L(theta + eps)

All functions take a model, batches of (inputs, labels) and a loss. The model is called on the inputs: a Unimodal
takes a tensor, a LateFusion or Concatenation the batch dict. It runs in evaluation mode, with its buffers as they
are, and comes back with its weights, its modes and torch's random state untouched.

    network, x, y = model["image"], dataset.inputs["image"], dataset.labels
    directions = [random_direction(network, seed) for seed in (0, 1)]
    loss_surface(network, [(x, y)], directions, alphas, betas)
    loss_surface(model, [(dataset.inputs, y)], [random_direction(model)], alphas)      # fused, on a line
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from igm.runs import progress_bar
from igm.sam import perturbation
from igm.seeds import derive_seed

Loss = Callable[..., Tensor]  # (what the model returns, labels (n,)) -> the batch's mean loss
Batches = Iterable[tuple[Tensor | Mapping[str, Tensor], Tensor]]  # (inputs, labels)


def cross_entropy(output: Tensor | Mapping[str, Tensor], labels: Tensor) -> Tensor:
    """The mean cross-entropy (Eq. 1) of logits, (n, c); of several modalities' logits, that of their mean probability.

    Another fusion is another loss: ``lambda output, y: F.nll_loss(igm.fuse(output, "entropy").log(), y)``.
    """
    if isinstance(output, Tensor):
        return F.cross_entropy(output, labels)
    log_p = torch.stack([logits.log_softmax(-1) for logits in output.values()])  # (m, n, c)
    return F.cross_entropy(log_p.logsumexp(0), labels)  # its softmax is the mean of the m softmaxes


def random_direction(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A filter-normalised Gaussian direction: parameter name -> tensor of its shape (Li et al., 2018, section 4).

    A filter is one output row of a linear layer or one output filter of a convolution: the weights at one index of
    the first dimension. Parameters of one dimension (biases, BatchNorm) and of none get zeros. The draw is a function
    of the seed and the parameter's name.
    """
    direction = {}
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        direction[name] = torch.zeros_like(weight)
        if weight.ndim < 2:
            continue
        generator = torch.Generator().manual_seed(derive_seed(seed, "direction", name))
        noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        filters = tuple(range(1, weight.ndim))
        norm = torch.linalg.vector_norm
        scale = norm(weight, dim=filters, keepdim=True) / norm(noise, dim=filters, keepdim=True)
        direction[name] = noise * scale
    return direction


@torch.no_grad()
def loss_surface(
    model: nn.Module,
    batches: Batches,
    directions: Sequence[Mapping[str, Tensor]],
    alphas: Sequence[float],
    betas: Sequence[float] | None = None,
    loss: Loss = cross_entropy,
    chunk: int = 1,
    progress: bool = True,
) -> Tensor:
    """The mean loss at theta + alpha delta_1, or at theta + alpha delta_1 + beta delta_2.

    Each batch is read once and evaluated at all points of the grid before the next one is read. So give large batches,
    and as few of them as memory allows.

    Args:
        batches: (inputs, labels), on the model's device; they may come from a DataLoader or a generator.
        directions: one for ``alphas``, and another for ``betas``: ``random_direction``, or any name -> tensor
            such as the difference to another model's weights. What a direction does not name stays at theta.
        loss: mean over a batch. The error rate has a surface too: ``lambda z, y: (z.argmax(1) != y).double().mean()``.
        chunk: points at a time (by vmap); memory grows with it. It is meant for a GPU, where small operations cost
            less than starting them. On a CPU 1 is fastest with batches of 256 or more: vmap turns convolutions
            into slower grouped ones, and matrix products gain nothing.
        progress: show a bar over the points.

    Returns:
        (len(alphas),) or (len(alphas), len(betas)), float64, on the CPU.

    Raises:
        ValueError: directions that do not fit the model or the axes, a chunk below 1, or no data.
    """
    axes = [torch.as_tensor(axis) for axis in (alphas, betas) if axis is not None]
    theta = _weights(model)
    _check_directions(directions, theta, len(axes))
    if chunk < 1:
        raise ValueError(f"chunk must be 1 or above, got {chunk}: it counts points of the grid")
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))  # (points, 1 or 2)
    grid = grid.to(next(iter(theta.values())))

    def loss_at(point: Tensor, inputs, labels: Tensor) -> Tensor:
        weights = dict(theta)
        for c, direction in zip(point, directions):
            for name, d in direction.items():
                weights[name] = torch.addcmul(weights[name], d, c)  # theta + alpha delta_1 ...
        return loss(functional_call(model, weights, (inputs,)), labels)

    total, samples = torch.zeros(len(grid), dtype=torch.float64), 0
    passes = len(batches) * len(grid) if hasattr(batches, "__len__") else None
    bar = progress_bar(progress, total=passes, desc="loss surface", unit="point")
    with _borrowed(model), bar:
        for inputs, labels in _pairs(batches):
            start = 0
            for points in grid.split(chunk):
                if chunk == 1:
                    losses = loss_at(points[0], inputs, labels)
                else:
                    losses = vmap(loss_at, in_dims=(0, None, None))(points, inputs, labels)
                total[start : start + len(points)] += len(labels) * losses.double().cpu()
                start += len(points)
                bar.update(len(points))
            samples += len(labels)
    return (total / samples).reshape([len(axis) for axis in axes])


def hessian_eigenvalues(
    model: nn.Module,
    batches: Batches,
    k: int = 1,
    parameters: Iterable[nn.Parameter] | None = None,
    loss: Loss = cross_entropy,
) -> Tensor:
    """The k largest eigenvalues of the Hessian of the mean loss, by Lanczos iteration on Hessian-vector products.

    Args:
        batches: (inputs, labels), on the model's device; all are kept, for each iteration reads them again.
        k: how many, from 1 to the number of weights - 1.
        parameters: restrict the Hessian to these, e.g. ``model.head.parameters()``; by default all.

    Returns:
        (k,), float64, largest first.

    Raises:
        ValueError: k out of range, parameters that are not the model's, or no data.
    """
    from scipy.sparse.linalg import eigsh

    with _hessian(model, batches, parameters, loss) as hessian:
        weights = hessian.shape[0]
        if not 1 <= k < weights:
            raise ValueError(
                f"k must be from 1 to {weights - 1}, got {k}: the Hessian has {weights} rows"
            )
        start = np.random.default_rng(0).standard_normal(weights)
        eigenvalues = eigsh(
            hessian.to_scipy(), k, which="LA", v0=start, tol=1e-4, return_eigenvectors=False
        )
    return torch.from_numpy(eigenvalues).sort(descending=True).values


def hessian_trace(
    model: nn.Module,
    batches: Batches,
    matvecs: int = 30,
    parameters: Iterable[nn.Parameter] | None = None,
    loss: Loss = cross_entropy,
    seed: int = 0,
) -> float:
    """The trace of the Hessian of the mean loss, estimated by Hutch++ (Meyer et al., SOSA 2021).

    A third of the Hessian-vector products finds the subspace where the Hessian is large, in which the trace is
    exact; the rest of it is estimated with random vectors of +1 and -1.

    Args:
        batches, parameters: see ``hessian_eigenvalues``.
        matvecs: Hessian-vector products, a multiple of 3 below the number of weights.
        seed: of the random vectors.

    Raises:
        ValueError: matvecs out of range, parameters that are not the model's, or no data.
    """
    with _hessian(model, batches, parameters, loss) as hessian:
        weights = hessian.shape[0]
        if matvecs % 3 or not 3 <= matvecs < weights:
            raise ValueError(
                f"matvecs must be a multiple of 3 from 3 to {weights - 1}, got {matvecs}"
            )
        from curvlinops import hutchpp_trace

        torch.manual_seed(derive_seed(seed, "trace"))
        return hutchpp_trace(hessian, matvecs).item()


def worst_case_loss(
    model: nn.Module,
    batches: Batches,
    rhos: Sequence[float],
    steps: int = 1,
    loss: Loss = cross_entropy,
) -> Tensor:
    """Lower bounds of the largest mean loss within rho of the weights, max_{||eps|| <= rho} L(theta + eps) (Eq. 6).

    One step gives the loss that SAM sees, L(theta + rho g / ||g||) with the gradient g at theta (Eq. 7). More steps
    are projected gradient ascent: each moves by rho along the gradient at the last point and back into the ball, and
    the largest loss on the way counts. Each step is a pass over all batches, forward and backward.

    Args:
        batches: (inputs, labels), on the model's device; all are kept.
        rhos: radii, >= 0, in units of the weights; the norm runs over all parameters at once.

    Returns:
        (len(rhos),), float64.

    Raises:
        ValueError: a negative rho, steps below 1, or no data.
        FloatingPointError: the loss became NaN or infinite.
    """
    if steps < 1:
        raise ValueError(f"steps must be 1 (Eq. 7) or above, got {steps}")
    for rho in rhos:
        if not rho >= 0:
            raise ValueError(f"rhos must be 0 or above, got {rho}: try 0.05")
    batches = list(_pairs(batches))
    theta = _weights(model)
    worst = []
    with _borrowed(model):
        at_theta = _gradient(model, theta, batches, loss)
        for rho in rhos:
            weights, gradient = theta, at_theta
            seen = []
            for step in range(steps):
                if step:
                    gradient = _gradient(model, weights, batches, loss)
                eps = perturbation(list(theta.values()), list(gradient.values()), rho)  # Eq. 7
                weights = {name: w + e for (name, w), e in zip(weights.items(), eps)}
                weights = _project(weights, theta, rho)
                seen.append(_mean_loss(model, weights, batches, loss))
                if not np.isfinite(seen[-1]):
                    raise FloatingPointError(
                        f"the loss became {seen[-1]} at rho = {rho}: try a smaller one"
                    )
            worst.append(max(seen))
    return torch.tensor(worst, dtype=torch.float64)


@torch.no_grad()
def _mean_loss(model: nn.Module, weights: dict[str, Tensor], batches: list, loss: Loss) -> float:
    total = sum(len(y) * loss(functional_call(model, weights, (x,)), y).item() for x, y in batches)
    return total / sum(len(y) for _, y in batches)


def _gradient(
    model: nn.Module, weights: dict[str, Tensor], batches: list, loss: Loss
) -> dict[str, Tensor]:
    """The gradient of the mean loss over all batches."""
    samples = sum(len(y) for _, y in batches)
    of_batch = grad(lambda weights, x, y: loss(functional_call(model, weights, (x,)), y))
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for x, y in batches:
        for name, g in of_batch(weights, x, y).items():
            total[name].add_(g, alpha=len(y) / samples)
    return total


def _project(weights: dict[str, Tensor], theta: dict[str, Tensor], rho: float) -> dict[str, Tensor]:
    """The nearest weights in the ball of radius rho around theta."""
    eps = {name: w - theta[name] for name, w in weights.items()}
    norm = torch.linalg.vector_norm(torch.stack([e.norm() for e in eps.values()])).item()
    if norm <= rho:
        return weights
    return {name: theta[name] + (rho / norm) * e for name, e in eps.items()}


@contextmanager
def _hessian(
    model: nn.Module,
    batches: Batches,
    parameters: Iterable[nn.Parameter] | None,
    loss: Loss,
) -> Iterator:
    """The Hessian as a curvlinops operator; inside, the model is in evaluation mode and random draws leave no trace."""
    parameters = list(model.parameters() if parameters is None else parameters)
    own = {id(p) for p in model.parameters()}
    if not parameters or any(id(p) not in own for p in parameters):
        raise ValueError("parameters must be some of model.parameters(), e.g. those of its head")
    batches = list(_pairs(batches))
    with _borrowed(model), torch.random.fork_rng(), warnings.catch_warnings():
        # torch's forward-mode differentiation uses torch.jit, and warns that it will go.
        warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)
        from curvlinops import HessianLinearOperator

        yield HessianLinearOperator(
            model,
            _Criterion(loss),
            parameters,
            batches,
            check_deterministic=False,  # it is, in evaluation mode; the check costs four passes
            num_data=sum(len(y) for _, y in batches),
            batch_size_fn=lambda x: len(x if isinstance(x, Tensor) else next(iter(x.values()))),
        )


class _Criterion(nn.Module):
    """A loss in the form that curvlinops expects."""

    reduction = "mean"

    def __init__(self, loss: Loss):
        super().__init__()
        self.loss = loss

    def forward(self, output, labels: Tensor) -> Tensor:
        return self.loss(output, labels)


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Inside, every module is in evaluation mode; afterwards each has its mode and its parameters again."""
    # functional_call does not give back the parameters of a module that the model holds twice, e.g. a shared
    # head (pytorch issue 164759). What it computes is right.
    held = [(module, module.training, dict(module._parameters)) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training, parameters in held:
            module.training = training
            module._parameters.update(parameters)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def _pairs(batches: Batches) -> Iterator[tuple]:
    """The batches one by one, each checked to be (inputs, labels)."""
    empty = True
    for batch in batches:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise TypeError(
                "batches must be pairs (inputs, labels): give [(x, y)], or [(batch, batch['label'])] for a fused model"
            )
        yield batch
        empty = False
    if empty:
        raise ValueError(
            "there is no batch: give (inputs, labels) pairs, in a list to use them again"
        )


def _check_directions(directions: Sequence, theta: dict[str, Tensor], axes: int) -> None:
    if isinstance(directions, Mapping) or len(directions) != axes:
        raise ValueError(
            f"directions must be a list of {axes}: one for alphas, and a second one only with betas"
        )
    for direction in directions:
        for name, d in direction.items():
            if name not in theta:
                raise ValueError(f"a direction names {name!r}, which the model does not have")
            if d.shape != theta[name].shape:
                raise ValueError(
                    f"the direction of {name!r} is {tuple(d.shape)}, its weight {tuple(theta[name].shape)}: "
                    "make it for this model"
                )
