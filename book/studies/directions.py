"""How far is T from the identity on a trained head, and is it the other modality's direction that counts? The audio
network's matrices against the image network's gradient, through one shared head, with controls of equal spectrum:
how much the gradient changes, how much of the image's first-order progress it keeps, how far audio's logits move."""

from copy import deepcopy

import torch
from _study import digits, main, train
from torch.nn.functional import cross_entropy

import igm
from igm.analysis.controls import with_directions
from igm.flat import modification_matrix
from igm.loading import batches
from igm.seeds import derive_seed

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 10, "lr": 0.02, "batch_size": 32, "select": "last"},
    "taus": [0.001, 0.01, 0.1, 0.4, 1.3, 5.0, 20.0, 100.0],
}
# How the moment is collected, and how long the image has trained when its gradient is taken.
MOMENTS = {
    "batch means": ({}, 0),
    "samples": ({"statistic": "sample"}, 0),
    "samples, centred": ({"statistic": "sample", "center": True}, 0),
    "batch means, 5 image epochs": ({}, 5),
}
CONDITIONS = list(MOMENTS)
SEEDS = range(10)
RERUN = ("batch means", 0)


def train_on(modality: str, epochs: int, model, data, seed: int) -> None:
    only = {"modalities": [modality], "epochs": epochs}
    train(model, data, seed, SETTINGS["train"], "unimodal", **only)


def head_inputs(network: igm.Unimodal, inputs: torch.Tensor, **options) -> igm.FeatureCovariance:
    """What the layers of the head see, in batches in the order of the data."""
    with igm.FeatureCovariance(network.head_layers(), **options) as covariance, torch.no_grad():
        for x in inputs.split(SETTINGS["train"]["batch_size"]):
            network(x)
    return covariance


def gradient_of(network: igm.Unimodal, x: torch.Tensor, labels: torch.Tensor):
    """layer -> (out, d), float64."""
    network.zero_grad()
    cross_entropy(network(x), labels).backward()
    return {name: layer.weight.grad.double() for name, layer in network.head_layers().items()}


@torch.no_grad()
def moved(network: igm.Unimodal, x: torch.Tensor, step, length: float = 1e-4) -> float:
    """How fast the logits of all x move, as a norm, when the head's weights move along ``step``."""
    z = network.encoder(x).double()
    ahead, behind = deepcopy(network.head).double(), deepcopy(network.head).double()
    for name, direction in step.items():
        ahead.get_submodule(name).weight += length * direction
        behind.get_submodule(name).weight -= length * direction
    return ((ahead(z) - behind(z)) / (2 * length)).norm().item()


def inner(a, b) -> float:
    return sum((a[name] * b[name]).sum() for name in a).item()


def summed(covariance) -> dict:
    """layer -> the sum of its inputs, (d,)."""
    return {name: total for name, (_, total, _) in covariance.state_dict().items()}


def run(condition: str, seed: int) -> dict[str, float]:
    options, image_epochs = MOMENTS[condition]
    data = digits(SETTINGS, seed)
    inputs = data["train"].inputs
    model = igm.build_model(data["train"].shapes, 10, shared_head=True, seed=seed)
    audio, image = model["audio"], model["image"]
    train_on("audio", SETTINGS["train"]["epochs"], model, data, seed)
    moments = head_inputs(audio, inputs["audio"], **options).matrices
    audio_means = summed(head_inputs(audio, inputs["audio"]))
    if image_epochs:
        train_on("image", image_epochs, model, data, seed)
    own_means = summed(head_inputs(image, inputs["image"]))
    batch = next(batches(data["train"], 256, seed))
    g = gradient_of(image, batch["image"], batch["label"])

    result = {}
    for name, moment in moments.items():
        eigenvalues, V = torch.linalg.eigh(moment)
        first, identity = V[:, -1], torch.eye(len(V), dtype=V.dtype)
        others = {"ones": torch.ones_like(first), "audio mean": audio_means[name]}
        for other, direction in (others | {"own mean": own_means[name]}).items():
            cosine = (first @ direction).abs() / direction.norm()
            result[f"{name} cosine with {other}"] = cosine.item()
        result[f"{name} first share"] = (eigenvalues[-1] / eigenvalues.sum()).item()
        result[f"{name} gradient along first"] = ((g[name] @ first).norm() / g[name].norm()).item()
        T = modification_matrix(moment, 0.4)
        result[f"{name} distance from identity"] = ((T - identity).norm() / identity.norm()).item()
        weights = torch.linalg.eigvalsh(modification_matrix(moment, 20.0))
        result[f"{name} closed at tau 20"] = (weights < 0.5).double().sum().item()

    controls = {
        "audio": lambda name, T: T,
        "own": lambda name, T: with_directions(T, own_means[name], generator(T)),
        "ones": lambda name, T: with_directions(T, torch.ones(len(T)), generator(T)),
        "random": lambda name, T: with_directions(T, None, generator(T)),
    }

    def generator(T):
        return torch.Generator().manual_seed(derive_seed(seed, "directions", len(T)))

    for tau in SETTINGS["taus"]:
        for control, matrix in controls.items():
            Tg = {
                name: g[name] @ matrix(name, modification_matrix(moment, tau))
                for name, moment in moments.items()
            }
            for name in g:
                change = (Tg[name] - g[name]).norm() / g[name].norm()
                result[f"{name} tau {tau:g} {control}"] = change.item()
            result[f"progress tau {tau:g} {control}"] = inner(g, Tg) / inner(g, g)
            result[f"audio moves tau {tau:g} {control}"] = moved(
                audio, inputs["audio"], Tg
            ) / moved(audio, inputs["audio"], g)
    return result


if __name__ == "__main__":
    main(globals())
