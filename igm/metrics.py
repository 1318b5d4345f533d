"""What a model predicts for a whole data set, the scores of that, a linear probe, and intervals over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from igm.loading import batches
from igm.models import fuse

# torchmetrics, scikit-learn and SciPy take seconds to load, so they are imported where they are used.


@torch.no_grad()
def predictions(
    predict: nn.Module | Callable[[dict], dict[str, Tensor]],
    dataset: Dataset,
    fusion: str = "mean",
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    gather: Callable[[list], list] = list,
    batch_size: int = 256,
    workers: int = 0,
) -> tuple[dict[str, Tensor], Tensor]:
    """What each modality predicts for a whole data set, and what they predict together.

    Args:
        predict: batch -> {name: logits (n, c)}: a model, which is put in evaluation mode, or any such function.
        fusion: see ``igm.fuse``.
        part, gather: for several processes, see ``igm.loading.batches`` and ``igm.devices.Devices.gather``.
        batch_size: samples at once; the predictions do not depend on it, but for rounding.
        workers: processes that read the data beside this one.

    Returns:
        {name: probabilities (n, c)} with the further entry "fused" (a network with one output has only that), and
        the labels (n,).
    """
    if isinstance(predict, nn.Module):
        predict.eval()
    rank, processes = part
    found = []  # number of the batch, logits, labels
    for i, batch in enumerate(batches(dataset, batch_size, None, device, part, workers)):
        logits = {name: z.cpu() for name, z in predict(batch).items()}
        found.append((i * processes + rank, logits, batch["label"].cpu()))
    found = sorted(gather(found), key=lambda entry: entry[0])
    logits = {name: torch.cat([entry[1][name] for entry in found]) for name in found[0][1]}
    labels = torch.cat([entry[2] for entry in found])
    probabilities = {name: z.softmax(-1) for name, z in logits.items()}
    return probabilities | {"fused": fuse(logits, fusion)}, labels


def evaluate(
    predict: nn.Module | Callable[[dict], dict[str, Tensor]],
    dataset: Dataset,
    fusion: str = "mean",
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    gather: Callable[[list], list] = list,
    batch_size: int = 256,
    workers: int = 0,
) -> dict[str, dict[str, float]]:
    """Accuracy, macro-F1 and mAP of the ``predictions``: ``{"image": {"accuracy": ...}, ..., "fused": {...}}``."""
    probabilities, labels = predictions(
        predict, dataset, fusion, device, part, gather, batch_size, workers
    )
    return {name: scores(p, labels) for name, p in probabilities.items()}


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and mAP (mean over classes of the average precision), the paper's figures of merit.

    Args:
        probabilities: (n, c), or logits, whose order is the same only within a sample: give probabilities.
        labels: (n,), int64.
    """
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_average_precision,
        multiclass_f1_score,
    )

    classes = probabilities.shape[1]
    arguments = dict(preds=probabilities, target=labels, num_classes=classes)
    return {
        "accuracy": multiclass_accuracy(**arguments, average="micro").item(),
        "macro_f1": multiclass_f1_score(**arguments, average="macro").item(),
        "map": _mean_over_classes(multiclass_average_precision(**arguments, average=None)),
    }


def _mean_over_classes(values: Tensor) -> float:
    """The mean over the classes that occur: the others have no average precision. torchmetrics warns of each such."""
    return values[~values.isnan()].mean().item()


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """The share of samples whose most probable class, out of (n, c), is the label, (n,)."""
    return (probabilities.argmax(1) == labels).float().mean().item()


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


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half-width of its Student t interval; nan for the width of a single value.

    For two methods run on the same seeds, give the differences seed by seed: that is the paired comparison.
    """
    from scipy import stats

    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    half = stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean()), float(half)


def points(values: Sequence[float], signed: bool = False) -> str:
    """The interval in percentage points, ready for a sentence: ``"57.5 ± 2.2"``; a difference gets its sign."""
    mean, half = interval(values)
    mean = round(100 * mean, 1) + 0.0  # -0.0 is 0
    return f"{mean:{'+' if signed else ''}.1f} ± {100 * half:.1f}"
