"""loading.py: every sample once, in the order of the seed, whoever takes which part."""

from itertools import chain

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from igm.datasets.files import Unreadable
from igm.datasets.memory import MemorySet
from igm.loading import batches, steps


class Numbers(Dataset):
    """A plain data set: sample i is the number i."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return {"x": torch.tensor([float(i)]), "label": i % 2, "index": i}


def samples(batch) -> list[int]:
    return batch["index"].tolist()


@pytest.fixture(params=["plain", "in memory"])
def dataset(request, mfeat):
    return Numbers(23) if request.param == "plain" else mfeat["train"].subset(range(23))


def test_without_a_seed_the_samples_come_in_their_own_order(dataset):
    assert [samples(b) for b in batches(dataset, 10, None)] == [
        [*range(10)], [*range(10, 20)], [20, 21, 22]
    ]  # fmt: skip


def test_a_seed_shuffles_as_torchs_loader_does(dataset):
    ours = [samples(b) for b in batches(dataset, 10, 7)]
    generator = torch.Generator().manual_seed(7)
    torchs = [
        b["index"].tolist() for b in DataLoader(Numbers(23), 10, shuffle=True, generator=generator)
    ]
    assert ours == torchs
    assert ours != [samples(b) for b in batches(dataset, 10, 8)]


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_the_batches_between_them(dataset, processes):
    whole = [samples(b) for b in batches(dataset, 5, None)]
    shares = [
        [samples(b) for b in batches(dataset, 5, None, part=(rank, processes))]
        for rank in range(processes)
    ]
    assert sorted(chain(*shares)) == sorted(whole)
    assert [shares[i % processes][i // processes] for i in range(len(whole))] == whole


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("seed", [None, 3])
def test_the_shards_of_a_step_are_its_batch_cut_up(dataset, processes, shards, seed):
    whole = [samples(b) for b in batches(dataset, 10, seed)]
    of_process = [
        list(steps(dataset, 10, seed, part=(rank, processes), shards=shards))
        for rank in range(processes)
    ]
    for number, batch in enumerate(whole):
        sizes, parts = zip(*(found[number] for found in of_process))
        assert set(sizes) == {len(batch)}  # every process knows the size of the whole
        together = [samples(shard) for part in parts for shard in part]
        assert list(chain(*together)) == batch
        assert all(0 < len(shard) <= -(-10 // (processes * shards)) for shard in together)


def test_a_step_smaller_than_its_shards_leaves_some_empty():
    (first,), (second,) = (list(steps(Numbers(1), 8, 0, part=(rank, 2))) for rank in (0, 1))
    assert sorted([len(first[1]), len(second[1])]) == [0, 1]
    assert first[0] == second[0] == 1


def test_drop_last_leaves_out_a_smaller_batch(dataset):
    kept = [size for size, _ in steps(dataset, 10, 0, drop_last=True)]
    assert kept == [10, 10]
    assert [size for size, _ in steps(dataset, 10, 0)] == [10, 10, 3]
    assert [size for size, _ in steps(Numbers(4), 10, 0, drop_last=True)] == [4]  # all there is
    assert [size for size, _ in steps(Numbers(20), 10, 0, drop_last=True)] == [10, 10]


class Failing(Numbers):
    def __init__(self, error):
        super().__init__(8)
        self.error = error

    def __getitem__(self, i):
        raise self.error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unreadable("a.wav", "is empty"), ValueError),
        (ImportError("libGL.so.1: cannot open shared object file", name="cv2"), ImportError),
        (ModuleNotFoundError("No module named 'av'", name="av"), ModuleNotFoundError),
        (OSError("sndfile library not found"), OSError),
        (ValueError("frames: 3 are needed"), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_error_is_the_same_line_whoever_reads(workers, error, kind):
    with pytest.raises(kind) as caught:
        list(batches(Failing(error), 4, None, workers=workers))
    assert str(caught.value) == str(error)


def test_rows_of_a_modality_and_labels_go_together():
    labels = torch.zeros(90).long()
    for n in (89, 120):
        with pytest.raises(ValueError, match=f"{n} rows of kar beside 90 labels: give each"):
            MemorySet({"fou": torch.zeros(90, 3), "kar": torch.zeros(n, 2)}, labels, ["a"])
    MemorySet({"fou": torch.zeros(90, 3)}, labels, ["a"])


def test_the_global_generator_is_left_alone(dataset):
    before = torch.get_rng_state()
    list(steps(dataset, 4, 1))
    assert torch.equal(torch.get_rng_state(), before)
