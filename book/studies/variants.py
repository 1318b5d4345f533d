"""Three settings of IGM, the paper's, the authors' code's and this book's, against alternating training and joint
training on the digits; and what is gained on paper by choosing the epoch on the test split."""

from _study import digits, main, scores, train

import igm

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 40, "rounds": 2, "lr": 0.02, "batch_size": 32, "device": "cpu"},
}
METHODS = {  # name -> settings
    "joint": {"method": "joint"},
    "alternating": {"method": "alternating"},
    "paper": {"variant": "paper"},
    "released": {"variant": "released"},
    "released, chosen on test": {"variant": "released", "select": "test"},
    "released, one backward of mixup with lambda": {
        "variant": "released",
        "flat_ratio": 0.0,
        "rho": 0.0,
        "gm": [],
    },
    "igm": {"variant": "igm"},
}
CONDITIONS = [f"separate: {name}" for name in METHODS]
CONDITIONS += [f"shared: {name}" for name in METHODS if name != "joint"]
SEEDS = range(10)
RERUN = ("shared: released", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    heads, name = condition.split(": ")
    data = digits(SETTINGS, seed)
    model = igm.build_model(data["train"].shapes, 10, shared_head=heads == "shared", seed=seed)
    trained = train(model, data, seed, SETTINGS["train"], **METHODS[name])
    macro_f1 = trained.results["test"]["fused"]["macro_f1"]
    return scores(trained, "valid", "test") | {"test fused macro-F1": macro_f1}


if __name__ == "__main__":
    main(globals())
