"""datasets/nvgesture.py: the lists, the flow, and the same frames of all three modalities."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import av
import cv2
import numpy as np
import prepared
import pytest
import torch
from prepared import tree
from torchvision.transforms.v2 import functional as F

from igm.datasets import media, nvgesture
from igm.datasets.layout import check
from igm.datasets.media import Unreadable
from igm.datasets.nvgesture import NVGESTURE, optical_flow
from igm.datasets.preparing import Output
from igm.datasets.reading import Item
from igm.datasets.synthetic import write_video
from igm.datasets.tables import Faults

LIST = "nvgesture_{}_correct_v2.lst"
ORIGINAL = "nvgesture_{}_correct_cvpr2016_v2.lst"
SMALL = {"frames": 8, "size": 32}
NAME = "nvgesture"

make = partial(prepared.run, NVGESTURE)


def line(recording, start=2, end=10, label=1, **other):
    values = {
        "path": f"./Video_data/{recording}",
        "depth": f"sk_depth:{start}:{end}",
        "color": f"sk_color:{start}:{end}",
        "duo_left": f"duo_left:{start}:{end}",
        "label": label,
    } | other
    return " ".join(f"{key}:{value}" for key, value in values.items() if value is not None)


def clouds(rng, height=48, width=64):
    image = cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), 3)
    return (255 * (image - image.min()) / np.ptp(image)).astype(np.uint8)


def recording(raw, name, frames):
    folder = raw / "Video_data" / name
    for video in ("sk_color.avi", "sk_depth.avi"):
        write_video(folder / video, frames, 30)
    return folder


@pytest.fixture
def raw(tmp_path):
    """A raw download of four recordings of 12 frames, and its lists."""
    raw, rng = tmp_path / "raw", np.random.default_rng(0)
    for subject in (1, 2, 3, 4):
        picture = clouds(rng)
        recording(raw, f"class_01/subject{subject}_r0", [np.roll(picture, i, 1) for i in range(12)])
    write_lists(raw, [line(f"class_01/subject{s}_r0") for s in (1, 2, 3)])
    return raw


def write_lists(raw, train, test=("class_01/subject4_r0",)):
    (raw / ORIGINAL.format("train")).write_text("".join(f"{text}\n" for text in train))
    (raw / ORIGINAL.format("test")).write_text("".join(f"{line(name)}\n" for name in test))


def read(items, modality, train=False, seed=0, **options):
    reader = nvgesture.readers(**options)[modality]
    return reader.read(items, np.random.default_rng(seed), train, None)


# ---------------------------------------------------------------- the sample


def test_the_sample_is_a_download_as_nvidia_gives_it(made):
    raw = made / "raw"
    text = (raw / ORIGINAL.format("train")).read_text()
    form = (
        r"path:\./Video_data/class_\d\d/subject\d+_r\d depth:sk_depth:\d+:\d+ color:sk_color:\d+:\d+ "
        r"duo_left:duo_left:\d+:\d+ label:\d+ "
    )
    assert all(re.fullmatch(form, row) for row in text.splitlines())
    assert len(text.splitlines()) == 20
    folder = raw / "Video_data/class_01/subject1_r0"
    names = ["duo_left.avi", "duo_left_log.txt", "sk_color.avi", "sk_color_log.txt"]
    assert sorted(p.name for p in folder.iterdir()) == [*names, "sk_depth.avi", "sk_depth_log.txt"]
    header = (folder / "sk_color.avi").read_bytes()[:12]
    assert (header[:4], header[8:]) == (b"RIFF", b"AVI ")
    with av.open(str(folder / "sk_color.avi")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("mjpeg", 30)
        assert (stream.width, stream.height) == (64, 48)
    assert (folder / "sk_color_log.txt").read_text().startswith("img00000.png 14402025")


def test_the_flow_of_the_sample_goes_where_the_gesture_goes(made):
    data = NVGESTURE.load(made, "test", cache=False, **SMALL)
    directions = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    assert sorted(data.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for got in (data[i] for i in range(len(data))):
        x, y = got["flow"].mean((1, 2, 3)).tolist()
        if got["label"] < 4:
            along = [a * x + b * y for a, b in directions]
            assert int(np.argmax(along)) == got["label"]


# ---------------------------------------------------------------- prepare


def test_prepare_makes_the_layout_file_by_file(made):
    out, raw = made / "NVGesture", made / "raw"
    report = json.loads((out / "report.json").read_text())
    counts = {f"class_{c:02}": 4 for c in range(1, 6)}
    assert report["counts"]["train"] == counts and report["skipped"] == {}
    expected = {LIST.format("train"), LIST.format("test"), "manifest.json", "report.json"}
    for split in ("train", "test"):
        theirs = (raw / ORIGINAL.format(split)).read_text().splitlines()
        ours = (out / LIST.format(split)).read_text().splitlines()
        assert ours == [text.strip() for text in theirs]
        for text in ours:
            name, start, end = re.search(
                r"path:\./(\S+) .*color:sk_color:(\d+):(\d+)", text
            ).groups()
            for file in ("sk_color.avi", "sk_depth.avi", "sk_color_log.txt", "sk_depth_log.txt"):
                assert (out / name / file).read_bytes() == (raw / name / file).read_bytes()
                expected.add(f"{name}/{file}")
            expected |= {f"{name}/duo_left_log.txt", f"{name}/flow_{start}_{end}.npz"}
    assert set(tree(out)) == expected
    assert set(json.loads((out / "manifest.json").read_text())["files"]) == {
        name for name in expected if name.startswith(("Video_data", "nvgesture"))
    }


def test_videos_are_links_or_copies(raw, tmp_path, monkeypatch):
    name = "Video_data/class_01/subject1_r0/sk_color.avi"
    make(raw, tmp_path / "linked")
    make(raw, tmp_path / "copied", copy=True)
    assert (tmp_path / "linked" / name).samefile(raw / name)
    assert not (tmp_path / "copied" / name).samefile(raw / name)

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    make(raw, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / name).samefile(raw / name)
    assert tree(tmp_path / "elsewhere" / "Video_data") == tree(tmp_path / "copied/Video_data")


def test_a_link_is_made_over_an_older_file_and_over_itself(tmp_path):
    source, output = tmp_path / "a", Output(tmp_path / "out")
    source.write_bytes(b"new")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b").write_bytes(b"old")
    output.link("b", source)
    output.link("b", source)
    assert (tmp_path / "out/b").samefile(source)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]
    assert output.files["b"]["bytes"] == 3


def test_workers_do_not_wait_for_threads_that_opencv_had_before(raw, tmp_path):
    program = f"""
import cv2, numpy as np
from igm.datasets.nvgesture import optical_flow, prepare
from igm.datasets.preparing import Preparation
cv2.setNumThreads(4)
optical_flow([np.zeros((480, 640, 3), np.uint8)] * 2)
with Preparation("nvgesture", {str(raw)!r}, {str(tmp_path / "out")!r}, workers=2) as job:
    prepare(job)
    job.finish()
assert cv2.getNumThreads() == 4
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_second_run_does_only_what_is_missing_or_has_changed(raw, tmp_path, monkeypatch):
    out, done = tmp_path / "out", []
    make(raw, out)
    work = nvgesture.make_recording
    before = tree(out)

    def counted(output, root, items, *rest):
        done.append(items[0].name)
        work(output, root, items, *rest)

    monkeypatch.setattr(nvgesture, "make_recording", counted)
    make(raw, out)
    assert done == []
    (out / "Video_data/class_01/subject2_r0/flow_2_10.npz").unlink()
    video = raw / "Video_data/class_01/subject3_r0/sk_color.avi"
    video.write_bytes((raw / "Video_data/class_01/subject3_r0/sk_depth.avi").read_bytes() + b"\0")
    make(raw, out)
    assert done == ["class_01/subject2_r0:2:10", "class_01/subject3_r0:2:10"]
    name = "Video_data/class_01/subject2_r0/flow_2_10.npz"
    assert tree(out)[name] == before[name]


def test_two_gestures_in_one_recording_have_a_flow_each(raw, tmp_path):
    name = "class_01/subject1_r0"
    write_lists(raw, [line(name, 1, 6), line(name, 6, 12, 2), line("class_01/subject2_r0")])
    make(raw, tmp_path / "NVGesture")
    folder = tmp_path / "NVGesture/Video_data" / name
    assert {p.name for p in folder.glob("*.npz")} == {"flow_1_6.npz", "flow_6_12.npz"}
    items = nvgesture.rows(tmp_path / "NVGesture", "train", Faults())
    assert [(item.label, item.spans["rgb"]) for item in items[:2]] == [(0, (1, 5)), (1, (6, 11))]
    assert check(NVGESTURE, tmp_path, full=True, progress=False).usable


def test_the_lists_of_the_layout_are_good_as_raw_data_too(made, tmp_path):
    """Who has the layout already, without flow, prepares it from itself."""
    shutil.copytree(
        made / "NVGesture", tmp_path / "had", ignore=shutil.ignore_patterns("*.npz", ".p*")
    )
    make(tmp_path / "had", tmp_path / "NVGesture")
    assert tree(tmp_path / "NVGesture/Video_data") == tree(made / "NVGesture/Video_data")


# ---------------------------------------------------------------- the flow


def test_the_flow_of_a_known_shift(raw):
    rng = np.random.default_rng(3)
    wide = cv2.GaussianBlur(rng.standard_normal((120, 160, 3)), (0, 0), 2)
    wide = (255 * (wide - wide.min()) / np.ptp(wide)).astype(np.uint8)
    moved = wide[20:100, 20:140], wide[20 - 2 : 100 - 2, 20 + 3 : 140 + 3]  # left 3, down 2
    flow = optical_flow([np.ascontiguousarray(x) for x in moved])
    assert flow.shape == (1, 2, 80, 120) and flow.dtype == np.float32
    inner = flow[0, :, 10:-10, 10:-10]
    assert np.median(np.abs(inner[0] + 3)) < 0.1 and np.median(np.abs(inner[1] - 2)) < 0.1


def test_the_flow_is_the_same_with_any_number_of_threads():
    rng = np.random.default_rng(0)
    picture = clouds(rng, 240, 320)
    frames = [np.roll(picture, 3 * i, 1) for i in range(3)]
    before, found = cv2.getNumThreads(), []
    try:
        for threads in (1, 2, 5):
            cv2.setNumThreads(threads)
            found.append(optical_flow(frames))
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(flow, found[0]) for flow in found)


def test_the_file_of_flow_holds_the_motion_to_each_frame_of_the_span_in_bytes(raw, tmp_path):
    make(raw, tmp_path / "out")
    video = cv2.VideoCapture(str(raw / "Video_data/class_01/subject1_r0/sk_color.avi"))
    grey = [cv2.cvtColor(video.read()[1], cv2.COLOR_BGR2GRAY) for _ in range(12)]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    pixels = np.stack([dis.calc(grey[t - 1], grey[t], None) for t in range(2, 10)])
    file = np.load(tmp_path / "out/Video_data/class_01/subject1_r0/flow_2_10.npz")
    assert file.files == ["flow"] and file["flow"].dtype == np.uint8
    stored = (file["flow"].astype(float) - 128) * 20 / 127  # (frames, 2, height, width)
    assert np.abs(stored.transpose(0, 2, 3, 1) - pixels).max() < 0.08
    assert np.median(stored[:, 0]) > 0.5  # the picture is rolled to the right


def test_motion_above_the_limit_is_cut_to_it():
    flow = np.array([-50, -20, -0.07, 0, 0.09, 20, 1e9], np.float32).reshape(1, 1, 1, 7)
    packed = nvgesture._packed(flow.repeat(2, 1))
    assert np.load(io.BytesIO(packed))["flow"][0, 0, 0].tolist() == [
        1, 1, 128, 128, 129, 255, 255,
    ]  # fmt: skip


def test_depth_colour_and_flow_are_of_the_same_frames(tmp_path):
    """A square steps in five known frames; only the steps inside of the span may be seen, each in its frame."""
    steps = {9: (-4, 0), 18: (4, 0), 20: (4, 0), 26: (0, -3), 29: (-4, 0), 30: (4, 4)}
    rng = np.random.default_rng(1)
    square, place, frames = clouds(rng, 24, 24), np.array([24, 14]), []
    for t in range(40):
        place = place + steps.get(t, (0, 0))
        x, y = place
        picture = np.full((48, 64, 3), 60, np.uint8)
        picture[y : y + 24, x : x + 24] = square
        frames.append(picture)
    raw = tmp_path / "raw"
    recording(raw, "class_01/subject1_r0", frames)
    write_lists(raw, [line("class_01/subject1_r0", 18, 30)], ["class_01/subject1_r0"])
    make(raw, tmp_path / "out")
    (item,) = nvgesture.rows(tmp_path / "out", "train", Faults())
    options = {"test_frames": 12, "size": 64, "resize": 64}

    flow = read(item, "flow", flow_scale=1, **options)
    speed = flow.norm(dim=0).amax((1, 2))
    moves = [t - 18 for t in steps if 18 <= t < 30]
    assert moves == [0, 2, 8, 11]
    assert torch.nonzero(speed > 2).flatten().tolist() == moves
    assert speed[[t for t in range(12) if t not in moves]].max() < 0.5
    assert flow[0, 2].max() > 3 and flow[1, 8].min() < -2 and flow[0, 11].min() < -3
    for modality in ("rgb", "depth"):
        x = read(item, modality, **options)
        change = (x[:, 1:] - x[:, :-1]).abs().amax((0, 2, 3))
        assert (torch.nonzero(change > 0.1).flatten() + 1).tolist() == [2, 8, 11]


def test_nothing_moves_in_the_first_frame_of_a_recording(raw, tmp_path):
    name = "class_01/subject1_r0"
    write_lists(raw, [line(name, 0, 5)])
    make(raw, tmp_path / "out")
    flow = np.load(tmp_path / "out/Video_data" / name / "flow_0_5.npz")["flow"]
    assert len(flow) == 5 and (flow[0] == 128).all() and (flow[1] != 128).any()


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("ending", [".avi", ".mp4", ".flv"])
def test_frames_are_counted_exactly(tmp_path, ending):
    """Each frame shows its number in eight black or white fields."""
    frames = []
    for number in range(50):
        bits = [255 * (number >> k & 1) for k in range(8)]
        frames.append(np.repeat(np.uint8(bits), 8)[None, :, None].repeat(48, 0).repeat(3, 2))
    write_video(tmp_path / f"v{ending}", frames, 30)

    def numbers(clip):
        fields = clip[:, 20:28, :, 0].reshape(len(clip), 8, 8, 8).mean((1, 3)) > 127
        return (fields * 2 ** np.arange(8)).sum(1).tolist()

    for first, last in ((0, 0), (3, 3), (17, 40), (49, 49), (0, 49)):
        clip = media.read_clip(tmp_path / f"v{ending}", first, last)
        assert numbers(clip) == list(range(first, last + 1))
    with pytest.raises(Unreadable, match="after 50 frames, 51 are needed"):
        media.read_clip(tmp_path / f"v{ending}", 40, 50)


@pytest.fixture
def grey(tmp_path):
    """A sample whose frame i is grey, of brightness 6 i: (item, brightness of each frame as it is decoded)."""
    frames = [np.full((48, 64, 3), 6 * i, np.uint8) for i in range(40)]
    folder = recording(tmp_path, "class_01/subject1_r0", frames)
    files = {"depth": folder / "sk_depth.avi", "rgb": folder / "sk_color.avi"}
    return Item("x", 0, 1, files, spans={"depth": (10, 29), "rgb": (10, 29)})


def shown(x):
    """The numbers of the frames that a depth clip shows."""
    return (x.mean((0, 2, 3)) * 255 / 6).round().int().tolist()


def test_training_draws_a_window_of_the_span_and_evaluation_takes_the_middle(grey):
    windows = [shown(read(grey, "depth", True, seed, frames=16, size=32)) for seed in range(60)]
    assert {tuple(w) for w in windows} == {tuple(range(s, s + 16)) for s in range(10, 15)}
    assert shown(read(grey, "depth", test_frames=16, size=32)) == list(range(12, 28))
    assert shown(read(grey, "depth", frames=8, size=32)) == list(range(15, 25))  # a quarter more
    assert shown(read(grey, "depth", test_frames=20, size=32)) == list(range(10, 30))
    assert shown(read(grey, "depth", test_frames=1, size=32)) == [19]


def test_a_span_that_is_too_short_stands_still_at_its_end(grey, tmp_path):
    assert shown(read(grey, "depth", test_frames=24, size=32)) == [*range(10, 30), 29, 29, 29, 29]
    assert shown(read(grey, "depth", True, frames=24, size=32)) == [*range(10, 30), 29, 29, 29, 29]
    flow = np.full((20, 2, 48, 64), 200, np.uint8)
    np.savez(tmp_path / "flow.npz", flow=flow)
    item = Item("x", 0, 1, {"flow": tmp_path / "flow.npz"}, spans={"flow": (0, 19)})
    x = read(item, "flow", test_frames=24, size=32)
    assert x.shape == (2, 24, 32, 32) and (x[:, :20] > 0.5).all() and (x[:, 20:] == 0).all()


def test_crops_are_drawn_over_the_whole_picture_in_training(tmp_path):
    picture = clouds(np.random.default_rng(0))
    folder = recording(tmp_path, "class_01/subject1_r0", [picture] * 3)
    item = Item("x", 0, 1, {"rgb": folder / "sk_color.avi"}, spans={"rgb": (0, 2)})
    whole = read(item, "rgb", test_frames=3, size=40, resize=40)
    corners = [(top, left) for top in range(9) for left in range(9)]
    found = []
    for seed in range(100):
        clip = read(item, "rgb", True, seed, frames=3, size=32, resize=40)
        cuts = [whole[:, :, top : top + 32, left : left + 32] for top, left in corners]
        (corner,) = (c for c, cut in zip(corners, cuts) if torch.equal(cut, clip))
        found.append(corner)
    assert {top for top, _ in found} == {left for _, left in found} == set(range(9))
    middle = read(item, "rgb", test_frames=3, size=32, resize=40)
    assert torch.equal(middle, whole[:, :, 4:36, 4:36])


# ---------------------------------------------------------------- values


def reference(path, first, count, resize, size):
    """(count, channels, size, size), 0 ... 255, blue first: OpenCV's frames by torchvision's resizing."""
    video = cv2.VideoCapture(str(path))
    frames = [video.read()[1] for _ in range(first + count)][first:]
    x = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float()
    return F.center_crop(F.resize(x, [resize, resize], antialias=False), [size, size])


def test_the_default_is_the_preprocessing_of_the_authors_code(tmp_path):
    """256 x 256, the middle 224 x 224 of the middle 80 frames, in training 64; colours as OpenCV gives them, normalised
    as if they were red, green, blue; depth the first channel as a share of 255."""
    rng = np.random.default_rng(0)
    picture = clouds(rng, 240, 320)
    picture[..., 0] //= 2  # red is unlike blue
    folder = recording(tmp_path, "a/b", [np.roll(picture, i, 0) for i in range(88)])
    files = {"rgb": folder / "sk_color.avi", "depth": folder / "sk_depth.avi"}
    item = Item("x", 0, 1, files, spans={"rgb": (2, 81), "depth": (2, 85)})
    bgr = reference(files["rgb"], 2, 80, 256, 224) / 255  # all frames of the span
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((bgr - mean[:, None, None]) / std[:, None, None]).transpose(0, 1)
    x = read(item, "rgb")
    assert x.shape == (3, 80, 224, 224) and x.dtype == torch.float32
    assert read(item, "rgb", train=True).shape == (3, 64, 224, 224)
    assert (x - expected).abs().max() < 1.01 / 255 / 0.224  # OpenCV rounds to whole numbers
    assert (x - expected.flip(0)).abs().max() > 0.5
    depth = read(item, "depth")
    assert depth.shape == (1, 80, 224, 224)
    # of the 84 frames of its span, those in the middle
    blue = reference(files["depth"], 2 + 2, 80, 256, 224)[:, :1] / 255
    assert (depth - blue.transpose(0, 1)).abs().max() < 1.01 / 255

    rgb = bgr.flip(1).transpose(0, 1)
    assert (read(item, "rgb", order="RGB", normalisation="i3d") - (2 * rgb - 1)).abs().max() < 0.01
    few = read(item, "rgb", test_frames=2, size=112, resize=128, normalisation="i3d")
    small = reference(files["rgb"], 2 + 39, 2, 128, 112).transpose(0, 1)
    assert (few - (small / 127.5 - 1)).abs().max() < 0.01


def test_flow_is_in_shares_of_20_pixels_or_in_pixels(tmp_path):
    rng = np.random.default_rng(0)
    flow = rng.integers(1, 256, (6, 2, 24, 32), np.uint8)
    np.savez_compressed(tmp_path / "flow.npz", flow=flow)
    item = Item("x", 0, 1, {"flow": tmp_path / "flow.npz"}, spans={"flow": (0, 5)})
    pixels = (torch.from_numpy(flow[1:5]).float() - 128) * 20 / 127
    expected = F.resize(pixels, [36, 36], antialias=False)[..., 2:34, 2:34].transpose(0, 1)
    x = read(item, "flow", test_frames=4, size=32, resize=36)
    assert x.shape == (2, 4, 32, 32) and x.abs().max() <= 1
    assert torch.allclose(x, expected / 20, atol=1e-5)
    x = read(item, "flow", test_frames=4, size=32, resize=36, flow_scale=1)
    assert torch.allclose(x, expected, atol=1e-4)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"frames": 0}, "frames"),
        ({"test_frames": -1}, "test_frames"),
        ({"size": 300, "resize": 256}, "resize"),
        ({"size": 8}, "size"),
        ({"order": "GBR"}, "GBR"),
        ({"normalisation": "none"}, "none"),
        ({"flow_scale": 0.0}, "flow_scale"),
        ({"cache_videos": True}, "unknown reading option"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options, word):
    with pytest.raises(ValueError, match=word):
        NVGESTURE.make_readers(options)


# ---------------------------------------------------------------- the data set


def test_labels_are_those_of_the_lists_not_of_the_folders(made):
    train = {item.name: item.label for item in nvgesture.rows(made / "raw", "train", Faults())}
    odd = {name: label for name, label in train.items() if name[:8] != f"class_{label + 1:02}"}
    assert len(odd) == 1 and list(odd.values()) == [1]
    assert next(iter(odd)).startswith("class_01/subject4_r1:")
    assert NVGESTURE.classes[0] == "class_01" and NVGESTURE.classes[24] == "class_25"


# ---------------------------------------------------------------- hostile lists


GOOD = line("class_01/subject1_r0")
WRONG = {
    "end before start": (line("class_01/subject2_r0", 9, 3), "ends before it starts"),
    "no frame": (line("class_01/subject2_r0", 4, 4), "ends before it starts"),
    "start below 0": (line("class_01/subject2_r0", -1, 4), "is not depth:FILE:START:END"),
    "no numbers": (line("class_01/subject2_r0", color="sk_color:a:b"), "is not color:FILE"),
    "a huge number": (line("class_01/subject2_r0", 2, "9" * 5000), "FILE:START:END"),
    "no depth": (line("class_01/subject2_r0", depth=None), "has no depth; it has path, color"),
    "no path": (line("", path=None), "has no path; it has depth"),
    "no label": (line("class_01/subject2_r0", label=None), "has no label; it has path"),
    "label 0": (line("class_01/subject2_r0", label=0), "unknown label '0': use one of 1 to 25"),
    "label 26": (line("class_01/subject2_r0", label=26), "unknown label '26'"),
    "label word": (line("class_01/subject2_r0", label="wave"), "unknown label 'wave'"),
    "twice": (GOOD, "stands in line 1 already"),
    "a field twice": (f"{line('class_01/subject2_r0')} label:3", "stands twice"),
    "up": (line("class_01/../../../etc"), "is no recording, such as"),
    "up two": (line("../x/subject1_r0"), "is no recording"),
    "absolute": (line("x", path="/etc/class_01/subject1_r0"), "is no recording"),
    "elsewhere": (line("x", path="./other/class_01/subject1_r0"), "is no recording"),
    "up by file": (line("class_01/subject2_r0", color="../sk_color:2:10"), "is not color:FILE"),
    "a space": (line("class_01/subject 2_r0"), "is no field KEY:VALUE"),
    "commas": (GOOD.replace(" ", ","), "stands twice|has no depth"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_line_is_one_error_with_file_and_line(case, raw, tmp_path):
    text, word = WRONG[case]
    write_lists(raw, [GOOD, text])
    with pytest.raises(ValueError, match=word) as error:
        make(raw, tmp_path / "out")
    assert f"{ORIGINAL.format('train')}:2: " in str(error.value) and len(str(error.value)) < 12000
    assert {p.name for p in (tmp_path / "out").iterdir()} == {".prepare"}
    faults = Faults()
    assert len(nvgesture.rows(raw, "train", faults)) == 1 and len(faults) == 1


@pytest.mark.parametrize(
    "content, error, word",
    [
        (b" \n\n", ValueError, "is empty"),
        (b"<html>\n", ValueError, ":1: '<html>' is no field KEY:VALUE"),
    ],
)
def test_a_list_that_is_none_is_refused(content, error, word, raw, tmp_path):
    (raw / ORIGINAL.format("train")).write_bytes(content)
    with pytest.raises(error, match=word):
        make(raw, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.lst"))


def test_a_list_from_windows_is_read(raw, tmp_path):
    content = (
        f"{line('class_01/subject1_r0')}  \r\n\r\n{line('class_01/subject2_r0', label=25)}\r\n"
    )
    (raw / LIST.format("train")).write_bytes(content.encode("utf-8-sig"))
    (raw / ORIGINAL.format("train")).unlink()
    report = make(raw, tmp_path / "out")
    assert report["counts"]["train"] == {"class_01": 1, "class_25": 1}
    assert b"\r" not in (tmp_path / "out" / LIST.format("train")).read_bytes()


# ---------------------------------------------------------------- hostile files


def damage(kind, path):
    content = path.read_bytes()
    if kind == "missing":
        return path.unlink()
    if kind == "folder":
        path.unlink()
        return path.mkdir()
    chunk = [match.start() for match in re.finditer(b"00dc", content)][4]
    new = {
        "zero bytes": b"",
        "text": b"no video\n" * 100,
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "header only": content[: content.index(b"movi") + 4],
        "cut off": content[: content.index(b"movi") + 2500],
        "a damaged frame": content[: chunk + 8] + bytes(300) + content[chunk + 308 :],
    }
    path.unlink()
    path.write_bytes(new[kind])


@pytest.mark.parametrize("video", ["sk_color.avi", "sk_depth.avi"])
@pytest.mark.parametrize(
    "kind, word",
    [
        ("missing", "is missing"),
        ("folder", "cannot be read"),
        ("zero bytes", "is empty"),
        ("text", "has no frame that can be read"),
        ("pointer", "git lfs pull"),
        ("header only", "has no frame that can be read"),
        ("cut off", "ends or is damaged after"),
        ("a damaged frame", "ends or is damaged after"),
    ],
)
def test_a_recording_that_cannot_be_read_is_a_counted_skip(kind, word, video, raw, tmp_path):
    damage(kind, raw / "Video_data/class_01/subject2_r0" / video)
    out = tmp_path / "NVGesture"
    report = make(raw, out)
    assert list(report["skipped"]) == ["class_01/subject2_r0"]
    assert re.search(rf"{video} .*{word}", report["skipped"]["class_01/subject2_r0"])
    assert report["counts"]["train"] == {"class_01": 2}
    assert "subject2" not in (out / LIST.format("train")).read_text()
    assert not list(out.rglob("*.partial"))
    assert not (out / "Video_data/class_01/subject2_r0").exists()
    assert check(NVGESTURE, tmp_path, full=True, progress=False).usable


def test_a_span_past_the_end_of_its_video_is_a_counted_skip(raw, tmp_path):
    write_lists(
        raw, [GOOD, line("class_01/subject2_r0", 5, 13), line("class_01/subject3_r0", 5, 12)]
    )
    report = make(raw, tmp_path / "out")
    assert list(report["skipped"]) == ["class_01/subject2_r0"]
    assert "after 12 frames, 13 are needed" in report["skipped"]["class_01/subject2_r0"]
    assert report["counts"]["train"] == {"class_01": 2}


def test_a_picture_without_room_for_motion_is_a_counted_skip(raw, tmp_path):
    recording(raw, "class_01/subject2_r0", [np.zeros((8, 64, 3), np.uint8)] * 12)
    report = make(raw, tmp_path / "out")
    assert "smaller than 16 x 16" in report["skipped"]["class_01/subject2_r0"]


def test_links_out_of_the_raw_folder_are_not_followed_unless_asked(raw, tmp_path):
    inside = raw / "Video_data/class_01/subject2_r0"
    inside.rename(tmp_path / "elsewhere")
    inside.symlink_to(tmp_path / "elsewhere")
    report = make(raw, tmp_path / "out")
    assert "is a link out of the raw folder" in report["skipped"]["class_01/subject2_r0"]
    assert make(raw, tmp_path / "all", follow_links=True)["skipped"] == {}


def test_names_may_have_other_letters(raw, tmp_path):
    name = "class_01/subjekt–2é_r0"
    (raw / "Video_data/class_01/subject2_r0").rename(raw / "Video_data" / name)
    write_lists(raw, [GOOD, line(name)])
    assert make(raw, tmp_path / "NVGesture")["counts"]["train"] == {"class_01": 2}
    assert check(NVGESTURE, tmp_path, full=True, progress=False).usable


def test_a_download_that_is_not_unpacked_or_not_whole_is_refused(raw, tmp_path):
    (raw / ORIGINAL.format("test")).unlink()
    with pytest.raises(FileNotFoundError, match="--annotations"):
        make(raw, tmp_path / "a")
    (raw / "Video_data").rename(tmp_path / "away")
    with pytest.raises(
        FileNotFoundError, match="no folder Video_data, there is .*: give the folder"
    ):
        make(raw, tmp_path / "b")
    (raw / "nvGesture_v1.7z.003").write_bytes(b"7z")
    with pytest.raises(FileNotFoundError, match=r"`7z x nvGesture_v1\.7z\.001`"):
        make(raw, tmp_path / "c")
    assert not [p for p in tmp_path.rglob("*.lst") if p.parent != raw]


def test_lists_may_be_in_another_folder(raw, tmp_path):
    (tmp_path / "lists").mkdir()
    for split in ("train", "test"):
        (raw / ORIGINAL.format(split)).rename(tmp_path / "lists" / LIST.format(split))
    assert make(raw, tmp_path / "out", annotations=str(tmp_path / "lists"))["skipped"] == {}


def test_clips_are_not_cached(made, tmp_path, monkeypatch):
    monkeypatch.setenv("IGM_CACHE", str(tmp_path))
    NVGESTURE.load(made, "train", **SMALL)[0]
    assert not tree(tmp_path)


def test_check_names_a_flow_that_is_missing_or_damaged(raw, tmp_path):
    root = tmp_path / "NVGesture"
    make(raw, root)
    flows = [root / f"Video_data/class_01/subject{s}_r0/flow_2_10.npz" for s in (1, 2, 3)]
    flows[0].unlink()
    flows[1].write_bytes(flows[1].read_bytes()[:500])
    np.savez(flows[2], flow=np.zeros((7, 2, 48, 64), np.uint8))
    found = check(NVGESTURE, tmp_path, progress=False)
    words = (
        r"is missing \(line 1",
        "is no file of flow .*line 2",
        "has 7 fields for 8 frames .*line 3",
    )
    assert all(any(re.search(w, fault) for fault in found.faults) for w in words)
    assert len(found.faults) == 3


@pytest.mark.parametrize(
    "save",
    [
        lambda path: np.savez(path, flow=np.array([{}], object)),
        lambda path: np.savez(path, other=np.zeros(3)),
        lambda path: np.savez(path, flow=np.zeros((8, 2, 48, 64), np.float32)),
        lambda path: path.write_bytes(b"PK\x03\x04 no zip"),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
    ],
)
def test_a_file_that_is_no_flow_is_refused(save, tmp_path):
    path = tmp_path / "flow.npz"
    save(path)
    item = Item("x", 0, 1, {"flow": path}, spans={"flow": (0, 7)})
    with pytest.raises(Unreadable, match="is no file of flow as `igm prepare nvgesture` writes it"):
        read(item, "flow")


def test_a_missing_flow_says_how_it_is_made(tmp_path):
    item = Item("x", 0, 1, {"flow": tmp_path / "flow.npz"}, spans={"flow": (0, 7)})
    with pytest.raises(Unreadable, match="`igm prepare nvgesture` computes the flow"):
        read(item, "flow")
