"""Checks of chapter 6: sharpness and SAM."""

import numpy as np
import torch
from torch import Tensor

from igm_book.exercises import require


def exercise_1(perturbation):
    """``perturbation(gradients, rho)``: eps* of Eq. 7 over a list of tensors."""
    gradients = [torch.randn(3, 4), torch.randn(3), torch.randn(2, 3, 2, 2)]
    before = [g.clone() for g in gradients]
    eps = list(perturbation(gradients, 0.3))
    require(
        len(eps) == 3 and all(e.shape == g.shape for e, g in zip(eps, gradients)),
        "It should return a list with a tensor for each gradient, of the same shape.",
    )
    require(
        all(torch.equal(g, b) for g, b in zip(gradients, before)),
        "The gradients should be as they were before: make new tensors.",
    )
    moved, g = (np.concatenate([t.numpy().ravel() for t in ts]) for ts in (eps, gradients))
    require(
        np.isclose(np.sqrt((moved.astype(np.float64) ** 2).sum()), 0.3, rtol=1e-4),
        "Its length over all tensors together should be rho: one norm for the whole list.",
    )
    require(moved @ g > 0, "It should climb: eps points along the gradient, not against it.")
    require(
        np.allclose(moved / 0.3, g / np.sqrt((g.astype(np.float64) ** 2).sum()), atol=1e-5),
        "It should point exactly along the gradient: every tensor by the same factor.",
    )
    zeros = list(perturbation([torch.zeros(2), torch.zeros(3)], 0.3))
    require(
        all(torch.equal(e, torch.zeros_like(e)) for e in zeros),
        "Where all gradients are zero there is no direction: eps should be 0, not NaN.",
    )


def exercise_2(sam_step):
    """``sam_step(loss, w, rho, lr)``: one step of SAM with plain gradient descent, on a function of one tensor."""
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    before = w.clone()

    def bowl(w: Tensor) -> Tensor:
        return w @ w  # its gradient is 2 w, everywhere along w

    require(
        torch.allclose(sam_step(bowl, w.clone(), 0.0, 0.1), 0.8 * w),
        "With rho = 0 it should be a step of gradient descent.",
    )
    require(
        torch.allclose(sam_step(bowl, w.clone(), 0.5, 0.0), w),
        "With lr = 0 the weights should stay where they are: the climb is taken back.",
    )
    found = sam_step(bowl, w, 0.5, 0.1)
    require(torch.equal(w, before), "The tensor w should be as it was before: return a new one.")
    require(not found.requires_grad, "The result should not drag a graph along: detach it.")
    longer = 1 + 0.5 / np.sqrt((w.numpy() ** 2).sum())  # w + eps* = longer * w
    require(
        torch.allclose(found, w - 0.1 * 2 * longer * w),
        "It should step from w along the gradient at w + eps*, where eps* has length rho and points uphill.",
    )
    found = sam_step(lambda w: (w**4).sum() / 4, torch.tensor([1.0, 2.0]), 0.5, 1.0)
    w = np.array([1.0, 2.0])
    up = w + 0.5 * w**3 / np.sqrt((w**6).sum())
    require(
        np.allclose(found.numpy(), w - up**3, atol=1e-5),
        "The gradient at w + eps* should treat eps* as a constant: Eq. 8 drops its derivative.",
    )


def exercise_3(hidden_step):
    """``hidden_step(w)``: for float32 weights, half the distance to the next number away from zero."""
    w = np.array([1.0, 1.5, 0.05, -0.05, 1e-6, 3.0, -1e-3], dtype=np.float32)
    step = np.asarray(hidden_step(w))
    require(step.shape == w.shape, "It should return a step for each weight.")
    require(
        (step > 0).all(), "A step is a length: it should be positive for negative weights, too."
    )
    sign = np.sign(w)
    under, over = ((w + sign * (factor * step).astype(np.float32)) for factor in (0.98, 1.02))
    require((under == w).all(), "A slightly smaller step should leave the weight unchanged.")
    require((over != w).all(), "A slightly larger step should change the weight.")
    next_one = np.nextafter(w, sign * np.float32(np.inf)).astype(np.float64)
    require(
        np.allclose(step, np.abs(next_one - w) / 2, rtol=1e-3),
        "It should be half the distance from the weight to the next float32 number.",
    )


def exercise_4(ball_maximum):
    """``ball_maximum(loss, w, rho, n)``: the largest loss at n points drawn evenly from the ball around w."""
    w = torch.tensor([1.0, -3.0])
    before = w.clone()
    points = []

    def recorded(point: Tensor) -> Tensor:
        points.append(point.detach().clone())
        return point[0]

    largest = float(ball_maximum(recorded, w, 0.5, 3000))
    require(torch.equal(w, before), "The weights should be as they were before.")
    require(len(points) == 3000, "It should evaluate the loss at n points.")
    away = torch.stack(points) - w  # (n, 2)
    radius = away.norm(dim=1) / 0.5
    require(radius.max() <= 1 + 1e-5, "No point should be further than rho from w.")
    values = torch.stack(points)[:, 0]
    require(
        np.isclose(largest, values.max().item()),
        "It should return the largest loss that it saw.",
    )
    inside = (radius < 0.5).float().mean().item()
    require(
        abs(inside - 0.25) < 0.04,
        "The ball should be filled evenly: in the plane, a quarter of the points within rho / 2. Mind the radius.",
    )
    angle = torch.atan2(away[:, 1], away[:, 0])
    even = all(abs((k * angle).cos().mean()) < 0.06 for k in (1, 2, 4))
    require(even, "All directions should be equally likely.")


def exercise_5(adaptive_perturbation):
    """``adaptive_perturbation(weights, gradients, rho)``: the perturbation of ASAM."""
    weights = [torch.tensor([[0.5, -2.0], [1.0, 4.0]]), torch.tensor([-0.25, 3.0])]
    gradients = [torch.tensor([[1.0, 2.0], [-1.0, 0.5]]), torch.tensor([-3.0, 1.0])]
    eps = list(adaptive_perturbation(weights, gradients, 0.2))
    require(
        len(eps) == 2 and all(e.shape == w.shape for e, w in zip(eps, weights)),
        "It should return a list with a tensor for each weight, of the same shape.",
    )
    e, w, g = (np.concatenate([t.numpy().ravel() for t in ts]) for ts in (eps, weights, gradients))
    require(
        np.isclose(np.sqrt(((e / w) ** 2).sum()), 0.2, rtol=1e-4),
        "Relative to the weights, eps / |w|, its length over all tensors should be rho.",
    )
    # Of all perturbations of that relative length, it is the one that climbs most.
    others = np.random.default_rng(0).standard_normal((20000, len(w)))
    others *= 0.2 / np.linalg.norm(others, axis=1, keepdims=True)
    require(
        e @ g >= ((others * np.abs(w)) @ g).max(),
        "Of all eps with that relative length, it should raise the linearised loss most.",
    )
    factors = (10.0, 0.5)
    scaled = adaptive_perturbation(
        [f * w for f, w in zip(factors, weights)], [g / f for f, g in zip(factors, gradients)], 0.2
    )
    require(
        all(torch.allclose(s, f * e, rtol=1e-4) for s, f, e in zip(scaled, factors, eps)),
        "When a tensor is scaled, and its gradient by the inverse, eps should scale with the tensor.",
    )
