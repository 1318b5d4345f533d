"""Weights from a file: read without running code from it, matched name by name, refused in one clear line."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


def load_weights(
    module: nn.Module, path: str | Path, remedy: str, ignore: str | None = None
) -> None:
    """Fills a module from a state dict, .safetensors or as ``torch.save`` writes it; every name and shape must fit.

    Files from before PyTorch 0.4.1 lack ``num_batches_tracked``, which evaluation does not use: they are accepted.

    Args:
        remedy: ends the message of an error: which option to change, and where the right file is.
        ignore: leave out the entries of the file whose names begin so.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or does not fit. The module is then as it was.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: {remedy}")
    weights = _read(path, remedy)
    if ignore is not None:
        weights = {name: w for name, w in weights.items() if not name.startswith(ignore)}
    own = module.state_dict()
    for name, w in own.items():
        if name.endswith(".num_batches_tracked"):
            weights.setdefault(name, w)
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not one of its names" for name in weights if name not in own]
    wrong += [
        f"{name} is {tuple(w.shape)} in place of {tuple(own[name].shape)}"
        for name, w in weights.items()
        if name in own and w.shape != own[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"{path} does not fit this network: {', '.join(wrong[:3])}{more}: {remedy}"
        )
    module.load_state_dict(weights)


def _read(path: Path, remedy: str) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the readers raise nearly anything
        raise ValueError(
            f"{path} cannot be read as weights, it may be damaged: {remedy}"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} holds something else than a state dict: {remedy}")
    return dict(weights)
