"""From a file to an array: sound, pictures, videos. A file that cannot be read is one clear error, ``Unreadable``.

So is a file that was cut off, as a download that broke off leaves it: most libraries read what is there and say
nothing, so the length that the header of a sound or a video promises is compared with what came out.

Sound is read by librosa, pictures by OpenCV and Pillow, videos by OpenCV and PyAV, their sound tracks by PyAV. These
libraries take up to a second to load, so each is imported by the functions that need it.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igm.datasets.files import Unreadable, cut_off, hidden, in_counting_order, read_bytes

# What libsndfile notes of a file whose header promises other bytes than there are, in its formats' words.
OTHER_SIZE = re.compile(
    r"^\s*(?:riff|form|data|ssnd|data size|riff size)\s*: (\d+) \(should be (\d+)\)", re.I | re.M
)
SLACK = 64  # bytes: some programs count the header in
# Bytes, and above: from programs that wrote the header before they knew the length.
NOT_KNOWN = 2**31 - 2**16
HEADED = ("mov", "matroska", "flv", "avi")  # videos with a header that tells how long they last

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


# ---------------------------------------------------------------- sound


def read_audio(path: Path, rate: int) -> np.ndarray:
    """A sound file as one channel at ``rate`` samples a second: (samples,), float32, as ``librosa.load`` gives it.

    Several channels are averaged, and another rate is resampled (soxr, high quality).

    Raises:
        Unreadable: the file is missing, empty, a Git LFS pointer, no sound file or cut off, has a header and no
            samples, or samples that are not finite.
    """
    import librosa
    import soundfile

    read_bytes(path, 64)
    try:
        # An open file: from a path that it cannot read librosa goes on to other decoders, with warnings.
        with soundfile.SoundFile(path) as file:
            promised, sizes = file.frames, OTHER_SIZE.findall(file.extra_info)
            samples, native = librosa.load(file, sr=None)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)) or "it is damaged or cut off"
        raise Unreadable(path, f"is not a sound file that can be read: {reason}") from None
    except librosa.ParameterError:  # it looks for nothing else in a file's samples
        raise Unreadable(path, "has samples that are not finite") from None
    if not len(samples):
        raise Unreadable(path, "has a header and no samples")
    for header, there in (map(int, pair) for pair in sizes):
        if there + SLACK < header < NOT_KNOWN:
            raise cut_off(path, f"{header:,} bytes", f"{there:,}")
    if len(samples) < 0.99 * promised:  # MP3
        raise cut_off(path, f"{promised:,} samples", f"{len(samples):,}")
    return librosa.resample(samples, orig_sr=native, target_sr=rate)


def log_spectrogram(samples: np.ndarray, n_fft: int = 512, hop: int = 353) -> np.ndarray:
    """log(|STFT| + 1e-7) of a sound, (samples,) float32, by ``librosa.stft`` with a Hann window.

    Returns:
        (n_fft / 2 + 1, 1 + samples // hop), float32: a row a frequency, a column each ``hop`` samples.
    """
    import librosa

    return np.log(np.abs(librosa.stft(samples, n_fft=n_fft, hop_length=hop)) + np.float32(1e-7))


def fit_length(samples: np.ndarray, length: int) -> np.ndarray:
    """The sound (samples,), repeated and cut to ``length`` samples, and clipped to -1 ... 1."""
    repeats = -(-length // len(samples))
    return np.clip(np.tile(samples, repeats)[:length], -1, 1)


# ---------------------------------------------------------------- pictures


class _WholeFile(io.BytesIO):
    """A file whose end is an error, once its kind is known.

    Pillow has a switch for the whole process, LOAD_TRUNCATED_IMAGES, which the authors' code sets and which fills cut
    pictures up with grey: here it has no effect.
    """

    known = False

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        if self.known and not content and size != 0:
            raise OSError("the file ends too early")
        return content


def read_image(path: Path) -> np.ndarray:
    """A picture as (height, width, 3), uint8, red first, as Pillow's ``convert("RGB")`` gives it.

    That is what the authors' code does, too: a palette becomes its colours, CMYK is converted without a colour profile,
    transparency is dropped, and a rotation in the EXIF data is ignored. 16 bits become 8: in grey, which Pillow clips
    at 255, by division by 257, so that white stays white; in colours Pillow takes the upper byte.

    Raises:
        Unreadable: the file is missing, empty, a Git LFS pointer, no picture, or cut off, or its pixels are not of
            8 or 16 bits.
    """
    import cv2

    content = read_bytes(path)
    if content.rstrip(b"\0")[-2:] == b"\xff\xd9":  # a whole JPEG ends so: OpenCV is quickest
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
        if image is not None:
            return image
    from PIL import Image, UnidentifiedImageError

    try:
        file = _WholeFile(content)
        with Image.open(file) as image:
            file.known = True
            deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
            pixels = np.array(image if deep else image.convert("RGB"))
    except UnidentifiedImageError:
        raise Unreadable(path, "is not a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(path, f"is a damaged picture: {error}") from None
    return _eight_bits(path, pixels) if deep else pixels


def _eight_bits(path: Path, grey: np.ndarray) -> np.ndarray:
    """(height, width) of 16 bits -> (height, width, 3) of 8."""
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 65535:
        raise Unreadable(path, "has pixels of 32 bits: save it with 8 or 16 bits")
    return np.repeat(np.rint(grey / 257).astype(np.uint8)[..., None], 3, axis=2)


def jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """A picture (height, width, 3), red first, or (height, width), as a JPEG file."""
    import cv2

    bgr = image if image.ndim == 2 else image[..., ::-1]
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def resize(images: Tensor, size: int) -> Tensor:
    """(..., 3, height, width), uint8 -> (..., 3, size, size): what torchvision's Resize((size, size)) does."""
    from torchvision.transforms.v2 import functional as F

    return F.resize(images, [size, size], antialias=True)


def random_crop(images: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """torchvision's RandomResizedCrop(size) and RandomHorizontalFlip, drawn from ``rng``.

    torchvision's own draw from the generator that all threads of a process share.

    Args:
        images: (..., 3, height, width), uint8; all get the same crop and flip.

    Returns:
        (..., 3, size, size), uint8.
    """
    from torchvision.transforms.v2 import functional as F

    height, width = images.shape[-2:]
    top, left, h, w = crop_box(height, width, rng)
    images = F.resized_crop(images, top, left, h, w, [size, size], antialias=True)
    return images.flip(-1) if rng.random() < 0.5 else images


def crop_box(
    height: int, width: int, rng: np.random.Generator, area: tuple[float, float] = (0.08, 1)
) -> tuple[int, int, int, int]:
    """top, left, height, width of a crop: 8 to 100 % of the area, its sides 3:4 to 4:3 (Szegedy et al., 2015)."""
    for _ in range(10):
        size = height * width * rng.uniform(*area)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = round(np.sqrt(size * ratio)), round(np.sqrt(size / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def normalise(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """(..., 3, height, width), uint8 -> float32: (x / 255 - mean) / std, channel by channel."""
    scale = torch.tensor(std).mul_(255)[:, None, None]
    shift = (torch.tensor(mean) / torch.tensor(std))[:, None, None]
    return images.float().div_(scale).sub_(shift)


# ---------------------------------------------------------------- videos


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV takes one thread inside, for processes that are forked there.

    A forked process does not get the threads of its parent, and OpenCV in it would wait for them for ever.
    """
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def video_frames(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a video, each with its time in seconds: (height, width, 3), uint8, red first.

    Raises:
        Unreadable: the file is no video, is cut off, or most of its frames or all of them do not come out.
    """
    read_bytes(path, 64)
    codec, packets = _examine(path)
    number = 0
    # OpenCV's own build knows no AV1 and says so a hundred times.
    for decode in (_by_opencv, _by_pyav) if "av1" not in codec else (_by_pyav,):
        for rate, frame in decode(path):
            yield number / rate if rate > 0 else float(number), frame
            number += 1
        if number:
            break
    if not number:
        raise Unreadable(path, "has no frame that can be read")
    if number < 0.4 * packets:  # a packet may be half a frame, or none that is shown
        raise Unreadable(path, f"is damaged: {number} of its {packets} frames can be read")


def _examine(path: Path) -> tuple[str, int]:
    """The name of a video's decoder, and how many packets it has, most often one a frame; nothing is decoded.

    Raises:
        Unreadable: it is no video, or it ends before its header says so.
    """
    import av

    end, packets = 0.0, 0
    nothing = Unreadable(path, "has no frame that can be read: it is cut off, or no video")
    try:
        with av.open(str(path)) as container:
            video = next(iter(container.streams.video), None)
            if video is None or video.codec_context is None:
                raise nothing
            name, rate = video.codec_context.name, float(video.average_rate or 0)
            for packet in container.demux():
                time = packet.dts if packet.pts is None else packet.pts
                if time is not None:
                    end = max(end, float((time + (packet.duration or 0)) * packet.time_base))
                    packets += packet.stream is video and not packet.is_discard
            seconds = (container.duration or 0) / av.time_base
            begin = (container.start_time or 0) / av.time_base
            kind, listed = container.format.name.split(",")[0], video.frames
    except (av.FFmpegError, OSError):
        raise nothing from None
    if not packets:
        raise nothing
    if kind == "avi" and packets < 0.9 * listed:  # its duration is guessed where the end is lost
        raise cut_off(path, f"{listed:,} frames", f"{packets:,}")
    # A last frame may have no duration, and tracks end at their own times.
    if kind in HEADED and end - begin < 0.98 * seconds - 0.25 - (1 / rate if rate else 0):
        raise cut_off(path, f"{seconds:.1f} s", f"{end - begin:.1f} s")
    return name, packets


def _by_opencv(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """(frames a second, frame), for all frames that OpenCV decodes; see ``video_frames``."""
    import cv2

    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        while video.isOpened():
            there, frame = video.read()
            if not there:
                break
            yield rate, frame[..., ::-1]
    finally:
        video.release()


def _by_pyav(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """The same by PyAV, which decodes more kinds, such as AV1."""
    import av

    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 0)
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):  # as OpenCV: what comes after it may be whole
                for frame in packet.decode():
                    yield rate, frame.to_ndarray(format="rgb24")


def read_clip(path: Path, first: int, last: int) -> np.ndarray:
    """The frames ``first`` to ``last`` of a video, counted from 0: (frames, height, width, 3), uint8, red first.

    It reads from the start and counts: a jump to a frame is not exact in every kind of video.

    Raises:
        Unreadable: the file is no video, or the last of these frames cannot be reached.
    """
    import cv2

    read_bytes(path, 64)
    # one thread: a batch has many videos, and they are read beside each other
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames, number = [], 0
    try:
        while number <= last and video.isOpened() and video.grab():
            if number >= first:
                there, frame = video.retrieve()
                if not there:
                    break
                frames.append(frame)
            number += 1
    finally:
        video.release()
    if not number:  # it may be of a kind that only PyAV knows; if not, this says what is wrong
        for _, (_, frame) in zip(range(last + 1), video_frames(path)):
            frames += [frame[..., ::-1]] if number >= first else []
            number += 1
    if number <= last:
        raise Unreadable(path, f"ends or is damaged after {number} frames, {last + 1} are needed")
    return np.stack(frames)[..., ::-1]


def every_second(frames: Iterable[tuple[float, np.ndarray]]) -> list[np.ndarray]:
    """Of frames with their times, the first at or after 0, 1, 2 ... seconds: (height, width, 3), uint8, each."""
    kept: list[np.ndarray] = []
    for time, frame in frames:
        if time >= len(kept) - 1e-6:
            kept.append(np.ascontiguousarray(frame))
    return kept


def video_sound(path: Path) -> tuple[np.ndarray, int] | None:
    """The sound track of a video, (samples, channels), int16, and its rate; None where it has none.

    One or two channels as they are; more are mixed to two. What an encoder puts before the sound (AAC's priming) is
    left out; behind it up to a frame of silence stays.

    Raises:
        Unreadable: it has a track from which nothing comes out.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            codec = container.streams.audio[0].codec_context
            if codec is None:
                raise ValueError("its format is unknown")
            rate, channels = codec.sample_rate, 1 if codec.channels == 1 else 2
            resampler = av.AudioResampler("s16", "mono" if channels == 1 else "stereo", rate)
            parts = []
            for frame in chain(container.decode(audio=0), [None]):  # None: the rest
                for out in resampler.resample(frame):
                    parts.append(out.to_ndarray().reshape(-1, channels))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise Unreadable(path, f"has no sound that can be read: {error}") from None
    samples = np.concatenate(parts) if parts else np.empty((0, 1), np.int16)
    if not len(samples):
        raise Unreadable(path, "has a sound track with nothing in it")
    return samples, rate


def pictures_in(folder: Path) -> list[Path]:
    """The JPEG files of a folder in the order of their names, see ``in_counting_order``.

    Raises:
        Unreadable: there is no such folder, or none in it.
    """
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name.lower().endswith((".jpg", ".jpeg"))]
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(folder, "is missing: no folder of frames") from None
    names = sorted((name for name in names if not hidden(name)), key=in_counting_order)
    if not names:
        raise Unreadable(folder, "has no frames (*.jpg)")
    return [Path(folder) / name for name in names]
