"""datasets/cremad.py with preparing.py, layout.py and tables.py: from a raw download to samples, whatever is in it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial

import numpy as np
import prepared
import pytest
import soundfile
from prepared import half_written, tree

from igm import load_dataset
from igm.datasets import synthetic
from igm.datasets.cremad import CLASSES, CREMAD
from igm.datasets.cremad import NAME as CLIP_NAME
from igm.datasets.layout import check
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Preparation, Task, report_text
from igm.datasets.tables import Faults, plain_name, read_text

STEM = "1003_DFA_SAD_XX"

NAME = "cremad"

run = partial(prepared.run, CREMAD)


def annotated(out):
    return [row[0] for split in ("train", "test") for row in rows_of(out, split)]


def rows_of(out, split):
    with open(out / "annotations" / f"{split}.csv", newline="") as file:
        return list(csv.reader(file))


# ---------------------------------------------------------------- the sample and what prepare makes of it


def test_the_raw_sample_has_the_form_of_the_download(made):
    raw = made / "raw"
    wavs, flvs = (sorted((raw / name).iterdir()) for name in ("AudioWAV", "VideoFlash"))
    assert len(wavs) == len(flvs) == 96
    assert [p.stem for p in wavs] == [p.stem for p in flvs]
    assert all(re.fullmatch(r"1\d{3}_DFA_(NEU|HAP|SAD|FEA|DIS|ANG)_XX", p.stem) for p in wavs)
    assert wavs[0].read_bytes()[:4] == b"RIFF" and flvs[0].read_bytes()[:3] == b"FLV"
    assert soundfile.info(wavs[0]).samplerate == 16000
    text = (raw / "train.csv").read_bytes()
    assert text.startswith(b"\xef\xbb\xbf1001_DFA_NEU_XX,NEU\r\n")  # BOM, CRLF, no header
    assert text.count(b"\r\n") == 72


def test_prepare_writes_the_layout(made):
    root = made / "CREMAD"
    assert {p.name for p in root.iterdir()} - {".prepare"} == {
        "annotations",
        "AudioWAV",
        "Image-01-FPS",
        "manifest.json",
        "report.json",
    }
    assert rows_of(root, "train")[0] == ["1001_DFA_NEU_XX", "NEU"]
    for stem in annotated(root):
        assert (root / "AudioWAV" / f"{stem}.wav").read_bytes() == (
            made / "raw" / "AudioWAV" / f"{stem}.wav"
        ).read_bytes()
        frames = sorted(p.name for p in (root / "Image-01-FPS" / stem).iterdir())
        assert frames == ["00001.jpg", "00002.jpg"]  # 8 frames at 6 a second: 0 s and 1 s
    assert Counter(row[1] for row in rows_of(root, "train")) == dict.fromkeys(CLASSES, 12)


def test_the_frames_are_those_at_whole_seconds(made):
    import cv2

    video = cv2.VideoCapture(str(made / "raw" / "VideoFlash" / f"{STEM}.flv"))
    frames = [video.read()[1] for _ in range(8)]
    for second, number in ((0, 1), (1, 2)):
        path = made / "CREMAD" / "Image-01-FPS" / STEM / f"{number:05}.jpg"
        kept = cv2.imread(str(path)).astype(int)
        distance = [np.abs(kept - frame).mean() for frame in frames]
        assert np.argmin(distance) == 6 * second and min(distance) < 3


def test_the_report_counts_the_classes_and_the_actors_of_both_parts(made):
    report = json.loads((made / "CREMAD" / "report.json").read_text())
    assert report["skipped"] == {}
    assert "train          72  ANG 12, DIS 12" in report_text(report)
    assert report["notes"] == ["0 of the 4 actors of test are in train, too"]


def test_the_split_by_speakers_shares_no_actor(made, tmp_path):
    run(made / "raw", tmp_path / "out", split="speakers")
    actors = {
        split: {row[0][:4] for row in rows_of(tmp_path / "out", split)}
        for split in ("train", "valid", "test")
    }
    assert [len(actors[split]) for split in actors] == [11, 2, 3]
    assert not actors["train"] & (actors["test"] | actors["valid"])
    assert not actors["test"] & actors["valid"]


def test_actors_that_are_in_both_parts_are_counted(raw, tmp_path):
    with open(raw / "test.csv", "a") as file:
        file.write("1001_DFA_ANG_XX,ANG\r\n")
    text = (raw / "train.csv").read_text().replace("1001_DFA_ANG_XX,ANG\n", "")
    (raw / "train.csv").write_text(text)
    assert run(raw, tmp_path / "out")["notes"] == ["1 of the 5 actors of test are in train, too"]


def test_the_split_by_speakers_of_91_actors_has_the_documented_sizes(tmp_path):
    from igm.datasets.cremad import _by_speakers

    parts = _by_speakers(tmp_path, [f"{actor}_IEO_ANG_HI" for actor in range(1001, 1092)])
    assert {part: len(stems) for part, stems in parts.items()} == {
        "train": 64,
        "valid": 9,
        "test": 18,
    }


# ---------------------------------------------------------------- stopping, going on, changing


def times_of(folder):
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.suffix in (".wav", ".jpg")}


def test_a_source_that_changed_is_prepared_again(raw, tmp_path):
    run(raw, tmp_path / "out")
    path = raw / "AudioWAV" / f"{STEM}.wav"
    synthetic.write_wav(path, np.full(4000, 0.25, np.float32), 16000)
    run(raw, tmp_path / "out")
    assert (tmp_path / "out" / "AudioWAV" / path.name).read_bytes() == path.read_bytes()


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_files(made, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "igm", "prepare", "cremad", str(made / "raw"), str(out)]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    expected = tree(out)
    shutil.rmtree(out)
    for share in (0.8, 0.9, 0.95):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in out.rglob("*.wav"):  # what is there is whole
            assert path.read_bytes() == (made / "raw" / "AudioWAV" / path.name).read_bytes()
        for folder in out.glob("Image-01-FPS/1*"):
            assert len(list(folder.iterdir())) == 2
    time.sleep(1.2)  # the workers of a killed process end
    subprocess.run(command, check=True, capture_output=True)
    assert tree(out) == expected


def test_a_torn_journal_loses_one_line(made, tmp_path):
    out = tmp_path / "out"
    run(made / "raw", out)
    journal = out / ".prepare" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])
    before = times_of(out)
    run(made / "raw", out)
    assert sum(before[name] != stamp for name, stamp in times_of(out).items()) == 3
    lines = journal.read_text().splitlines()
    assert len(lines) == 97 and all(json.loads(line) for line in lines)


def test_two_at_once_in_one_folder_are_refused(made, tmp_path):
    with (
        Preparation("cremad", made / "raw", tmp_path / "out", progress=False),
        pytest.raises(FileExistsError, match="another igm prepare is at work"),
        Preparation("cremad", made / "raw", tmp_path / "out", progress=False),
    ):
        pass


def test_other_options_need_another_folder(made, tmp_path):
    run(made / "raw", tmp_path / "out")
    with pytest.raises(FileExistsError, match="was begun as .*speakers.*same options"):
        run(made / "raw", tmp_path / "out", split="speakers")


@pytest.mark.parametrize("place", ["full", "file", "itself", "above"])
def test_an_output_that_would_do_harm_is_refused(raw, tmp_path, place):
    out = {"full": tmp_path / "full", "file": tmp_path / "f", "itself": raw, "above": tmp_path}[
        place
    ]
    if place == "full":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    if place == "file":
        out.write_text("a file")
    before = tree(tmp_path)
    with pytest.raises((FileExistsError, ValueError), match="give (a|another) (new )?folder"):
        run(raw, out)
    assert tree(tmp_path, but=()) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_one_error(made, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot write to .*give a folder that you may write to"):
        run(made / "raw", tmp_path / "locked" / "out")


def test_a_file_in_the_place_of_a_folder_is_one_error(made, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="cannot write to .*give a folder"):
        run(made / "raw", tmp_path / "taken" / "out")


def test_a_full_disk_is_one_error_and_what_was_made_stays(made, tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000));"
        "from igm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["prepare", "cremad", str(made / "raw"), str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("igm: ")]
    assert len(errors) == 1 and "cannot write" in errors[0] and "Traceback" not in done.stderr
    assert half_written(tmp_path / "out") == []
    assert not (tmp_path / "out" / "annotations").exists()


def crash(output, name):
    os._exit(9)


def test_a_worker_that_dies_is_named(made, tmp_path):
    with Preparation("cremad", made / "raw", tmp_path / "out", workers=2, progress=False) as job:
        tasks = [Task(f"clip {i}", crash, (f"clip {i}",), ()) for i in range(3)]
        with pytest.raises(OSError, match="a worker died at one of clip .*fewer --workers"):
            job.run(tasks)


# ---------------------------------------------------------------- hostile media: skipped, counted, nothing left


def spoil_flv(content):
    return lambda raw: (raw / "VideoFlash" / f"{STEM}.flv").write_bytes(content)


def cut_flv(raw):
    path = raw / "VideoFlash" / f"{STEM}.flv"
    path.write_bytes(path.read_bytes()[:40])


def broken_wav(raw):
    (raw / "AudioWAV" / f"{STEM}.wav").write_bytes(b"RIFF\x24\x00")


def no_wav(raw):
    (raw / "AudioWAV" / f"{STEM}.wav").unlink()


def silent_header(raw):
    soundfile.write(raw / "AudioWAV" / f"{STEM}.wav", np.zeros(0, np.float32), 16000)


def folder_for_flv(raw):
    path = raw / "VideoFlash" / f"{STEM}.flv"
    path.unlink()
    path.mkdir()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (broken_wav, "is not a sound file"),
        (silent_header, "a header and no samples"),
        (no_wav, r"AudioWAV.*\.wav is missing"),
        (spoil_flv(b""), r"\.flv is empty"),
        (spoil_flv(POINTER), "Git LFS pointer"),
        (cut_flv, "has no frame that can be read"),
        (folder_for_flv, r"\.flv"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_cannot_be_used_is_skipped_and_counted(raw, tmp_path, spoil, reason, workers):
    spoil(raw)
    out = tmp_path / "out"
    report = run(raw, out, workers)
    assert list(report["skipped"]) == [STEM]
    assert re.search(reason, report["skipped"][STEM])
    assert STEM not in annotated(out) and len(annotated(out)) == 95
    assert half_written(out) == [] and not list(out.rglob(f"{STEM}*"))
    assert f"skipped: {STEM}" in report_text(report) and "1 samples skipped" in report_text(report)
    assert check(CREMAD, out, full=True, progress=False).usable
    assert run(raw, out, workers)["skipped"] == report["skipped"]  # also when it is run again
    with pytest.raises(ValueError, match=reason):
        run(raw, tmp_path / "strict", workers, strict=True)
    assert not (tmp_path / "strict" / "annotations").exists()


def test_stereo_8_khz_and_other_rates_are_fine(raw, tmp_path):
    rng = np.random.default_rng(0)
    for rate, channels in ((8000, 1), (44100, 2)):
        path = raw / "AudioWAV" / f"{STEM}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal((rate, channels)), rate)
        out = tmp_path / f"out {rate}"
        assert run(raw, out)["skipped"] == {}
        dataset = load_dataset("cremad", out, "train", held_out=0.01, cache=False)
        names = [item.name for item in dataset.items]
        if STEM in names:
            assert dataset[names.index(STEM)]["audio"].shape == (1, 257, 188)


# ---------------------------------------------------------------- hostile annotations: one clear error with its line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"1001_DFA_NEU_XX/NEU\n",
            r"train\.csv:1: 1 of 2 columns: separate them by commas or tabs",
        ),
        (b"1001_DFA_NEU_XX,NEU\n1001_DFA_HAP_XX\n", r"train\.csv:2: 1 of 2 columns"),
        (b"1001_DFA_NEU_XX,BORED\n", r"train\.csv:1: unknown label 'BORED': use one of NEU"),
        (
            b"1001_DFA_NEU_XX,NEU\n1001_DFA_NEU_XX,NEU\n",
            r"train\.csv:2: .* stands in line 1 already",
        ),
        (b"../../etc/passwd,NEU\n", r"train\.csv:1: '../../etc/passwd' is no clip"),
        (b"my clip,NEU\n", "is no clip of CREMA-D"),
        (b"1001\xe2\x80\x94DFA\xe2\x80\x94NEU_XX,NEU\n", "is no clip of CREMA-D"),
        (b"1001_DFA_NEU_XX,NEU\n\xff\xfe\xfa,NEU\n", r"train\.csv:2: not UTF-8: save"),
        (b"1001_DFA_NEU_XX,NEU\n\0\0\0", "NUL characters"),
        (b"\n\n", "is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", r"train\.csv:1: not UTF-8"),
        (b'1001_DFA_NEU_XX,"NEU\n1001_DFA_HAP_XX,HAP\n', "not a table"),
    ],
)
def test_a_wrong_line_is_one_error(raw, tmp_path, text, message):
    (raw / "train.csv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "annotations").exists()
    root = tmp_path / "root"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "train.csv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        load_dataset("cremad", root, "train")
    found = check(CREMAD, root, progress=False)
    assert not found.usable and any(re.search(message, fault) for fault in found.faults)


@pytest.mark.parametrize(
    "text",
    [
        b"1001_DFA_NEU_XX,NEU\n1001_DFA_HAP_XX,HAP",
        b"\xef\xbb\xbf1001_DFA_NEU_XX,NEU\r\n1001_DFA_HAP_XX,HAP\r\n\r\n",
        b"stem,emotion\n1001_DFA_NEU_XX,NEU\n1001_DFA_HAP_XX,HAP\n",
        b'"1001_DFA_NEU_XX","NEU"\n1001_DFA_HAP_XX , HAP\n',
        b"1001_DFA_NEU_XX.wav,NEU,extra\n1001_DFA_HAP_XX.flv,HAP,\n",
        b"1001_DFA_NEU_XX,NEU\r1001_DFA_HAP_XX,HAP\r",
        b"1001_DFA_NEU_XX;NEU\n1001_DFA_HAP_XX;HAP\n",
        b"1001_DFA_NEU_XX\tNEU\n1001_DFA_HAP_XX\tHAP\n",
    ],
)
def test_the_forms_that_people_have_are_read(raw, tmp_path, text):
    (raw / "train.csv").write_bytes(text)
    run(raw, tmp_path / "out")
    expected = [["1001_DFA_NEU_XX", "NEU"], ["1001_DFA_HAP_XX", "HAP"]]
    assert rows_of(tmp_path / "out", "train") == expected


def test_missing_lists_say_where_they_are(raw, tmp_path):
    (raw / "train.csv").unlink()
    with pytest.raises(FileNotFoundError, match="OGM-GE.*--annotations"):
        run(raw, tmp_path / "out")
    (tmp_path / "lists").mkdir()
    shutil.copy(raw / "test.csv", tmp_path / "lists" / "train.csv")
    shutil.copy(raw / "test.csv", tmp_path / "lists" / "test.csv")
    assert run(raw, tmp_path / "out", annotations=str(tmp_path / "lists"))["counts"]["test"]


def test_a_raw_folder_without_clips_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="of 0 actors, 3 are needed: give the clone"):
        run(tmp_path / "empty", tmp_path / "out", split="speakers")


# ---------------------------------------------------------------- check


def faults(root, full=True):
    found = check(CREMAD, root, full, progress=False)
    assert found.usable == (not found.faults)
    return found.faults


def test_published_counts_bring_no_remark(tmp_path):
    (tmp_path / "annotations").mkdir()
    for split, counts in CREMAD.published.items():
        lines = [
            f"{1000 + i}_DFA_{name}_{split[:2].upper() * 0}XX,{name}\n"
            for name, n in counts.items()
            for i in range(n)
        ]
        (tmp_path / "annotations" / f"{split}.csv").write_text("".join(lines))
    found = check(CREMAD, tmp_path, progress=False)
    assert not any("other counts" in remark for remark in found.remarks)
    assert sum(found.counts["train"].values()) == 6698
    assert sum(found.counts["test"].values()) == 744


def test_check_lists_each_damaged_file_with_its_line(root):
    train = annotated(root)
    (root / "AudioWAV" / f"{train[0]}.wav").unlink()
    (root / "AudioWAV" / f"{train[1]}.wav").write_bytes(b"")
    shutil.rmtree(root / "Image-01-FPS" / train[2])
    frame = root / "Image-01-FPS" / train[3] / "00001.jpg"
    frame.write_bytes(frame.read_bytes()[:-400])
    found = "\n".join(faults(root))
    for line, reason in enumerate(("missing", "empty", "missing", "damaged picture"), 1):
        assert re.search(rf"{train[line - 1]}.*{reason}.*\(line {line} of", found)
    assert "checksum" in found  # of the frame that was cut


def test_only_a_full_check_finds_a_change_that_can_still_be_read(root):
    stem = annotated(root)[0]
    synthetic.write_wav(root / "AudioWAV" / f"{stem}.wav", np.zeros(800, np.float32), 8000)
    assert faults(root, full=False) == []
    (fault,) = faults(root)
    assert f"{stem}.wav has changed since igm prepare" in fault


# ---------------------------------------------------------------- loading


def test_the_label_is_that_of_the_name(made):
    dataset = load_dataset("cremad", made, "test", cache=False)
    assert dataset.classes == ["NEU", "HAP", "SAD", "FEA", "DIS", "ANG"]
    for item, label in zip(dataset.items, dataset.labels):
        assert dataset.classes[label] == CLIP_NAME.fullmatch(item.name)[3]


def test_the_data_root_can_come_from_the_environment(made, monkeypatch):
    monkeypatch.setenv("IGM_DATA", str(made))
    assert len(load_dataset("cremad", split="test", cache=False)) == 24
    monkeypatch.delenv("IGM_DATA")
    with pytest.raises(FileNotFoundError, match="--data_root.*IGM_DATA.*igm sample cremad"):
        load_dataset("cremad")


def test_a_valid_split_that_is_there_is_used(made, tmp_path):
    run(made / "raw", tmp_path / "out", split="speakers")
    valid = load_dataset("cremad", tmp_path / "out", "valid", cache=False)
    assert len(valid) == 12 and valid.notes == {}
    assert len(load_dataset("cremad", tmp_path / "out", "train", cache=False)) == 66


def test_where_the_cache_goes(made, root, tmp_path, monkeypatch):
    load_dataset("cremad", root, "test")[0]
    assert (root / ".igm-cache").is_dir()
    monkeypatch.setenv("IGM_CACHE", str(tmp_path / "elsewhere"))
    load_dataset("cremad", made, "test")[0]
    assert (tmp_path / "elsewhere" / "cremad").is_dir()
    before = tree(made)
    load_dataset("cremad", made, "test", cache=False)[0]
    assert tree(made) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": 2}, "unknown reading option 'frame' of cremad: use some of frames, choice"),
        ({"choice": "best"}, "unknown frame choice 'best'"),
    ],
)
def test_bad_options_are_named(made, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("cremad", made, **options)


# ---------------------------------------------------------------- tables


def test_the_first_fault_is_raised_and_the_rest_counted():
    faults = Faults()
    faults.stop()
    faults.add("a.csv", 3, "first")
    faults.add("a.csv", None, "second")
    with pytest.raises(ValueError, match=r"^a\.csv:3: first \(and 1 more lines like it\)$"):
        faults.stop()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\\b", "a\0"])
def test_a_way_out_of_a_folder_is_no_plain_name(name):
    assert not plain_name(name)
    assert plain_name("été 2—3.jpg")


def test_text_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there"):
        read_text(tmp_path / "no.csv")
    with pytest.raises(Unreadable, match="is empty"):
        (tmp_path / "no.csv").touch()
        read_text(tmp_path / "no.csv")
