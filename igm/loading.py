"""Batches: in which order the samples come, and which of them each process takes.

Any map-style data set will do whose samples are dicts with an entry a modality, "label" and "index". Three methods are
used where a data set has them: ``fetch(positions)`` gives a whole batch at once; ``view(modalities, draw)`` gives the
data set for one pass, which then need not read the other modalities; inside ``forking()`` its workers are started.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from igm.seeds import derive_seed


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    drop_last: bool = False,
    **read,
) -> Iterator[dict[str, Tensor]]:
    """The batches of one pass, in an order drawn from ``seed``, or in the data's own order for None.

    Args:
        part: (r, P) for every P-th batch from the r-th on: what process r of P takes.
        drop_last: leave out a last batch that is smaller, unless it is the only one.
        read: ``workers``, the processes that read files beside this one, by default 0; what they read does not depend
            on their number. ``modalities``, those that are needed, by default all.

    Yields:
        modality -> (n, ...), "label" -> (n,), "index" -> (n,), on the device.
    """
    rank, processes = part
    mine = [[rows] for rows in _cut(len(dataset), batch_size, drop_last)[rank::processes]]
    for (batch,) in _load(dataset, mine, seed, device, **read):
        yield batch


def steps(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    shards: int = 1,
    drop_last: bool = False,
    **read,
) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
    """The same batches, each cut up between processes and in time.

    Args:
        part: (r, P): of P shares of a batch, of nearly equal size, the r-th is this process's.
        shards: the parts of that share.
        drop_last, read: as for ``batches``.

    Yields:
        the size of the whole batch, and those of this process's shards of it that are not empty.
    """
    rank, processes = part
    whole = _cut(len(dataset), batch_size, drop_last)
    plan = []
    for rows in whole:
        n, pieces = len(rows), processes * shards
        cuts = [n * i // pieces for i in range(pieces + 1)]
        mine = [rows[cuts[i] : cuts[i + 1]] for i in range(rank * shards, (rank + 1) * shards)]
        plan.append([shard for shard in mine if shard])
    yield from zip(map(len, whole), _load(dataset, plan, seed, device, **read))


def check_splits(data: Mapping[str, Dataset], modalities: Sequence[str]) -> None:
    """Looks for what could be trained on or scored in silence, as far as no file has to be read.

    A data set may have ``labels``, (n,), ``classes``, their names, and, where it is in memory, ``inputs``: modality ->
    (n, ...), or where it is in files ``missing_files(modalities)``.

    Raises:
        FileNotFoundError: files are not there, which would else be missed when their modality's turn comes.
        ValueError: a split is empty, a label is no class, or a modality has numbers that are not finite.
    """
    for split, dataset in data.items():
        if not len(dataset):
            raise ValueError(f"the {split} split is empty: give it samples, or leave it out")
        labels, classes = getattr(dataset, "labels", None), getattr(dataset, "classes", None)
        if labels is not None and classes is not None:
            wrong = sorted(set(torch.as_tensor(labels).tolist()) - set(range(len(classes))))
            if wrong:
                raise ValueError(
                    f"the label {wrong[0]} in the {split} split is no class: there are "
                    f"{len(classes)}, from 0"
                )
        inputs = getattr(dataset, "inputs", {})
        for name in [name for name in modalities if name in inputs]:
            x = torch.as_tensor(inputs[name])
            wrong = (~torch.isfinite(x).flatten(1).all(1)).nonzero().flatten().tolist()
            if wrong:
                raise ValueError(
                    f"{name} has numbers that are not finite in {len(wrong)} samples of the {split} "
                    f"split, first in row {wrong[0]}: leave these samples out"
                )
    missing: dict = {}  # as a set that keeps its order
    for split, dataset in data.items():
        if hasattr(dataset, "missing_files"):  # evaluation reads all modalities that the data has
            wanted = modalities if split == "train" else None
            missing |= dict.fromkeys(dataset.missing_files(wanted))
    if missing:
        raise FileNotFoundError(
            f"{len(missing):,} files or folders of the data are missing or empty, e.g. "
            f"{', '.join(map(str, [*missing][:3]))}: `igm check` names all of them, `igm prepare` makes them"
        )


def held_out(labels: Sequence[int], share: float, seed: int) -> np.ndarray:
    """Which samples to keep back for validation: (n,) of bool, about ``share`` of each class.

    At least one of every class that has two or more.
    """
    labels = np.asarray(labels)
    kept = np.zeros(len(labels), bool)
    rng = np.random.default_rng(derive_seed(seed, "hold out"))
    for label, n in sorted(Counter(labels.tolist()).items()):
        if n > 1:
            rows = rng.permutation(np.flatnonzero(labels == label))
            kept[rows[: max(1, round(share * n))]] = True
    return kept


def hold_out(dataset: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits a training set into train and valid, stratified by class; valid is not augmented."""
    if (labels := getattr(dataset, "labels", None)) is None:
        labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    kept = held_out(labels, share, seed)
    plain = dataset.evaluating() if hasattr(dataset, "evaluating") else dataset
    return _subset(dataset, np.flatnonzero(~kept)), _subset(plain, np.flatnonzero(kept))


def _subset(dataset: Dataset, rows: np.ndarray) -> Dataset:
    subset = getattr(dataset, "subset", None)
    return subset(rows.tolist()) if subset else Subset(dataset, rows.tolist())


def _cut(n: int, batch_size: int, drop_last: bool) -> list[range]:
    """The places in the order that belong to each batch."""
    if drop_last and n > batch_size:
        n -= n % batch_size
    return [range(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def _load(
    dataset: Dataset,
    plan: list[list[range]],
    seed: int | None,
    device: torch.device | str,
    workers: int = 0,
    modalities: Sequence[str] | None = None,
) -> Iterator[list[dict[str, Tensor]]]:
    """For each entry of the plan its batches, in an order of the samples drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed or 0)  # its own: the global one stays as it is
    samples, collate = dataset, default_collate
    if hasattr(dataset, "fetch"):
        samples, collate, workers = range(len(dataset)), dataset.fetch, 0
    elif hasattr(dataset, "view"):
        samples = dataset.view(modalities, draw=seed or 0)
    order = _Order(len(dataset), [s for entry in plan for s in entry], generator, seed is not None)
    loader = DataLoader(
        samples,
        batch_sampler=order,
        generator=generator,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    forking = getattr(samples, "forking", nullcontext) if workers else nullcontext
    with forking():
        stream = iter(loader)
    try:
        for entry in plan:
            with _plain_errors(workers):
                read = list(islice(stream, len(entry)))
            yield [
                {name: x.to(device, non_blocking=True) for name, x in batch.items()}
                for batch in read
            ]
    finally:
        if workers:  # else they live until the traceback of an error is freed
            stream._shutdown_workers()


@contextmanager
def _plain_errors(workers: int) -> Iterator[None]:
    """An error in a worker comes with the trace of the worker in its text: only its last line stays."""
    try:
        yield
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if workers and "Original Traceback" in str(error):
            # One of another constructor, such as Unreadable, comes as a RuntimeError.
            kind, _, text = str(error).strip().splitlines()[-1].partition(": ")
            plain = ValueError if kind.endswith("Unreadable") else type(error)
            raise plain(text or kind) from error
        if workers and isinstance(error, RuntimeError) and "exited unexpectedly" in str(error):
            raise OSError(
                "a process that reads the data died, perhaps for want of memory: try fewer workers, or 0"
            ) from error
        raise


class _Order(Sampler):
    """The samples at the given places of an order that is drawn when the first is asked for."""

    def __init__(self, n: int, places: list[range], generator: torch.Generator, shuffle: bool):
        self.n, self.places, self.generator, self.shuffle = n, places, generator, shuffle

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffle:
            order = torch.randperm(self.n, generator=self.generator)
        else:
            order = torch.arange(self.n)
        for rows in self.places:
            yield order[rows.start : rows.stop].tolist()
