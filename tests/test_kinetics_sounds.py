"""kinetics_sounds.py: Kinetics' CSVs and clips in, frames and sounds out, and bad input that is named."""

import csv
import json
import re
from collections import Counter
from fractions import Fraction
from functools import partial

import numpy as np
import prepared
import pytest
import soundfile
import torch
from prepared import tree

from igm.datasets import kinetics_sounds, media, synthetic
from igm.datasets.kinetics_sounds import CLASSES, KINETICS_SOUNDS
from igm.datasets.layout import check

NAME = "kinetics_sounds"
HEADER = "label,youtube_id,time_start,time_end,split\n"
ONE, TWO, THREE = "AAAAAAAAAA1", "-B_BBBBBBB2", "CCCCCCCCC_-"
STEM = f"{ONE}_000012_000022"


def clip(path, seconds=3.2, rate=8000, channels=1, sound=True, frames=True, codec="aac"):
    """A video with a tone in each channel, 440 Hz and 660 Hz; returns the tones, (samples, channels)."""
    import av

    time = np.arange(round(seconds * rate)) / rate
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    tones = [np.sin(2 * np.pi * f * time) for f in (440, 660, 880, 990, 1100, 1210)[:channels]]
    pcm = (8000 * np.stack(tones, 1)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        if frames:
            video = container.add_stream("libx264", rate=5)
            video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        if sound:
            audio = container.add_stream(codec, rate=rate, layout=layout)
        for i in range(round(5 * seconds) if frames else 0):
            image = np.full((32, 48, 3), 20 + 12 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        if frames:
            container.mux(video.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), "s16", layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return pcm


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The bytes of a clip without any fault."""
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    clip(path)
    return path.read_bytes()


@pytest.fixture
def raw(tmp_path, good):
    """Kinetics with a clip of bowling in each set, in its usual names."""
    folder = tmp_path / "raw"
    for name, split, youtube_id in (
        ("train", "train", ONE),
        ("validate", "validate", TWO),
        ("test", "test", THREE),
    ):
        path = folder / name / f"{youtube_id}_000012_000022.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(good)
        (folder / f"{name}.csv").write_text(f"{HEADER}bowling,{youtube_id},12,22,{split}\n")
    return folder


prepare = partial(prepared.run, KINETICS_SOUNDS)


def annotated(out, split):
    """The lines of an annotation file without its header, or None."""
    path = out / "annotations" / f"{split}.csv"
    if not path.exists():
        return None
    with open(path, newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["label", "youtube_id"]
    return [tuple(line) for line in lines]


def whole(out):
    """Nothing is half written, and the annotations name nothing that is not there."""
    assert not [path for path in out.rglob("*") if path.name.endswith(".partial")]
    for split in ("train", "valid", "test"):
        part = "test" if split == "test" else "train"
        for _, stem in annotated(out, split) or ():
            assert soundfile.info(out / f"{part}_wav" / f"{stem}.wav").frames
            assert list((out / f"{part}_img" / "Image-01-FPS" / stem).iterdir())
    return True


# ---------------------------------------------------------------- the sample


@pytest.fixture(scope="module")
def sampled(made):
    """The sample's raw form, and what prepare makes of it: (raw, out, report)."""
    out = made / "kinetics_sound"
    return made / "raw", out, json.loads((out / "report.json").read_text())


def test_there_are_31_classes_numbered_as_in_the_lists_of_ogm_ge():
    assert len(CLASSES) == 31
    assert list(CLASSES) == sorted(set(CLASSES))
    known = {"dribbling basketball": 4, "playing keyboard": 14, "playing piano": 16}
    known |= {"shoveling snow": 23, "stomping grapes": 26, "tapping pen": 29, "tickling": 30}
    assert {name: CLASSES.index(name) for name in known} == known


def test_the_sample_is_a_download_of_kinetics(sampled):
    import av

    raw, _, _ = sampled
    names = {path.stem: path for path in raw.rglob("*.mp4")}
    assert len(names) == 38
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{11}_\d{6}_\d{6}", name) for name in names)
    lines = {}
    for name in ("train", "validate", "test"):
        header, *rows = (raw / f"{name}.csv").read_text().splitlines()
        assert header == "label,youtube_id,time_start,time_end,split"
        for row in rows:
            label, youtube_id, start, end, split = row.split(",")
            assert split == name and int(end) == int(start) + 10
            lines[f"{youtube_id}_{int(start):06}_{int(end):06}"] = label
    assert len(lines) == 39
    assert set(names) < set(lines)
    counts = Counter(lines.values())
    assert counts.pop("abseiling") == 1
    assert counts == {"bowling": 9, "playing guitar": 9, "singing": 11, "tap dancing": 9}
    silent = 0
    for path in names.values():
        with av.open(str(path)) as container:
            (video,) = container.streams.video
            assert video.codec_context.name == "h264"
            assert 16 <= video.frames <= 21 and video.average_rate == 5
            silent += not container.streams.audio
            for audio in container.streams.audio:
                assert (audio.codec_context.name, audio.rate) == ("aac", 8000)
    assert silent == 1


def test_in_the_sample_both_modalities_tell_the_class_and_sound_does_so_better(sampled):
    def share_right(of_clip):
        """By the nearest neighbour among the other clips."""
        x = torch.stack([of_clip(sample) for dataset in sets for sample in dataset])
        y = torch.cat([dataset.labels for dataset in sets])
        distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
        return (y[distances.argmin(1)] == y).float().mean()

    sets = [
        KINETICS_SOUNDS.load(sampled[1], split, frames=1, size=16, cache=False).evaluating()
        for split in ("train", "valid", "test")
    ]
    sound = share_right(lambda sample: sample["audio"][0].mean(1))
    picture = share_right(lambda sample: sample["video"].mean((0, 2, 3)))
    assert sound > 0.9
    assert 0.3 < picture < 0.7


# ---------------------------------------------------------------- prepare


def test_prepare_takes_the_clips_of_the_31_classes_that_are_there(sampled):
    raw, out, report = sampled
    there = {path.stem: path for path in raw.rglob("*.mp4")}
    for split, name in (("train", "train"), ("valid", "validate"), ("test", "test")):
        with open(raw / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        stems = [
            (r["label"], f"{r['youtube_id']}_{int(r['time_start']):06}_{int(r['time_end']):06}")
            for r in rows
            if r["label"] in CLASSES
        ]
        usable = [(a, stem) for a, stem in stems if stem in there and stem not in report["skipped"]]
        assert annotated(out, split) == usable
        assert report["counts"][split] == Counter(a for a, _ in usable)
    assert [len(annotated(out, split)) for split in ("train", "valid", "test")] == [20, 8, 8]
    assert whole(out)


def test_the_clips_of_valid_are_in_the_folders_of_train(sampled):
    _, out, _ = sampled
    stems = {split: {s for _, s in annotated(out, split)} for split in ("train", "valid", "test")}
    for part, expected in (
        ("train", stems["train"] | stems["valid"]),
        ("test", stems["test"]),
    ):
        assert {path.stem for path in (out / f"{part}_wav").iterdir()} == expected
        assert {p.name for p in (out / f"{part}_img" / "Image-01-FPS").iterdir()} == expected


def test_the_report_counts_what_is_left_out(sampled):
    _, _, report = sampled
    (why,) = report["skipped"].values()
    assert why.endswith("has no sound track")
    assert report["notes"] == [
        "train.csv: rows of other classes: 1",
        "train: 1 of 22 clips are missing: singing 1",
    ]


def test_frames_are_those_at_each_second_as_opencv_reads_them(sampled):
    import cv2

    raw, out, _ = sampled
    _, stem = annotated(out, "test")[0]
    (path,) = raw.rglob(f"{stem}.mp4")
    video = cv2.VideoCapture(str(path))
    images = []
    while (read := video.read())[0]:
        images.append(read[1])
    assert video.get(cv2.CAP_PROP_FPS) == 5
    names = sorted((out / "test_img" / "Image-01-FPS" / stem).iterdir())
    assert [name.name for name in names] == [f"{i:05}.jpg" for i in range(1, 5)]
    for second, name in enumerate(names):
        expected = cv2.imencode(".jpg", images[5 * second], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        assert name.read_bytes() == expected.tobytes()


def test_sounds_are_16_bit_wav_files_at_their_own_rate(sampled):
    raw, out, _ = sampled
    for stem in (annotated(out, "train")[0][1], annotated(out, "valid")[0][1]):
        info = soundfile.info(out / "train_wav" / f"{stem}.wav")
        assert (info.format, info.subtype, info.samplerate, info.channels) == (
            "WAV",
            "PCM_16",
            8000,
            1,
        )
        assert 2.4 <= info.duration <= 2.6 + 1024 / 8000


def test_out_may_be_inside_raw(raw):
    first = prepare(raw, raw / "out")
    assert first["counts"] == {s: {"bowling": 1} for s in ("train", "valid", "test")}
    assert prepare(raw, raw / "out") == first


def test_validate_may_be_the_test_set(raw, tmp_path):
    report = prepare(raw, tmp_path / "out", test="validate")
    assert annotated(tmp_path / "out", "test") == [("bowling", f"{TWO}_000012_000022")]
    assert annotated(tmp_path / "out", "valid") is None
    assert report["counts"] == {"train": {"bowling": 1}, "test": {"bowling": 1}}
    assert whole(tmp_path / "out")


def test_the_lists_of_ogm_ge_say_which_clips_to_take(raw, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "my_train.txt").write_text(
        f"{TWO}_000012_000022,10,26\r\n{ONE}_000013_000023,10,0\r\n"
    )
    (lists / "my_test.txt").write_text(f"{ONE}_12,10,30\r\n")
    report = prepare(raw, tmp_path / "out", lists=str(lists))
    assert annotated(tmp_path / "out", "train") == [("stomping grapes", f"{TWO}_000012_000022")]
    assert annotated(tmp_path / "out", "test") == [("tickling", STEM)]
    assert report["notes"] == ["train: 1 of 2 clips are missing: blowing nose 1"]
    assert whole(tmp_path / "out")


@pytest.mark.parametrize(
    "line, message",
    [
        (f"{ONE},10,3", r"my_test.txt:2: .* is no clip"),
        (f"{ONE}_12,10,31", r"my_test.txt:2: unknown label '31': use the name .* or 0 to 30"),
        (f"{ONE}_12,10,x", r"my_test.txt:2: unknown label 'x'"),
        (f"{ONE}_12", r"my_test.txt:2: 1 of 2 columns"),
        (f"{ONE}_12,soon,3", r"my_test.txt:2: .* is no clip .* or has no seconds"),
        (f"{TWO}_12,10,3", r"my_test.txt:2: .* another class or set in .*my_train.txt:1"),
    ],
)
def test_a_wrong_line_of_the_lists_is_named(raw, tmp_path, line, message):
    (tmp_path / "my_train.txt").write_text(f"{TWO}_000012_000022,10,26\n")
    (tmp_path / "my_test.txt").write_text(f"{THREE}_12,10,3\n{line}\n")
    with pytest.raises(ValueError, match=message):
        prepare(raw, tmp_path / "out", lists=str(tmp_path))


def test_missing_lists_are_an_error_with_their_name(raw, tmp_path):
    with pytest.raises(FileNotFoundError, match="my_train.txt"):
        prepare(raw, tmp_path / "out", lists=str(tmp_path))


def test_clips_are_found_in_any_folder_and_spelling(tmp_path, raw, good):
    (raw / "train" / f"{STEM}.mp4").unlink()
    deep = raw / "k400" / "part 1" / "bowling" / f"{ONE}-000012\u2014\u2014000022.MP4"
    deep.parent.mkdir(parents=True)
    deep.write_bytes(good)
    prepare(raw, tmp_path / "out")
    assert annotated(tmp_path / "out", "train") == [("bowling", STEM)]


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + HEADER + f"bowling,{ONE},12,22,train\n",
        (HEADER + f"bowling,{ONE},12,22,train\n").replace("\n", "\r\n"),
        f'"label","youtube_id","time_start","time_end","split"\n"bowling","{ONE}","12","22","train"\n',
        f"youtube_id,label,split,is_cc,time_end,time_start\n{ONE},Bowling,train,0,22.0,000012\n",
        HEADER + f"\n bowling , {ONE} ,12,22,train\nbowling,{ONE},12,22,train\n\n",
    ],
    ids=["byte order mark", "CRLF", "quotes", "other columns", "blanks and a row twice"],
)
def test_csvs_may_have_these_forms(raw, tmp_path, content):
    (raw / "train.csv").unlink()
    (raw / "kinetics400_train.csv").write_bytes(content.encode())
    prepare(raw, tmp_path / "out")
    assert annotated(tmp_path / "out", "train") == [("bowling", STEM)]


def test_rows_without_a_label_are_counted_and_another_set_can_be_taken(raw, tmp_path):
    (raw / "test.csv").write_text(f"youtube_id,time_start,time_end,split\n{THREE},12,22,test\n")
    with pytest.raises(ValueError, match=r"no row with a label of Kinetics' test set.*--test"):
        prepare(raw, tmp_path / "out")
    report = prepare(raw, tmp_path / "other", test="validate")
    assert "test.csv: rows without a label, which are not used: 1" in report["notes"]


@pytest.mark.parametrize(
    "content, message",
    [
        (HEADER + f"bowling;{ONE};12;22;train\n", r"train.csv:2: 1 of 2 columns"),
        (
            f"label,youtube_id,time_start,split\nbowling,{ONE},12,train\n",
            r"csv:1: .* lacks time_end",
        ),
        (HEADER + f"bowling,{ONE},12,22\n", r"train.csv:2: 4 of 5 columns"),
        (HEADER + "bowling,#NAME?,12,22,train\n", r"train.csv:2: .*no ID of 11 letters"),
        (HEADER + f"bowling,../{ONE[3:]},12,22,train\n", r"train.csv:2: .*no ID of 11 letters"),
        (HEADER + f"bowling,{ONE},soon,22,train\n", r"train.csv:2: .*start and end in seconds"),
        (HEADER + f"bowling,{ONE},12,22,holdout\n", r"train.csv:2: unknown split 'holdout'"),
        (HEADER + f"bowling,{TWO},12,22,train\n", r"another class or set in .*train.csv:2"),
        (HEADER + f'"bowling,{ONE},12,22,train\n', r"train.csv:\d: not a table"),
        (HEADER.encode() + b"bowling,\xa1\xaaAAAAAAAAA,12,22,train\n", r"train.csv:2: not UTF-8"),
        ("label,youtube_id\nbowling,x\n", r"no row with a label of Kinetics' train set"),
    ],
)
def test_a_wrong_csv_is_one_error_that_names_it_and_nothing_is_written(
    raw, tmp_path, content, message
):
    content = content if isinstance(content, bytes) else content.encode()
    (raw / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(raw, tmp_path / "out")
    assert not tree(tmp_path / "out")


def test_without_csvs_or_clips_the_error_says_what_to_put_there(raw, tmp_path):
    for path in raw.glob("*.csv"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no CSV of Kinetics.*train.csv"):
        prepare(raw, tmp_path / "a")
    for path in raw.rglob("*.mp4"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no clip of Kinetics, such as"):
        prepare(raw, tmp_path / "b")


@pytest.mark.parametrize("split", ["train", "test"])
def test_without_any_clip_of_train_or_test_nothing_is_begun(raw, tmp_path, split):
    for path in (raw / split).iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"not one of the 1 clips of the {split} split"):
        prepare(raw, tmp_path / "out")
    assert not tree(tmp_path / "out")


def test_without_a_clip_of_valid_there_is_no_valid_split(raw, tmp_path):
    (raw / "validate" / f"{TWO}_000012_000022.mp4").unlink()
    report = prepare(raw, tmp_path / "out")
    assert annotated(tmp_path / "out", "valid") is None
    assert report["notes"] == [
        "valid: 1 of 1 clips are missing: bowling 1",
        "valid: not one sample can be used: a share of train will be held out for it",
    ]


def truncated(path):
    clip(path)
    path.write_bytes(path.read_bytes()[:-600])


def unknown_sound(path):
    clip(path.with_suffix(".mkv"))
    path.write_bytes(path.with_suffix(".mkv").read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    path.with_suffix(".mkv").unlink()


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "pointer": (lambda path: path.write_bytes(b"version https://git-lfs\n"), "Git LFS pointer"),
    "text": (lambda path: path.write_text("404 Not Found"), "has no frame that can be read"),
    "truncated": (truncated, "has no frame that can be read"),
    "three frames": (lambda path: clip(path, 3.0), "has 3 frames at one a second, 4 are needed"),
    "no sound": (lambda path: clip(path, sound=False), "has no sound track"),
    "no picture": (lambda path: clip(path, frames=False), "has no frame that can be read"),
    "unknown sound": (unknown_sound, "has no sound that can be read"),
    "a folder": (lambda path: path.mkdir(), ""),
}


@pytest.mark.parametrize("case", BAD)
def test_a_clip_that_cannot_be_used_is_skipped_and_named(raw, tmp_path, good, case):
    make, why = BAD[case]
    path = raw / "train" / f"{TWO}_000001_000011.mp4"
    make(path)
    with open(raw / "train.csv", "a") as file:
        file.write(f"singing,{TWO},1,11,train\n")
    report = prepare(raw, tmp_path / "out")
    if why:
        assert why in report["skipped"][path.stem]
        assert str(path) in report["skipped"][path.stem]
    else:  # no file at all
        assert report["notes"] == ["train: 1 of 2 clips are missing: singing 1"]
    assert annotated(tmp_path / "out", "train") == [("bowling", STEM)]
    assert not [name for name in tree(tmp_path / "out") if path.stem in name]
    assert whole(tmp_path / "out")


def test_where_no_clip_of_a_split_can_be_used_the_error_says_why(raw, tmp_path):
    (raw / "test" / f"{THREE}_000012_000022.mp4").write_bytes(b"")
    with pytest.raises(
        ValueError,
        match=r"no sample of the test split could be used .*: in all 1 samples are skipped, .* is empty",
    ):
        prepare(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "annotations").exists()


def test_fewer_frames_may_be_allowed(raw, tmp_path):
    clip(raw / "train" / f"{STEM}.mp4", 2.0)
    prepare(raw, tmp_path / "out", min_frames=2)
    assert len(list((tmp_path / "out" / "train_img" / "Image-01-FPS" / STEM).iterdir())) == 2


@pytest.mark.parametrize("options", [{"test": "train"}, {"min_frames": 0}])
def test_a_wrong_option_is_named(raw, tmp_path, options):
    with pytest.raises(ValueError, match="|".join(options)):
        prepare(raw, tmp_path / "out", **options)


def test_a_folder_that_is_a_link_out_is_followed_only_if_that_is_wanted(raw, tmp_path, good):
    outside = tmp_path / "disk" / f"{TWO}_000001_000011.mp4"
    outside.parent.mkdir()
    outside.write_bytes(good)
    with open(raw / "train.csv", "a") as file:
        file.write(f"singing,{TWO},1,11,train\n")
    (raw / "more").symlink_to(outside.parent)
    with pytest.raises(ValueError, match="more is a link out .*--follow_links true"):
        prepare(raw, tmp_path / "b")
    prepare(raw, tmp_path / "c", follow_links=True)
    assert len(annotated(tmp_path / "c", "train")) == 2


def test_links_in_a_circle_end(raw, tmp_path):
    (raw / "train" / "again").symlink_to(raw)
    assert prepare(raw, tmp_path / "out")["counts"]["train"] == {"bowling": 1}


# ---------------------------------------------------------------- sound tracks


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_the_sound_of_a_video_is_the_tone_that_was_put_in(tmp_path, rate, channels):
    from scipy.signal import correlate

    tones = clip(tmp_path / "a.mp4", 1.0, rate, channels)
    samples, found = media.video_sound(tmp_path / "a.mp4")
    assert (samples.dtype, found) == (np.int16, rate)
    assert samples.shape[1] == channels
    assert 0 <= len(samples) - len(tones) < 1024  # the last frame of AAC is filled up
    heard, put = samples[: len(tones)] / 8000, tones / 8000
    for c in range(channels):
        lag = correlate(heard[:, c], put[:, c]).argmax() - (len(put) - 1)
        assert lag == 0  # AAC's priming, 1,024 samples, is gone
        assert np.abs(heard - put)[1024:-1024, c].mean() < 0.02


def test_the_wav_file_of_a_stereo_clip_has_its_two_channels(raw, tmp_path):
    tones = clip(raw / "train" / f"{STEM}.mp4", 3.2, 44100, 2)
    prepare(raw, tmp_path / "out")
    samples, rate = soundfile.read(tmp_path / "out" / "train_wav" / f"{STEM}.wav", dtype="int16")
    assert (rate, samples.shape[1]) == (44100, 2)
    for c, pitch in enumerate((440, 660)):
        spectrum = np.abs(np.fft.rfft(samples[: len(tones), c].astype(float)))
        assert abs(spectrum.argmax() * rate / len(tones) - pitch) < 1


def test_six_channels_become_two(tmp_path):
    clip(tmp_path / "a.mp4", 1.0, 44100, 6)
    samples, _ = media.video_sound(tmp_path / "a.mp4")
    assert samples.shape[1] == 2
    assert np.abs(samples).max() > 1000


def test_sound_that_is_not_compressed_comes_out_bit_for_bit(tmp_path):
    tones = clip(tmp_path / "a.avi", 1.0, 8000, 2, codec="pcm_s16le", frames=False)
    samples, _ = media.video_sound(tmp_path / "a.avi")
    assert np.array_equal(samples, tones)


def test_a_video_without_a_sound_track_has_none(tmp_path):
    clip(tmp_path / "a.mp4", 1.0, sound=False)
    assert media.video_sound(tmp_path / "a.mp4") is None


# ---------------------------------------------------------------- loading


def own(root, sounds, annotation, split="train", frames=4, rate=8000, channels=1):
    """Writes the layout: files of these stems, and an annotation file; returns root."""
    rng = np.random.default_rng(0)
    for stem in sounds:
        sound = rng.uniform(-0.5, 0.5, (round(1.3 * rate), channels))
        synthetic.write_wav(root / f"{split}_wav" / f"{stem}.wav", sound, rate)
        for i in range(1, frames + 1):
            image = synthetic.picture(i, 5, 40, rng, 0.0)[:30]
            synthetic.write_jpeg(
                root / f"{split}_img" / "Image-01-FPS" / stem / f"{i:05}.jpg", image
            )
    if not isinstance(annotation, bytes):
        annotation = annotation.encode()
    path = root / "annotations" / f"{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(annotation)
    return root


def load(root, split="test", **options):
    return KINETICS_SOUNDS.load(root, split, cache=False, **options)


def test_a_sample_is_what_librosa_and_torchvision_make_of_its_files(sampled):
    import librosa
    from PIL import Image
    from torchvision import transforms

    _, out, _ = sampled
    dataset = load(out)
    label, stem = annotated(out, "test")[5]
    sound, rate = librosa.load(out / "test_wav" / f"{stem}.wav", sr=35400, mono=True)
    while len(sound) / rate < 10:
        sound = np.tile(sound, 2)
    stft = librosa.stft(np.clip(sound[: 10 * rate], -1, 1), n_fft=512, hop_length=353)
    audio = np.log(np.abs(stft) + 1e-7)
    assert audio.shape == (257, 1003)
    to_tensor = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    names = sorted((out / "test_img" / "Image-01-FPS" / stem).iterdir())[:3]
    video = torch.stack([to_tensor(Image.open(name).convert("RGB")) for name in names])
    sample = dataset[5]
    assert dataset.shapes == {"audio": (1, 257, 1003), "video": (3, 3, 224, 224)}
    assert np.abs(sample["audio"][0].numpy() - audio).max() < 1e-3
    assert (sample["video"] - video).abs().max() < 0.05  # a step of 1 in 255, or two
    assert CLASSES[sample["label"]] == label


def test_the_options_of_the_reader_do_what_they_say(sampled):
    from PIL import Image

    _, out, _ = sampled
    stem = annotated(out, "test")[0][1]
    names = sorted((out / "test_img" / "Image-01-FPS" / stem).iterdir())
    mean, std = np.array(media.MEAN), np.array(media.STD)

    def pixels(name):
        return (np.array(Image.open(name)) / 255 - mean) / std

    native = load(out, size=48)[0]["video"].permute(0, 2, 3, 1).numpy()
    assert np.allclose(native, [pixels(name) for name in names[:3]], atol=0.05)
    spread = load(out, size=48, frames=2, choice="spread")[0]["video"].permute(0, 2, 3, 1)
    assert np.allclose(spread, [pixels(name) for name in (names[1], names[3])], atol=0.05)
    bgr = load(out, size=48, order="BGR", frames=1)[0]["video"][0].permute(1, 2, 0).numpy()
    swapped = np.array(Image.open(names[0]))[..., ::-1] / 255  # normalised as if it were RGB
    assert np.allclose(bgr, (swapped - mean) / std, atol=0.05)
    assert load(out, frames=4)[0]["video"].shape == (4, 3, 224, 224)
    assert load(out, seconds=1.0)[0]["audio"].shape == (1, 257, 1 + 35400 // 353)
    with pytest.raises(ValueError, match="unknown reading option 'rate'.*seconds"):
        load(out, rate=16000)


def test_stereo_is_the_mean_of_its_channels(tmp_path):
    root = own(tmp_path, [STEM], f"label,youtube_id\nbowling,{STEM}\n", "test", channels=2)
    sound, _ = soundfile.read(root / "test_wav" / f"{STEM}.wav", dtype="float32")
    stereo = load(root)[0]["audio"]
    synthetic.write_wav(root / "test_wav" / f"{STEM}.wav", sound.mean(1), 8000)
    below_4_khz = slice(0, 50)  # above is nothing but the rounding to 16 bits
    difference = (load(root)[0]["audio"] - stereo)[0, below_4_khz].abs()
    assert difference.mean() < 0.01


SPELLINGS = [
    f"{ONE}-000012\u2014\u2014000022",  # the seed's tree
    f"{ONE}_000012_000022",
    f"{ONE}-000012-000022",
    f"{ONE}_000012\u2013000022",
    f"{ONE}\u2014000012\u2014000022",
    f"{ONE}_12",  # OGM-GE's test list
]


@pytest.mark.parametrize("there", SPELLINGS)
@pytest.mark.parametrize("named", SPELLINGS)
def test_files_are_found_in_other_spellings_of_their_stem(tmp_path, there, named):
    root = own(tmp_path, [there, f"{ONE}_000013_000023"], f"label,youtube_id\nsinging,{named}\n")
    faults = kinetics_sounds.Faults()
    (item,) = kinetics_sounds.rows(root, "train", faults)
    assert not faults
    assert (item.name, item.label) == (named, CLASSES.index("singing"))
    assert item.files["audio"] == root / "train_wav" / f"{there}.wav"
    assert item.files["video"] == root / "train_img" / "Image-01-FPS" / there


@pytest.mark.parametrize("named", SPELLINGS[:4])
def test_the_spelling_of_the_annotation_comes_first(tmp_path, named):
    root = own(tmp_path, SPELLINGS[:4], f"label,youtube_id\nsinging,{named}\n", "test")
    (item,) = load(root).items
    assert item.files["audio"].stem == item.files["video"].name == named


def test_a_stem_of_another_form_is_taken_as_it_is(tmp_path):
    root = own(tmp_path, ["my clip \u00fc"], "label,youtube_id\nsinging,my clip \u00fc\n", "test")
    assert load(root)[0]["audio"].shape == (1, 257, 1003)


@pytest.mark.parametrize(
    "annotation",
    [
        f"\ufefflabel,youtube_id\r\nplaying bass guitar,{STEM}\r\n",
        f'"label","youtube_id"\n"playing bass guitar","{STEM}"\n',
        f"youtube_id,extra,label\n{STEM},0,playing_bass_guitar\n",
        f"Playing Bass Guitar,{STEM}.wav\n",
        f"class;id\nplaying bass guitar;{STEM}\n",
    ],
    ids=["byte order mark", "quotes", "other columns", "no header", "other names, semicolons"],
)
def test_annotations_may_have_these_forms(tmp_path, annotation):
    (item,) = load(own(tmp_path, [STEM], annotation, "test")).items
    assert (item.name, item.label) == (STEM, 9)


@pytest.mark.parametrize(
    "annotation, message",
    [
        (f"label,youtube_id\nbowling;{STEM}\n", r"test.csv:2: 1 of 2 columns: separate them by"),
        (
            f"kind,clip\nbowling,{STEM}\n",
            r"test.csv:1: the header lacks youtube_id .*, label .*; it",
        ),
        (f"label,youtube_id\nabseiling,{STEM}\n", r"test.csv:2: unknown label 'abseiling'"),
        (f"label,youtube_id\n2,{STEM}\n", r"test.csv:2: unknown label '2'"),
        ("label,youtube_id\nbowling,../..\n", r"test.csv:2: '..' is no stem"),
        ("label,youtube_id\nbowling,\n", r"test.csv:2: '' is no stem"),
        (
            f"label,youtube_id\nbowling,{STEM}\nbowling,{ONE}_12\n",
            r"csv:3: .*in line 2 already: rem",
        ),
        (f"label,x,youtube_id\nbowling,{STEM}\n", r"test.csv:2: 2 of 3 columns"),
        (f"label,youtube_id\nbowling,{ONE}-000012——".encode("gbk"), r"test.csv:2: not UTF-8"),
    ],
)
def test_a_wrong_annotation_is_one_error_that_names_its_line(tmp_path, annotation, message):
    with pytest.raises(ValueError, match=message):
        load(own(tmp_path, [STEM], annotation, "test"))


def damage_sound(root):
    (root / "test_wav" / f"{STEM}.wav").write_bytes(b"")


def damage_frame(root):
    frame = root / "test_img" / "Image-01-FPS" / STEM / "00002.jpg"
    frame.write_bytes(frame.read_bytes()[:-300])


def lose_frames(root):
    for path in (root / "test_img" / "Image-01-FPS" / STEM).iterdir():
        path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_sound, rf"{STEM}.wav is empty"),
        (damage_frame, r"00002.jpg is a damaged picture"),
        (lose_frames, rf"{STEM} has no frames"),
        (
            lambda root: (root / "test_wav").rename(root / "wav"),
            rf"test_wav.*{STEM}.wav is missing",
        ),
        (lambda root: (root / "test_img").rename(root / "img"), r"is missing: no folder of frames"),
    ],
)
def test_a_damaged_file_is_named_by_the_reader_and_by_check(tmp_path, damage, message):
    for split in ("train", "test"):
        stems = [STEM] if split == "test" else [f"{TWO}_{i:06}_{i + 10:06}" for i in range(2)]
        lines = "".join(f"bowling,{stem}\n" for stem in stems)
        own(tmp_path, stems, f"label,youtube_id\n{lines}", split)
    assert check(KINETICS_SOUNDS, tmp_path, progress=False).usable
    damage(tmp_path)
    with pytest.raises(media.Unreadable, match=message):
        load(tmp_path)[0]
    found = check(KINETICS_SOUNDS, tmp_path, progress=False)
    assert len(found.faults) == 1
    assert str(tmp_path) in found.faults[0] and "line 2" in found.faults[0]
