"""Spoken digits: the splits by speaker, the pairs with the pictures, the noise dials; the recordings where they are."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import test_layouts as layouts
import torch
from prepared import run, tree
from test_layouts import Facts

import igm
from igm.cli import main
from igm.cli.models import NOTES
from igm.datasets import LAYOUTS, load_dataset, load_splits
from igm.datasets.layout import check
from igm.datasets.memory import read_arrays, shipped_data
from igm.datasets.spoken_digits import log_mel, speaker_split
from igm.datasets.synthetic import write_wav
from igm.methods import find_method

NAME = "spoken_digits"
FACTS = Facts(
    raw="",
    annotations="annotations/{}.csv",
    source="recordings/3_dan_*.wav",
    drawn=r"\.wav$",
    sizes=(120, 30, 30),
    decoded=180,
    shapes={"image": (1, 14, 14), "audio": (1, 24, 24)},
    report=(
        r"^train +120 +2,000 +10 of 10$",
        r"^note: test: other counts than published .*: 0 3 \(50\)",
    ),
    published=(2000, 500, 500),
    settings={},
)
SPEAKERS = ["ada", "ben", "cleo", "dan", "eve", "finn"]


# What it does as the data sets of the paper do.
SHARED = [
    "a_missing_split_or_folder_is_named",
    "a_raw_folder_that_is_not_there_and_an_output_that_is_a_file_are_refused",
    "a_sample_in_two_splits_is_a_fault",
    "a_second_run_makes_nothing_again_and_mends_what_is_gone",
    "a_source_that_cannot_be_used_is_skipped_and_counted",
    "several_workers_make_the_same_files",
    "the_manifest_has_the_checksum_of_every_file",
    "the_sample_is_small_and_a_function_of_its_seed",
    "the_sample_is_usable_and_unlike_the_published_counts",
    "where_nothing_can_be_used_that_is_an_error",
]
for name in SHARED:
    globals()[f"test_{name}"] = getattr(layouts, f"test_{name}")


@pytest.fixture
def facts():
    return FACTS


@pytest.fixture
def clips(made):
    """The prepared sample: (root, its recordings by split)."""
    root = made / "SpokenDigits"
    names = {
        split: [line.split(",")[0] for line in (root / path).read_text().splitlines()]
        for split in ("train", "valid", "test")
        for path in [f"annotations/{split}.csv"]
    }
    return root, names


# ---------------------------------------------------------------- the splits


def test_every_speaker_is_test_once_and_valid_once():
    splits = [speaker_split(reversed(SPEAKERS), k) for k in range(6)]
    for k, part_of in enumerate(splits):
        assert part_of[SPEAKERS[k]] == "test" and part_of[SPEAKERS[(k + 1) % 6]] == "valid"
        assert Counter(part_of.values()) == {"train": 4, "valid": 1, "test": 1}


def test_the_split_is_an_option_of_prepare(made, tmp_path):
    assert main(["prepare", NAME, str(made / "raw"), str(tmp_path / "out"), "--split", "5"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["notes"] == ["train: ben, cleo, dan, eve", "valid: ada", "test: finn"]
    for note in report["notes"]:
        part, _, speakers = note.partition(": ")
        lines = (tmp_path / "out" / f"annotations/{part}.csv").read_text().splitlines()
        assert {line.split("_")[1] for line in lines} == set(speakers.split(", "))
        assert set(report["counts"][part]) == set("0123456789")


@pytest.mark.parametrize(
    ("speakers", "split", "message"),
    [
        (["theo", "george"], 0, "recordings of george, theo only: 3 speakers are needed"),
        (SPEAKERS, 6, "split must be from 0 to 5, a speaker each, got 6"),
        (SPEAKERS, -1, "split must be from 0 to 5, a speaker each, got -1"),
    ],
)
def test_a_split_that_cannot_be_is_named(speakers, split, message):
    with pytest.raises(ValueError, match=message):
        speaker_split(speakers, split)


def test_a_folder_without_recordings_is_named(tmp_path):
    (tmp_path / "raw" / "recordings").mkdir(parents=True)
    (tmp_path / "raw" / "recordings" / "seven.wav").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="no files such as 7_theo_31.wav: give a clone of"):
        run(LAYOUTS[NAME], tmp_path / "raw", tmp_path / "out")


def test_the_folder_of_recordings_itself_and_names_in_capitals_will_do(made, raw, tmp_path):
    wav = raw / "recordings" / "0_ada_0.wav"
    wav.rename(wav.with_suffix(".WAV"))
    run(LAYOUTS[NAME], raw / "recordings", tmp_path / "out")
    assert tree(tmp_path / "out").keys() == tree(made / "SpokenDigits").keys()


def test_a_silent_recording_is_left_out(raw, tmp_path):
    write_wav(raw / "recordings" / "0_ada_0.wav", np.zeros(4000, np.float32), 8000)
    report = run(LAYOUTS[NAME], raw, tmp_path / "out")
    assert "is silent from beginning to end" in report["skipped"]["0_ada_0"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("seven_theo_1,7", "'seven_theo_1' is no recording, such as 7_theo_31"),
        ("7_theo_1,1", "7_theo_1 is labelled '1', and its name says 7"),
        ("{first}", "stands in line 1 already: remove one"),
        ("7_theo_1", "1 of 2 columns"),
    ],
)
def test_a_wrong_line_is_named(root, line, fault):
    path = root / "annotations" / "train.csv"
    first = path.read_text().splitlines()[0]
    with open(path, "a") as file:
        file.write(line.format(first=first) + "\n")
    found = check(LAYOUTS[NAME], root, progress=False)
    assert any(f"{path}:121: " in f and fault in f for f in found.faults), found.faults
    with pytest.raises(ValueError, match="train.csv:121"):
        load_dataset(NAME, root)


# ---------------------------------------------------------------- loading


def test_the_pairs_agree_in_the_class_and_share_no_picture_between_splits(made, clips):
    root, names = clips
    arrays = read_arrays(shipped_data(), "digits", "train")
    pictures = arrays["images"].reshape(-1, 14, 2, 14, 2).mean((2, 4))
    reference = pictures[arrays["image_split"] == 0]
    row_of = {
        ((x - reference.mean()) / reference.std()).astype(np.float32).tobytes(): i
        for i, x in enumerate(pictures)
    }
    used = {}
    for part, data in load_splits(NAME, made).items():
        assert data.shapes == {"image": (1, 14, 14), "audio": (1, 24, 24)}
        rows = [row_of[x.numpy().tobytes()] for x in data.inputs["image"][:, 0]]
        assert (arrays["image_label"][rows] == data.labels.numpy()).all()
        assert (arrays["image_split"][rows] == ["train", "valid", "test"].index(part)).all()
        assert len(set(rows)) == len(rows) == len(names[part])
        assert Counter(data.labels.tolist()) == Counter(int(name[0]) for name in names[part])
        used[part] = set(rows)
    assert not used["train"] & used["valid"] and not used["train"] & used["test"]


def test_the_sounds_are_log_mels_standardised_by_train(made, clips):
    soundfile = pytest.importorskip("soundfile")
    root, names = clips
    raw = {
        part: np.stack(
            [log_mel(soundfile.read(root / f"recordings/{n}.wav", dtype="float32")[0]) for n in ns]
        ).astype(float)
        for part, ns in names.items()
    }
    mean, std = raw["train"].mean(), raw["train"].std()
    for part, data in load_splits(NAME, made).items():
        expected = (raw[part] - mean) / std
        found = data.inputs["audio"][:, 0].double().numpy()
        order = np.lexsort(expected.reshape(len(expected), -1).T[:40])
        mine = np.lexsort(found.reshape(len(found), -1).T[:40])
        np.testing.assert_allclose(found[mine], expected[order], atol=1e-5)


def test_the_seed_draws_order_pairs_and_noise(made):
    def load(**options):
        return load_dataset(NAME, made, **options)

    one, again, other = load(), load(), load(seed=1)
    assert all(torch.equal(one.inputs[m], again.inputs[m]) for m in one.inputs)
    assert not torch.equal(one.inputs["audio"], other.inputs["audio"])
    few = load(samples=40)
    assert len(few) == 40 and torch.equal(few.inputs["audio"], one.inputs["audio"][:40])
    noisy = load(noise={"image": 2.0})
    assert torch.equal(noisy.inputs["audio"], one.inputs["audio"])
    share = np.corrcoef(noisy.inputs["image"].flatten(), one.inputs["image"].flatten())[0, 1]
    assert share == pytest.approx(1 / np.sqrt(5), abs=0.02)
    assert load(image_size=28).shapes["image"] == (1, 28, 28)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": {"smell": 1.0}}, "unknown modality 'smell' in noise: there is image, audio"),
        ({"image_size": 20}, "image_size must be 14 or 28, got 20"),
        ({"samples": 1000}, "samples must be from 1 to 120 in the train split, got 1000"),
        ({"split": "dev"}, "unknown split 'dev': use one of train, valid, test"),
    ],
)
def test_bad_options_of_it_are_named(made, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(NAME, made, **options)


# ---------------------------------------------------------------- the commands


def test_it_is_trained_with_noise_and_evaluated_by_the_commands(made, tmp_path, capsys):
    out = tmp_path / "run"
    words = f"train --data {NAME} --data_root {made} --method joint --epochs 1 --out {out}"
    noise = ["--noise", '{"image": 2.0, "audio": 0.5}']
    assert main([*words.split(), *noise, "--device", "cpu"]) == 0
    record = json.loads((out / "run.json").read_text())
    assert record["noise"] == {"image": 2.0, "audio": 0.5}
    assert record["sizes"] == {"train": 120, "valid": 30, "test": 30}
    trained = capsys.readouterr().out
    assert main(["evaluate", str(out)]) == 0
    table = [line for line in trained.splitlines() if re.match("valid|test", line)]
    assert capsys.readouterr().out.splitlines()[1:] == table and len(table) == 6


def test_the_networks_of_the_digits_learn_the_sample(made):
    data = load_splits(NAME, made)
    model = igm.build_model(data["train"].shapes, 10)
    done = igm.train(model, data, "unimodal", epochs=20, lr=0.02, batch_size=16, progress=False)
    assert done.results["test"]["audio"]["accuracy"] > 0.4  # of three persons in four at best 0.9


def test_the_config_has_known_options():
    path = Path(igm.__file__).parent / "configs" / f"{NAME}.json"
    config = json.loads(path.read_text())
    kind = find_method(config["method"]).Settings
    settings = {field.name for field in fields(kind)}
    assert config["data"] == NAME and set(config) <= settings | set(NOTES)
    kind.make(**{name: value for name, value in config.items() if name in settings})


# ---------------------------------------------------------------- the recordings themselves


def test_the_recordings_come_out_as_published(tmp_path):
    """Where a clone is: SPOKEN_DIGITS names it, or it lies beside the book."""
    studies = Path(__file__).resolve().parents[1] / "book" / "studies"
    clone = studies.parent / "free-spoken-digit-dataset"
    clone = Path(os.environ.get("SPOKEN_DIGITS", clone))
    if not (clone / "recordings").is_dir():
        pytest.skip("the recordings are not here")
    raw = tmp_path / "raw"
    (raw / "recordings").mkdir(parents=True)
    for path in (clone / "recordings").glob("*_1*.wav"):  # 11 of 50
        shutil.copy(path, raw / "recordings")
    report = run(LAYOUTS[NAME], raw, tmp_path / "out", split=4)
    assert report["skipped"] == {} and report["notes"][2] == "test: theo"
    assert [sum(c.values()) for c in report["counts"].values()] == [440, 110, 110]
