r"""How unequally the modalities of one model have learned, and how their gradients meet.

From the logits z^(j) of m modalities and the labels y of n samples:

    s_j = sum_i softmax(z_i^(j))[y_i]
    rho_j = s_j / mean of the other s_k                      discrepancy ratio (Peng et al., CVPR 2022)

    v(S) = score of the prediction fused from the modalities in S,   v(empty) = 1/c
    phi_j = sum over S without j of |S|! (m - |S| - 1)! / m! (v(S + j) - v(S))       Shapley value

From the gradients, at the same weights, of an old modality's loss and of a new one's in the head's layers l:

    cosine = <g_old, T g_new> / (||g_old|| ||T g_new||),   <a, b> = sum over l of the inner products

All of them describe; none says by itself that the fused prediction suffers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igm.flat import times_matrix
from igm.metrics import accuracy
from igm.models import Concatenation, LateFusion, Unimodal, fuse
from igm.sam import frozen_batchnorm_statistics

SHAPLEY_LIMIT = 5  # modalities; their number of subsets doubles with each


def unimodal_gap(inside: Mapping[str, float], alone: Mapping[str, float]) -> dict[str, float]:
    """Accuracy of each modality inside a fused model, minus that of the network trained on it alone.

    A joint loss sees the heads only through their sum, so none of them was trained to stand alone: what they say
    by themselves is partly an accident (chapter 2 of the book). A gap between such accuracies overstates what an
    encoder failed to learn. The fair measure is the same gap of ``linear_probe``, and for a
    Concatenation, which has no prediction of one modality, it is the only one.

    Args:
        inside, alone: modality -> accuracy on the same samples, as ``igm.evaluate`` or ``linear_probe`` give it.

    Returns:
        modality -> difference; below 0 where the fused model knows less than the unimodal network.

    Raises:
        ValueError: a modality is in one of the two only.
    """
    if unmatched := sorted(inside.keys() ^ alone.keys()):
        raise ValueError(f"no pair of accuracies for {', '.join(unmatched)}: give both for each")
    return {name: value - alone[name] for name, value in inside.items()}


def discrepancy_ratio(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """How far each modality is ahead of the others in the probability of the true class (OGM's rho).

    For two modalities it is Peng et al.'s ratio s_j / s_k, and the two ratios are each other's inverse. For more
    the paper gives no formula: here s_j is divided by the mean of the others' s. Peng et al. take the batch at hand
    and, for z^(j), the share of a concatenation's logits that comes from modality j.

    Args:
        logits: modality -> (n, c).
        labels: (n,), int64.

    Returns:
        modality -> ratio; 1 is balance, above 1 is ahead.

    Raises:
        ValueError: fewer than two modalities, or tensors that do not fit together.
    """
    _check(logits, labels)
    if len(logits) < 2:
        raise ValueError(f"a ratio needs two modalities or more, got {', '.join(logits)}")
    y = labels.unsqueeze(1)  # (n, 1)
    s = torch.stack([z.double().softmax(-1).gather(1, y).sum() for z in logits.values()])  # (m,)
    others = (s.sum() - s) / (len(s) - 1)
    return dict(zip(logits, (s / others).tolist(), strict=True))


@torch.no_grad()
def features(encoder: nn.Module, inputs: Tensor, batch_size: int = 512) -> Tensor:
    """The features z of all inputs, (n, d), in evaluation mode."""
    training = encoder.training
    encoder.eval()
    z = torch.cat([encoder(x) for x in inputs.split(batch_size)])
    encoder.train(training)
    return z


def linear_probe(
    encoder: nn.Module, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> float:
    """Test accuracy of a linear classifier trained on an encoder's frozen features (Alain and Bengio, 2016).

    It asks what the encoder has learned, whatever head it was trained with: a multinomial logistic regression on
    standardised features.

    Args:
        train, test: (inputs (n, ...), labels (n,)).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    probe.fit(features(encoder, train[0]).numpy(), train[1].numpy())
    return float(probe.score(features(encoder, test[0]).numpy(), test[1].numpy()))


def gradient_norms(model: LateFusion | Concatenation) -> dict[str, dict[str, float]]:
    """The L2 norm of the loss gradient that each modality's encoder and head hold, read after ``backward()``.

    A norm runs over all parameters of the part; one without a gradient counts as 0. A head that modalities share,
    as in a Concatenation, holds one gradient, the sum of what comes from all of them: each lists its norm.

    Returns:
        modality -> {"encoder": norm, "head": norm}.

    Raises:
        TypeError: a model of another type.
    """
    if isinstance(model, LateFusion):
        parts = {
            name: (network.encoder, network.head) for name, network in model.modalities.items()
        }
    elif isinstance(model, Concatenation):
        parts = {name: (encoder, model.head) for name, encoder in model.encoders.items()}
    else:
        raise TypeError(
            f"gradient norms by modality need a LateFusion or a Concatenation, got {type(model).__name__}"
        )
    return {
        name: {"encoder": _gradient_norm(encoder), "head": _gradient_norm(head)}
        for name, (encoder, head) in parts.items()
    }


def shapley_values(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    score: Callable[[Tensor, Tensor], float] = accuracy,
    weighting: str = "mean",
) -> dict[str, float]:
    """The share of each modality in the score of the fused prediction (Shapley, 1953), exactly, over all subsets.

    v(empty) is 1/c, the accuracy of guessing at random; where the classes are of equal size, the macro-F1 and the mAP
    of such guesses are near it too. The values add up to the fused score minus 1/c. Another choice of v(empty) would
    move all of them by the same amount.

    Args:
        logits: modality -> (n, c), of at most five modalities.
        labels: (n,), int64.
        score: (probabilities (n, c), labels) -> number.
        weighting: of the modalities in a subset, see ``igm.fuse``; "logits" for a jointly trained model.

    Returns:
        modality -> value, in the unit of the score.

    Raises:
        ValueError: more than five modalities or none, or tensors that do not fit together.
    """
    _check(logits, labels)
    c = next(iter(logits.values())).shape[1]
    v = {frozenset(): 1 / c}
    for S in subsets(logits)[1:]:
        p = fuse({name: z for name, z in logits.items() if name in S}, weighting)  # (n, c)
        v[S] = score(p, labels)
    return shapley(v)


def shapley(v: Mapping[frozenset[str], float | Tensor]) -> dict[str, float | Tensor]:
    """Shares the value of all out among them: each gets its mean gain over the orders in which they could come.

    Args:
        v: every subset, the empty one too -> its value, a number or a tensor; see ``subsets``.
    """
    names = list(dict.fromkeys(name for S in sorted(v, key=len) for name in S))
    m, shares = len(names), {}
    for j in names:
        for S in subsets(name for name in names if name != j):
            weight = 1 / (m * math.comb(m - 1, len(S)))  # |S|! (m - |S| - 1)! / m!
            shares[j] = shares.get(j, 0) + weight * (v[S | {j}] - v[S])
    return shares


def subsets(names: Iterable[str]) -> list[frozenset[str]]:
    """All subsets of at most five names, the empty one first.

    Raises:
        ValueError: there are more names; their subsets double with each.
    """
    names = list(names)
    if len(names) > SHAPLEY_LIMIT:
        raise ValueError(
            f"Shapley values are computed over all subsets of at most {SHAPLEY_LIMIT} modalities, got "
            f"{len(names)}: give fewer, or fuse some of them first"
        )
    return [frozenset(S) for size in range(len(names) + 1) for S in combinations(names, size)]


@torch.enable_grad()
def head_gradients(network: Unimodal, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The gradient of the cross-entropy of a batch (Eq. 1) in the weights of the head's layers.

    The network stays as it is: its ``.grad``, its mode, its BatchNorm statistics and the random state. In training
    mode the gradient is that of training, with dropout.

    Args:
        network: of one modality.
        x: (n, ...), the batch.
        labels: (n,), int64.

    Returns:
        full name of a layer, as in ``IGM.matrices`` -> (out, in), as ``weight`` is stored.
    """
    weights = {name: layer.weight for name, layer in network.layers("head").items()}
    with torch.random.fork_rng(), frozen_batchnorm_statistics(set(network.modules())):
        loss = F.cross_entropy(network(x), labels)
    return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def gradient_cosine(
    old: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    matrices: Mapping[str, Tensor] | None = None,
) -> float:
    """The cosine between the gradients of an old and a new modality, after Figure 1 (right) of the paper.

    The paper shows histograms of such cosines and does not say which data, which layers, or whether before or
    after T. Our definition: take a batch of each modality; compute both gradients at the same weights, before the
    step on the new one, e.g. by ``head_gradients``; apply T of the old modality to the new gradient if
    ``matrices`` are given; flatten and concatenate the weights' gradients of all layers that both heads have under
    the same name and in the same shape.

    With a shared head, both gradients belong to the same parameters, and a negative cosine says that a small step
    on the new modality raises the loss of the old one. With separate heads they belong to different parameters: the
    cosine then compares the directions of two networks' layers of the same name, and a step on one leaves the
    other's loss alone.

    Args:
        old, new: layer -> gradient (out, ...), not modified.
        matrices: layer -> T, (d, d) with out x d the flattened gradient, as in ``igm.modify_gradients``; a layer
            without one has T = I.

    Returns:
        The cosine, in [-1, 1]; nan where one of the gradients is zero.

    Raises:
        ValueError: the two have no layer in common, or a matrix does not fit its layer.
    """
    layers = [name for name, g in old.items() if name in new and new[name].shape == g.shape]
    if not layers:
        raise ValueError(
            "the two gradients have no layer of one name and shape in common: "
            f"there are {_shapes(old)} and {_shapes(new)}"
        )
    g_old = torch.cat([old[name].double().flatten() for name in layers])
    changed = {name: new[name].double() for name in layers}
    for name in layers:
        if name in (matrices or {}):
            changed[name] = times_matrix(name, changed[name], matrices[name])
    g_new = torch.cat([changed[name].flatten() for name in layers])
    return (g_old @ g_new / (g_old.norm() * g_new.norm())).item()


def _shapes(gradients: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tuple(g.shape)}" for name, g in gradients.items()) or "none"


def _gradient_norm(part: nn.Module) -> float:
    norms = [
        torch.linalg.vector_norm(p.grad, dtype=torch.float64)
        for p in part.parameters()
        if p.grad is not None
    ]
    return torch.stack(norms).norm().item() if norms else 0.0


def _check(logits: Mapping[str, Tensor], labels: Tensor) -> None:
    if not logits:
        raise ValueError("no modality: give the logits of one or more")
    shapes = {name: tuple(z.shape) for name, z in logits.items()}
    if len(set(shapes.values())) > 1 or any(s[:-1] != tuple(labels.shape) for s in shapes.values()):
        raise ValueError(
            f"logits must be (n, c) and labels (n,), got {shapes} and {tuple(labels.shape)}: "
            "give every modality's logits of the same samples"
        )
