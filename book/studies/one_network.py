"""One network for two modalities, encoder and head, trained on the first and then on the second: how much of the first
does T keep when it acts on all layers, over tau, and do random directions or the all-ones direction keep as much?"""

import copy
from functools import cache

from _study import digits, main, train
from shared_head import AllOnes, RandomDirections
from shared_more import after_first, build

import igm
from igm.methods import Interactive

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 30, "rounds": 1, "lr": 0.05, "schedule": "constant", "batch_size": 32}
    | {"select": "last"},
    "matrix": {"scope": "encoder", "statistic": "sample"},
}
TAUS = [0.001, 0.4, 1.3, 20.0, 100.0]
MATRICES = {"no GM": (Interactive, {"gm": []})}
for tau in TAUS:
    MATRICES[f"tau {tau:g}"] = (Interactive, {"tau": tau})
    MATRICES[f"tau {tau:g}, random directions"] = (RandomDirections, {"tau": tau})
MATRICES["tau 20, all-ones direction"] = (AllOnes, {"tau": 20.0})
MATRICES["tau 20, batch means"] = (Interactive, {"tau": 20.0, "statistic": "batch-mean"})
MATRICES["tau 20, head only"] = (Interactive, {"tau": 20.0, "scope": "head"})
ORDERS = ["audio image", "image audio"]  # the first modality, and the second
CONDITIONS = [f"{order}: {name}" for order in ORDERS for name in MATRICES]
SEEDS = range(10)
RERUN = ("image audio: tau 20", 0)


@cache  # it is the same for all matrices
def first_stage(order: str, seed: int) -> tuple[dict, igm.Run]:
    """The data, and the run that trains the network on the first modality."""
    data = digits(SETTINGS, seed)
    model = build("one network", data["train"], order.split(), seed)
    only = {"modalities": order.split()[:1], "rho": 0.0}
    stage = train(model, data, seed, SETTINGS["train"], "unimodal", **only)
    return data, stage


def run(condition: str, seed: int) -> dict[str, float]:
    order, name = condition.split(": ")
    first, _ = order.split()
    data, stage = first_stage(order, seed)
    method, T = MATRICES[name]
    method = after_first(method, data["train"], SETTINGS["train"]["batch_size"])
    model, T = copy.deepcopy(stage.model), SETTINGS["matrix"] | T
    both = {"modalities": order.split(), "rho": 0.0}
    trained = train(model, data, seed, SETTINGS["train"], method, **both, **T)
    result = {f"first stage, test {first}": stage.results["test"][first]["accuracy"]}
    for output, scores in trained.results["test"].items():
        result[f"test {output}"] = scores["accuracy"]
    for epoch, row in enumerate([stage.history[-1], *trained.history]):
        result[f"valid {first}, epoch {epoch}"] = row["valid"][first]
    return result


if __name__ == "__main__":
    main(globals())
