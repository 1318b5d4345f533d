"""The paper's Tables 3 and 4 and its Figures 3 and 5 (a), redone on the digits: gradient modification in one
direction only, on more or fewer layers, with other tau and other rho, and the singular values that SAM leaves."""

import torch
from _study import digits, main, scores, train
from torch import nn

import igm
from igm.encoders.small import seeded_network

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "rounds": 5, "lr": 0.02, "batch_size": 32, "select": "last"},
    "igm": {"tau": 0.4, "rho": 0.02, "statistic": "batch-mean"},
    "one-way": {"modalities": ["audio", "image"], "rounds": 2},  # as in the paper's Table 3
}
SAMPLE = {"tau": 20.0, "statistic": "sample"}
DIRECTIONS = {
    "neither": [],
    "image>audio": ["image>audio"],
    "audio>image": ["audio>image"],
    "both": ["image>audio", "audio>image"],
}
SCOPES = ["none", "head.fc3", "head.fc2", "head", "encoder.6", "encoder.2", "encoder.0"]
TAUS = ["0.001", "0.4", "1.3", "20", "100"]
RHOS = ["0", "1e-15", "1e-10", "1e-8", "1e-6", "1e-4", "0.1"]  # 0.02 is "tau, separate: 0.4"
CONDITIONS = [f"one-way, {heads}: {way}" for heads in ("separate", "shared") for way in DIRECTIONS]
CONDITIONS += [f"one-way, shared, per sample: {way}" for way in list(DIRECTIONS)[1:]]
CONDITIONS += [f"scope: {scope}" for scope in SCOPES]
CONDITIONS += [f"tau, {heads}: {tau}" for heads in ("separate", "shared") for tau in TAUS]
CONDITIONS += [f"tau, shared, per sample: {tau}" for tau in TAUS]
CONDITIONS += [f"rho: {rho}" for rho in RHOS]
SEEDS = range(10)
RERUN = ("one-way, shared: both", 0)


def pooled_encoder(d: int = 128) -> nn.Sequential:
    """The book's small encoder for pictures, pooled to 4 x 4 places: its layers have the same sizes for every input."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 16, d),
        nn.ReLU(),
    )
    encoder.d = d
    return encoder


def options(table: str, value: str) -> dict:
    """The settings in which a condition differs from SETTINGS."""
    change = dict(SAMPLE) if "per sample" in table else {}
    if table.startswith("one-way"):
        return change | SETTINGS["one-way"] | {"gm": DIRECTIONS[value]}
    if table == "scope":
        return {"gm": []} if value == "none" else {"scope": value}
    return change | {table.split(",")[0]: float(value)}


def run(condition: str, seed: int) -> dict[str, float]:
    table, value = condition.split(": ")
    data = digits(SETTINGS, seed)
    shapes, shared = data["train"].shapes, "shared" in table
    if table == "scope":
        model = seeded_network(dict.fromkeys(shapes, pooled_encoder), 10, seed=seed)
    else:
        model = igm.build_model(shapes, 10, shared_head=shared, seed=seed)
    result = {}
    if table.startswith("one-way"):
        initial = igm.evaluate(model, data["valid"])
        result["valid fused after stage 0"] = initial["fused"]["accuracy"]
    settings = SETTINGS["igm"] | options(table, value)
    trained = train(model, data, seed, SETTINGS["train"], "igm", **settings)
    result |= scores(trained, "test")
    result["test fused mAP"] = trained.results["test"]["fused"]["map"]
    if table.startswith("one-way"):
        ends = {row["stage"]: row["valid"] for row in trained.history}  # a stage's last epoch
        for number, valid in enumerate(ends.values(), 1):
            for output, accuracy in valid.items():
                result[f"valid {output} after stage {number}"] = accuracy
    if table == "scope":
        result["share of weights"] = share(model, value)
    if table in ("rho", "tau, separate"):
        result |= singular_values(trained, len(data["train"]))
    return result


def share(model: nn.Module, scope: str) -> float:
    """The part of all parameters whose gradients GM modifies."""
    parts = [model[name] for name in model.modalities]
    layers = [] if scope == "none" else [layer for p in parts for layer in p.layers(scope).values()]
    modified = sum(layer.weight.numel() for layer in layers)
    return modified / sum(p.numel() for p in model.parameters())


def singular_values(trained: igm.Run, samples: int) -> dict[str, float]:
    """Their mean, of the moment matrix (a batch) and of the weight of each layer of the heads."""
    steps = -(-samples // trained.settings.batch_size)
    result = {}
    for modality, covariance in trained.method.covariances.items():
        for name, moment in covariance.matrices.items():
            values = torch.linalg.svdvals(moment / steps)
            result[f"{modality} {name} moment"] = values.mean().item()
        for name, layer in trained.model[modality].head_layers().items():
            values = torch.linalg.svdvals(layer.weight.detach())
            result[f"{modality} head.{name} weight"] = values.mean().item()
    return result


if __name__ == "__main__":
    main(globals())
