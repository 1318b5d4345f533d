"""Batches: in which order the samples come, and which of them each process takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from igm.datasets.media import one_thread
from igm.datasets.memory import MemorySet
from igm.datasets.reading import MediaSet


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    workers: int = 0,
    modalities: Sequence[str] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The batches of one pass, in an order drawn from ``seed``, or in the data's own order for None.

    Args:
        part: (r, P) for every P-th batch from the r-th on: what process r of P takes.
        workers: processes that read files beside this one; what they read does not depend on their number.
        modalities: those that are needed, by default all; a set of media files does not read the others.
    """
    rank, processes = part
    mine = [[rows] for rows in _steps(len(dataset), batch_size)[rank::processes]]
    for (batch,) in _load(dataset, mine, seed, device, workers, modalities):
        yield batch


def steps(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    shards: int = 1,
    drop_last: bool = False,
    workers: int = 0,
    modalities: Sequence[str] | None = None,
) -> Iterator[tuple[int, list[dict[str, Tensor]]]]:
    """The same batches, each cut up between processes and in time.

    Args:
        part: (r, P): of P shares of a batch, of nearly equal size, the r-th is this process's.
        shards: the parts of that share.
        drop_last: leave out a last batch that is smaller.

    Yields:
        the size of the whole batch, and those of this process's shards of it that are not empty.
    """
    rank, processes = part
    whole = _steps(len(dataset), batch_size)
    if drop_last and len(whole) > 1 and _size(whole[-1]) < batch_size:
        whole.pop()
    plan = []
    for rows in whole:
        cuts = [
            rows.start + _size(rows) * i // (processes * shards)
            for i in range(processes * shards + 1)
        ]
        mine = [slice(*cuts[i : i + 2]) for i in range(rank * shards, (rank + 1) * shards)]
        plan.append([shard for shard in mine if _size(shard)])
    yield from zip(map(_size, whole), _load(dataset, plan, seed, device, workers, modalities))


def hold_out(dataset: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits a training set into train and valid, stratified by class; valid is not augmented."""
    from sklearn.model_selection import train_test_split  # slow to load

    if (known := getattr(dataset, "labels", None)) is not None:
        labels = [int(label) for label in known]
    else:
        labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    train_rows, valid_rows = train_test_split(
        range(len(dataset)), test_size=share, stratify=labels, random_state=seed
    )
    if isinstance(dataset, MediaSet):
        valid = dataset.evaluating().subset(sorted(valid_rows))
        return dataset.subset(sorted(train_rows)), valid
    part = MemorySet.subset if isinstance(dataset, MemorySet) else Subset
    return part(dataset, sorted(train_rows)), part(dataset, sorted(valid_rows))


def _steps(n: int, batch_size: int) -> list[slice]:
    """The places in the order that belong to each batch."""
    return [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def _size(rows: slice) -> int:
    return rows.stop - rows.start


def _load(
    dataset: Dataset,
    plan: list[list[slice]],
    seed: int | None,
    device: torch.device | str,
    workers: int,
    modalities: Sequence[str] | None,
) -> Iterator[list[dict[str, Tensor]]]:
    """For each entry of the plan its batches, in an order of the samples drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed or 0)  # its own: the global one stays as it is
    samples, collate = dataset, default_collate
    if isinstance(dataset, MemorySet):
        samples, collate, workers = range(len(dataset)), dataset.fetch, 0
    elif isinstance(dataset, MediaSet):
        samples = dataset.view(modalities, draw=seed or 0)
    places = _Places(
        len(dataset), [s for entry in plan for s in entry], generator, seed is not None
    )
    loader = DataLoader(
        samples,
        batch_sampler=places,
        generator=generator,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    with one_thread() if workers and "cv2" in sys.modules else nullcontext():
        stream = iter(loader)  # which forks the workers
    try:
        for entry in plan:
            with _plain_errors(workers):
                read = list(islice(stream, len(entry)))
            yield [
                {name: x.to(device, non_blocking=True) for name, x in batch.items()}
                for batch in read
            ]
    finally:
        if workers:  # else they live on as long as somebody holds the error's traceback
            stream._shutdown_workers()


@contextmanager
def _plain_errors(workers: int) -> Iterator[None]:
    """An error in a worker comes with the trace of the worker in its text: only its last line stays."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        last = str(error).strip().splitlines()[-1]
        if workers and "Original Traceback" in str(error) and "Unreadable: " in last:
            raise ValueError(last.split("Unreadable: ", 1)[1]) from error
        if workers and isinstance(error, RuntimeError) and "exited unexpectedly" in str(error):
            raise OSError(
                "a process that reads the data died, perhaps for want of memory: try fewer workers, or 0"
            ) from error
        raise


class _Places(Sampler):
    """The samples at the given places of an order that is drawn when the first is asked for."""

    def __init__(self, n: int, places: list[slice], generator: torch.Generator, shuffle: bool):
        self.n, self.places, self.generator, self.shuffle = n, places, generator, shuffle

    def __iter__(self) -> Iterator[list[int]]:
        order = (
            torch.randperm(self.n, generator=self.generator)
            if self.shuffle
            else torch.arange(self.n)
        )
        for rows in self.places:
            yield order[rows].tolist()
