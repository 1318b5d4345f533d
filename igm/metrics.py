"""What a model predicts for a whole data set, and the scores of that."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from igm.loading import batches
from igm.models import fuse


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
    for i, batch in enumerate(batches(dataset, batch_size, None, device, part, workers=workers)):
        logits = {name: z.cpu() for name, z in predict(batch).items()}
        found.append((i * processes + rank, logits, batch["label"].cpu()))
    found = sorted(gather(found), key=lambda entry: entry[0])
    logits = {name: torch.cat([entry[1][name] for entry in found]) for name in found[0][1]}
    labels = torch.cat([entry[2] for entry in found])
    probabilities = {name: z.softmax(-1) for name, z in logits.items()}
    return probabilities | {"fused": fuse(logits, fusion)}, labels


def evaluate(predict, dataset: Dataset, *where, **how) -> dict[str, dict[str, float]]:
    """The scores of ``predictions``, which has the same arguments: ``{"image": {"accuracy": ...}, ..., "fused": ...}``."""
    probabilities, labels = predictions(predict, dataset, *where, **how)
    return {name: scores(p, labels) for name, p in probabilities.items()}


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and mAP (mean over classes of the average precision), the paper's figures of merit.

    Args:
        probabilities: (n, c), or logits, whose order is the same only within a sample: give probabilities.
        labels: (n,), int64.
    """
    from torchmetrics.functional.classification import (  # slow to load
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
