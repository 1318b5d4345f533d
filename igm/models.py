"""Models: an encoder and a head for each modality, and ways to bring several modalities together.

In the paper's letters, the encoder phi gives a feature z in R^d and the head with parameters Theta gives the
logits of c classes. `Unimodal` is one such pair, `LateFusion` holds one pair a modality, `Concatenation` is the
usual joint network: all features side by side into one head.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from igm.seeds import derive_seed

FUSIONS = ("mean", "entropy", "logits")


class Unimodal(nn.Module):
    """An encoder and a head: x -> z = phi(x), (n, d) -> logits, (n, c).

    Two Unimodals may hold the same head object; the head is then shared between their modalities.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))

    def head_layers(self) -> dict[str, nn.Linear]:
        """The fully connected layers of the head by name, where the paper's gradient modification acts."""
        return {name: m for name, m in self.head.named_modules() if isinstance(m, nn.Linear)}

    def layers(self, scope: str = "head") -> dict[str, nn.Module]:
        """The layers that the gradient modification can act on, from the top down to ``scope`` (Table 4).

        Args:
            scope: a module by its full name, such as ``"head"``, ``"encoder.layer4"`` or ``"encoder"`` for the whole
                network. It and all that comes after it is taken, in the order in which the modules were defined.

        Returns:
            full name -> ``nn.Linear`` or ``nn.Conv2d``. Grouped convolutions are left out: they have no single
            matrix.

        Raises:
            ValueError: there is no such module, or no layer in it or after it.
        """
        names = [name for name, _ in self.named_modules()]
        if scope not in names[1:]:
            raise ValueError(
                f"no module {scope!r} for the scope: use one of {', '.join(names[1:])}"
            )
        below = set(names[names.index(scope) :])
        layers = {
            name: layer
            for name, layer in self.named_modules()
            if name in below
            and (isinstance(layer, nn.Linear) or isinstance(layer, nn.Conv2d) and layer.groups == 1)
        }
        if not layers:
            raise ValueError(f"no linear or convolutional layer from the top down to {scope!r}")
        return layers


class LateFusion(nn.Module):
    """One Unimodal a modality. ``model["audio"](x)`` gives logits, ``model(batch)`` those of every modality."""

    def __init__(self, modalities: Mapping[str, Unimodal]):
        super().__init__()
        self.modalities = nn.ModuleDict(modalities)

    def __getitem__(self, modality: str) -> Unimodal:
        return self.modalities[modality]

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """modality -> its encoder, as a Concatenation has them."""
        return {name: unimodal.encoder for name, unimodal in self.modalities.items()}

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: unimodal(batch[name]) for name, unimodal in self.modalities.items()}


class Concatenation(nn.Module):
    """The features of all modalities side by side, (n, m d), into one head: ``model(batch) -> {"fused": logits}``."""

    def __init__(self, encoders: Mapping[str, nn.Module], head: nn.Module):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.head = head

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = [encoder(batch[name]) for name, encoder in self.encoders.items()]
        return {"fused": self.head(torch.cat(features, dim=1))}


def held_modalities(model: nn.Module) -> list[str]:
    """The names of the modalities that a LateFusion or a Concatenation has networks for."""
    return list(getattr(model, "modalities", None) or getattr(model, "encoders", {}))


def fuse(logits: Mapping[str, Tensor], weighting: str = "mean") -> Tensor:
    """Late fusion p = f(p^(1), ..., p^(m)): one prediction from the logits of the modalities.

    Args:
        logits: modality -> (n, c).
        weighting: ``"mean"`` averages the modalities' probabilities; ``"entropy"`` weights each sample's
            modalities by exp(largest entropy - own entropy), as MLA does, so the surer one counts more;
            ``"logits"`` adds the logits before one softmax, which is what a joint loss trains.

    Returns:
        Probabilities, (n, c).
    """
    if weighting not in FUSIONS:
        raise ValueError(f"unknown fusion {weighting!r}: use one of {', '.join(FUSIONS)}")
    stacked = torch.stack(list(logits.values()))  # (m, n, c)
    if weighting == "logits":
        return stacked.sum(0).softmax(-1)
    p = stacked.softmax(-1)
    if weighting == "mean":
        return p.mean(0)
    entropy = torch.special.entr(p).sum(-1)  # (m, n)
    weights = (entropy.amax(0) - entropy).softmax(0)  # exp(...) scaled to sum to 1, (m, n)
    return (weights.unsqueeze(-1) * p).sum(0)


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
) -> LateFusion | Concatenation:
    """Small encoders and heads for samples of the given shapes.

    Each part starts from its own random state, a function of (seed, modality): the image network begins with the
    same weights whatever else is in the model.

    Args:
        shapes: modality -> shape of one sample, e.g. ``dataset.shapes``.
        fusion: ``"late"`` for a LateFusion, ``"concat"`` for a Concatenation.
        shared_head: one head for all modalities instead of one each (late fusion only).
        d: size of a feature.
        head: ``"paper"`` for the paper's three layers, ``"linear"`` for one.
    """
    check_kind(fusion, shared_head)
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}: use one of {', '.join(HEADS)}")
    encoders = {name: partial(small_encoder, tuple(shape), d) for name, shape in shapes.items()}
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
