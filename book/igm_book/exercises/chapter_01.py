"""Checks of chapter 1: multimodal classification."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor, nn

from igm.encoders.small import paper_head
from igm.models import Concatenation
from igm_book.exercises import require


def close(a: Tensor | float, b: Tensor | np.ndarray | float) -> bool:
    """Of the same shape and equal up to rounding."""
    a, b = torch.as_tensor(a).detach().double(), torch.as_tensor(b).double()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def exercise_1(answer):
    generator = torch.Generator().manual_seed(1)
    o, y = torch.randn(7, 4, generator=generator), torch.tensor([0, 3, 1, 1, 2, 0, 3])
    loss = torch.as_tensor(answer(o, y))
    require(loss.numel() == 1, "The loss should be one number for the batch.")
    logits = o.double().numpy()
    each = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(7), y]
    require(
        not close(loss.reshape(()), each.sum()),
        "The loss should be the mean over the samples, not their sum.",
    )
    require(
        close(loss.reshape(()), each.mean()),
        "The loss should be Eq. 1: the mean over the samples of -log p of the true class, with p along the classes.",
    )
    for shift in (1e3, -1e3):
        require(
            math.isclose(float(answer(o + shift, y)), each.mean(), abs_tol=1e-3),
            "The loss should stay finite, and the same, when 1000 is added to or taken from all logits of a sample.",
        )
    far = torch.tensor([[1000.0, 0.0, 0.0]])
    require(
        math.isclose(float(answer(far, torch.tensor([1]))), 1000, rel_tol=1e-4),
        "The loss should be right where the true class has probability 0 in float32: logits 1000, 0, 0 and class 1 "
        "give a loss of 1000.",
    )
    x = far.clone().requires_grad_()
    answer(x, torch.tensor([1])).backward()
    require(
        torch.allclose(x.grad, torch.tensor([[1.0, -1.0, 0.0]]), atol=0.01),
        "The gradient should be right, too, for logits 1000, 0, 0 and class 1: it is (1, -1, 0).",
    )


def exercise_2(answer):
    for d, c in ((128, 10), (512, 6), (3, 2)):
        layers = paper_head(d, c)
        biases = sum(p.numel() for name, p in layers.named_parameters() if "bias" in name)
        wanted = sum(p.numel() for p in layers.parameters())
        given = answer(d, c)
        require(given != wanted - biases, "The count should include the biases, one an output.")
        require(
            given == wanted,
            f"The count should be that of the three layers: for d = {d} and c = {c} it is {wanted}, not {given}.",
        )


def exercise_3(answer):
    generator = torch.Generator().manual_seed(3)
    names = ("image", "audio", "text")
    o = {name: 2 * torch.randn(6, 5, generator=generator) for name in names}
    present = {
        "image": torch.tensor([1, 1, 0, 1, 0, 0]).bool(),
        "audio": torch.tensor([1, 0, 1, 1, 1, 0]).bool(),
        "text": torch.tensor([1, 1, 1, 0, 0, 1]).bool(),
    }
    p = answer({k: v.clone() for k, v in o.items()}, present)
    require(p.shape == (6, 5), "There should be a row of c probabilities for each sample: (n, c).")
    require(
        close(p.sum(1), torch.ones(6)),
        "Each row should add up to 1: divide by the number of modalities that this sample has, not by m.",
    )
    wanted = np.zeros((6, 5))
    for i in range(6):
        here = [o[k][i].double().numpy() for k in names if present[k][i]]
        wanted[i] = np.mean([np.exp(z) / np.exp(z).sum() for z in here], axis=0)
    require(
        close(p[:1], wanted[:1]),
        "Where no modality is missing, the answer should be the mean of the probabilities.",
    )
    require(
        close(p, wanted),
        "A missing modality should have no part in the mean: the average runs over those that are there, sample by "
        "sample.",
    )
    for name in names:
        o[name][~present[name]] = math.nan
    require(
        close(answer(o, present), wanted),
        "What stands in the logits of a missing modality should not matter, not even if it is nan (0 times nan is nan).",
    )


class _Scale(nn.Module):
    """An encoder that multiplies by a number: the check can compute its output itself."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def exercise_4(answer):
    generator = torch.Generator().manual_seed(4)
    d, c, n = 3, 4, 5
    encoders = {"image": _Scale(2.0), "audio": _Scale(-1.0), "text": _Scale(0.5)}
    head = nn.Linear(3 * d, c)
    model = Concatenation(encoders, head)
    batch = {name: torch.randn(n, d, generator=generator) for name in encoders}
    z = {name: (encoders[name].factor * x).double().numpy() for name, x in batch.items()}
    W, b = (t.detach().double().numpy() for t in (head.weight, head.bias))
    for missing in encoders:
        filler = torch.randn(d, generator=generator)
        rest = {name: x for name, x in batch.items() if name != missing}
        o = answer(model, rest, missing, filler)
        require(o.shape == (n, c), "The answer should be logits of every sample: (n, c).")
        parts = [np.tile(filler.numpy(), (n, 1)) if k == missing else z[k] for k in encoders]
        others = [k for k in encoders if k != missing]
        last = np.concatenate([z[k] for k in others] + [np.tile(filler.numpy(), (n, 1))], 1)
        require(
            missing == "text" or not close(o, last @ W.T + b),
            "The filler should stand where the missing feature stood: the head reads the features in the order of "
            "model.encoders.",
        )
        encoded = [
            encoders[k].factor * part if k == missing else part for k, part in zip(encoders, parts)
        ]
        require(
            not close(o, np.concatenate(encoded, 1) @ W.T + b),
            "The filler should be a feature already: it should not pass the encoder.",
        )
        require(
            close(o, np.concatenate(parts, 1) @ W.T + b),
            "The head should read the features of the modalities that are there, and the filler in every sample.",
        )


def exercise_5(answer):
    y = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    guess = torch.tensor([0, 0, 0, 0, 1, 2, 1, 0, 2, 2])
    value = float(answer(guess, y, 3))
    kinds = {k: f1_score(y, guess, average=k) for k in ("macro", "micro", "weighted")}
    require(
        not math.isclose(value, kinds["micro"], abs_tol=1e-4),
        "The F1 should be computed class by class; counts summed over the classes first give the accuracy.",
    )
    require(
        not math.isclose(value, kinds["weighted"], abs_tol=1e-4),
        "Every class should count the same, however many samples it has.",
    )
    require(
        math.isclose(value, kinds["macro"], abs_tol=1e-4),
        "The answer should be the mean over the classes of 2 TP / (2 TP + FP + FN).",
    )
    never = torch.zeros(10, dtype=torch.int64)
    value = float(answer(never, y, 3))
    require(
        math.isclose(value, f1_score(y, never, average="macro", zero_division=0), abs_tol=1e-4),
        "A class that is never predicted should count with an F1 of 0, not nan, and not be left out.",
    )
