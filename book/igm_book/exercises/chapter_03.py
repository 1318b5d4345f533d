"""Checks of chapter 3: remedies in joint training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor, nn

from igm_book.exercises import require


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def close(a: object, b: object, atol: float = 1e-5) -> bool:
    """Of the same shape and equal up to rounding."""
    a, b = (np.asarray(torch.as_tensor(x).detach(), dtype=float) for x in (a, b))
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=atol)


# ---------------------------------------------------------------- 3.1


def exercise_1(answer):
    level = answer({"image": 5.0, "audio": 5.0}, 0.8)
    require(
        isinstance(level, Mapping) and set(level) == {"image", "audio"},
        "It should return a dictionary with a coefficient for each modality.",
    )
    require(
        close(list(level.values()), [1.0, 1.0]),
        "Where the modalities are level, both coefficients should be 1.",
    )
    barely = answer({"image": 5.0, "audio": 5.00001}, 0.8)
    require(
        close(list(barely.values()), [1.0, 1.0], atol=1e-4),
        "A modality that is barely ahead should keep nearly all of its gradient: no jump at 1.",
    )
    k = answer({"image": 2.0, "audio": 6.0}, 0.5)
    require(close(k["image"], 1.0), "A modality that is behind should keep its gradient: k = 1.")
    e = np.exp(2 * 0.5 * (6 / 2 - 1))  # 1 - tanh(x) = 2 / (exp(2 x) + 1)
    require(
        close(k["audio"], 2 / (e + 1)),
        "A modality that is ahead should have 1 - tanh(alpha (rho - 1)), with rho its s over the other's.",
    )
    three = answer({"image": 1.0, "text": 2.0, "audio": 6.0}, 0.3)
    e = np.exp(2 * 0.3 * (6 / 1.5 - 1))
    require(
        close(three["audio"], 2 / (e + 1)) and close(three["text"], 1.0),
        "With three modalities each s should be divided by the mean of the other two.",
    )


# ---------------------------------------------------------------- 3.2


def ratio(a: Tensor, v: Tensor, y: Tensor) -> float:
    a, v = (
        softmax(o.numpy(), axis=1)[range(len(y)), y].sum()
        for o in (a.double().detach(), v.double().detach())
    )
    return a / v


def exercise_2(answer):
    for seed, shares in enumerate([(6, 3, 2, 1), (1, 2, 3, 6), (4, 1, 5, 2)]):
        y = torch.repeat_interleave(torch.arange(4), torch.tensor(shares) * 5)
        a, v = draw(60, 4, seed=seed), 0.1 * draw(60, 4, seed=10 + seed)
        a[torch.arange(60), y] += 4.0
        kept = a.clone(), v.clone()
        b = torch.as_tensor(answer(a, v, y))
        require(
            torch.equal(a, kept[0]) and torch.equal(v, kept[1]),
            "It should leave the logits that it is given as they are.",
        )
        require(
            b.shape == (4,),
            "b should be one vector for all samples, (c,): a bias of the heads can be no other.",
        )
        require(
            bool(torch.isfinite(b).all()) and close((a + b) + (v - b), a + v, atol=1e-3),
            "b should be so small that adding and subtracting it leaves the sum of the logits as it was.",
        )
        require(
            ratio(a + b, v - b, y) < 1,
            "With b added to the modality that was ahead, and subtracted from the other, it should be behind. Try "
            "labels of unequal frequency.",
        )


# ---------------------------------------------------------------- 3.3


def twins(kind, **options):
    """Two networks with the same weights and an optimiser each."""
    torch.manual_seed(0)
    networks = [nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]).double() for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    return networks, [kind(n.parameters(), **options) for n in networks]


def exercise_3(answer):
    for kind, options in (
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.1}),
    ):
        for k in (1.0, 0.25, 0.0):
            (mine, plain), (optimizer, reference) = twins(kind, **options)
            for t in range(2):
                plain.load_state_dict(mine.state_dict())
                before = [p.detach().clone() for p in mine.parameters()]
                for i, pair in enumerate(zip(mine.parameters(), plain.parameters())):
                    for p in pair:
                        p.grad = draw(*p.shape, seed=10 * t + i)
                answer(optimizer, list(mine[0].parameters()), k)
                reference.step()
                _check_step(kind.__name__, k, before, mine, plain)
            for p, q in zip(mine.parameters(), plain.parameters()):
                state, expected = optimizer.state[p], reference.state[q]
                require(
                    all(close(state[name], expected[name]) for name in expected),
                    "The optimiser's memory should be that of a plain step: it should see the gradients as they are.",
                )


def _check_step(kind, k, before, mine, plain):
    moves, expected = (
        [p.detach() - old for p, old in zip(network.parameters(), before)]
        for network in (mine, plain)
    )
    require(
        any(bool(move.any()) for move in moves[2:]),
        "The optimiser should take a step: call step().",
    )
    require(
        all(close(a, b) for a, b in zip(moves[2:], expected[2:])),
        "Parameters that are not in the list should move as in a plain step.",
    )
    require(
        all(close(a, k * b) for a, b in zip(moves[:2], expected[:2])),
        f"With {kind} and k = {k}, the parameters in the list should move k times as far as in a plain step.",
    )


# ---------------------------------------------------------------- 3.4


class Both(nn.Module):
    """A deeper head in which the two modalities multiply."""

    def forward(self, z: Tensor) -> Tensor:
        a, v = z[:, :3], z[:, 3:]
        return torch.stack([(a * v).sum(1) + 1.0, a.sum(1) ** 2, v[:, 0].exp()], dim=1)


def exercise_4(answer):
    a, v = draw(6, 3), draw(6, 3, seed=1)
    torch.manual_seed(0)
    for head in (nn.Linear(6, 4).double(), Both()):
        shares = answer(head, a, v)
        require(
            isinstance(shares, (tuple, list)) and len(shares) == 2,
            "It should return two tensors, the share of a and that of v.",
        )
        total = head(torch.cat([a, v], dim=1)).detach()
        require(
            close(shares[0] + shares[1], total),
            "The two shares should add up to the head's answer to both.",
        )
        if isinstance(head, nn.Linear):
            W, b = head.weight.detach().numpy(), head.bias.detach().numpy()
            require(
                close(shares[0], a.numpy() @ W[:, :3].T + b / 2),
                "For a linear head the share of a should be its block of the weights times a, plus half the bias.",
            )
    # The share of a in each output of Both: half of a product of a and v, all of a term in a alone.
    product, ones = (a * v).sum(1), torch.ones(6).double()
    expected = torch.stack([product / 2 + ones / 2, a.sum(1) ** 2, ones / 2], dim=1)
    require(
        close(shares[0], expected),
        "For any head the share of a should be the mean of what a adds when it comes first, f(a, 0), and when it "
        "comes second, f(a, v) - f(0, v).",
    )


# ---------------------------------------------------------------- 3.5


def exercise_5(answer):
    grid = np.linspace(0, 1, 2001)
    for seed in range(6):
        g1, g2 = draw(4, 3, seed=seed).flatten(), draw(4, 3, seed=10 + seed).flatten()
        k = float(answer(g1, g2))
        require(-1e-6 <= k <= 1 + 1e-6, "k should be between 0 and 1: clip it.")
        points = grid[:, None] * g1.numpy() + (1 - grid[:, None]) * g2.numpy()
        best = grid[np.linalg.norm(points, axis=1).argmin()]
        require(
            abs(k - best) < 1e-3,
            "k g1 + (1 - k) g2 should be the shortest vector on the segment: no k on a fine grid may give a shorter one.",
        )
        g = k * g1 + (1 - k) * g2
        require(
            g @ g1 >= -1e-5 and g @ g2 >= -1e-5,
            "A step against k g1 + (1 - k) g2 should raise neither loss.",
        )
    g = draw(5)
    require(
        close(float(answer(g, 3 * g)), 1.0) and close(float(answer(3 * g, g)), 0.0),
        "Where one gradient is a longer copy of the other, the shorter one alone is the shortest: clip k.",
    )
    k = float(answer(g, g.clone()))
    require(
        -1e-6 <= k <= 1 + 1e-6, "Two equal gradients should give a number from 0 to 1, not nan."
    )
    matrix = draw(4, 3, seed=2), draw(4, 3, seed=12)
    require(
        close(float(answer(*matrix)), float(answer(matrix[0].flatten(), matrix[1].flatten()))),
        "Gradients may have any shape: the products run over all entries.",
    )
