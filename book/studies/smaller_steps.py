"""Does T do more than make steps smaller? What the first modality keeps and the second learns: for T over tau, for a
control whose gradients are as short as T makes them but keep their own direction, and for smaller learning rates in the
second stage, without T and with it."""

import copy

from _study import main, train
from shared_more import SETTINGS as MORE
from shared_more import after_first, first_stage

import igm
from igm.flat import times_matrix
from igm.methods import Interactive

SETTINGS = MORE
CASES = {  # data, and the orders of training
    "digits, noise 2": ["audio image", "image audio"],
    "mfeat": ["kar fou", "zer fac", "fac zer"],  # those of shared_more in which much is forgotten
    "digits, one network": ["audio image", "image audio"],
}
CONDITIONS = [f"{case}: {order}" for case, orders in CASES.items() for order in orders]
SEEDS = range(10)
RERUN = ("mfeat: kar fou", 0)  # the cheapest case with all ways


class Shortening(igm.IGM):
    """The optimiser in which a layer's gradient g becomes g |Tg| / |g|: as long as Tg, in the direction of g."""

    def modify(self):
        for name, T in self.matrices.items():
            g = self.layers[name].weight.grad
            if g.any():
                g.mul_(times_matrix(name, g, T).norm() / g.norm())


class ShortSteps(Interactive):
    """The method with that optimiser."""

    def optimizer(self, stage, base):
        (j,) = stage.modalities
        return Shortening(base, self.layers[j], self.settings.rho, self.settings.tau)


# name -> method, its settings, and the learning rate as a multiple of the first stage's
NO_GM, RATES = {"gm": []}, [0.3, 0.1, 0.03]
SECOND_STAGES = {
    "no GM": (Interactive, NO_GM, 1),
    "short steps, tau 20": (ShortSteps, {"tau": 20.0}, 1),
}
SECOND_STAGES |= {f"no GM, rate x {rate}": (Interactive, NO_GM, rate) for rate in RATES}
SECOND_STAGES |= {f"T, tau {tau:g}": (Interactive, {"tau": tau}, 1) for tau in (5.0, 20.0, 100.0)}
SECOND_STAGES |= {f"T, tau 20, rate x {rate}": (Interactive, {"tau": 20.0}, rate) for rate in RATES}


def run(condition: str, seed: int) -> dict[str, float]:
    order, data, common, stage = first_stage(condition, seed)
    first = order[0]
    result = {f"first stage, test {first}": stage.results["test"][first]["accuracy"]}
    scope = {"scope": "encoder"} if "one network" in condition else {}
    for name, (method, T, rate) in SECOND_STAGES.items():
        method = after_first(method, data["train"], common["batch_size"])
        T = SETTINGS["matrix"] | scope | T
        model = copy.deepcopy(stage.model)
        rates = {"lr": common["lr"] * rate}
        trained = train(model, data, seed, common, method, modalities=order, **T, **rates)
        for output, scores in trained.results["test"].items():
            result[f"{name}, test {output}"] = scores["accuracy"]
    return result


if __name__ == "__main__":
    main(globals())
