"""What does SAM do, from a radius that rounds away to one that is too large? Alternating training with separate heads
and joint training on the digits, alternating training on two views of mfeat: accuracy, and how sharp the networks are."""

from _study import main, scores, train

import igm
from igm.analysis.landscape import hessian_eigenvalues, worst_case_loss
from igm.datasets import load_splits

SETTINGS = {
    "digits": {"samples": 800, "noise": {"image": 2.0, "audio": 1.5}},
    "mfeat": {"samples": 600, "views": ["fou", "kar"]},
    "train": {"epochs": 20, "rounds": 1, "lr": 0.05, "batch_size": 32, "select": "last"},
    "slow lr": 0.02,
    "sharpness": {"samples": 256, "rho": 0.05, "steps": 5},
}
RHOS = {  # what is trained -> radii
    "digits alternating": [0, 1e-10, 1e-4, 0.02, 0.05, 0.1, 0.2, 0.5],
    "digits joint": [0, 0.05, 0.1],
    "digits slow": [0, 0.05],
    "mfeat alternating": [0, 1e-10, 1e-4, 0.02, 0.05, 0.1, 0.2, 0.5],
}
CONDITIONS = [f"{what} {rho:g}" for what, rhos in RHOS.items() for rho in rhos]
SEEDS = range(10)
RERUN = ("mfeat alternating 0.1", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    name, how, rho = condition.split()
    data = load_splits(name, seed=seed, **SETTINGS[name])
    model = igm.build_model(data["train"].shapes, 10, seed=seed)
    common = SETTINGS["train"] | ({"lr": SETTINGS["slow lr"]} if how == "slow" else {})
    method = "joint" if how == "joint" else "alternating"
    trained = train(model, data, seed, common, method, rho=float(rho))
    result = scores(trained, "valid", "test")
    for modality in data["train"].shapes:
        result |= sharpness(model[modality], data["train"], modality, hessian=how == "alternating")
    return result


def sharpness(network, dataset, modality: str, hessian: bool) -> dict[str, float]:
    """The training loss of one network, and around the weights: the worst case and the largest curvature."""
    x, y = dataset.inputs[modality], dataset.labels
    n, rho, steps = SETTINGS["sharpness"].values()
    found = {"train loss": worst_case_loss(network, [(x, y)], [0.0]).item()}
    at_theta, worst = worst_case_loss(network, [(x[:n], y[:n])], [0.0, rho], steps).tolist()
    found["worst rise"] = worst - at_theta
    if hessian:
        found["top eigenvalue"] = hessian_eigenvalues(network, [(x[:n], y[:n])]).item()
    return {f"{measure} {modality}": value for measure, value in found.items()}


if __name__ == "__main__":
    main(globals())
