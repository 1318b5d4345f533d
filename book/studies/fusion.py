"""Early or late fusion, and which late rule? The digits, trained at one noise of the image and tested at others, and
without the image: networks trained apart and fused by three rules, against one network on both features."""

import torch
from _study import digits, main, train

import igm
from igm.metrics import accuracy

SETTINGS = {
    "samples": 800,
    "noise": {"image": 1.0, "audio": 1.5},
    "test_image_noise": [0.0, 1.0, 2.0, 3.0, 4.0],
    "train": {"epochs": 20, "lr": 0.02, "batch_size": 32, "select": "last"},
}
CONDITIONS = ["late", "early"]
SEEDS = range(10)
RERUN = ("late", 3)


def run(condition: str, seed: int) -> dict[str, float]:
    data = digits(SETTINGS, seed)
    model = igm.build_model(
        data["train"].shapes, 10, fusion="concat" if condition == "early" else "late", seed=seed
    )
    method = "joint" if condition == "early" else "unimodal"
    train(model, data, seed, SETTINGS["train"], method)
    model.eval()
    result = {}
    for level in SETTINGS["test_image_noise"]:
        noise = SETTINGS["noise"] | {"image": level}
        test = igm.load_dataset("digits", split="test", noise=noise, seed=seed)
        with torch.no_grad():
            logits = model(test.inputs)  # modality, or fused -> (n, c)
        outputs = dict(logits)
        if condition == "late":
            outputs |= {rule: igm.fuse(logits, rule) for rule in ("mean", "logits", "entropy")}
        for name, output in outputs.items():
            result[f"{name}, image noise {level}"] = accuracy(output, test.labels)
    if condition == "early":
        for filler, z in fillers(model, data["train"].inputs["image"]).items():
            with torch.no_grad():
                sound = model.encoders["audio"](data["test"].inputs["audio"])  # (n, d)
                features = {"image": z.expand_as(sound), "audio": sound}
                joined = torch.cat([features[name] for name in model.encoders], 1)  # (n, m d)
                output = model.head(joined)
            result[f"fused, image feature {filler}"] = accuracy(output, data["test"].labels)
    return result


@torch.no_grad()
def fillers(model, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What may stand in for the feature of a missing image."""
    z = model.encoders["image"](images)  # (n, d)
    return {"zero": torch.zeros_like(z[0]), "mean": z.mean(0)}


if __name__ == "__main__":
    main(globals())
