"""What is gained on paper by choosing the epoch on the test split? Training in turns and joint training on the digits
at a constant rate, with the fused accuracy on both held-out splits after every epoch."""

import logging

from _study import digits, main, train

import igm

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 30, "lr": 0.02, "schedule": "constant", "batch_size": 32}
    | {"select": "test"},  # which scores both splits after every epoch, and changes nothing else
    "alternating": {"rounds": 1},
}
CONDITIONS = ["alternating", "joint"]
SEEDS = range(10)
RERUN = ("joint", 0)


def run(condition: str, seed: int) -> dict[str, float]:
    logging.getLogger("igm").setLevel(logging.ERROR)  # it warns of select="test", rightly
    data = digits(SETTINGS, seed)
    model = igm.build_model(data["train"].shapes, 10, seed=seed)
    own = SETTINGS.get(condition, {})
    trained = train(model, data, seed, SETTINGS["train"], condition, **own)
    return {
        f"{split} epoch {epoch}": row[split]["fused"]
        for split in ("valid", "test")
        for epoch, row in enumerate(trained.history, 1)
    }


if __name__ == "__main__":
    main(globals())
