"""NVGesture: 25 hand gestures of 20 drivers, seen by a depth and a colour camera (Molchanov et al., CVPR 2016).

The layout::

    NVGesture/nvgesture_{train,valid,test}_correct_v2.lst
    NVGesture/Video_data/class_01/subject13_r0/{sk_depth.avi, sk_color.avi, *.txt}
    NVGesture/Video_data/class_01/subject13_r0/flow_138_218.npz      by igm prepare

A line of a list is one gesture in one recording::

    path:./Video_data/class_01/subject13_r0 depth:sk_depth:138:218 color:sk_color:138:218 ... label:1

Frames are counted from 0, and END of START:END is not one of them, as in the readdata.py that comes with the data:
138:218 are the 80 frames 138 to 217. Labels are counted from 1. The label counts, not the folder: a few recordings
show another gesture than their folder says, and the lists have put that right.

The raw download, which NVIDIA gives on application, is nvGesture_v1.7z.001 and so on; ``7z x`` makes Video_data of
it. It has no optical flow. ``igm prepare`` computes it from the colour video, by the method of Kroeger et al.
("DIS", ECCV 2016) in OpenCV's medium setting: on a clip with known motion its error was smaller than Farneback's, in
half the time, and it gives the same bits with any number of threads. The field of a frame is the motion in pixels
from the frame before it, so that of the span's first frame looks at one frame before the span. A file flow_START_END
holds the fields of exactly the frames of the colour video's span, for each line its own: "flow", (frames, 2, height,
width), x and y, in bytes: 128 + pixels * 127 / 20. What moves more than 20 pixels is cut to 20, and rounding is
off by at most 0.08 pixels. As compressed NumPy files they take about 0.7 MB for 80 frames of 320 x 240 and are read
in some 10 ms; FFV1 video would be 40 % smaller and three times slower. The authors' code reads other files,
flow_data/{train,test}/ROW.npy, of frames that are not those of the span; they are not read here.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igm.datasets import media, synthetic
from igm.datasets.annotations import (
    Form,
    Row,
    file_of,
    find_annotations,
    folders_below,
    listed,
    once,
    read_rows,
)
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, Reader
from igm.datasets.tables import Faults, pairs, plain_name
from igm.seeds import derive_seed

CLASSES = tuple(f"class_{number:02}" for number in range(1, 26))
PUBLISHED = {"train": {"all": 1050}, "test": {"all": 482}}
LISTS = ("nvgesture_{}_correct_v2.lst", "nvgesture_{}_correct_cvpr2016_v2.lst")  # ours, NVIDIA's
FORM = Form(
    columns={
        name: (name,)
        for name in ("path", "depth", "color", "duo_left", "duo_right", "duo_disparity", "label")
    },
    needed=("path", "depth", "color", "label"),
    classes={str(number): number - 1 for number in range(1, len(CLASSES) + 1)},
    labels=f"one of 1 to {len(CLASSES)}",
    source=f"{LISTS[1].format('train')} and {LISTS[1].format('test')} come with the download",
    suffixes=(".lst", ".txt"),
    folders=("annotations", "meta"),
    format="pairs",
)
CLIP = re.compile(r"([^:]+):(\d{1,7}):(\d{1,7})")
REST, LIMIT = 128, 20.0  # the byte of no motion; pixels a frame that the bytes reach


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no list of it."""
    path = file_of(root, split, FORM) or file_of(root / "annotations", split, FORM)
    return None if path is None else [item for item, _ in _gestures(path, root, faults)]


def readers(
    frames: int = 64,
    test_frames: int | None = None,
    size: int = 224,
    resize: int | None = None,
    order: str = "BGR",
    normalisation: str = "imagenet",
    flow_scale: float = LIMIT,
) -> dict[str, Reader]:
    """Depth (1, frames, size, size), rgb (3, ...) and flow (2, ...).

    The defaults are what the authors' code does, but for two things. In training it draws one window in time and one
    crop for depth and colour, gives that crop to the flow, too, and takes the flow's whole span; here each modality
    draws its own window and crop. And its flow is in pixels, where the public weights of the I3D expect 20 pixels to
    be 1; ``flow_scale=1`` gives pixels.

    Args:
        frames: successive frames that a training sample takes from its span, at a random place.
        test_frames: the frames that are taken otherwise, from the middle of the span; by default a quarter more, 80 for
            64, which are all of them, as in the authors' code. A shorter span is filled up: with its last frame, and
            the flow with no motion.
        size: height and width of the crop, which is at a random place in training and in the middle otherwise.
        resize: height and width before the crop; by default 8/7 of size, 256 for 224.
        order: of the colour channels. BGR, as OpenCV gives them and the authors' code leaves them, or RGB.
        normalisation: of the colours. imagenet: by the means and deviations of red, green and blue, in this order,
            even where ``order`` is BGR, as in the authors' code. i3d: to -1 ... 1, as the weights of the I3D expect.
        flow_scale: pixels of the recording that become 1.
    """
    test_frames = round(1.25 * frames) if test_frames is None else test_frames
    shape = (frames, test_frames, size, round(size * 8 / 7) if resize is None else resize)
    return {
        "depth": Depth("depth", *shape),
        "rgb": Colour("rgb", *shape, order, normalisation),
        "flow": Flow("flow", *shape, flow_scale),
    }


@dataclass(frozen=True)
class Clip(Reader):
    """The base of the three readers: successive frames of a sample's span, resized and cropped.

    ``readers`` says what the options are. A subclass says how frames are loaded, what their values become, and how a
    span that is too short is filled up.
    """

    modality: str
    frames: int
    test_frames: int
    size: int
    resize: int

    def __post_init__(self):
        for name in ("frames", "test_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or above, got {getattr(self, name)}")
        if not 16 <= self.size <= self.resize:
            raise ValueError(
                f"size must be from 16 to resize, got size {self.size} and resize {self.resize}"
            )

    def read(self, item, rng, train, cache) -> Tensor:
        """(channels, frames, size, size), float32. The cache is not used: a clip would take 15 MB of it."""
        first, last = item.spans[self.modality]
        count = self.frames if train else self.test_frames
        spare = max(last - first + 1 - count, 0)
        room = self.resize - self.size
        start, top, left = spare // 2, room // 2, room // 2
        if train:
            start, top, left = (int(rng.integers(n + 1)) for n in (spare, room, room))
        chosen = slice(start, min(start + count, last - first + 1))
        images = self.load(item, chosen)
        crop = np.s_[top : top + self.size, left : left + self.size]
        images = np.stack([_resized(image, self.resize)[crop] for image in images])
        x = self.values(torch.from_numpy(images).permute(0, 3, 1, 2)).transpose(0, 1)
        return x if x.shape[1] == count else torch.cat([x, self.still(x, count - x.shape[1])], 1)

    def verify(self, item, train) -> str:
        first, last = item.spans[self.modality]
        here, needed = last - first + 1, self.frames if train else self.test_frames
        if train:  # any window may be drawn
            self.load(item, slice(0, here))
        else:
            self.read(item, np.random.default_rng(0), False, None)
        return f"fewer than {needed} frames in {self.modality}: filled up" if here < needed else ""

    def load(self, item: Item, chosen: slice) -> np.ndarray:
        """These frames of the span: (frames, height, width, channels)."""
        first, _ = item.spans[self.modality]
        path = item.files[self.modality]
        return media.read_clip(path, first + chosen.start, first + chosen.stop - 1)

    def values(self, images: Tensor) -> Tensor:
        """(frames, channels, height, width), from what ``load`` gives to what the network gets."""
        raise NotImplementedError

    def still(self, x: Tensor, count: int) -> Tensor:
        """What fills up a clip that is ``count`` frames too short: (channels, count, height, width)."""
        return x[:, -1:].expand(-1, count, -1, -1)


class Depth(Clip):
    """Depth as a share of 255: (1, frames, size, size), from the channel that OpenCV gives first."""

    def load(self, item: Item, chosen: slice) -> np.ndarray:
        return super().load(item, chosen)[..., 2:]  # red first: blue is the last

    def values(self, images: Tensor) -> Tensor:
        return images.float().div_(255)


@dataclass(frozen=True)
class Colour(Clip):
    """The colour video: (3, frames, size, size)."""

    order: str = "BGR"
    normalisation: str = "imagenet"

    def __post_init__(self):
        super().__post_init__()
        if self.order not in ("RGB", "BGR"):
            raise ValueError(f"unknown channel order {self.order!r}: use RGB or BGR")
        if self.normalisation not in ("imagenet", "i3d"):
            raise ValueError(f"unknown normalisation {self.normalisation!r}: use imagenet or i3d")

    def load(self, item: Item, chosen: slice) -> np.ndarray:
        return super().load(item, chosen)[..., ::-1]  # blue first, as it was decoded

    def values(self, images: Tensor) -> Tensor:
        if self.order == "RGB":
            images = images.flip(1)
        if self.normalisation == "i3d":
            return images.float().div_(127.5).sub_(1)
        return media.normalise(images)


@dataclass(frozen=True)
class Flow(Clip):
    """The motion from the frame before to each frame of the colour video: (2, frames, size, size), x and y.

    It is in pixels of the recording, whatever the size, divided by ``scale``.
    """

    scale: float = LIMIT

    def __post_init__(self):
        super().__post_init__()
        if not self.scale > 0:
            raise ValueError(f"flow_scale must be above 0, got {self.scale}")

    def load(self, item: Item, chosen: slice) -> np.ndarray:
        path = item.files[self.modality]
        first, last = item.spans[self.modality]
        flow = _unpacked(path)
        if len(flow) != last - first + 1:
            raise Unreadable(path, f"has {len(flow)} fields for {last - first + 1} frames")
        pixels = (flow[chosen].astype(np.float32) - REST) * np.float32(LIMIT / 127)
        return pixels.transpose(0, 2, 3, 1)

    def values(self, images: Tensor) -> Tensor:
        return images / self.scale

    def still(self, x: Tensor, count: int) -> Tensor:
        return x.new_zeros(1).expand(len(x), count, *x.shape[2:])


def optical_flow(frames: Sequence[np.ndarray]) -> np.ndarray:
    """The motion from each frame to the next, by DIS: (frames - 1, 2, height, width), float32, pixels, x and y.

    Args:
        frames: (height, width, 3), uint8, red first, of 16 x 16 pixels or more.
    """
    import cv2

    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    fields = [method.calc(a, b, None).transpose(2, 0, 1) for a, b in pairwise(grey)]
    return np.stack(fields) if fields else np.empty((0, 2, *grey[0].shape), np.float32)


def prepare(job: Preparation, annotations: str | None = None, copy: bool = False) -> None:
    """From the unpacked download: takes the depth and colour videos that can be read, and computes the flow.

    The infrared videos, duo_*.avi, are left out, though the lines of the lists name them.

    Args:
        annotations: the folder of the lists; by default RAW or a folder in it.
        copy: copy the videos. Else they are given a second name, as hard links, which takes no space, where RAW and
            OUT are on one disk; then a change of one is a change of both.
    """
    home = next((f for f in folders_below(job.raw, job) if (f / "Video_data").is_dir()), None)
    if home is None:
        raise FileNotFoundError(_no_videos(job.raw))
    wanted = _wanted(job, home, annotations)
    recordings: dict[str, dict[str, Item]] = {}
    for item, _ in (line for lines in wanted.values() for line in lines):
        recordings.setdefault(_recording(item), {})[item.name] = item
    tasks = []
    for name, items in recordings.items():
        try:
            sources = _sources(job, items.values())
        except Unreadable as error:
            job.skip(name, str(error))
        else:
            work = (home, tuple(items.values()), sources, copy)
            tasks.append(Task(name, make_recording, work, sources))
    made = job.run(tasks)
    for split, lines in wanted.items():
        there = [(item, text) for item, text in lines if _recording(item) in made]
        content = "".join(f"{text}\n" for _, text in there)
        labels = [CLASSES[item.label] for item, _ in there]
        job.annotations(split, LISTS[0], content, labels)


def make_recording(
    output: Output, raw: Path, items: Sequence[Item], sources: Sequence[Path], copy: bool
) -> None:
    """The videos of one recording, and the flow of each gesture in it."""
    flows = {}
    for item in items:
        media.read_clip(item.files["depth"], *item.spans["depth"])  # raises where it cannot be read
        first, last = item.spans["rgb"]
        frames = media.read_clip(item.files["rgb"], max(first - 1, 0), last)
        if min(frames.shape[1:3]) < 16:
            raise Unreadable(item.files["rgb"], "is smaller than 16 x 16 pixels")
        if first == 0:  # nothing has moved before
            frames = np.concatenate([frames[:1], frames])
        flows[item.files["flow"]] = _packed(optical_flow(frames))
    for path in sources:
        (output.copy if copy else output.link)(path.relative_to(raw).as_posix(), path)
    for path, content in flows.items():
        output.file(path.relative_to(raw).as_posix(), content)


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a raw download of 30 tiny recordings of 5 gestures: a hand that moves right, down, left, up, or nearer.

    Depth shows the hand alone, and the flow its motion. Colour is the weaker modality: a second hand rests in the
    picture and points somewhere. One recording has another label than its folder.
    """
    rng = np.random.default_rng(derive_seed(seed, "nvgesture"))
    height, width = 48, 64
    for split, subjects in (("train", (1, 2, 3, 4)), ("test", (5, 6))):
        lines = []
        for subject in subjects:
            for label in range(5):
                odd = (subject, label) == (4, 1)
                relative = (
                    f"Video_data/class_{1 if odd else label + 1:02}/subject{subject}_r{int(odd)}"
                )
                start, count, after = (int(n) for n in rng.integers((2, 16, 1), (6, 21, 4)))
                span = (start, start + count)
                hand = synthetic.hand(label, start + count + after, span, height, width, rng)
                other = synthetic.hand(int(rng.integers(5)), 1, (0, 1), height, width, rng, 0.3)
                wall = synthetic.blurred((height, width, 3), 4, rng)
                skin = np.array([0.8, 0.55, 0.45])
                covered = np.maximum(hand, other)[..., None]
                grain = 0.01 * rng.standard_normal((len(hand), height, width, 1))
                colour = (0.2 + 0.5 * wall) * (1 - covered) + skin * covered + grain
                depth = (0.2 + 0.6 * hand)[..., None] + 0.5 * grain
                folder = raw / relative
                videos = {"sk_color": colour, "sk_depth": depth, "duo_left": depth[:, ::2, ::2]}
                for name, video in videos.items():
                    video = np.broadcast_to(np.clip(255 * video, 0, 255), (*video.shape[:3], 3))
                    synthetic.write_video(folder / f"{name}.avi", video.astype(np.uint8), 30)
                    times = [1440202584613042158 + 33333333 * i for i in range(len(video))]
                    log = "".join(f"img{i:05}.png {time}\n" for i, time in enumerate(times))
                    (folder / f"{name}_log.txt").write_text(log)
                first, end = span
                lines.append(
                    f"path:./{relative} depth:sk_depth:{first}:{end} color:sk_color:{first}:{end} "
                    f"duo_left:duo_left:{first}:{end} label:{label + 1} \n"
                )
        (raw / LISTS[1].format(split)).write_text("".join(lines))


# ---------------------------------------------------------------- the lists


def _gestures(path: Path, root: Path, faults: Faults) -> Iterator[tuple[Item, str]]:
    """The samples of a list, each with its line, in which the folder stands as it is in the layout."""
    found = []
    for row in read_rows(path, FORM, faults):
        try:
            found.append((row, _gesture(row.values, row.label, row.line, root)))
        except ValueError as error:
            faults.add(path, row.place, str(error))
    for row, item in once(found, lambda item: item.name, faults):
        yield item, _line(row, item)


def _line(row: Row, item: Item) -> str:
    values = row.values | {"path": f"./Video_data/{_recording(item)}"}
    return " ".join(f"{key}:{value}" for key, value in values.items() if value)


def _item(fields: Sequence[str], line: int, root: Path) -> Item:
    """A sample from the fields of its line, such as "label:1"; ValueError says what is wrong."""
    values = pairs(fields)
    return _gesture(values, FORM.classes[values["label"]], line, root)


def _gesture(values: Mapping[str, str], label: int, line: int, root: Path) -> Item:
    parts = re.split(r"[/\\]", values["path"])
    if "Video_data" in parts:  # it may lie elsewhere here
        parts = parts[len(parts) - 1 - parts[::-1].index("Video_data") :]
    if len(parts) != 3 or parts[0] != "Video_data" or not all(map(plain_name, parts)):
        raise ValueError(
            f"path:{values['path']} is no recording, such as path:./Video_data/class_01/subject1_r0"
        )
    folder = root.joinpath(*parts)
    depth, depth_span = _clip("depth", values["depth"])
    colour, colour_span = _clip("color", values["color"])
    first, last = colour_span
    files = {
        "depth": folder / f"{depth}.avi",
        "rgb": folder / f"{colour}.avi",
        "flow": folder / f"flow_{first}_{last + 1}.npz",
    }
    spans = {"depth": depth_span, "rgb": colour_span, "flow": (0, last - first)}
    name = f"{parts[1]}/{parts[2]}:{first}:{last + 1}"
    return Item(name, label, line, files, spans=spans)


def _clip(key: str, value: str) -> tuple[str, tuple[int, int]]:
    """FILE:START:END -> the file, and its first and last frame, from 0."""
    match = CLIP.fullmatch(value)
    if match is None or not plain_name(match[1]):
        raise ValueError(
            f"{key}:{value} is not {key}:FILE:START:END, such as {key}:sk_{key}:138:218"
        )
    start, end = int(match[2]), int(match[3])
    if end <= start:
        raise ValueError(f"{key}:{value} ends before it starts: START must be below END")
    return match[1], (start, end - 1)


# ---------------------------------------------------------------- igm prepare


def _wanted(job: Preparation, home: Path, given: str | None) -> dict[str, list[tuple[Item, str]]]:
    """split -> its samples, with their lines."""
    lists, faults = find_annotations(job, given, FORM), Faults()
    for path in lists.values():
        if "cvpr2016" in path.name and "v2" not in path.name:
            raise ValueError(
                f"{path} is the list before its correction: add the file that ends in _v2"
            )
    wanted = {split: list(_gestures(path, home, faults)) for split, path in lists.items()}
    faults.stop()
    return wanted


def _no_videos(raw: Path) -> str:
    packed = sorted(path.name for path in raw.glob("*.7z*"))
    if not packed:
        there = f"there is {listed(raw)}"
        return f"{raw} has no folder Video_data, {there}: give the folder of the unpacked download"
    first = next((name for name in packed if name.endswith(".001")), "nvGesture_v1.7z.001")
    return f"{raw} has {packed[0]} and no folder Video_data: unpack it there by `7z x {first}`"


def _recording(item: Item) -> str:
    return item.name.split(":")[0]


def _sources(job: Preparation, items: Iterable[Item]) -> tuple[Path, ...]:
    """The files of one recording that are taken: its depth and colour videos, and its text files."""
    videos = {item.files[key]: None for item in items for key in ("depth", "rgb")}
    texts = sorted(path for path in next(iter(videos)).parent.glob("*.txt") if path.is_file())
    texts = [path for path in texts if not media.hidden(path.name)]
    return tuple(job.source(path) for path in [*videos, *texts])


# ---------------------------------------------------------------- files of flow


def _packed(flow: np.ndarray) -> bytes:
    """(frames, 2, height, width), pixels, as a compressed NumPy file of bytes."""
    steps = np.rint(np.clip(flow / LIMIT, -1, 1) * 127).astype(np.int16) + REST
    buffer = io.BytesIO()
    np.savez_compressed(buffer, flow=steps.astype(np.uint8))
    return buffer.getvalue()


def _unpacked(path: Path) -> np.ndarray:
    try:
        content = media.read_bytes(path)
    except Unreadable as error:
        if error.reason != "is missing":
            raise
        raise Unreadable(path, "is missing: `igm prepare nvgesture` computes the flow") from None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            flow = file["flow"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError):
        flow = None
    if flow is None or flow.ndim != 4 or flow.shape[1] != 2 or flow.dtype != np.uint8:
        raise Unreadable(path, "is no file of flow as `igm prepare nvgesture` writes it")
    return flow


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """(height, width, channels) -> (size, size, channels), as OpenCV does it by default."""
    import cv2

    image = cv2.resize(np.ascontiguousarray(image), (size, size), interpolation=cv2.INTER_LINEAR)
    return image[..., None] if image.ndim == 2 else image


NVGESTURE = Layout(
    "nvgesture", "NVGesture", CLASSES, PUBLISHED, rows, readers, "gestures", prepare, sample
)
