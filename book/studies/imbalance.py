"""How far does joint training starve the weaker modality? Joint against unimodal networks on the digits, as the
noise of the image goes up: the accuracy of each modality's own head, and of a linear probe on each encoder."""

from _study import digits, main, train

import igm
from igm.analysis.imbalance import linear_probe

SETTINGS = {
    "samples": 800,
    "noise": {"audio": 1.5},
    "image_noise": [0.0, 0.5, 1.0, 1.5, 2.0, 3.0],
    "train": {"epochs": 20, "lr": 0.02, "batch_size": 32, "select": "last"},
}
CONDITIONS = [f"image noise {level}" for level in SETTINGS["image_noise"]]
SEEDS = range(10)


def run(condition: str, seed: int) -> dict[str, float]:
    noise = {"image": float(condition.split()[-1])} | SETTINGS["noise"]
    data = digits(SETTINGS | {"noise": noise}, seed)
    shapes = data["train"].shapes
    result = {}
    for name, method, fusion in [
        ("unimodal", "unimodal", "late"),
        ("late", "joint", "late"),
        ("concat", "joint", "concat"),
        ("untrained", None, "late"),
    ]:
        model = igm.build_model(shapes, 10, fusion=fusion, seed=seed)
        if method:
            trained = train(model, data, seed, SETTINGS["train"], method)
            for output, score in trained.results["test"].items():
                result[f"{name} {output}"] = score["accuracy"]
        for modality in shapes:
            parts = [(data[s].inputs[modality], data[s].labels) for s in ("train", "test")]
            result[f"{name} probe {modality}"] = linear_probe(model.encoders[modality], *parts)
    return result


if __name__ == "__main__":
    main(globals())
