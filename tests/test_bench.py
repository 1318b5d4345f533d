"""The record of the benchmark is complete, and its ratio is what it says. No speed is tested."""

import json
import math

import bench
import pytest

METHODS = ("gm", "sam", "released", "released_exact", "igm", "paper")
NAMES = {
    *[f"{group}_{method}" for group in ("step", "digits_step") for method in METHODS],
    *["import_igm", "matrices_over_pass", "matrices_extra_seconds", "eigh_over_svd"],
    *["surface_speedup", "surface_speedup_memory", "digits_epoch", "digits_epoch_saved"],
    *["modalities_r2", *(f"modalities_cost_{m}" for m in (2, 3, 4, 5))],
    *["samples_r2", "samples_cost_8", "memory_samples", "memory_step", "bf16_cpu"],
    *[f"reader_{name}" for name in ("first_epoch", "later_epochs", "first_nocache", "one_thread")],
    *[
        f"{unit}_{data}_{modality}"
        for unit in ("seconds", "gigabytes")
        for data, (shapes, *_) in bench.PAPER.items()
        for modality in shapes
    ],
}


@pytest.fixture
def working(monkeypatch):
    """working(name, seconds, ...): a work that takes these seconds by turns, on a clock that only works move."""
    now, done = [0.0], []
    monkeypatch.setattr(bench, "clock", lambda: now[0])

    def work(name, *seconds):
        def run():
            now[0] += seconds[done.count(name)]
            done.append(name)

        return run

    work.done = done
    return work


def test_a_ratio_is_ours_over_bare_side_by_side_after_a_warm_up(working):
    ours, bare = working("ours", 99, 2, 6, 8), working("bare", 1, 1, 2, 4)
    assert bench.ratio(ours, bare, repeats=3) == {"median": 2.0, "min": 2.0, "max": 3.0}
    assert working.done == ["ours", "bare"] * 4


def test_works_are_timed_one_by_one(working):
    works = [working("a", 0, 1, 2), working("b", 0, 3, 4), working("c", 0, 5, 6)]
    assert bench.in_turn(works, repeats=2) == [[1, 3, 5], [2, 4, 6]]


def test_times_repeats_its_works(working):
    bench.times(2, working("a", 1, 1), working("b", 1, 1))()
    assert working.done == ["a", "b", "a", "b"]


def test_a_line_explains_itself_and_not_what_turns_back():
    assert bench.r2([1, 2, 3, 4], [5, 7, 9, 11]) == pytest.approx(1)
    assert bench.r2([-1, 0, 1], [1, 0, 1]) == pytest.approx(0)
    assert bench.r2([0, 1, 2], [0, 3, 3]) == pytest.approx(0.75)  # 1 - 1.5 / 6 by hand


def test_a_group_alone_joins_the_record_of_this_machine(tmp_path, monkeypatch):
    def eigh():
        yield "eigh_over_svd", {"median": 0.5, "min": 0.25, "max": 2 / 3}

    monkeypatch.setattr(bench, "RECORD", tmp_path / "bench.json")
    monkeypatch.setattr(bench, "GROUPS", (eigh,))
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(bench.torch, "manual_seed", lambda seed: None)
    kept = {"_about": bench.about(), "other": {"median": 1, "min": 1, "max": 1}}
    bench.RECORD.write_text(json.dumps(kept))
    bench.main(["eigh"])
    new = {"eigh_over_svd": {"median": 0.5, "min": 0.25, "max": 0.6667}}
    assert json.loads(bench.RECORD.read_text()) == kept | new

    kept["_about"]["torch"] = "0.1"
    bench.RECORD.write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match="another machine or version: run all groups"):
        bench.main(["eigh"])
    bench.main()
    assert json.loads(bench.RECORD.read_text()) == {"_about": bench.about()} | new


def test_the_shapes_of_the_paper_are_those_of_the_readers():
    from igm.datasets import LAYOUTS

    for data, (shapes, classes, _) in bench.PAPER.items():
        assert len(LAYOUTS[data].classes) == classes
        assert list(LAYOUTS[data].readers()) == list(shapes)


def test_the_plain_reader_reads_what_ours_reads(tmp_path):
    items = bench.clips(tmp_path, 2)
    readers = {"audio": bench.Spectrogram(22050, 3.0), "video": bench.Pictures("video", count=1)}
    ours = bench.MediaSet(items, ["a"], readers, train=True)[1]
    plain = bench.PlainClips(items)[1]
    assert (ours["audio"] - plain["audio"]).abs().max() < 1e-4
    assert ours["video"].shape == plain["video"].shape == (1, 3, 224, 224)


def test_the_record_is_complete():
    record = json.loads(bench.RECORD.read_text())
    about = record.pop("_about")
    assert {"python", "torch", "device", "repeats"} <= about.keys()
    assert record.keys() >= NAMES and bench.TARGETS.keys() <= NAMES
    for name, entry in record.items():
        assert entry.keys() == {"median", "min", "max"}, name
        assert all(math.isfinite(value) for value in entry.values()), name
        assert entry["min"] <= entry["median"] <= entry["max"], name
