"""What does each part of IGM add? Alternating training with and without GM (tau 0.4 and 20) and SAM, with separate
heads and with one shared head, against joint training, on the digits."""

from _study import digits, main, train

import igm

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "rounds": 5, "lr": 0.02, "batch_size": 32, "select": "last"},
    "rho": 0.02,
}
PARTS = {  # name -> method, tau, is SAM on
    "alternating": ("alternating", None, False),
    "GM, tau 0.4": ("igm", 0.4, False),
    "GM, tau 20": ("igm", 20.0, False),
    "SAM": ("alternating", None, True),
    "IGM, tau 0.4": ("igm", 0.4, True),
    "IGM, tau 20": ("igm", 20.0, True),
    "joint": ("joint", None, False),
    "joint, SAM": ("joint", None, True),
}
CONDITIONS = [f"separate: {part}" for part in PARTS]
CONDITIONS += [f"shared: {part}" for part in PARTS if not part.startswith("joint")]
SEEDS = range(10)
RERUN = ("shared: GM, tau 20", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    heads, part = condition.split(": ")
    method, tau, with_sam = PARTS[part]
    data = digits(SETTINGS, seed)
    model = igm.build_model(data["train"].shapes, 10, shared_head=heads == "shared", seed=seed)
    gm = {} if tau is None else {"tau": tau, "statistic": "batch-mean"}
    rho = SETTINGS["rho"] if with_sam else 0.0
    trained = train(model, data, seed, SETTINGS["train"], method, rho=rho, **gm)
    return {name: score["accuracy"] for name, score in trained.results["test"].items()}


if __name__ == "__main__":
    main(globals())
