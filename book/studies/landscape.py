"""Is a network that generalises better flatter? Nine ways to train on the digits, and for each modality's network the
loss along random filter-normalised directions, the curvature of the training loss, its worst case within a radius, and
the test accuracy."""

import torch
from _study import digits, main, train

import igm
from igm.analysis.landscape import (
    hessian_eigenvalues,
    hessian_trace,
    loss_surface,
    random_direction,
    worst_case_loss,
)
from igm.metrics import accuracy

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"modalities": ["audio", "image"], "epochs": 20, "lr": 0.02, "batch_size": 32}
    | {"fusion": "mean", "select": "last"},
    "alphas": [-0.7, -0.5, -0.3, -0.15, 0.0, 0.15, 0.3, 0.5, 0.7],
    "directions": 3,
    "hessian_samples": 300,
    "matvecs": 15,
    "rhos": [0.1, 0.3],
}
METHODS = {
    "joint": {"method": "joint"},
    "separate heads": {"method": "alternating"},
    "shared head": {"method": "alternating"},
    "shared head by batch": {"method": "alternating", "alternate": "batch"},
    "MLA": {"method": "mla"},
    "MLA by stage": {"method": "mla", "alternate": "stage"},
    "IGM without SAM": {"method": "igm", "rho": 0.0},
    "IGM": {"method": "igm"},
    "IGM, rho 0.05": {"method": "igm", "rho": 0.05},
}
CONDITIONS = list(METHODS)
SEEDS = range(10)
RERUN = ("IGM", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    data = digits(SETTINGS, seed)
    shared = condition not in ("joint", "separate heads")
    model = igm.build_model(data["train"].shapes, 10, shared_head=shared, seed=seed)
    trained = train(model, data, seed, SETTINGS["train"], **METHODS[condition])
    test = trained.results["test"]
    result = {"test fused": test["fused"]["accuracy"]}
    for name in SETTINGS["train"]["modalities"]:
        result[f"test {name}"] = test[name]["accuracy"]
        measured = flatness(model[name], data["train"].inputs[name], data["train"].labels)
        result |= {f"{name} {measure}": value for measure, value in measured.items()}
    return result


def flatness(network, x, y) -> dict[str, float]:
    """Of one modality's network, on its training data (n, ...), (n,)."""
    weights = torch.nn.utils.parameters_to_vector(network.parameters())
    result = {"train": accuracy(network(x), y), "weight norm": weights.norm().item()}
    for number in range(SETTINGS["directions"]):
        curve = loss_surface(
            network,
            [(x, y)],
            [random_direction(network, number)],
            SETTINGS["alphas"],
            progress=False,
        )
        for alpha, value in zip(SETTINGS["alphas"], curve.tolist()):
            result[f"loss {alpha:g} direction {number}"] = value
    for rho, value in zip(SETTINGS["rhos"], worst_case_loss(network, [(x, y)], SETTINGS["rhos"])):
        result[f"loss within {rho:g}"] = value.item()
    part = [(x[: SETTINGS["hessian_samples"]], y[: SETTINGS["hessian_samples"]])]
    result["eigenvalue"] = hessian_eigenvalues(network, part).item()
    result["trace"] = hessian_trace(network, part, SETTINGS["matvecs"])
    return result


if __name__ == "__main__":
    main(globals())
