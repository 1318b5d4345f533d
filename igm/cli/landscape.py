"""Draws the loss around the weights of a finished run, and prints how sharp it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import Namespace
from torch import Tensor
from torch.nn.functional import nll_loss

from igm.analysis.landscape import (
    cross_entropy,
    hessian_eigenvalues,
    hessian_trace,
    loss_surface,
    random_direction,
    worst_case_loss,
)
from igm.cli.models import add_run, finished
from igm.cli.parser import Parser
from igm.loading import batches
from igm.models import LateFusion, fuse
from igm.runs import write_json

RHOS = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]


def add_arguments(parser: Parser) -> None:
    add_run(parser)
    add, splits = parser.add_argument, ["train", "valid", "test"]
    add("--output", default="fused", help="fused, or a modality")
    add("--split", default="valid", choices=splits, help="data")
    add("--points", type=int, default=25, help="of each axis")
    add("--radius", type=float, default=1.0, help="of the axes, in filter norms")


def run(options: Namespace) -> int:
    method, data, device = finished(options)
    if options.points < 2 or not options.radius > 0:
        raise ValueError("a landscape needs 2 points or more and a radius above 0")
    name, dataset = options.output, data[options.split]
    if name != "fused" and not (isinstance(method.model, LateFusion) and name in method.modalities):
        raise ValueError(f"unknown output {name!r}: give fused, or a modality of late fusion")
    stem = Path(options.run) / f"landscape-{name}-{options.split}"
    if stem.with_suffix(".json").exists():
        raise FileExistsError(f"{stem}.json is there already and is not overwritten: move it away")
    network = method.model if name == "fused" else method.model[name]
    pairs = [
        (batch if name == "fused" else batch[name], batch["label"])
        for batch in batches(dataset, method.settings.eval_batch_size, None, device)
    ]
    loss = _fused_loss(method.settings.fusion) if name == "fused" else cross_entropy
    axis = torch.linspace(-options.radius, options.radius, options.points).tolist()
    found = _measure(network, pairs, axis, loss)
    _draw_surface(stem.with_suffix(".png"), axis, found["loss_surface"])
    write_json(stem.with_suffix(".json"), found)
    print(f"largest eigenvalue of the Hessian {found['hessian_eigenvalue']:.3g}")
    print(f"trace of the Hessian {found['hessian_trace']:.3g}")
    for rho, worst in found["worst_case_loss"].items():
        print(f"loss at SAM's perturbation of rho {rho:5} {worst:.4f}")
    print(f"saved in {stem}.json and {stem}.png")
    return 0


def _measure(network, pairs: list, axis: list[float], loss: Callable) -> dict:
    """The loss along two random directions, and the sharpness at the weights."""
    directions = [random_direction(network, seed) for seed in (0, 1)]
    worst = worst_case_loss(network, pairs, RHOS, loss=loss).tolist()
    return {
        "hessian_eigenvalue": hessian_eigenvalues(network, pairs, loss=loss)[0].item(),
        "hessian_trace": hessian_trace(network, pairs, loss=loss),
        "worst_case_loss": dict(zip(map(str, RHOS), worst)),
        "axis": axis,
        "loss_surface": loss_surface(network, pairs, directions, axis, axis, loss).tolist(),
    }


def _fused_loss(fusion: str) -> Callable[[dict, Tensor], Tensor]:
    """The loss of the prediction that the run is scored by."""
    if fusion == "mean":
        return cross_entropy
    smallest = torch.finfo(torch.float32).tiny
    return lambda output, y: nll_loss(fuse(output, fusion).clamp_min(smallest).log(), y)


def _draw_surface(path: Path, axis: list[float], surface: list[list[float]]) -> None:
    from igm_book.plots import save_surface  # matplotlib is slow to load

    save_surface(path, axis, surface)
