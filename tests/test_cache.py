"""datasets/cache.py: computed once, the same for every process, and never wrong after a crash."""

import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest

from igm.datasets.cache import Cache


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.jpg"
    path.write_bytes(b"first")
    return path


class Work:
    """A computation that counts how often it ran."""

    def __init__(self, value):
        self.value, self.runs = value, 0

    def __call__(self):
        self.runs += 1
        return self.value


A = np.arange(24, dtype=np.float16).reshape(2, 3, 4)


def test_an_array_is_computed_once_and_comes_back_as_it_was(tmp_path, source):
    work, cache = Work(A), Cache(tmp_path / "cache")
    for instance in (cache, cache, Cache(tmp_path / "cache"), pickle.loads(pickle.dumps(cache))):
        got = instance.fetch("kind", source, work)
        assert np.array_equal(got, A) and got.dtype == A.dtype and got.shape == A.shape
    assert work.runs == 1


@pytest.mark.parametrize(
    "value",
    [
        np.array(7, np.uint8),
        np.zeros((0, 3), np.float32),
        np.random.default_rng(0).integers(0, 255, (37, 41, 3), dtype=np.uint8),
        np.asfortranarray(np.random.default_rng(0).standard_normal((5, 7))),
    ],
)
def test_all_shapes_and_types(tmp_path, source, value):
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        got = cache.fetch("kind", source, lambda: value)
        assert np.array_equal(got, value) and got.dtype == value.dtype and got.shape == value.shape


def test_kinds_and_files_do_not_mix(tmp_path, source):
    other = tmp_path / "other.jpg"
    other.write_bytes(b"first")
    cache = Cache(tmp_path / "cache")
    places = [("a", source, 1), ("b", source, 2), ("a", other, 3)]
    for _ in range(2):
        for kind, path, value in places:
            assert cache.fetch(kind, path, lambda v=value: np.array([v])) == [value]


def test_a_file_that_changed_is_read_again(tmp_path, source):
    cache = Cache(tmp_path / "cache")
    cache.fetch("kind", source, Work(A))
    source.write_bytes(b"second, longer")
    assert np.array_equal(cache.fetch("kind", source, Work(A + 1)), A + 1)
    os.utime(source, ns=(1, 1))
    assert np.array_equal(cache.fetch("kind", source, Work(A + 2)), A + 2)
    unused = Work(A)
    assert np.array_equal(Cache(tmp_path / "cache").fetch("kind", source, unused), A + 2)
    assert unused.runs == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_data_is_computed_again(tmp_path, source, damage):
    folder = tmp_path / "cache"
    Cache(folder).fetch("kind", source, Work(A))
    data = folder / "kind.bin"
    content = bytearray(data.read_bytes())
    if damage == "gone":
        data.unlink()
    else:
        content[20] ^= 1
        data.write_bytes(content if damage == "flip" else content[:30])
    work = Work(A)
    cache = Cache(folder)
    assert np.array_equal(cache.fetch("kind", source, work), A)
    assert work.runs == 1
    assert np.array_equal(cache.fetch("kind", source, work), A)
    assert work.runs == 1  # stored anew


@pytest.mark.parametrize("torn", [b'{"path": "', b"null\n", b"[1, 2]\n", b'{"path": "x"}\n'])
def test_an_index_torn_by_a_crash_loses_that_line_only(tmp_path, source, torn):
    folder, other = tmp_path / "cache", tmp_path / "other"
    other.write_bytes(b"x")
    Cache(folder).fetch("kind", source, Work(A))
    with open(folder / "kind.index", "ab") as index:
        index.write(torn)
    Cache(folder).fetch("kind", other, Work(A + 1))
    works, cache = (Work(None), Work(None)), Cache(folder)
    assert np.array_equal(cache.fetch("kind", source, works[0]), A)
    assert np.array_equal(cache.fetch("kind", other, works[1]), A + 1)
    assert works[0].runs == works[1].runs == 0


def test_the_limit_is_kept_and_reading_goes_on(tmp_path, source, caplog):
    cache = Cache(tmp_path / "cache", limit=3000e-9)  # 3,000 bytes
    big = np.zeros(2000, np.uint8)
    others = [tmp_path / f"{i}" for i in range(3)]
    for path in others:
        path.write_bytes(b"x")
        assert np.array_equal(cache.fetch("kind", path, lambda: big), big)
    assert sum(f.stat().st_size for f in (tmp_path / "cache").glob("*.bin")) <= 3000
    assert sum("limit" in r.message for r in caplog.records) == 1
    unused = Work(big)
    cache.fetch("kind", others[0], unused)
    assert unused.runs == 0


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path, source, caplog):
    (tmp_path / "cache").write_bytes(b"a file in its place")
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        assert np.array_equal(cache.fetch("kind", source, Work(A)), A)
    assert sum("cannot write" in r.message for r in caplog.records) == 1


def test_a_missing_source_is_left_to_the_computation(tmp_path):
    def compute():
        raise ValueError("gone is missing")

    with pytest.raises(ValueError, match="gone is missing"):
        Cache(tmp_path / "cache").fetch("kind", tmp_path / "gone", compute)


def fill(folder, sources, seed):
    cache = Cache(folder)
    for i in np.random.default_rng(seed).permutation(len(sources)):
        got = cache.fetch("kind", sources[i], lambda i=i: np.full((50, 41), i, np.int16))
        assert (got == i).all()


def test_several_processes_fill_one_cache(tmp_path):
    sources = [tmp_path / f"{i}.wav" for i in range(60)]
    for path in sources:
        path.write_bytes(b"x")
    folder = tmp_path / "cache"
    workers = [
        multiprocessing.get_context("fork").Process(target=fill, args=(folder, sources, seed))
        for seed in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    cache, unused = Cache(folder), Work(None)
    for i, path in enumerate(sources):
        assert (cache.fetch("kind", path, unused) == i).all()
    assert unused.runs == 0
    lines = [line for line in (folder / "kind.index").read_text().splitlines() if line]
    spans = sorted((e["offset"], e["offset"] + e["bytes"]) for e in map(json.loads, lines))
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))
    assert 60 <= len(lines) < 120  # two may begin on one file at once, and that is rare


def test_a_crash_between_data_and_index_leaves_a_gap_only(tmp_path, source):
    Cache(tmp_path).fetch("kind", source, Work(A))
    with open(tmp_path / "kind.bin", "ab") as data:
        data.write(b"half an array")
    other = tmp_path / "other"
    other.write_bytes(b"x")
    Cache(tmp_path).fetch("kind", other, Work(A + 1))
    cache, unused = Cache(tmp_path), Work(None)
    assert np.array_equal(cache.fetch("kind", source, unused), A)
    assert np.array_equal(cache.fetch("kind", other, unused), A + 1)
    assert unused.runs == 0


def test_threads_share_a_cache(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    sources = [tmp_path / f"{i}.wav" for i in range(40)]
    for path in sources:
        path.write_bytes(b"x")
    cache = Cache(tmp_path / "cache")

    def fetch(i):
        return (cache.fetch("kind", sources[i], lambda: np.full(999, i, np.int16)) == i).all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fetch, list(range(40)) * 3))


def test_a_copy_of_the_array_may_be_changed(tmp_path, source):
    cache = Cache(tmp_path / "cache")
    cache.fetch("kind", source, Work(A))
    got = Cache(tmp_path / "cache").fetch("kind", source, Work(None))
    got += 1  # private pages: the file stays as it is
    assert np.array_equal(Cache(tmp_path / "cache").fetch("kind", source, Work(None)), A)
