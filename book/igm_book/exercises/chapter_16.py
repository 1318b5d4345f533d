"""Checks of chapter 16: IGM in your own project."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import nn

import igm
from igm.methods import Alternating
from igm_book.exercises import require


def exercise_1(hold_out_groups):
    """Whole groups for validation."""
    sizes = {7: 40, 3: 2, 11: 25, 2: 1, 5: 17, 19: 9, 23: 6}  # group -> samples, 100 in all
    groups = torch.tensor([g for g, size in sizes.items() for _ in range(size)])
    groups = groups[torch.randperm(len(groups))]
    taken = set()
    for seed in range(40):  # so many that a right answer draws every group once
        train, valid = (_positions(part) for part in hold_out_groups(groups, 0.2, seed))
        together = sorted(train.tolist() + valid.tolist())
        require(
            together == list(range(100)), "Every position should be in one of the two parts, once."
        )
        held = set(groups[valid].tolist())
        require(not held & set(groups[train].tolist()), "No group should be in both parts.")
        require(
            len(valid) >= 20,
            f"valid should hold a share of the samples, not of the groups: at least 20 of 100, not {len(valid)}.",
        )
        require(len(train) > 0, "train should not be empty.")
        least = min(len(valid) - sizes[g] for g in held)
        require(
            least < 20,
            "valid should take no more groups than it needs: without the last one it should fall below the share.",
        )
        taken |= held
        torch.manual_seed(1000 + seed)
        again = _positions(hold_out_groups(groups, 0.2, seed)[1])
        require(
            set(again.tolist()) == set(valid.tolist()),
            "The same seed should give the same split, whatever was drawn before.",
        )
    require(
        taken == set(sizes), "Which groups are held out should be drawn at random from the seed."
    )


def _positions(part) -> torch.Tensor:
    return torch.as_tensor(part, dtype=torch.int64)


def exercise_2(modify_step):
    """The step, not the gradient, along flat directions."""
    A = torch.randn(4, 3, dtype=torch.float64)
    T = A @ torch.diag(torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)) @ torch.linalg.pinv(A)
    for side in (4, 6):
        square = nn.Linear(4, side)
        other = nn.Linear(side, 2)
        layers = {"square": square, "other": other}
        old = {name: layer.weight.detach().clone() for name, layer in layers.items()}
        kept = {name: w.clone() for name, w in old.items()}
        parameters = [square.weight, square.bias, other.weight, other.bias]
        with torch.no_grad():
            for p in parameters:
                p += torch.randn_like(p)
        stepped = [p.detach().clone() for p in parameters]
        modify_step(layers, old, {"square": T.clone()})
        require(
            square.weight is parameters[0] and square.weight.requires_grad,
            "The layer should keep its own weight, changed in place: the optimiser holds on to that parameter.",
        )
        require(square.weight.dtype == torch.float32, "The weight should keep its dtype.")
        require(
            all(map(torch.equal, old.values(), kept.values())), "`old` should be left as it is."
        )
        require(
            torch.equal(other.weight, stepped[2]),
            "A layer without a matrix should keep its whole step.",
        )
        require(
            torch.equal(square.bias, stepped[1]) and torch.equal(other.bias, stepped[3]),
            "Biases should keep their step.",
        )
        found = (square.weight.detach() - old["square"]).double().numpy()
        step = (stepped[0] - old["square"]).double().numpy()
        expected = np.array([[row @ T.numpy()[:, i] for i in range(4)] for row in step])
        weight = stepped[0].double().numpy() @ T.numpy()
        require(
            not np.allclose(square.weight.detach().numpy(), weight, atol=1e-4),
            "T should multiply the change of the weight, not the weight.",
        )
        require(
            np.abs(found).max() > 0,
            "The weight should keep the part of its step that T lets through.",
        )
        require(
            np.allclose(found, expected, atol=1e-4),
            "The change of each weight should be (W - W_old) T, with T on the right, on the inputs.",
        )


def exercise_3(believe):
    """A gain over the method and over its control."""
    rng = np.random.default_rng(3)
    seeds = 0.8 + 0.05 * rng.standard_normal(10)  # what the seeds have in common
    noise = 0.004 * rng.standard_normal((3, 10))

    def answer(new, old, control):
        found = believe(*(np.asarray(x).tolist() for x in (new, old, control)))
        require(found in (True, False), "It should return True or False.")
        return bool(found)

    better, old, control = seeds + 0.01 + noise[0], seeds + noise[1], seeds + noise[2]
    require(
        answer(better, old, control),
        "A gain that is small beside the spread over seeds should count if it is there in nearly every seed: pair the "
        "seeds.",
    )
    require(
        not answer(old, better, old - 0.05 + noise[2]),
        "A loss is no gain: the interval lies below 0.",
    )
    require(
        not answer(better, old, better - 0.0005 + noise[1] - noise[1].mean()),
        "A gain that the control has too should not be believed.",
    )
    spread = rng.standard_normal(10)
    wild = seeds + 0.02 + 0.05 * (spread - spread.mean())
    require(not answer(wild, old, control), "An interval that holds 0 is no gain.")
    require(
        not answer(better[:1], old[:1], control[:1]),
        "One seed has no interval, so there is nothing to believe.",
    )
    # Many cases around the border, against SciPy's paired t-test.
    for n in (2, 3, 5, 20):
        for _ in range(40):
            old = rng.standard_normal(n)
            new = old + 0.7 + rng.standard_normal(n)
            control = new - 50 - rng.random(n)  # far behind: only the first interval decides
            t, p = stats.ttest_rel(new, old)
            require(
                answer(new, old, control) == bool(t > 0 and p < 0.05),
                f"The interval should be Student's at 95 %, with n - 1 degrees of freedom and the standard deviation "
                f"divided by n - 1: for {n} seeds the answer is not that of the paired t-test.",
            )


def exercise_4(JointThenTurns):
    """First together, then in turns."""
    require(
        isinstance(JointThenTurns, type) and issubclass(JointThenTurns, Alternating),
        "It should be a subclass of igm.methods.Alternating.",
    )
    shapes = {"a": (5,), "b": (4,), "c": (3,)}
    model = igm.build_model(shapes, classes=4, d=6)
    settings = JointThenTurns.Settings.make(method="own", epochs=6, rounds=2)
    method = JointThenTurns(model, list(shapes), settings)
    stages = method.stages()
    first, *rest = [(tuple(s.modalities), s.epochs) for s in stages]
    require(first[0] == ("a", "b", "c"), "The first stage should hold all modalities, in order.")
    require(first[1] == 2, "The first stage should have 2 epochs.")
    require(
        rest == [((j,), 3) for j in "abc" * 2],
        "After the first stage there should come the stages of Alternating, unchanged.",
    )
    together, turn = stages[0], stages[2]
    require(
        {id(p) for p in method.parameters(together)} == {id(p) for p in model.parameters()},
        "The first stage should train all parameters of the model.",
    )
    require(
        {id(p) for p in method.parameters(turn)} == {id(p) for p in model["b"].parameters()},
        "A stage of one modality should train the parameters of that modality, and no others.",
    )
    batch = {j: torch.randn(8, *shape) for j, shape in shapes.items()}
    batch["label"] = torch.randint(4, (8,))
    with torch.no_grad():
        logits = {j: model[j](batch[j]).double().numpy() for j in shapes}
        found, own = (float(method.loss(stage, batch)) for stage in (together, turn))
    y = batch["label"].numpy()

    def loss(o):
        return (np.logaddexp.reduce(o, axis=1) - o[np.arange(8), y]).mean()

    total = sum(logits.values())
    require(
        not math.isclose(found, loss(total / 3), abs_tol=1e-5),
        "The first loss should be that of the sum of the logits, not of their mean.",
    )
    require(
        not math.isclose(found, sum(map(loss, logits.values())), abs_tol=1e-4),
        "The first loss should be one cross-entropy of the summed logits, not a sum of cross-entropies.",
    )
    require(
        math.isclose(found, loss(total), abs_tol=1e-4),
        "The first loss should be the cross-entropy of the sum of the logits.",
    )
    require(
        math.isclose(own, loss(logits["b"]), abs_tol=1e-4),
        "In a stage of one modality the loss should be that modality's own.",
    )
