"""Batches: in which order the samples come, and which of them each process takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset, default_collate

from igm.datasets.memory import MemorySet


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> Iterator[dict[str, Tensor]]:
    """The batches of one pass, in an order drawn from ``seed``, or in the data's own order for None.

    Args:
        part: (r, P) for every P-th batch from the r-th on: what process r of P takes.
    """
    rank, processes = part
    mine = [[rows] for rows in _steps(len(dataset), batch_size)[rank::processes]]
    for (batch,) in _load(dataset, mine, seed, device):
        yield batch


def steps(
    dataset: Dataset,
    batch_size: int,
    seed: int | None,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    shards: int = 1,
    drop_last: bool = False,
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
    yield from zip(map(_size, whole), _load(dataset, plan, seed, device))


def hold_out(dataset: Dataset, share: float = 0.1, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Splits a training set into train and valid, stratified by class."""
    from sklearn.model_selection import train_test_split  # slow to load

    labels = [int(dataset[i]["label"]) for i in range(len(dataset))]
    train_rows, valid_rows = train_test_split(
        range(len(dataset)), test_size=share, stratify=labels, random_state=seed
    )
    part = MemorySet.subset if isinstance(dataset, MemorySet) else Subset
    return part(dataset, sorted(train_rows)), part(dataset, sorted(valid_rows))


def _steps(n: int, batch_size: int) -> list[slice]:
    """The places in the order that belong to each batch."""
    return [slice(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def _size(rows: slice) -> int:
    return rows.stop - rows.start


def _load(
    dataset: Dataset, plan: list[list[slice]], seed: int | None, device: torch.device | str
) -> Iterator[list[dict[str, Tensor]]]:
    """For each entry of the plan its batches, in an order of the samples drawn from ``seed``."""
    generator = torch.Generator().manual_seed(seed or 0)  # its own: the global one stays as it is
    samples, collate = dataset, default_collate
    if isinstance(dataset, MemorySet):
        samples, collate = range(len(dataset)), dataset.fetch
    places = _Places(
        len(dataset), [s for entry in plan for s in entry], generator, seed is not None
    )
    loader = DataLoader(
        samples,
        batch_sampler=places,
        generator=generator,
        collate_fn=collate,
        pin_memory=torch.device(device).type == "cuda",
    )
    stream = iter(loader)
    for entry in plan:
        yield [
            {name: x.to(device, non_blocking=True) for name, x in batch.items()}
            for batch in islice(stream, len(entry))
        ]


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
