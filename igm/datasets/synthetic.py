"""Small synthetic pictures, sounds and videos of some class, for ``igm sample``, in real media formats.

How clearly they show their class is set by their noise, so that one modality of a set can be made the weaker one.
Everything is a function of the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from igm.datasets.media import jpeg


def mistaken(label: int, classes: int, chance: float, rng: np.random.Generator) -> int:
    """The class, or with this chance one drawn at random: what a weak modality shows."""
    return int(rng.integers(classes)) if rng.random() < chance else label


def tones(
    label: int, classes: int, seconds: float, rate: int, rng: np.random.Generator, noise: float
) -> np.ndarray:
    """A chord whose pitch tells the class, in noise: (samples,), float32, within -1 ... 1."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 200 * (0.4 * rate / 200) ** ((label + 0.5) / classes) * rng.uniform(0.98, 1.02)
    chord = sum(np.sin(2 * np.pi * pitch * k * time + rng.uniform(0, 6)) / k for k in (1, 1.5))
    sound = 0.2 * chord * rng.uniform(0.7, 1) + 0.2 * noise * rng.standard_normal(len(time))
    return np.clip(sound, -1, 1).astype(np.float32)


def picture(
    label: int, classes: int, size: int, rng: np.random.Generator, noise: float
) -> np.ndarray:
    """Stripes whose direction and colour tell the class: (size, size, 3), uint8.

    ``noise`` is the chance that a picture shows another class: no network can do better than that.
    """
    import cv2

    label = mistaken(label, classes, noise, rng)
    y, x = np.mgrid[:size, :size] / size
    angle = np.pi * (label + 0.5 * rng.uniform(-0.5, 0.5)) / classes
    wave = np.sin(2 * np.pi * 4 * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    hue = np.uint8([[[180 * label // classes, 160, 220]]])
    colour = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0] / 255
    image = 0.5 + 0.25 * wave[..., None] * colour + 0.2 * (colour - 0.5)
    image = image + 0.03 * rng.standard_normal((size, size, 1))
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def moving(image: np.ndarray, frames: int, rng: np.random.Generator) -> list[np.ndarray]:
    """A video of the picture drifting sideways: a list of frames like it."""
    step = rng.integers(1, 3)
    return [np.roll(image, i * step, axis=1) for i in range(frames)]


def hand(
    label: int,
    frames: int,
    span: tuple[int, int],
    height: int,
    width: int,
    rng: np.random.Generator,
    offset: float = 0.0,
) -> np.ndarray:
    """How far a hand covers each pixel of a video: (frames, height, width), 0 ... 1.

    It points to the right (label 0), down, left or up, and moves there, or is a fist that comes nearer (4). It moves
    in the frames from span[0] to span[1] - 1, and rests before and after.

    Args:
        offset: how far from the middle the motion is centred, at most, as a share of the picture.
    """
    first, end = span
    y, x = np.mgrid[:height, :width].astype(float)
    way = np.clip((np.arange(frames) - first) / max(end - 1 - first, 1), 0, 1)  # (frames,)
    middle = np.array([width, height]) * (0.5 + rng.uniform(-1, 1, 2) * max(offset, 0.08))
    aim = np.array([(1, 0), (0, 1), (-1, 0), (0, -1), (0, 0)][label])
    place = middle + np.outer(way - 0.5, 0.9 * height * aim)  # (frames, 2)
    size = height * rng.uniform(0.13, 0.16) * (np.ones(frames) if label < 4 else 0.6 + 1.4 * way)
    covered = np.zeros((frames, height, width))
    for part, radius in ((0, 1), (1.0, 0.6), (1.6, 0.45)):  # a palm, and a finger of two discs
        centre = place + part * size[:, None] * aim
        distance = np.hypot(x - centre[:, 0, None, None], y - centre[:, 1, None, None])
        edge = radius * size[:, None, None] - distance
        covered = np.maximum(covered, np.clip(edge + 0.5, 0, 1))
    return covered


def blurred(shape: tuple[int, int, int], width: float, rng: np.random.Generator) -> np.ndarray:
    """A cloudy picture: ``shape`` is (height, width, channels), 0 ... 1."""
    import cv2

    image = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), width)
    return (image - image.min()) / (image.max() - image.min())


def write_wav(path: Path, sound: np.ndarray, rate: int) -> None:
    """A WAV file of 16 bits."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate, subtype="PCM_16")


def write_jpeg(path: Path, image: np.ndarray, quality: int = 85) -> None:
    """A JPEG file of a picture (height, width, 3), uint8, red first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(image, quality))


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    fps: int,
    sound: np.ndarray | None = None,
    rate: int = 16000,
) -> None:
    """An FLV (Sorenson, MP3), MP4 (H.264, AAC) or AVI (Motion JPEG) file, by the suffix of the path.

    Args:
        frames: (height, width, 3), uint8, red first; height and width are even.
        fps: frames a second.
        sound: (samples,), -1 ... 1, for a sound track.
        rate: samples a second of the sound.
    """
    import av
    import librosa

    codecs = {
        ".flv": ("flv", "libmp3lame"),
        ".mp4": ("libx264", "aac"),
        ".avi": ("mjpeg", "pcm_s16le"),
    }
    video_codec, audio_codec = codecs[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    with av.open(str(path), "w") as container:
        # Without this, x264 looks ahead, and then gives other bytes from one call to the next.
        options = {"preset": "ultrafast"} if video_codec == "libx264" else None
        video = container.add_stream(video_codec, rate=fps, options=options)
        video.width, video.height = width, height
        video.pix_fmt = "yuvj420p" if video_codec == "mjpeg" else "yuv420p"
        video.codec_context.thread_count = 1  # as many threads, so many slices: other bytes
        if sound is not None:
            if path.suffix == ".flv":  # which knows three rates
                sound, rate = librosa.resample(sound, orig_sr=rate, target_sr=22050), 22050
            audio = container.add_stream(audio_codec, rate=rate, layout="mono")
        for image in frames:
            container.mux(
                video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24"))
            )
        container.mux(video.encode(None))
        if sound is not None:
            pcm = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(pcm, "s16", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
