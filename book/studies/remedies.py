"""Does it help to hold back the modality that is ahead? OGM and OGM-GE on the digits at several alphas, against joint
training, a loss for each head and alternating training; and is it the adaptive coefficient that acts? Controls hold
back a fixed, the wrong or a random modality. Heads of one layer, as in OGM's paper, and the heads of IGM's paper."""

from collections import defaultdict

import numpy as np
import torch
from _study import digits, main, train
from torch.nn import functional as F

import igm
from igm.analysis.imbalance import discrepancy_ratio, linear_probe
from igm.methods import Joint
from igm.rivals import OGM

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "lr": 0.02, "batch_size": 32, "select": "last"},
    "alphas": [0.1, 0.2, 0.4, 0.8],
    "factors": [0.8, 0.6, 0.4, 0.2],
    "alpha_of_controls": 0.4,
}
CONDITIONS = ["joint", "half the rate", "GE alone"]
CONDITIONS += [f"{name}, alpha {a}" for name in ("OGM", "OGM-GE") for a in SETTINGS["alphas"]]
CONDITIONS += [f"audio times {k}" for k in SETTINGS["factors"]]
CONDITIONS += ["yoked", "wrong modality", "random modality", "first half", "convolutions"]
CONDITIONS += ["own losses", "own losses, halved", "alternating"]
DEEP = ["joint", "OGM, alpha 0.1", "OGM, alpha 0.4", "own losses", "alternating"]
CONDITIONS += [f"paper's heads: {name}" for name in (*DEEP, "joint, concatenation")]
SEEDS = range(10)
RERUN = ("OGM-GE, alpha 0.4", 3)


class Watched(OGM):
    """Notes the ratio and the coefficient of every step."""

    def coefficients(self, batch):
        k = self.control(super().coefficients(batch))
        ratios = discrepancy_ratio(self.shares, batch["label"])
        log = self.__dict__.setdefault("log", defaultdict(list))
        log["audio log ratio"].append(np.log(ratios["audio"]))
        for name in k:
            log[f"{name} coefficient"].append(k[name])
        return k

    def control(self, k):
        return k


class WrongModality(Watched):
    def control(self, k):
        return dict(zip(k, reversed(k.values())))


class RandomModality(Watched):
    def control(self, k):
        return k if torch.rand(()) < 0.5 else dict(zip(k, reversed(k.values())))


class OwnLosses(Joint):
    def loss(self, stage, batch):
        logits = self.predict(batch)
        own = [F.cross_entropy(o, batch["label"]) for o in logits.values()]
        return F.cross_entropy(sum(logits.values()), batch["label"]) + sum(own)


class HalvedLosses(OwnLosses):
    """Is it more than a larger step?"""

    def loss(self, stage, batch):
        return super().loss(stage, batch) / 2


def fixed(factors):
    """Coefficients that stay as they are."""

    class Fixed(Watched):
        def control(self, k):
            return {name: factors.get(name, 1.0) for name in k}

    return Fixed


METHODS = {
    "wrong modality": WrongModality,
    "random modality": RandomModality,
    "own losses": OwnLosses,
    "alternating": "alternating",
}
OPTIONS = {
    "half the rate": {"ogm_alpha": 0.0, "lr": SETTINGS["train"]["lr"] / 2},
    "GE alone": {"ogm_alpha": 0.0, "ogm_noise": True},
    "first half": {"ogm_epochs": SETTINGS["train"]["epochs"] // 2},
    "convolutions": {"ogm_layers": "conv"},
}


def run(condition: str, seed: int) -> dict[str, float]:
    heads, _, name = condition.rpartition(": ")
    name, _, kind = name.partition(", ")
    head, fusion = "paper" if heads else "linear", "late"
    if kind == "concatenation":
        fusion = "concat"
    data = digits(SETTINGS, seed)

    def train_by(method, options):
        model = igm.build_model(data["train"].shapes, 10, fusion=fusion, seed=seed, head=head)
        return train(model, data, seed, SETTINGS["train"] | options, method)

    options = {"ogm_alpha": SETTINGS["alpha_of_controls"], "ogm_noise": False}
    method = HalvedLosses if kind == "halved" else METHODS.get(name, Watched)
    if name == "joint":
        options["ogm_alpha"] = 0.0  # the same to the last bit
    elif kind.startswith("alpha"):
        options |= {"ogm_alpha": float(kind.split()[-1]), "ogm_noise": name == "OGM-GE"}
    elif name.startswith("audio times"):
        method = fixed({"audio": float(name.split()[-1])})
    elif name == "yoked":  # to the mean coefficients of OGM with the same seed
        log = train_by(Watched, options).method.log
        method = fixed({m: np.mean(log[f"{m} coefficient"]) for m in data["train"].modalities})
    trained = train_by(method, options | OPTIONS.get(name, {}))

    result = {"valid fused": trained.results["valid"]["fused"]["accuracy"]}
    result |= {output: score["accuracy"] for output, score in trained.results["test"].items()}
    if name == "alternating":
        for rule in ("mean", "logits"):
            for split in ("valid", "test"):
                scores = igm.evaluate(trained.model, data[split], rule)
                result[f"{split} fused {rule}"] = scores["fused"]["accuracy"]
    for m in data["train"].modalities:
        parts = [(data[s].inputs[m], data[s].labels) for s in ("train", "test")]
        result[f"probe {m}"] = linear_probe(trained.model.encoders[m], *parts)
    for measure, steps in getattr(trained.method, "log", {}).items():
        result[measure] = float(np.mean(steps))
    if name in ("joint", "OGM"):
        logs = np.reshape(trained.method.log["audio log ratio"], (SETTINGS["train"]["epochs"], -1))
        for epoch, log in enumerate(logs.mean(1), 1):
            result[f"audio log ratio, epoch {epoch}"] = float(log)
    return result


if __name__ == "__main__":
    main(globals())
