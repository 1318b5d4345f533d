"""Small networks for the book's small data, the paper's head, and how a model is put together from its parts.

Each part starts from its own random state, a function of (seed, modality), so a modality's weights are the same whatever
else is in the model.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from igm.encoders.text_image import bert_encoder
from igm.models import Concatenation, LateFusion, Unimodal
from igm.seeds import derive_seed


def paper_head(d: int, classes: int) -> nn.Sequential:
    """The paper's head: FC(d x 256) - ReLU - FC(256 x 64) - FC(64 x c)."""
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(d, 256),
            relu=nn.ReLU(),
            fc2=nn.Linear(256, 64),
            fc3=nn.Linear(64, classes),
        )
    )


HEADS = {"paper": paper_head, "linear": nn.Linear}


def small_encoder(shape: tuple[int, ...], d: int = 128) -> nn.Sequential:
    """An encoder for the book's small data: a 2-convolution network for (channels, height, width), else an MLP.

    The feature passes a ReLU, as the pooled features of a ResNet do: z >= 0.
    """
    if len(shape) == 3:
        channels, height, width = shape
        places = math.ceil(height / 4) * math.ceil(width / 4)  # each convolution halves both sides
        encoder = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * places, d),
            nn.ReLU(),
        )
    elif len(shape) == 1:
        encoder = nn.Sequential(nn.Linear(shape[0], d), nn.ReLU(), nn.Linear(d, d), nn.ReLU())
    else:
        raise ValueError(
            f"no small encoder for samples of shape {shape}: write your own and put it in a Unimodal"
        )
    encoder.d = d
    return encoder


def build_model(
    shapes: Mapping[str, tuple[int, ...]],
    classes: int,
    fusion: str = "late",
    shared_head: bool = False,
    d: int = 128,
    seed: int = 0,
    head: str = "paper",
    text_encoder: str | Path | None = None,
    frozen: bool = False,
    pretrained: bool = True,
) -> LateFusion | Concatenation:
    """Small encoders and heads for samples of the given shapes, or a pretrained one for texts.

    Each part starts from its own random state, a function of (seed, modality): the image network begins with the
    same weights whatever else is in the model.

    Args:
        shapes: modality -> shape of one sample, e.g. ``dataset.shapes``.
        fusion: ``"late"`` for a LateFusion, ``"concat"`` for a Concatenation.
        shared_head: one head for all modalities instead of one each (late fusion only).
        d: size of a feature.
        head: ``"paper"`` for the paper's three layers, ``"linear"`` for one.
        text_encoder: a folder with config.json and the weights of a BERT, or its name on the Hugging Face hub: for
            texts, samples of one row, which the data set then has to give as token ids of its tokenizer.
        frozen: the text encoder stays as it is, but for a linear layer behind it.
        pretrained: False for a text encoder with random weights; of its folder only config.json is then needed.

    Raises:
        ValueError: an unknown option, a text encoder where there are no texts, or weights that are damaged.
        FileNotFoundError, OSError: the text encoder is not there.
    """
    check_kind(fusion, shared_head)
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}: use one of {', '.join(HEADS)}")
    encoders = {name: partial(small_encoder, tuple(shape), d) for name, shape in shapes.items()}
    if frozen and text_encoder is None:
        raise ValueError("network.frozen is for a text encoder: give network.text_encoder, too")
    if text_encoder is not None:
        texts = [name for name, shape in shapes.items() if len(shape) == 1]
        if not texts:
            raise ValueError(
                f"network.text_encoder is for texts, and there are none among {', '.join(shapes)}: "
                "leave it out"
            )
        encoders |= dict.fromkeys(texts, partial(bert_encoder, text_encoder, d, pretrained, frozen))
    return seeded_network(encoders, classes, fusion, shared_head, seed, HEADS[head])


def check_kind(fusion: str, shared_head: bool) -> None:
    """Raises ValueError: there is no such kind of model, or it has no heads that could be shared."""
    if fusion not in ("late", "concat"):
        raise ValueError(f"unknown kind of model {fusion!r}: use late or concat")
    if shared_head and fusion == "concat":
        raise ValueError("a concatenation has one head already: use shared_head with late fusion")


def seeded_network(
    encoders: Mapping[str, Callable[[], nn.Module]],
    classes: int,
    fusion: str = "late",
    shared_head: bool = False,
    seed: int = 0,
    build_head: Callable[[int, int], nn.Module] = paper_head,
) -> LateFusion | Concatenation:
    """Builds the encoders and the heads, each from its own random state, a function of (seed, modality).

    Args:
        encoders: modality -> what builds its encoder, whose ``d`` is the size of its feature.
        build_head: (size of a feature, classes) -> a head, by default the paper's.

    Raises:
        ValueError: one head for features of different sizes.
    """
    with torch.random.fork_rng(devices=[]):
        built = {}
        for name, build in encoders.items():
            torch.manual_seed(derive_seed(seed, "encoder", name))
            built[name] = build()
        sizes = {name: encoder.d for name, encoder in built.items()}
        if shared_head and len(set(sizes.values())) > 1:
            found = ", ".join(f"{name} {d}" for name, d in sizes.items())
            raise ValueError(
                f"one head for all needs features of one size, not {found}: set "
                "network.shared_head to false"
            )
        torch.manual_seed(derive_seed(seed, "head"))
        if fusion == "concat":
            return Concatenation(built, build_head(sum(sizes.values()), classes))
        head = build_head(next(iter(sizes.values())), classes) if shared_head else None
        networks = {}
        for name, encoder in built.items():
            if not shared_head:
                torch.manual_seed(derive_seed(seed, "head", name))
                head = build_head(sizes[name], classes)
            networks[name] = Unimodal(encoder, head)
        return LateFusion(networks)
