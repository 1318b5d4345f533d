"""compare.py against SciPy, on run folders written by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import igm
from igm.analysis.compare import compare, comparison_table
from igm.runs import FINDINGS
from igm_book.plots import plot_comparison

SETTINGS = {"method": "igm", "modalities": ["image", "audio"], "tau": 0.4, "rho": 0.02, "lr": 0.02}
SETTINGS |= {"gm": None}
OF_IGM = ("tau", "gm")
NOTES = {"data": "digits", "data_root": None, "samples": 400, "noise": None, "data_seed": 0}


@pytest.fixture
def run(tmp_path):
    """run(score, seed, ...): a new run folder, as igm.train leaves it."""
    folders = []

    def write(score=0.5, seed=0, notes=None, record=None, **settings) -> Path:
        folder = tmp_path / f"run{len(folders)}"
        folder.mkdir()
        folders.append(folder)
        found = {
            "status": "complete",
            "best_epoch": len(folders),
            "why": f"reason {len(folders)}",
            "device": f"device {len(folders)}",
            "commit": f"commit {len(folders)}",
            "results": {
                "test": {
                    "image": {"accuracy": score / 2, "macro_f1": score / 3},
                    "fused": {"accuracy": score, "macro_f1": score / 4},
                },
                "valid": {"fused": {"accuracy": score / 5}},
            },
            "history": [{"loss": score}],
            "wall_seconds": 3.5 + len(folders),
            "versions": {"torch": f"2.{len(folders)}"},
        }
        made = SETTINGS | {"seed": seed} | settings
        if made["method"] not in ("igm", "Mine"):  # a record has what the method has
            made = {name: x for name, x in made.items() if name not in OF_IGM}
        made_by = {"settings": made}
        content = NOTES | (notes or {}) | made_by | found | (record or {})
        (folder / "run.json").write_text(json.dumps(content))
        return folder

    return write


def half_width(values) -> float:
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return (high - low) / 2


# ---------------------------------------------------------------- groups and names


def test_runs_that_differ_in_the_seed_only_are_one_group(run):
    scores = {3: 0.55, 1: 0.52, 2: 0.61}
    comparison = compare([run(x, seed) for seed, x in scores.items()])
    assert comparison.groups == {"igm": scores}
    assert list(comparison.groups["igm"]) == [1, 2, 3]
    assert comparison.differences == {}
    assert comparison.data == []


def test_groups_are_named_by_what_differs_in_the_order_given(run):
    folders = [
        run(0.5, tau=20.0, rho=0.02),
        run(0.6, method="alternating", rho=0.0),
        run(0.7, seed=1, tau=20.0, rho=0.02),
        run(0.8, tau=0.4, rho=1e-10),
    ]
    comparison = compare(map(str, folders))
    assert comparison.groups == {
        "igm, tau 20, rho 0.02": {0: 0.5, 1: 0.7},
        "alternating, rho 0": {0: 0.6},
        "igm, tau 0.4, rho 1e-10": {0: 0.8},
    }
    assert list(comparison.groups)[0] == "igm, tau 20, rho 0.02"


def test_a_setting_that_another_method_does_not_have_names_no_group(run):
    plain = run(0.6, method="alternating")
    assert list(compare([run(0.5, tau=20.0), plain]).groups) == ["igm", "alternating"]
    groups = compare([run(0.5, tau=20.0), plain, run(tau=5.0)]).groups
    assert list(groups) == ["igm, tau 20", "alternating", "igm, tau 5"]


def test_a_method_of_ones_own_may_read_everything(run):
    comparison = compare([run(method="Mine", tau=1.0), run(method="Mine", tau=2.0)])
    assert list(comparison.groups) == ["Mine, tau 1", "Mine, tau 2"]


def test_equal_numbers_are_equal_however_they_are_written(run):
    comparison = compare([run(tau=20, seed=0), run(tau=20.0, seed=1)])
    assert comparison.groups == {"igm": {0: 0.5, 1: 0.5}}


def test_values_are_written_as_a_reader_would(run):
    comparison = compare(
        [
            run(notes={"noise": {"image": 1.5, "audio": 2.0}, "shared_head": True}),
            run(notes={"shared_head": False}, modalities=["image"], gm=[]),
        ]
    )
    assert list(comparison.groups) == [
        "igm, modalities image+audio, noise image 1.5 audio 2, shared_head true",
        "igm, modalities image, gm none, shared_head false",
    ]


ONE_EPOCH = dict(epochs=1, device="cpu", progress=False)


def test_runs_of_igm_train_over_two_seeds_are_one_group(tiny, networks, tmp_path):
    records = {}
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        igm.train(networks(), tiny, "alternating", folder, seed=seed, rounds=1, **ONE_EPOCH)
        records[seed] = json.loads((folder / "run.json").read_text())
    comparison = compare([tmp_path / "0", tmp_path / "1"], "map", "kar", "valid")
    expected = {seed: r["results"]["valid"]["kar"]["map"] for seed, r in records.items()}
    assert comparison.groups == {"alternating": expected}


def test_all_entries_of_a_record_are_known(tiny, networks, tmp_path):
    run = igm.train(networks(), tiny, "joint", tmp_path / "run", **ONE_EPOCH)
    assert set(run.record()) == {"settings", "sizes", *FINDINGS}


# ---------------------------------------------------------------- data


def test_other_data_is_said(run):
    comparison = compare([run(), run(notes={"samples": 800, "noise": {"image": 1.0}})])
    assert comparison.data == ["samples", "noise"]
    assert list(comparison.groups) == ["igm, samples 400", "igm, samples 800, noise image 1"]
    assert "data of the groups differ (samples, noise)" in comparison_table(comparison)


def test_data_sets_of_other_sizes_are_other_data(run):
    sizes = [{"train": 400, "test": 1000}, {"train": 400, "test": 999}]
    comparison = compare([run(record={"sizes": s}) for s in sizes])
    assert list(comparison.groups) == [f"igm, sizes train 400 test {n}" for n in (1000, 999)]
    assert comparison.data == ["sizes"]


def test_other_networks_on_the_same_data_are_not_other_data(run):
    comparison = compare([run(notes={"model": "late"}), run(notes={"model": "concat"})])
    assert list(comparison.groups) == ["igm, model late", "igm, model concat"]
    assert comparison.data == []
    assert "data" not in comparison_table(comparison)


def test_a_data_seed_that_follows_the_seed_does_not_split_a_group(run):
    comparison = compare([run(seed=s, notes={"data_seed": s}) for s in (0, 1, 2)])
    assert list(comparison.groups["igm"]) == [0, 1, 2]


def test_a_fixed_data_seed_does_not_split_off_the_run_whose_seed_it_equals(run):
    comparison = compare([run(seed=s, notes={"data_seed": 1}) for s in (0, 1, 2)])
    assert list(comparison.groups["igm"]) == [0, 1, 2]


def test_a_fixed_and_a_following_data_seed_are_other_data(run):
    following = [run(seed=s, notes={"data_seed": s}) for s in (0, 1)]
    fixed = [run(seed=s, method="alternating") for s in (0, 1)]
    comparison = compare(following + fixed)
    assert list(comparison.groups) == ["igm, data_seed as seed", "alternating, data_seed 0"]
    assert [list(g) for g in comparison.groups.values()] == [[0, 1], [0, 1]]
    assert comparison.data == ["data_seed"]


def test_runs_of_other_data_seeds_are_other_groups(run):
    comparison = compare([run(seed=s, notes={"data_seed": d}) for s, d in [(0, 0), (1, 0), (1, 1)]])
    assert list(comparison.groups) == ["igm, data_seed 0", "igm, data_seed 1"]


# ---------------------------------------------------------------- scores, intervals, differences


@pytest.mark.parametrize(
    ("score", "output", "split", "factor"),
    [
        ("accuracy", "fused", "test", 1),
        ("accuracy", "image", "test", 1 / 2),
        ("macro_f1", "image", "test", 1 / 3),
        ("macro_f1", "fused", "test", 1 / 4),
        ("accuracy", "fused", "valid", 1 / 5),
    ],
)
def test_the_score_asked_for(run, score, output, split, factor):
    comparison = compare([run(0.6)], score, output, split)
    assert comparison.groups == {"igm": {0: pytest.approx(0.6 * factor)}}
    assert f"{score} of {output} on {split}" in comparison_table(comparison).splitlines()[0]


IGM = {0: 0.60, 1: 0.641, 2: 0.59, 4: 0.62}
ALTERNATING = {1: 0.65, 2: 0.57, 3: 0.20, 4: 0.69}


@pytest.fixture
def two_groups(run):
    first = [run(x, seed) for seed, x in IGM.items()]
    second = [run(x, seed, method="alternating") for seed, x in ALTERNATING.items()]
    return compare(first + second)


def test_differences_are_paired_on_the_common_seeds(two_groups):
    expected = {"alternating": {1: 0.65 - 0.641, 2: 0.57 - 0.59, 4: 0.69 - 0.62}}
    assert two_groups.differences == {"alternating": pytest.approx(expected["alternating"])}


def test_the_table_holds_mean_interval_and_range_of_each_group(two_groups):
    lines = comparison_table(two_groups).splitlines()
    for name, scores in (("igm", IGM), ("alternating", ALTERNATING)):
        x = 100 * np.array(list(scores.values()))
        (line,) = [li for li in lines if li.startswith(name) and " to " in li]
        assert line.split() == [
            *(name, "4", f"{x.mean():.1f}", "±", f"{half_width(x):.1f}"),
            *(f"{x.min():.1f}", "to", f"{x.max():.1f}"),
        ]


def test_the_table_holds_the_paired_interval(two_groups):
    lines = comparison_table(two_groups).splitlines()
    assert "minus igm, in points, paired by seed" in lines
    delta = 100 * np.array([ALTERNATING[s] - IGM[s] for s in (1, 2, 4)])
    expected = f"{delta.mean():+.1f} ± {half_width(delta):.1f}"
    assert lines[-1].split(maxsplit=2) == ["alternating", "3", expected]


def test_too_few_common_seeds_have_no_interval(run):
    first = [run(0.5, 0), run(0.6, 1)]
    one = run(0.63, 1, method="joint")
    none = [run(0.5, 7, method="unimodal"), run(0.6, 8, method="unimodal")]
    comparison = compare([*first, one, *none])
    assert comparison.differences == {"joint": {1: pytest.approx(0.03)}, "unimodal": {}}
    *_, joint, unimodal = comparison_table(comparison).splitlines()
    assert joint.split(maxsplit=2)[1:] == ["1", "+3.0 (one seed in common: no interval)"]
    assert unimodal.split(maxsplit=2)[1:] == ["0", "no seed in common: no difference"]
    assert "nan" not in comparison_table(comparison)


def test_one_group_has_no_difference(run):
    lines = comparison_table(compare([run(0.5)])).splitlines()
    assert lines[-1].split() == ["igm", "1", "50.0", "50.0", "to", "50.0"]
    assert "minus" not in "".join(lines)


# ---------------------------------------------------------------- mistakes


def test_no_run():
    with pytest.raises(ValueError, match="no run to compare"):
        compare([])


def test_a_folder_that_is_not_there_or_not_of_a_run(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"nowhere/run\.json is not there: give the folder"):
        compare([run(), tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"run\.json is not there: give the folder"):
        compare([run() / "run.json"])
    with pytest.raises(FileNotFoundError, match=r"run\.json is not there: give the folder"):
        compare([tmp_path])


@pytest.mark.parametrize("content", [b'{"settings": {', b"", b"\xff\xfe{}", b"[]", b"{}"])
def test_a_damaged_record(run, content):
    folder = run()
    (folder / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"run0/run\.json is damaged"):
        compare([folder])


@pytest.mark.parametrize("status", ["running", "failed: the loss became nan"])
def test_an_unfinished_run(run, status):
    folders = [run(), run(seed=1, record={"status": status})]
    with pytest.raises(ValueError, match=rf"run1/run\.json.* not complete \({status}\)"):
        compare(folders)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split": "train"}, "no split 'train': .* test, valid"),
        ({"output": "text"}, "no output 'text': .* image, fused"),
        ({"score": "map"}, "no score 'map': .* accuracy, macro_f1"),
        ({"score": "macro_f1", "split": "valid"}, "no score 'macro_f1': .* accuracy"),
    ],
    ids=str,
)
def test_a_score_that_the_record_lacks(run, asked, message):
    with pytest.raises(ValueError, match=rf"run0/run\.json has {message}"):
        compare([run()], **asked)


def test_a_record_without_results(run):
    with pytest.raises(ValueError, match="no split 'test': .* none"):
        compare([run(record={"results": {}})])


@pytest.mark.parametrize("value", [float("nan"), None, "high"])
def test_a_score_that_is_no_number(run, value):
    results = {"test": {"fused": {"accuracy": value}}}
    with pytest.raises(ValueError, match=r"run0/run\.json: the accuracy of fused on test is"):
        compare([run(record={"results": results})])


def test_a_folder_given_twice(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run0 is given twice"):
        compare([run(), Path("run0")])


def test_two_runs_of_a_group_with_the_same_seed(run):
    folders = [run(0.5, seed=3), run(0.6, seed=2), run(0.7, seed=3)]
    with pytest.raises(ValueError, match=r"run0 and .*run2 have the same settings .* seed, 3"):
        compare(folders)


# ---------------------------------------------------------------- the figure


def test_the_figure_is_a_png_or_an_svg(two_groups, tmp_path):
    plot_comparison(two_groups, tmp_path / "a.png")
    plot_comparison(two_groups, str(tmp_path / "b.SVG"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "b.SVG").read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_the_figure_draws_the_scores_and_the_differences(two_groups, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("igm_book.plots.plot_seeds", lambda results, label, ax: drawn.append((results, label)))  # fmt: skip
    plot_comparison(two_groups, tmp_path / "a.png")
    (scores, left), (differences, right) = drawn
    assert scores["igm"] == pytest.approx([100 * x for x in IGM.values()])
    assert differences == {"alternating": pytest.approx([0.9, -2, 7])}
    assert (left, right) == ("accuracy of fused on test (%)", "minus igm (points)")


def test_single_seeds_and_missing_pairs_can_be_drawn(run, tmp_path, recwarn):
    folders = [run(0.5, 0), run(0.6, 1, method="joint"), run(0.6, 0, method="unimodal")]
    for number in (1, 2, 3):
        plot_comparison(compare(folders[:number]), tmp_path / f"{number}.png")
    assert not recwarn.list


def test_a_file_is_not_overwritten(two_groups, tmp_path):
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(FileExistsError, match=r"a\.png is there already"):
        plot_comparison(two_groups, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


def test_a_figure_of_another_kind_or_place_is_refused(two_groups, tmp_path):
    with pytest.raises(ValueError, match=r"\.png or \.svg, got .*a\.gif"):
        plot_comparison(two_groups, tmp_path / "a.gif")
    with pytest.raises(OSError, match=r"cannot write .*nowhere/a\.png"):
        plot_comparison(two_groups, tmp_path / "nowhere" / "a.png")


def test_a_figure_that_fails_leaves_no_file_of_its_name(two_groups, tmp_path, monkeypatch):
    def half(self, path, **options):
        Path(path).write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match="no space left"):
        plot_comparison(two_groups, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
