"""Where do flat directions matter? Two modalities that share one head, trained one after the other on the digits:
what does the first keep after the second, for several matrices T and for controls that keep T's spectrum and
replace its directions?"""

import torch
from _study import digits, main, scores, train

import igm
from igm.analysis.controls import with_directions
from igm.methods import Interactive
from igm.seeds import derive_seed

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 30, "rounds": 1, "lr": 0.05, "schedule": "constant", "batch_size": 32}
    | {"select": "last"},
}
MATRICES = {
    "no GM": None,
    "tau 0.4": {"tau": 0.4},
    "tau 20": {"tau": 20.0},
    "tau 100": {"tau": 100.0},
    "tau 20, random directions": {"tau": 20.0},
    "tau 20, all-ones direction": {"tau": 20.0},
    "tau 20, per sample": {"tau": 20.0, "statistic": "sample"},
    "tau 20, per sample, random directions": {"tau": 20.0, "statistic": "sample"},
    "separate heads": None,
}
ORDERS = ["audio image", "image audio"]
CONDITIONS = [f"{order}: {name}" for order in ORDERS for name in MATRICES]
SEEDS = range(10)
RERUN = ("audio image: tau 20", 0)


class RandomDirections(Interactive):
    """T with the same eigenvalues along random orthogonal directions."""

    def modification(self, moment, tau):
        seed = derive_seed(self.settings.seed, "directions", len(moment))
        generator = torch.Generator().manual_seed(seed)
        return with_directions(super().modification(moment, tau), generator=generator)


class AllOnes(Interactive):
    """T that damps the all-ones direction alone, as much as Eq. 4 damps the sharpest."""

    def modification(self, moment, tau):
        return super().modification(torch.ones_like(moment), tau)


CONTROLS = {"random directions": RandomDirections, "all-ones direction": AllOnes}


def run(condition: str, seed: int) -> dict[str, float]:
    order, name = condition.split(": ")
    first, second = order.split()
    data = digits(SETTINGS, seed)
    model = igm.build_model(
        data["train"].shapes, 10, shared_head=name != "separate heads", seed=seed
    )
    method = CONTROLS.get(name.split(", ")[-1], "igm" if MATRICES[name] else "alternating")
    T = {"statistic": "batch-mean"} | MATRICES[name] if MATRICES[name] else {}
    both = {"modalities": [first, second], "rho": 0.0}
    trained = train(model, data, seed, SETTINGS["train"], method, **both, **T)
    epochs = SETTINGS["train"]["epochs"]
    result = {}
    # Epoch 0 is the end of the first stage.
    for epoch, row in enumerate(trained.history[epochs - 1 :]):
        result[f"valid {first}, epoch {epoch} of {second}"] = row["valid"][first]
    return result | scores(trained, "valid", "test")


if __name__ == "__main__":
    main(globals())
