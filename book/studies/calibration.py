"""Why does the fused prediction gain more from SAM than its parts do? How sure the networks are, with and without SAM,
and what the fused prediction gains when each network's logits are divided by a temperature instead."""

import math

import torch
from _study import main, train
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

import igm
from igm.datasets import load_splits
from igm.metrics import accuracy

SETTINGS = {
    "digits": {"samples": 800, "noise": {"image": 2.0, "audio": 1.5}},
    "mfeat": {"samples": 600, "views": ["fou", "kar"]},
    "train": {"epochs": 20, "rounds": 1, "batch_size": 32, "select": "last"},
}
CONDITIONS = [  # data, learning rate, rho
    "digits 0.05 0",
    "digits 0.05 0.1",
    "digits 0.02 0",
    "mfeat 0.05 0",
    "mfeat 0.05 0.2",
    "mfeat 0.05 0.5",
]
SEEDS = range(10)
RERUN = ("mfeat 0.05 0.5", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    name, lr, rho = condition.split()
    data = load_splits(name, seed=seed, **SETTINGS[name])
    model = igm.build_model(data["train"].shapes, 10, seed=seed)
    train(model, data, seed, SETTINGS["train"], "alternating", lr=float(lr), rho=float(rho))
    model.eval()
    with torch.no_grad():
        valid, test = (model(data[split].inputs) for split in ("valid", "test"))
    y = data["test"].labels
    temperatures = {j: temperature(z, data["valid"].labels) for j, z in valid.items()}
    divided = {j: z / temperatures[j] for j, z in test.items()}
    result = {
        "fused": accuracy(igm.fuse(test), y),
        "fused, divided": accuracy(igm.fuse(divided), y),
    }
    for j, z in test.items():
        result[f"accuracy {j}"] = accuracy(z, y)
        result[f"confidence {j}"] = z.softmax(1).amax(1).mean().item()
        result[f"temperature {j}"] = temperatures[j]
    return result


def temperature(logits: Tensor, labels: Tensor) -> float:
    """The number by which to divide the logits so that their cross-entropy is lowest (Guo et al., ICML 2017)."""
    found = minimize_scalar(
        lambda log_t: F.cross_entropy(logits / math.exp(log_t), labels).item(), bounds=(-2, 4)
    )
    return math.exp(found.x)


if __name__ == "__main__":
    main(globals())
