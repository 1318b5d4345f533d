"""Models: an encoder and a head for each modality, and ways to bring several modalities together.

In the paper's letters, the encoder phi gives a feature z in R^d and the head with parameters Theta gives the
logits of c classes. `Unimodal` is one such pair, `LateFusion` holds one pair a modality, `Concatenation` is the
usual joint network: all features side by side into one head.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FUSIONS = ("mean", "entropy", "logits", "entropy-logits")


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
            name.replace("_orig_mod.", ""): layer  # torch.compile puts that in
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


def check_outputs(model: nn.Module, classes: Sequence[str] | None) -> None:
    """``check_width`` for each head that ends in a linear layer, so that nothing has to be computed."""
    networks = getattr(model, "modalities", None) or {"": model}
    for network in networks.values():
        head = getattr(network, "head", None)
        last = head[-1] if isinstance(head, nn.Sequential) and len(head) else head
        if isinstance(last, nn.Linear):
            check_width(last.out_features, classes)


def check_width(outputs: int, classes: Sequence[str] | None) -> None:
    """Raises ValueError: a model has another number of outputs than there are classes, as far as these are known."""
    if classes and outputs != len(classes):
        raise ValueError(
            f"the model has {outputs} outputs and the data {len(classes)} classes: build it for "
            f"{len(classes)}"
        )


def held_modalities(model: nn.Module) -> list[str]:
    """The names of the modalities that a LateFusion or a Concatenation has networks for."""
    return list(getattr(model, "modalities", None) or getattr(model, "encoders", {}))


def fuse(logits: Mapping[str, Tensor], weighting: str = "mean") -> Tensor:
    """Late fusion p = f(p^(1), ..., p^(m)): one prediction from the logits of the modalities.

    Args:
        logits: modality -> (n, c).
        weighting: ``"mean"`` averages the modalities' probabilities; ``"entropy"`` weights each sample's
            modalities' probabilities by exp(largest entropy - own entropy), so the surer one counts more;
            ``"logits"`` adds the logits before one softmax, which is what a joint loss trains; ``"entropy-logits"``
            adds the logits times the weights by entropy, as MLA's code does.

    Returns:
        Probabilities, (n, c).

    Raises:
        ValueError: an unknown weighting, or logits of different shapes.
    """
    if weighting not in FUSIONS:
        raise ValueError(f"unknown fusion {weighting!r}: use one of {', '.join(FUSIONS)}")
    if len({z.shape for z in logits.values()}) != 1:
        shapes = ", ".join(f"{name} {tuple(z.shape)}" for name, z in logits.items())
        raise ValueError(f"fusion needs logits of one shape, (n, c), and got {shapes or 'none'}")
    stacked = torch.stack(list(logits.values()))  # (m, n, c)
    if weighting == "logits":
        return stacked.sum(0).softmax(-1)
    p = stacked.softmax(-1)
    if weighting == "mean":
        return p.mean(0)
    entropy = torch.special.entr(p).sum(-1)  # (m, n)
    weights = (entropy.amax(0) - entropy).softmax(0)  # exp(...) scaled to sum to 1, (m, n)
    if weighting == "entropy-logits":
        return (weights.unsqueeze(-1) * stacked).sum(0).softmax(-1)
    fused = (weights.unsqueeze(-1) * p).sum(0)
    return fused / fused.sum(-1, keepdim=True)  # rounded weights may add up to a little more than 1
