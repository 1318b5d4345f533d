"""Who gets to learn while the label is still unexplained? The residual that reaches each head, and the gradient that
reaches each encoder, epoch by epoch, on the digits: each modality alone, and jointly by late fusion."""

import torch
from _study import digits, main, train
from torch.nn import functional as F

import igm
from igm.methods import EachAlone, Joint

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "lr": 0.02, "batch_size": 32, "select": "last"},
}
CONDITIONS = ["alone", "joint"]
SEEDS = range(10)
RERUN = ("joint", 3)


class Watch:
    """Notes at every step the mean size of the residual and the norm of each encoder's gradient."""

    def gradient(self, stage, batch, optimizer):
        loss = super().gradient(stage, batch, optimizer)
        with torch.no_grad():
            logits = sum(self.model[name](batch[name]) for name in stage.modalities)  # (n, c)
        residual = logits.softmax(-1) - F.one_hot(batch["label"], logits.shape[1])  # (n, c)
        for name in stage.modalities:
            norms = [p.grad.norm() for p in self.model[name].encoder.parameters()]
            row = (residual.norm(dim=1).mean().item(), torch.stack(norms).norm().item())
            self.__dict__.setdefault("log", {}).setdefault(name, []).append(row)
        return loss


class WatchedAlone(Watch, EachAlone):
    pass


class WatchedJoint(Watch, Joint):
    pass


def run(condition: str, seed: int) -> dict[str, float]:
    data = digits(SETTINGS, seed)
    model = igm.build_model(data["train"].shapes, 10, seed=seed)
    method = WatchedJoint if condition == "joint" else WatchedAlone
    trained = train(model, data, seed, SETTINGS["train"], method)
    result = {}
    for name, steps in trained.method.log.items():
        epochs = torch.tensor(steps).reshape(SETTINGS["train"]["epochs"], -1, 2).mean(1)
        for epoch, (residual, gradient) in enumerate(epochs.tolist(), 1):
            result[f"{name} residual, epoch {epoch}"] = residual
            result[f"{name} gradient, epoch {epoch}"] = gradient
    return result


if __name__ == "__main__":
    main(globals())
