"""From a file to an array: sound, pictures, videos. A file that cannot be read is one clear error, ``Unreadable``.

Sound is read by librosa, pictures by OpenCV and Pillow, videos by OpenCV, their sound tracks by PyAV. These libraries
take up to a second to load, so each is imported by the functions that need it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

LFS = b"version https://git-lfs"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Unreadable(ValueError):
    """A file of data that is missing, empty, cut off, or not what its name says."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path} {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return Unreadable, (self.path, self.reason)


def read_bytes(path: Path, most: int = -1) -> bytes:
    """What is in a media file, or its first bytes.

    Raises:
        Unreadable: it is missing, empty, or a Git LFS pointer in place of the file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(most)
    except FileNotFoundError:
        raise Unreadable(path, "is missing") from None
    except OSError as error:
        raise Unreadable(path, f"cannot be read: {error.strerror}") from None
    check_content(path, content)
    return content


def check_content(path: Path, content: bytes) -> None:
    """Raises Unreadable for an empty file and for a Git LFS pointer."""
    if not content:
        raise Unreadable(path, "is empty")
    if content.startswith(LFS):
        raise Unreadable(
            path,
            "is a Git LFS pointer, not the file itself: run `git lfs pull` in the clone (a download as "
            "ZIP has only pointers)",
        )


# ---------------------------------------------------------------- sound


def read_audio(path: Path, rate: int) -> np.ndarray:
    """A sound file as one channel at ``rate`` samples a second: (samples,), float32, as ``librosa.load`` gives it.

    Several channels are averaged, and another rate is resampled (soxr, high quality).

    Raises:
        Unreadable: the file is missing, empty, a Git LFS pointer or no sound file, has a header and no samples, or
            samples that are not finite.
    """
    import librosa
    import soundfile

    read_bytes(path, 64)
    try:
        # An open file: from a path that it cannot read librosa goes on to other decoders, with warnings.
        with soundfile.SoundFile(path) as file:
            samples, native = librosa.load(file, sr=None)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error))
        raise Unreadable(path, f"is not a sound file that can be read: {reason}") from None
    except librosa.ParameterError:  # it looks for nothing else in a file's samples
        raise Unreadable(path, "has samples that are not finite") from None
    if not len(samples):
        raise Unreadable(path, "has a header and no samples")
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


def read_image(path: Path) -> np.ndarray:
    """A picture as (height, width, 3), uint8, red first. A rotation in its EXIF data is ignored.

    Raises:
        Unreadable: the file is missing, empty, a Git LFS pointer, no picture, or cut off.
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
        with Image.open(io.BytesIO(content)) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise Unreadable(path, "is not a picture") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Unreadable(path, f"is a damaged picture: {error}") from None


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
        Unreadable: the file is no video, or not one frame comes out of it.
    """
    import cv2

    read_bytes(path, 64)
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        rate = video.get(cv2.CAP_PROP_FPS)
        number = 0
        while video.isOpened():
            there, frame = video.read()
            if not there:
                break
            yield number / rate if rate > 0 else float(number), frame[..., ::-1]
            number += 1
        if not number:
            raise Unreadable(path, "has no frame that can be read")
    finally:
        video.release()


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
    if not number:
        raise Unreadable(path, "has no frame that can be read")
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


def hidden(name: str) -> bool:
    """Is this a file that an operating system leaves in folders: .DS_Store, ._x.jpg, Thumbs.db?"""
    return name.startswith(".") or name.lower() == "thumbs.db"


def pictures_in(folder: Path) -> list[Path]:
    """The JPEG files of a folder in the order of their names.

    Raises:
        Unreadable: there is no such folder, or none in it.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                e.name
                for e in entries
                if e.name.lower().endswith((".jpg", ".jpeg")) and not hidden(e.name)
            )
    except (FileNotFoundError, NotADirectoryError):
        raise Unreadable(folder, "is missing: no folder of frames") from None
    if not names:
        raise Unreadable(folder, "has no frames (*.jpg)")
    return [Path(folder) / name for name in names]
