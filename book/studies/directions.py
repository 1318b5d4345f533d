"""How far is T from the identity on a trained head, and is it the other modality's direction that counts? The audio
network's matrices against the image network's gradient, through one shared head, with controls of equal spectrum."""

import torch
from _study import main
from torch.nn.functional import cross_entropy

import igm
from igm.datasets import load_splits
from igm.flat import modification_matrix
from igm.seeds import derive_seed
from igm.train import batches

SETTINGS = {
    "samples": 800,
    "noise": {"image": 2.0, "audio": 1.5},
    "train": {"epochs": 10, "lr": 0.02, "batch_size": 32, "select": "last"},
    "taus": [0.001, 0.01, 0.1, 0.4, 1.3, 5.0, 20.0, 100.0],
}
MOMENTS = {
    "batch means": {},
    "samples": {"statistic": "sample"},
    "samples, centred": {"statistic": "sample", "center": True},
}
CONDITIONS = list(MOMENTS)
SEEDS = range(10)


def orthogonal(first: torch.Tensor, seed: int) -> torch.Tensor:
    """An orthogonal (d, d) matrix: the columns of ``first`` (d, k), then random ones."""
    d, k = first.shape
    generator = torch.Generator().manual_seed(derive_seed(seed, "orthogonal", d, k))
    columns = torch.randn(d, d, dtype=first.dtype, generator=generator)
    columns[:, :k] = first
    return torch.linalg.qr(columns).Q


def run(condition: str, seed: int) -> dict[str, float]:
    data = load_splits("digits", samples=SETTINGS["samples"], noise=SETTINGS["noise"], seed=seed)
    model = igm.build_model(data["train"].shapes, 10, shared_head=True, seed=seed)
    options = dict(modalities=["audio"], seed=seed, device="cpu", progress=False)
    igm.train(model, data, "unimodal", **options, **SETTINGS["train"])
    audio, image = model["audio"], model["image"]
    with (
        igm.FeatureCovariance(audio.head_layers(), **MOMENTS[condition]) as covariance,
        torch.no_grad(),
    ):
        for batch in batches(data["train"], SETTINGS["train"]["batch_size"], None):
            audio(batch["audio"])
    batch = next(batches(data["train"], 256, seed))
    model.zero_grad()
    cross_entropy(image(batch["image"]), batch["label"]).backward()

    result = {}
    for name, moment in covariance.matrices.items():
        g = image.head_layers()[name].weight.grad.double()  # (out, d)
        eigenvalues, V = torch.linalg.eigh(moment)
        ones = torch.ones_like(V[:, :1]) / len(V) ** 0.5
        identity = torch.eye(len(V), dtype=V.dtype)
        result[f"{name} first share"] = (eigenvalues[-1] / eigenvalues.sum()).item()
        result[f"{name} cosine with ones"] = (V[:, -1] @ ones).abs().item()
        result[f"{name} gradient along first"] = ((g @ V[:, -1]).norm() / g.norm()).item()
        T = modification_matrix(moment, 0.4)
        result[f"{name} distance from identity"] = ((T - identity).norm() / identity.norm()).item()
        controls = {
            "audio": None,
            "ones": orthogonal(ones, seed),
            "random": orthogonal(ones[:, :0], seed),
        }
        for tau in SETTINGS["taus"]:
            T = modification_matrix(moment, tau)
            weights = torch.linalg.eigvalsh(T)  # ascending: the sharpest direction comes first
            for control, directions in controls.items():
                matrix = T if directions is None else (directions * weights) @ directions.T
                result[f"{name} tau {tau:g} {control}"] = (
                    (g @ matrix - g).norm() / g.norm()
                ).item()
    return result


if __name__ == "__main__":
    main(globals())
