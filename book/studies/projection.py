"""One head for two modalities, audio and image in turn: what does an orthogonal projection of the head's gradients keep
of the old modality, what does it leave for the new one to learn in, and how do the gradients of the two meet?"""

import numpy as np
import torch
from _study import digits, main, scores, train

import igm
from igm.analysis.controls import with_directions
from igm.analysis.imbalance import gradient_cosine, head_gradients
from igm.methods import Alternating, Interactive
from igm.rivals import MLA
from igm.seeds import derive_seed

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 20, "rounds": 2, "lr": 0.02, "batch_size": 32, "select": "last"}
    | {"fusion": "mean"},
    "mla_alpha": 0.1,
    "phase": 250,  # steps: as long as a stage, of which a run has four
    "every": 8,  # of each 8 steps, 2 in a row are looked at
    "bins": [round(-0.55 + 0.1 * i, 2) for i in range(17)],
}
ORDER = ["audio", "image"]
SEEDS = range(10)
QUANTILES = (5, 25, 50, 75, 95)


class SameScale(MLA):
    """A control: a multiple of the identity, with the norm that P has."""

    def projections_of(self, j):
        P = super().projections_of(j)
        return {
            name: p.norm() / len(p) ** 0.5 * torch.eye(len(p), dtype=p.dtype)
            for name, p in P.items()
        }


class RandomDirections(MLA):
    """A control: the eigenvalues of P, along orthogonal directions drawn at random."""

    def __init__(self, *args):
        super().__init__(*args)
        self.turned = {}

    def take_out(self, name, features):
        super().take_out(name, features)
        P = self.projections[name]
        seed = derive_seed(self.settings.seed, "directions", len(P))
        generator = torch.Generator().manual_seed(seed)
        self.turned[name] = with_directions(P, generator=generator)

    def projections_of(self, j):
        return {name: self.turned[name] for name in super().projections_of(j)}


EACH_BATCH = {"alternate": "batch"}
PROJECTION = {"alternate": "stage", "mla_alpha": SETTINGS["mla_alpha"]}
METHODS = {
    "stages: none": (Alternating, {}),
    "stages: projection": (MLA, PROJECTION),
    "stages: same scale": (SameScale, PROJECTION),
    "stages: random directions": (RandomDirections, PROJECTION),
    "stages: GM, tau 0.4": (Interactive, {"tau": 0.4, "statistic": "batch-mean", "rho": 0.0}),
    "stages: GM, tau 20, per sample": (
        Interactive,
        {"tau": 20.0, "statistic": "sample", "rho": 0.0},
    ),
    "stages: separate heads": (Alternating, {}),
    "each batch: none": (Alternating, EACH_BATCH),
    "each batch: projection": (MLA, PROJECTION | EACH_BATCH),
    "each batch: same scale": (SameScale, PROJECTION | EACH_BATCH),
    "each batch: projection, alpha 0.001": (MLA, PROJECTION | EACH_BATCH | {"mla_alpha": 0.001}),
}
CONDITIONS = list(METHODS)
RERUN = ("stages: projection", 3)


def watched(kind: type, data: dict) -> type:
    """A method that notes how the old and the new gradient meet, and at the end of each phase what it has come to."""

    class Watched(kind):
        step, phases, cosines = 0, 0, ()
        kept = ()  # (phase, share of the gradient's norm that the matrices leave)

        def __init__(self, *args):
            super().__init__(*args)
            self.head = [p.clone() for p in self.weights()]
            self.noted = {}

        def weights(self):
            return [p.detach() for p in self.model["audio"].head.parameters()]

        def gradient(self, stage, batch, optimizer):
            (new,) = stage.modalities
            (old,) = set(self.modalities) - {new}
            self.step += 1
            # In the very first stage there is no old modality.
            meets = self.settings.alternate == "batch" or self.phases
            if meets and self.step % SETTINGS["every"] < 2:  # two: each modality has its turn
                g = {j: head_gradients(self.model[j], batch[j], batch["label"]) for j in ORDER}
                if isinstance(self, MLA):
                    T = self.projections_of(new)
                else:  # SAM, the optimiser of plain alternating training, has none
                    T = getattr(optimizer, "matrices", {})
                self.cosines += (gradient_cosine(g[old], g[new], T),)
                self.kept += ((self.phases + 1, share_kept(g[new], T)),)
            return super().gradient(stage, batch, optimizer)

        def end_turn(self, turn):
            super().end_turn(turn)
            if self.settings.alternate == "batch" and self.step % SETTINGS["phase"] == 0:
                self.note()

        def end_stage(self, stage, batches):
            super().end_stage(stage, batches)
            if self.settings.alternate == "stage":
                self.note()

        def note(self):
            self.phases += 1
            tested = igm.evaluate(self.model.eval(), data["test"])
            self.model.train()
            for output, score in tested.items():
                self.noted[f"{output} after {self.phases}"] = score["accuracy"]
            for name, P in getattr(self, "projections", {}).items():
                self.noted[f"trace {name} after {self.phases}"] = (P.trace() / len(P)).item()
            moved = sum((p - q).square().sum() for p, q in zip(self.weights(), self.head)).sqrt()
            self.noted[f"head moved in {self.phases}"] = moved.item()
            self.head = [p.clone() for p in self.weights()]

    return Watched


def share_kept(gradient: dict, T: dict) -> float:
    """||T g|| / ||g|| over the layers."""
    after = {
        name: g.double() @ T[name].double() if name in T else g for name, g in gradient.items()
    }
    norms = [sum(g.square().sum().item() for g in each.values()) for each in (after, gradient)]
    return (norms[0] / norms[1]) ** 0.5


def run(condition: str, seed: int) -> dict[str, float]:
    kind, options = METHODS[condition]
    data = digits(SETTINGS, seed)
    shared = condition != "stages: separate heads"
    model = igm.build_model(data["train"].shapes, 10, shared_head=shared, seed=seed)
    method, options = watched(kind, data), {"modalities": ORDER} | options
    trained = train(model, data, seed, SETTINGS["train"], method, **options)
    watch = trained.method
    result = scores(trained, "test") | watch.noted
    cosines = np.array(watch.cosines)
    result["cosine mean"] = cosines.mean()
    result |= {f"cosine {q} %": np.percentile(cosines, q) for q in QUANTILES}
    bins = SETTINGS["bins"]
    counts = np.histogram(cosines.clip(bins[0], bins[-1]), bins)[0]
    result |= {f"cosines from {b}": n / len(cosines) for b, n in zip(bins, counts)}
    for phase in sorted({phase for phase, _ in watch.kept}):
        shares = [share for p, share in watch.kept if p == phase]
        result[f"gradient kept in {phase}"] = float(np.mean(shares))
    return {name: float(value) for name, value in result.items()}


if __name__ == "__main__":
    main(globals())
