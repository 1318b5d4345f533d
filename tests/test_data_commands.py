"""The commands on the paper's data sets: prepare, check, sample, train with reading and network options; the paper's table."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import av
import numpy as np
import pytest
import torch

import igm
from igm.cli import main
from igm.datasets import LAYOUTS, kinetics_sounds, load_dataset, media
from igm.datasets.layout import data_or_sample, make_sample
from igm.datasets.preparing import Output
from igm.encoders.build import build_network
from igm.models import Concatenation, LateFusion
from igm.runs import progress_bar
from igm_book.paper import SCORES, beside, table_1

TINY = "--network.size tiny --reading.size 32 --reading.seconds 0.25 --epochs 1 --rho 0"
SMALL = f"{TINY} --rounds 1"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    out = tmp_path_factory.mktemp("sample") / "made"
    make_sample(LAYOUTS["cremad"], out)
    return out


@pytest.fixture
def run(capsys):
    """run("check cremad ROOT") -> exit code, stdout, stderr."""

    def command(words):
        code = main(words.split())
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return command


def mistake(result, *parts):
    code, out, err = result
    lines = [line for line in err.splitlines() if line.startswith("igm: ")]
    assert code == 2 and out == "" and len(lines) == 1, result
    for part in parts:
        assert part in lines[0]


# ---------------------------------------------------------------- prepare, check, sample


def test_prepare_prints_its_report_and_goes_on(run, sample, tmp_path):
    words = f"prepare cremad {sample}/raw {tmp_path}/out --workers 1"
    for _ in range(2):
        code, out, _ = run(words)
        assert code == 0
        assert "train          72  ANG 12" in out and "0 samples skipped" in out
        assert "report.json and manifest.json" in out
    code, out, _ = run(f"check cremad {tmp_path}/out --full true")
    assert code == 0 and out.splitlines()[-1] == "usable (192 files decoded)"


def test_prepare_says_by_its_exit_code_that_train_is_empty(run, sample, tmp_path):
    shutil.copytree(sample / "raw", tmp_path / "raw")
    stems = re.findall(r"\w+(?=,)", (tmp_path / "raw" / "train.csv").read_text("utf-8-sig"))
    for stem in stems:
        (tmp_path / "raw" / "AudioWAV" / f"{stem}.wav").unlink()
    code, out, err = run(f"prepare cremad {tmp_path}/raw {tmp_path}/out --workers 1")
    assert code == 1 and "72 samples skipped" in out and "files in" not in out
    (line,) = [line for line in err.splitlines() if line.startswith("igm: ")]
    assert "no sample of the train split could be used" in line and ".wav is missing" in line
    assert not (tmp_path / "out" / "annotations").exists()


def test_check_says_by_its_exit_code_what_must_be_mended(run, sample, tmp_path):
    shutil.copytree(sample / "CREMAD", tmp_path / "CREMAD")
    next((tmp_path / "CREMAD" / "AudioWAV").iterdir()).unlink()
    code, out, _ = run(f"check cremad {tmp_path}")
    assert code == 1 and "is missing (line" in out
    assert out.splitlines()[-1].startswith("not usable: 1 faults")


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def test_files_that_were_cut_off_are_named_one_by_one(run, sample, tmp_path):
    """By prepare where the download is so, by check where the layout is, and by training at the first of them."""
    shutil.copytree(sample / "raw", tmp_path / "raw")
    cut(tmp_path / "raw/AudioWAV/1001_DFA_HAP_XX.wav")
    cut(tmp_path / "raw/VideoFlash/1002_DFA_SAD_XX.flv")
    code, out, _ = run(f"prepare cremad {tmp_path}/raw {tmp_path}/out --workers 1")
    assert code == 0 and out.count("is cut off: its header promises") == 2
    assert "train          70  ANG 12, DIS 12, FEA 12, HAP 11, NEU 12, SAD 11" in out
    assert "skipped: 1001_DFA_HAP_XX: " in out and "skipped: 1002_DFA_SAD_XX: " in out
    root = tmp_path / "out"
    cut(root / "AudioWAV/1001_DFA_ANG_XX.wav")
    cut(root / "AudioWAV/1013_DFA_ANG_XX.wav", 0.9)
    cut(root / "Image-01-FPS/1003_DFA_ANG_XX/00001.jpg")
    code, out, _ = run(f"check cremad {root} --full true")
    assert code == 1 and "not usable: 6 faults" in out  # each also has another checksum
    for name in ("1001_DFA_ANG_XX.wav is cut off", "1013_DFA_ANG_XX.wav is cut off"):
        assert f"{name}: its header promises" in out
    assert re.search(r"00001.jpg is a damaged picture.* \(line \d+ of the annotations\)", out)
    with pytest.raises(ValueError, match=r"1013_DFA_ANG_XX.wav is cut off.*igm check --full true"):
        list(load_dataset("cremad", root, "test", cache=False, size=32))


@pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1")
def test_prepare_reads_av1_and_names_what_is_cut(tmp_path):
    """As downloads are today; OpenCV gives no frame of it."""
    clip = tmp_path / "0ab1cd2EF3g_000012_000022.mkv"
    with av.open(str(clip), "w") as container:
        video = container.add_stream("libsvtav1", rate=2, options={"preset": "10"})
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(10):
            picture = np.full((64, 64, 3), 20 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(80000) / 9, dtype=np.float32)[None]
        part = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
        part.sample_rate = 16000
        container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    make = partial(kinetics_sounds.make_clip, stem=clip.stem, part="train", clip=clip)
    output = Output(tmp_path / "out")
    make(output, min_frames=4)
    folder = tmp_path / "out/train_img/Image-01-FPS" / clip.stem
    assert [path.name for path in media.pictures_in(folder)] == [f"{i:05}.jpg" for i in range(1, 6)]
    grey = [media.read_image(path).mean() for path in media.pictures_in(folder)]
    assert np.allclose(grey, [0, 40, 80, 120, 160], atol=8)
    assert len(media.read_audio(tmp_path / "out/train_wav" / f"{clip.stem}.wav", 16000)) >= 80000
    cut(clip, 0.4)
    with pytest.raises(media.Unreadable, match=r"0ab1cd2EF3g.* is cut off: its header promises"):
        make(Output(tmp_path / "again"), min_frames=1)
    assert not (tmp_path / "again").exists()


def short(root):
    """A prepared set of which one clip has a second frame, and the first of all has three."""
    for stem, count in (("1001_DFA_ANG_XX", 3), ("1001_DFA_HAP_XX", 2)):
        folder = root / "CREMAD/Image-01-FPS" / stem
        frames = sorted(folder.iterdir())
        assert len(frames) == 2
        shutil.copy(frames[0], folder / "00003.jpg")
        for path in sorted(folder.iterdir())[count:]:
            path.unlink()


def test_check_reads_as_training_will(run, sample, tmp_path):
    shutil.copytree(sample, tmp_path / "set")
    short(tmp_path / "set")
    words = f"check cremad {tmp_path}/set --full true"
    code, out, _ = run(words)
    assert code == 0 and "fewer than" not in out
    reading = "--reading.frames 3 --reading.choice random --reading.size 32"
    code, out, _ = run(f"{words} {reading}")
    assert code == 0
    said = "note: train: 71 of 72 samples looked at, e.g. 1001_DFA_"
    assert said in out and "have fewer than 3 frames in video: the last is repeated" in out
    # what only some epochs draw
    frame = tmp_path / "set/CREMAD/Image-01-FPS/1001_DFA_ANG_XX/00003.jpg"
    cut(frame)
    assert run(words)[0] == 0  # one frame, the first, is whole
    code, out, _ = run(f"{words} {reading}")
    assert code == 1 and f"{frame} is a damaged picture" in out
    mistake(run(f"{words} --reading.frame 3"), "unknown reading option 'frame'", "frames, choice")


def test_short_clips_are_trained_on(run, sample, tmp_path):
    reading = "--reading.frames 3 --reading.choice random"
    words = f"train --data cremad --data_root {sample} {TINY} {reading} --no-cache --method joint"
    assert run(f"{words} --samples 12 --out {tmp_path}/run")[0] == 0


def test_frames_that_are_gone_are_found_by_a_full_check(run, sample, tmp_path):
    shutil.copytree(sample / "CREMAD", tmp_path / "CREMAD")
    frame = tmp_path / "CREMAD/Image-01-FPS/1001_DFA_ANG_XX/00001.jpg"
    frame.unlink()
    code, out, _ = run(f"check cremad {tmp_path} --full true")
    assert code == 1 and f"fault: {frame} is missing, igm prepare made it" in out
    assert "not usable: 1 faults" in out


def test_all_files_are_looked_for_before_the_first_epoch(run, sample, tmp_path):
    root = tmp_path / "CREMAD"
    shutil.copytree(sample / "CREMAD", root)
    for stem in ("1001_DFA_ANG_XX", "1003_DFA_HAP_XX", "1004_DFA_SAD_XX", "1014_DFA_SAD_XX"):
        shutil.rmtree(root / "Image-01-FPS" / stem)
    (root / "AudioWAV" / "1015_DFA_ANG_XX.wav").write_bytes(b"")
    words = f"train --data cremad --data_root {tmp_path} {TINY} --method joint"
    result = run(f"{words} --out {tmp_path}/run")
    mistake(result, "5 files or folders of the data are missing or empty, e.g. ", "`igm check`")
    assert result[2].count("Image-01-FPS") == 3 and not (tmp_path / "run").exists()
    shutil.rmtree(root / "Image-01-FPS")
    (root / "AudioWAV" / "1015_DFA_ANG_XX.wav").write_bytes(
        (root / "AudioWAV" / "1015_DFA_HAP_XX.wav").read_bytes()
    )
    # what is not used need not be there
    assert run(f'{words} --modalities ["audio"] --out {tmp_path}/run')[0] == 0


def add_to_train(root, stem):
    path = root / "annotations" / "train.csv"
    path.write_text(path.read_text() + f"{stem},{stem[9:12]}\n")


def test_a_test_sample_in_train_is_refused_by_training_as_by_check(run, sample, tmp_path):
    shutil.copytree(sample / "CREMAD", tmp_path / "CREMAD")
    add_to_train(tmp_path / "CREMAD", "1014_DFA_SAD_XX")
    said = "1 samples are in train and in test, e.g. 1014_DFA_SAD_XX"
    code, out, _ = run(f"check cremad {tmp_path}")
    assert code == 1 and f"fault: {said}" in out
    words = f"train --data cremad --data_root {tmp_path} {SMALL} --out {tmp_path}/run"
    mistake(run(words), said, "leave them out of one of the two")
    assert not (tmp_path / "run").exists()
    for split in ("train", "valid", "test"):
        with pytest.raises(ValueError, match=said):
            load_dataset("cremad", tmp_path, split)
    annotations = tmp_path / "CREMAD" / "annotations"
    (annotations / "valid.csv").write_text("1014_DFA_SAD_XX,SAD\n")
    (annotations / "train.csv").write_text("1001_DFA_SAD_XX,SAD\n")
    with pytest.raises(ValueError, match="1 samples are in valid and in test"):
        load_dataset("cremad", tmp_path, "valid")


@pytest.mark.parametrize(
    ("lines", "share", "usable"),
    [
        ("ANG HAP SAD", 0.1, False),  # one of each class: none can be held out
        ("ANG ANG HAP SAD", 0.1, True),
        ("ANG ANG HAP HAP", 0.9, False),  # all are
        ("ANG ANG HAP HAP", 0.5, True),
    ],
)
def test_check_and_training_agree_on_an_empty_split(run, sample, tmp_path, lines, share, usable):
    root = tmp_path / "CREMAD"
    shutil.copytree(sample / "CREMAD", root)
    text = "".join(f"{1001 + i}_DFA_{e}_XX,{e}\n" for i, e in enumerate(lines.split()))
    (root / "annotations" / "train.csv").write_text(text)
    code, out, _ = run(f"check cremad {root} --reading.held_out {share}")
    assert (code == 0) == usable
    said = rf"of the {len(lines.split())} training samples \d are held out for the valid split"
    assert bool(re.search(f"fault: .*{said}", out)) != usable
    options = {"held_out": share, "cache": False}
    if usable:
        parts = [load_dataset("cremad", root, s, **options) for s in ("train", "valid")]
        assert sum(map(len, parts)) == len(lines.split()) and all(map(len, parts))
    else:
        with pytest.raises(ValueError, match=rf"{said}.*take another --reading.held_out"):
            [load_dataset("cremad", root, s, **options) for s in ("train", "valid")]


def test_mistakes_are_one_line(run, sample, tmp_path):
    mistake(run(f"sample cremad {sample}"), "is there already: give a new folder")
    mistake(run(f"sample fashion {tmp_path}/x"), "unknown data set 'fashion'", "cremad")
    mistake(run(f"check cremad {tmp_path}/none"), "none is not there")
    mistake(run(f"prepare cremad {tmp_path}/none {tmp_path}/x"), "raw folder", "not there")
    words = f"prepare cremad {sample}/raw {tmp_path}/y --split emotions"
    mistake(run(words), "unknown split 'emotions': use common or speakers")


def test_ctrl_c_stops_prepare_with_a_word(sample, tmp_path):
    code = (
        "import signal, sys, time; from igm.datasets import cremad, media;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may have it ignored
        "old = media.read_audio; media.read_audio = lambda *a: (time.sleep(0.2), old(*a))[1];"
        "from igm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["prepare", "cremad", str(sample / "raw"), str(tmp_path / "out"), "--workers", "1"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE)
    while not (tmp_path / "out" / "AudioWAV").is_dir():
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopped; the same command goes on from here" in err and b"Traceback" not in err
    assert main(words) == 0


def test_a_library_that_is_missing_is_named(run, sample, monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    mistake(run(f"check cremad {sample}"), "librosa is not installed", "pip install '.[media]'")


# ---------------------------------------------------------------- train, evaluate, resume


def test_a_run_on_media_files_is_recorded_evaluated_and_resumed(run, sample, tmp_path):
    out = tmp_path / "run"
    train = f"train --data cremad --data_root {sample} {SMALL} --no-cache --workers 1 --out {out}"
    code, printed, _ = run(train)
    assert code == 0
    record = json.loads((out / "run.json").read_text())
    assert record["reading"] == {"size": 32, "seconds": 0.25}
    assert record["network"] == {"size": "tiny"} and record["cache"] is False
    assert record["held_out"] == {"held_out": 0.1, "held_out_samples": 6}
    assert record["sizes"] == {"train": 66, "valid": 6, "test": 24}
    scores = [line for line in printed.splitlines() if line.startswith(("valid", "test"))]
    code, again, _ = run(f"evaluate {out}")
    assert code == 0 and again.splitlines()[1:] == scores
    moved = tmp_path / "moved"
    shutil.copytree(sample, moved)
    assert run(f"evaluate {out} --data_root {moved}")[0] == 0
    assert run(f"train --resume {out}")[0] == 0  # complete: nothing to do, and no error
    assert not (sample / "CREMAD" / ".igm-cache").exists()


def test_workers_and_cache_leave_training_as_it_is(sample, tmp_path, monkeypatch):
    """The same weights, bit for bit, by 0 and 2 workers, with an empty and a full cache."""
    monkeypatch.setenv("IGM_CACHE", str(tmp_path / "cache"))
    weights = []
    for workers in (0, 2, 0):
        data = {
            split: load_dataset("cremad", sample, split, size=32, seconds=0.25)
            for split in ("train", "valid")
        }
        model = build_network("audio_video", 6, ["audio", "video"], size="tiny")
        options = {"epochs": 1, "rounds": 1, "rho": 0.0, "device": "cpu", "progress": False}
        igm.train(model, data, workers=workers, batch_size=12, **options)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_joint_training_of_a_concatenation(run, sample, tmp_path):
    words = f"train --data cremad --data_root {sample} {TINY} --method joint --model concat"
    code, out, _ = run(f"{words} --out {tmp_path}/run")
    assert code == 0 and "fused" in out and "audio " not in out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("--reading.frame 3", ["unknown reading option 'frame'", "frames, choice"]),
        ("--network.depth 50", ["unknown network option 'depth'", "size"]),
        ("--network.size huge", ["huge", "resnet18, tiny"]),
        ("--network.seed 3", ["'seed' is no option of --network", "igm train --help"]),
        ("--network.kind concat", ["'kind' is no option of --network"]),
        ("--reading.seed 3", ["'seed' is no option of --reading"]),
        ("--reading.split test", ["'split' is no option of --reading"]),
        ('--noise {"audio":1}', ["noise is for the small data sets"]),
        ('--modalities ["text"]', ["unknown modality 'text'", "audio, video"]),
        ("--samples 1000", ["samples must be from 1 to 66"]),
    ],
)
def test_options_that_do_not_fit_are_named(run, sample, tmp_path, words, parts):
    result = run(f"train --data cremad --data_root {sample} --out {tmp_path}/run {words}")
    mistake(result, *parts)
    assert not (tmp_path / "run").exists()


def test_the_small_sets_take_options_too(run, tmp_path):
    words = "train --data mfeat --samples 50 --epochs 1 --rounds 1 --network.d 16"
    code, out, _ = run(f'{words} --reading {{"views":["fou","kar"]}} --out {tmp_path}/run')
    assert code == 0 and "kar" in out and "zer" not in out
    mistake(run(f"{words} --reading.view fou --out {tmp_path}/x"), "unknown reading option 'view'")
    for option in ("network.classes", "network.fusion", "reading.samples"):
        kind, name = option.split(".")
        mistake(run(f"{words} --{option} 3"), f"{name!r} is no option of --{kind}")


def test_without_data_the_error_says_where_it_may_be(run, monkeypatch):
    monkeypatch.delenv("IGM_DATA", raising=False)
    mistake(run("train --data sarcasm"), "--data_root", "IGM_DATA", "igm sample sarcasm")


# ---------------------------------------------------------------- networks and the sample


def test_networks_by_name():
    late = build_network("audio_video", 6, ["video"], size="tiny")
    assert isinstance(late, LateFusion) and list(late.modalities) == ["video"]
    concat = build_network("audio_video", 6, ["audio", "video"], "concat", size="tiny")
    assert isinstance(concat, Concatenation) and concat.head.fc1.in_features == 1024
    for options in ({"kind": "early"}, {"kind": "concat", "shared_head": True}, {"sise": "tiny"}):
        with pytest.raises(ValueError):
            build_network("audio_video", 6, ["audio"], **options)


def test_a_network_is_rebuilt_without_its_pretrained_files(tmp_path):
    model = build_network(
        "gestures", 25, ["rgb"], size="tiny", rgb_weights=str(tmp_path / "gone"), pretrained=False
    )
    assert "rgb" in model.modalities
    with pytest.raises(OSError, match="gone"):
        build_network("gestures", 25, ["rgb"], size="tiny", rgb_weights=str(tmp_path / "gone"))


def test_the_real_data_is_preferred_to_the_sample(sample, tmp_path, monkeypatch):
    monkeypatch.setenv("IGM_DATA", str(sample))
    assert data_or_sample(LAYOUTS["cremad"], tmp_path) == (sample, False)
    monkeypatch.setenv("IGM_DATA", str(tmp_path))  # no CREMAD in it
    made, synthetic = data_or_sample(LAYOUTS["cremad"], tmp_path / "work")
    assert synthetic and (made / "CREMAD" / "annotations" / "test.csv").is_file()
    assert data_or_sample(LAYOUTS["cremad"], tmp_path / "work") == (made, True)


def test_bars_can_be_switched_off(monkeypatch):
    assert progress_bar(False, total=3).disable
    monkeypatch.setenv("TQDM_DISABLE", "1")
    code = "from igm.runs import progress_bar; print(progress_bar(True, total=3).disable)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.strip() in ("True", "1")


# ---------------------------------------------------------------- the paper's table


def test_the_numbers_are_those_of_table_1():
    assert table_1("cremad")["IGM"] == (0.8105, 0.8948)
    assert table_1("cremad")["video alone"] == (0.6317, 0.6861)
    assert table_1("sarcasm")["MLA (rerun)"] == (0.8426, 0.8348)
    assert table_1("nvgesture")["depth alone"] == (0.8154, 0.8183)
    assert [len(table_1(name)) for name in SCORES] == [15, 15, 15, 15, 13]
    assert all(0.4 < a < 0.95 for name in SCORES for a, _ in table_1(name).values())
    with pytest.raises(ValueError, match="use one of cremad"):
        table_1("digits")


def test_runs_stand_below_the_paper(tmp_path):
    for name, data, status in (("a", "cremad", "complete"), ("b", "digits", "complete")):
        (tmp_path / name).mkdir()
        results = {"test": {"fused": {"accuracy": 0.5, "map": 0.25, "macro_f1": 0.1}}}
        record = {"data": data, "status": status, "sizes": {"train": 5000}, "results": results}
        record["settings"] = {"seed": 0, "method": "igm"}
        (tmp_path / name / "run.json").write_text(json.dumps(record))
    table = beside("cremad", [tmp_path / "a", tmp_path / "b"]).splitlines()
    assert table[0].split() == ["accuracy", "mAP"]
    assert table[-1].split() == ["a:", "fused,", "5,000", "training", "samples", "0.5000", "0.2500"]
    assert len(table) == 1 + 15 + 1
    assert beside("sarcasm").splitlines()[0].split() == ["accuracy", "macro-F1"]
