"""What does training one modality at a time cost or gain? Joint against alternating networks on the digits: with a
head for each modality, and with one shared head in 1, 2, 5 or 10 rounds, where one modality can undo the other."""

from _study import digits, main, train

import igm

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "lr": 0.02, "batch_size": 32, "select": "last"},
}
ORDERS = ["audio image", "image audio"]
ROUNDS = [1, 2, 5, 10]
CONDITIONS = ["joint late", "joint concat", "alternating separate"]
CONDITIONS += [f"shared {order} {rounds}" for order in ORDERS for rounds in ROUNDS]
SEEDS = range(10)
RERUN = ("shared audio image 2", 3)


def run(condition: str, seed: int) -> dict[str, float]:
    kind, *rest = condition.split()
    data = digits(SETTINGS, seed)
    fusion = "concat" if rest == ["concat"] else "late"
    model = igm.build_model(
        data["train"].shapes, 10, fusion=fusion, shared_head=kind == "shared", seed=seed
    )
    method = "joint" if kind == "joint" else "alternating"
    turns = {"modalities": rest[:2], "rounds": int(rest[2])} if kind == "shared" else {}
    trained = train(model, data, seed, SETTINGS["train"], method, **turns)
    result = {name: score["accuracy"] for name, score in trained.results["test"].items()}
    if fusion == "late":  # the same logits, put together in each way
        for rule in ("mean", "entropy", "logits"):
            scores = igm.evaluate(model, data["test"], rule)
            result[f"fused {rule}"] = scores["fused"]["accuracy"]
    if kind == "shared":  # what each stage leaves of both modalities
        ends = {row["stage"]: row["valid"] for row in trained.history}  # a stage's last epoch
        for number, valid in enumerate(ends.values(), 1):
            for name, accuracy in valid.items():
                result[f"valid {name} after stage {number}"] = accuracy
    return result


if __name__ == "__main__":
    main(globals())
