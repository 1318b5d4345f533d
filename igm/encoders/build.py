"""One of the networks of ``igm.encoders.networks`` by name, with options that may be wrong."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch

from igm.encoders import networks
from igm.encoders.small import check_kind, paper_head
from igm.models import Concatenation, LateFusion
from igm.seeds import derive_seed
from igm.settings import check_options


def build_network(
    name: str,
    classes: int,
    modalities: Sequence[str],
    kind: str = "late",
    seed: int = 0,
    shared_head: bool = False,
    pretrained: bool = True,
    **options,
) -> LateFusion | Concatenation:
    """The encoders of a data set and the paper's heads.

    Args:
        name: audio_video, text_image or gestures.
        kind: late, a head for each modality; or concat, one head over all features side by side.
        pretrained: False where the weights come from a run: no file of pretrained weights is read, and the
            parameters have the same names and shapes.
        options: those of the function.

    Raises:
        ValueError: an option that the function does not have, or a bad value of one.
        OSError: pretrained weights are not there.
    """
    check_kind(kind, shared_head)
    function = getattr(networks, name)
    known = inspect.signature(function).parameters
    decided = ("classes", "modalities", "shared_head", "seed")
    check_options("network", name, options, function, decided)
    if not pretrained:
        options = {k: v for k, v in options.items() if not k.endswith("_weights")}
        if "pretrained" in known:
            options["pretrained"] = False
    model = function(classes, tuple(modalities), shared_head=shared_head, seed=seed, **options)
    if kind == "late":
        return model
    encoders = {m: unimodal.encoder for m, unimodal in model.modalities.items()}
    width = sum(unimodal.head.fc1.in_features for unimodal in model.modalities.values())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "head"))
        return Concatenation(encoders, paper_head(width, classes))
