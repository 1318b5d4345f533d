"""datasets/cache.py: computed once, the same for every process, and never wrong after a crash."""

import errno
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

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


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_entry_is_one_file_that_numpy_reads(tmp_path, source):
    Cache(tmp_path / "cache").fetch("image-8", source, Work(A))
    (path,) = files(tmp_path / "cache")
    assert path.parent == tmp_path / "cache" / "image-8" and path.suffix == ".npy"
    assert np.array_equal(np.load(path), A) and np.load(path).dtype == A.dtype


def test_what_is_decoded_otherwise_than_before_is_computed_again(tmp_path, source, monkeypatch):
    work = Work(A)
    for version in (2, 2, 3, 3):
        monkeypatch.setattr("igm.datasets.cache.DECODING", version)
        Cache(tmp_path / "cache").fetch("image-8", source, work)
    assert work.runs == 2


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


def test_a_path_may_be_relative(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = Work(A)
    for path in (source, source.relative_to(tmp_path)):
        assert np.array_equal(Cache(tmp_path / "cache").fetch("kind", path, work), A)
    assert work.runs == 1


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


def flipped(content, place):
    content = bytearray(content)
    content[place] ^= 1
    return content


DAMAGE = {
    "a bit of the header": lambda content: flipped(content, 20),
    "a bit of the data": lambda content: flipped(content, -6),
    "a bit of the checksum": lambda content: flipped(content, -1),
    "cut": lambda content: content[:-10],
    "cut in the header": lambda content: content[:30],
    "cut to a byte": lambda content: content[:1],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"<html>404</html>",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_damaged_data_is_computed_again(tmp_path, source, damage):
    folder = tmp_path / "cache"
    Cache(folder).fetch("kind", source, Work(A))
    (data,) = files(folder)
    if damage == "gone":
        data.unlink()
    else:
        data.write_bytes(DAMAGE[damage](data.read_bytes()))
    work = Work(A)
    cache = Cache(folder)
    assert np.array_equal(cache.fetch("kind", source, work), A)
    assert work.runs == 1
    assert np.array_equal(cache.fetch("kind", source, work), A)
    assert work.runs == 1  # stored anew


def test_the_limit_is_kept_and_reading_goes_on(tmp_path, source, caplog):
    cache = Cache(tmp_path / "cache", limit=3000e-9)  # 3,000 bytes
    big = np.zeros(2000, np.uint8)
    others = [tmp_path / f"{i}" for i in range(3)]
    for path in others:
        path.write_bytes(b"x")
        assert np.array_equal(cache.fetch("kind", path, lambda: big), big)
    assert sum(f.stat().st_size for f in files(tmp_path / "cache")) <= 3000
    assert sum("limit" in r.message for r in caplog.records) == 1
    unused = Work(big)
    cache.fetch("kind", others[0], unused)
    assert unused.runs == 0
    another = Cache(tmp_path / "cache", limit=3000e-9)  # knows what is there already
    another.fetch("kind", others[1], Work(big))
    assert another.full and len(files(tmp_path / "cache")) == 1


def test_what_others_write_counts_for_the_limit(tmp_path, source):
    caches = [Cache(tmp_path / "cache", limit=100e-6) for _ in range(2)]  # 100,000 bytes
    for i in range(300):
        path = tmp_path / f"{i}"
        path.write_bytes(b"x")
        caches[i % 2].fetch("kind", path, lambda: np.zeros(1000, np.uint8))
    size = sum(f.stat().st_size for f in files(tmp_path / "cache"))
    assert 97e3 < size <= 102e3  # each may pass it by a hundredth


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path, source, caplog):
    (tmp_path / "cache").write_bytes(b"a file in its place")
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        assert np.array_equal(cache.fetch("kind", source, Work(A)), A)
    assert sum("cannot write" in r.message for r in caplog.records) == 1


def test_a_disk_that_gets_full_leaves_nothing_half_written(tmp_path, source, caplog, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = Cache(tmp_path / "cache")
    for _ in range(2):
        assert np.array_equal(cache.fetch("kind", source, Work(A)), A)
    assert files(tmp_path / "cache") == [] and cache.full
    assert sum("No space left" in r.message for r in caplog.records) == 1


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
    assert len(files(folder)) == 60  # and nothing half written


def test_threads_share_a_cache(tmp_path):
    sources = [tmp_path / f"{i}.wav" for i in range(40)]
    for path in sources:
        path.write_bytes(b"x")
    cache = Cache(tmp_path / "cache")

    def fetch(i):
        return (cache.fetch("kind", sources[i], lambda: np.full(999, i, np.int16)) == i).all()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fetch, list(range(40)) * 3))


def test_the_array_may_be_changed(tmp_path, source):
    cache = Cache(tmp_path / "cache")
    cache.fetch("kind", source, Work(A))
    got = Cache(tmp_path / "cache").fetch("kind", source, Work(None))
    got += 1  # the file stays as it is
    assert np.array_equal(Cache(tmp_path / "cache").fetch("kind", source, Work(None)), A)
