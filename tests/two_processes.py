"""The runs of test_devices.py. ``torchrun --nproc_per_node 2 tests/two_processes.py OUT`` does them in two processes."""

import sys
from pathlib import Path

import torch
from torch import nn

import igm
from igm import LateFusion, Unimodal, build_model, load_dataset, modification_matrix, paper_head

VIEWS = ("fou", "kar")
# Name -> settings, and those that a single process needs for the same run.
RUNS = {
    "igm": (dict(tau=20.0, rho=0.0, statistic="sample"), {}),
    "centred batch means": (
        dict(variant="paper", tau=3.0, rho=0.0, center=True, cumulative=True),
        {},
    ),
    "joint": (dict(method="joint", select="best"), {}),
    "clipped, in parts": (dict(rho=0.0, clip=0.5, accumulation=2), dict(accumulation=1)),
    "mla": (dict(method="mla"), {}),
    "mla in stages": (dict(method="mla", alternate="stage"), {}),
    # SAM's first pass does not synchronise: a process perturbs by the gradient of its own samples.
    "sam": (dict(rho=0.3, tau=20.0), dict(accumulation=2)),
}


def splits() -> dict:
    """97 samples: the last batch of 16 has one, and so nothing for the second process."""
    data = {s: load_dataset("mfeat", split=s, views=VIEWS) for s in ("train", "valid", "test")}
    return {split: dataset.subset(range(97)) for split, dataset in data.items()}


def run(name: str, alone: bool, out: Path | None = None) -> igm.Run:
    data = splits()
    model = build_model(data["train"].shapes, 10, shared_head=True, d=16)
    settings, for_one = RUNS[name]
    settings = dict(epochs=2, batch_size=16, lr=0.05, select="last") | settings
    settings |= for_one if alone else {}
    return igm.train(model, data, device="cpu", progress=False, out=out, **settings)


def matrices_of(run: igm.Run) -> dict:
    """T of every modality that has moments: modality -> layer -> (d, d)."""
    tau = getattr(run.settings, "tau", 0.0)
    return {
        j: {name: modification_matrix(Y, tau) for name, Y in covariance.matrices.items()}
        for j, covariance in getattr(run.method, "covariances", {}).items()
    }


def outcome(run: igm.Run) -> dict:
    return {
        "losses": [row["loss"] for row in run.history],
        "results": run.results,
        "weights": run.model.state_dict(),
        "matrices": matrices_of(run),
    }


def with_batchnorm(data: dict) -> dict[str, torch.Tensor]:
    encoder = nn.Sequential(nn.Linear(76, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU())
    model = LateFusion({"fou": Unimodal(encoder, paper_head(16, 10))})
    options = dict(modalities=["fou"], epochs=1, rounds=1, batch_size=16, select="last")
    options["drop_last"] = True  # BatchNorm cannot train on a single sample
    igm.train(model, data, rho=0.05, device="cpu", progress=False, **options)
    return model.state_dict()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    found = {name: outcome(run(name, alone=False)) for name in RUNS}
    kept = run("igm", alone=False, out=out / "run")
    again = igm.train(
        build_model(splits()["train"].shapes, 10, shared_head=True, d=16),
        splits(),
        out=out / "run",
        resume=True,
        progress=False,
        **{k: v for k, v in vars(kept.settings).items()},
    )
    found["resumed"] = {"history": again.history, "results": again.results}
    found["batchnorm"] = with_batchnorm(splits())
    broken = splits()
    broken["train"].inputs["kar"][37] = 3e38  # a number, but sums of its products are none
    try:
        igm.train(build_model(broken["train"].shapes, 10), broken, progress=False, device="cpu")
    except FloatingPointError as error:
        found["error"] = str(error)
    from accelerate import PartialState

    found["device"] = kept.device
    torch.save(found, out / f"rank{PartialState().process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
