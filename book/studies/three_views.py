"""Does IGM help where three modalities share one head, and which part of it? Three views of a digit (mfeat), trained
in turns with separate heads and with a shared one, with a control that keeps T's spectrum and draws its directions."""

from _study import main, scores, train
from shared_head import RandomDirections

import igm
from igm.datasets import load_splits
from igm.methods import Interactive

SETTINGS = {
    "views": ["fou", "kar", "zer"],
    "samples": 400,
    "train": {"epochs": 10, "rounds": 1, "lr": 0.05, "batch_size": 32, "select": "last"},
    "rho": 0.02,
    "tau": 20.0,
    "statistic": "sample",
}
METHODS = ["alternating", "SAM", "GM", "GM, random directions", "GM, all earlier", "IGM"]
CONDITIONS = ["separate: joint"]
CONDITIONS += [f"separate: {name}" for name in METHODS if ", " not in name]
CONDITIONS += [f"shared: {name}" for name in METHODS]
SEEDS = range(10)
RERUN = ("shared: GM", 3)


class ProtectAll(Interactive):
    """T from the moments of all modalities trained so far, each scaled to trace 1."""

    def protected(self, j):
        moments = [covariance.matrices for covariance in self.covariances.values()]
        return {
            name: sum(moment[name] / moment[name].trace() for moment in moments)
            for name in self.layers[j]
            if moments
        }


CONTROLS = {"random directions": RandomDirections, "all earlier": ProtectAll}


def run(condition: str, seed: int) -> dict[str, float]:
    heads, name = condition.split(": ")
    data = load_splits("mfeat", samples=SETTINGS["samples"], views=SETTINGS["views"], seed=seed)
    model = igm.build_model(data["train"].shapes, 10, shared_head=heads == "shared", seed=seed)
    method, gm = "alternating", {}
    if "GM" in name:
        method = CONTROLS.get(name.split(", ")[-1], "igm")
        gm = {"tau": SETTINGS["tau"], "statistic": SETTINGS["statistic"]}
    elif name == "joint":
        method = "joint"
    rho = SETTINGS["rho"] if name in ("SAM", "IGM") else 0.0
    trained = train(model, data, seed, SETTINGS["train"], method, rho=rho, **gm)
    return scores(trained, "valid", "test")


if __name__ == "__main__":
    main(globals())
