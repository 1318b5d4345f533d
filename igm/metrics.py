"""What a model predicts for a whole data set, and the scores of that."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from igm.loading import batches
from igm.models import check_width, fuse

ROUNDING = 1e-5  # by which a probability in float32 may be above 1


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

    Raises:
        ValueError: the data set is empty, or has ``classes`` and the model another number of outputs.
    """
    if isinstance(predict, nn.Module):
        predict.eval()
    rank, processes = part
    found = []  # number of the batch, logits, labels
    for i, batch in enumerate(batches(dataset, batch_size, None, device, part, workers=workers)):
        logits = {name: z.cpu() for name, z in predict(batch).items()}
        found.append((i * processes + rank, logits, batch["label"].cpu()))
    found = sorted(gather(found), key=lambda entry: entry[0])
    if not found:
        raise ValueError("there is no sample to predict: the data set is empty")
    logits = {name: torch.cat([entry[1][name] for entry in found]) for name in found[0][1]}
    labels = torch.cat([entry[2] for entry in found])
    for z in logits.values():
        check_width(z.shape[1], getattr(dataset, "classes", None))
    probabilities = {name: z.softmax(-1) for name, z in logits.items()}
    return probabilities | {"fused": fuse(logits, fusion)}, labels


def evaluate(predict, dataset: Dataset, *where, **how) -> dict[str, dict[str, float]]:
    """The scores of ``predictions``, which has the same arguments: ``{"image": {"accuracy": ...}, ..., "fused": ...}``.

    Raises:
        FloatingPointError: a prediction is NaN; the message names the modality.
    """
    probabilities, labels = predictions(predict, dataset, *where, **how)
    found = {}
    for name, p in probabilities.items():
        try:
            found[name] = scores(p, labels)
        except FloatingPointError as error:
            raise FloatingPointError(f"{name}: {error}") from None
    return found


def scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and mAP (mean over classes of the average precision), the paper's figures of merit.

    The mAP is the mean over the classes that occur: the others have no average precision.

    Args:
        probabilities: (n, c), from 0 to 1.
        labels: (n,), int64.

    Raises:
        ValueError: no sample, shapes or labels that do not fit, or numbers that are no probabilities.
        FloatingPointError: a probability is NaN.
    """
    from torchmetrics.functional.classification import (  # slow to load
        multiclass_accuracy,
        multiclass_average_precision,
        multiclass_f1_score,
    )

    _check(probabilities, labels)
    low, high = probabilities.min().item(), probabilities.max().item()
    if low < 0 or high > 1 + ROUNDING:
        raise ValueError(
            f"scores needs probabilities, from 0 to 1, and got {low:.3g} to {high:.3g}: give softmax(-1)"
        )
    # torchmetrics takes all rows for logits where a single number is above 1.
    p, classes = probabilities.clamp(max=1), probabilities.shape[1]
    arguments = dict(preds=p, target=labels, num_classes=classes)
    precisions = multiclass_average_precision(**arguments, average=None)
    return {
        "accuracy": multiclass_accuracy(**arguments, average="micro").item(),
        "macro_f1": multiclass_f1_score(**arguments, average="macro").item(),
        "map": precisions[labels.unique()].mean().item(),
    }


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """The share of samples whose largest probability or logit, out of (n, c), is that of the label, (n,).

    Raises as ``scores`` does.
    """
    _check(outputs, labels)
    return (outputs.argmax(1) == labels).float().mean().item()


def _check(outputs: Tensor, labels: Tensor) -> None:
    """Raises for what would be scored in silence: shapes or labels that do not fit, nothing at all, NaN."""
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
        raise ValueError(
            f"scores are of predictions (n, c) and labels (n,), not {tuple(outputs.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if not len(labels):
        raise ValueError("there is no sample to score: the data set is empty")
    first, last = labels.min().item(), labels.max().item()
    if first < 0 or last >= outputs.shape[1]:
        raise ValueError(
            f"the labels go from {first} to {last}, the predictions have {outputs.shape[1]} classes"
        )
    wrong = outputs.isnan().any(1).nonzero().flatten().tolist()
    if wrong:
        raise FloatingPointError(
            f"the predictions of {len(wrong)} samples are NaN, of sample {wrong[0]} first: look at "
            "their inputs, and for training try a smaller lr or rho"
        )
