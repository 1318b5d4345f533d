"""Spoken digits: six people say the ten digits 50 times each, beside handwritten digits (Jackson and others, 2016).

The layout::

    SpokenDigits/annotations/{train,valid,test}.csv   lines "7_theo_31,7", no header
    SpokenDigits/recordings/7_theo_31.wav             8 kHz; digit, speaker and number are its name

The raw download is a clone of github.com/Jakobovski/free-spoken-digit-dataset (3,000 recordings, CC BY-SA 4.0). The
pictures are the handwritten digits that come with the book (data/README.md). No person is in two splits, and no picture.

The sounds are files, so the set is prepared and checked as those of the paper are. But all of it fits in memory and in
the small networks of the digits, so it is loaded as a ``MemorySet``, with the same spectrograms and noise dials: what
was seen with synthetic voices can be asked again of people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from igm.datasets import media, synthetic
from igm.datasets.cache import cached
from igm.datasets.digits import CLASSES, check_image_size, draw_partners, handwritten
from igm.datasets.files import Unreadable
from igm.datasets.layout import Layout
from igm.datasets.memory import (
    SPLITS,
    MemorySet,
    assemble,
    read_arrays,
    shipped_data,
    standardise,
)
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, MediaSet, Reader
from igm.datasets.tables import Faults, read_table
from igm.seeds import derive_seed

PUBLISHED = {"train": 200, "valid": 50, "test": 50}  # of each digit, with 4, 1 and 1 speakers
NAME = re.compile(r"([0-9])_([a-z]+)_([0-9]+)")
RATE = 8000  # samples a second
WINDOW, HOP = 512, 256  # 64 ms and 32 ms
BANDS = FRAMES = 24
FLOOR = -60.0  # dB below the loudest cell


def log_mel(wave: np.ndarray) -> np.ndarray:
    """A spoken digit at 8 kHz, (samples,) within -1 ... 1 -> uint8 (24, 24): mel band (low to high) by time frame.

    Silence below -35 dB is cut from both ends. The speech is centred in 6400 samples: zeros are added, or both ends
    are cut if it is longer. 24 frames of 64 ms, one every 32 ms; 24 mel bands from 100 to 4000 Hz. Decibels are
    relative to the loudest cell: 255 is 0 dB, 0 is -60 dB or less.
    """
    import librosa

    speech, _ = librosa.effects.trim(wave, top_db=35, frame_length=256, hop_length=64)
    size = WINDOW + (FRAMES - 1) * HOP
    start = max(0, (len(speech) - size) // 2)
    speech = librosa.util.pad_center(speech[start : start + size], size=size)
    power = librosa.feature.melspectrogram(
        y=speech,
        sr=RATE,
        n_fft=WINDOW,
        hop_length=HOP,
        center=False,
        n_mels=BANDS,
        fmin=100,
        fmax=RATE / 2,
    )
    decibels = librosa.power_to_db(power, ref=np.max, amin=1e-20, top_db=-FLOOR)
    return np.round((decibels - FLOOR) / -FLOOR * 255).astype(np.uint8)


@dataclass(frozen=True)
class LogMel(Reader):
    """A recording -> (24, 24), uint8, see ``log_mel``."""

    def read(self, item, rng, train, cache) -> Tensor:
        path = item.files["audio"]
        return torch.from_numpy(cached(cache, "log-mel", path, lambda: self.compute(path)))

    def compute(self, path: Path) -> np.ndarray:
        wave = media.read_audio(path, RATE)
        if not wave.any():
            raise Unreadable(path, "is silent from beginning to end")
        return log_mel(wave)


def readers(image_size: int = 14) -> dict[str, Reader]:
    """Of the files, which are sounds. The pictures, 14 or 28 pixels high and wide, come with the book."""
    check_image_size(image_size)
    return {"audio": LogMel()}


class SpokenDigits(Layout):
    """A layout that is loaded into memory."""

    def load(
        self,
        root: str | Path,
        split: str = "train",
        samples: int | None = None,
        noise: Mapping[str, float] | None = None,
        image_size: int = 14,
        seed: int = 0,
        **options,
    ) -> MemorySet:
        """Pairs (image, audio) of one digit: a handwritten one, and a recording's log-mel spectrogram.

        Each recording of the split occurs once, with a picture of its class out of the same split of the pictures; no
        picture occurs twice while there are enough of them.

        Args:
            root: the data set's folder, or the folder in which that is.
            split: train, valid or test.
            samples: keep this many pairs.
            noise: modality -> noise level, the dial that makes it weak; see ``igm.datasets.memory.assemble``.
            image_size: 14 (2 x 2 means of the picture, quicker) or 28.
            seed: of the order, the pairs and the noise.
            options: held_out, cache and cache_gb, see ``Layout.load``.

        Returns:
            image (n, 1, image_size, image_size) and audio (n, 1, 24, 24), with mean 0 and variance 1 in train.
        """
        arrays = read_arrays(shipped_data(), "digits", split)
        images = handwritten(arrays, image_size)
        part = super().load(root, split, seed=seed, **options)
        clips = of_train = _clips(part)
        if split != "train":
            of_train = _clips(super().load(root, "train", seed=seed, **options))
        audio = standardise(clips, of_train)[:, None]
        rng = np.random.default_rng(derive_seed(seed, "spoken digits", split))
        rows = rng.permutation(len(audio))
        labels = part.labels.numpy()[rows]
        of_split = arrays["image_split"] == SPLITS.index(split)
        partners = draw_partners(labels, arrays["image_label"], of_split, rng, once=True)
        inputs = {"image": images[partners], "audio": audio[rows]}
        return assemble(inputs, labels, CLASSES, split, seed, samples, noise)


def _clips(dataset: MediaSet) -> np.ndarray:
    """All spectrograms of a split, (n, 24, 24)."""
    rows = dataset.__getitems__(range(len(dataset)))  # by several threads
    return torch.stack([row["audio"] for row in rows]).numpy()


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The recordings of a split, or None where there is no file of it."""
    path = root / "annotations" / f"{split}.csv"
    if not path.exists():
        return None
    found, seen = [], {}
    for line, (name, digit, *_) in read_table(path, 2, faults):
        match = NAME.fullmatch(name)
        if not match:
            faults.add(path, line, f"{name!r} is no recording, such as 7_theo_31")
        elif match[1] != digit:
            faults.add(path, line, f"{name} is labelled {digit!r}, and its name says {match[1]}")
        elif name in seen:
            faults.add(path, line, f"{name} stands in line {seen[name]} already: remove one")
        else:
            seen[name] = line
            files = {"audio": root / "recordings" / f"{name}.wav"}
            found.append(Item(name, int(digit), line, files))
    return found


def prepare(job: Preparation, split: int = 0) -> None:
    """From a clone of the Free Spoken Digit Dataset: copies the recordings that can be read, and splits them by speaker.

    Args:
        split: which speaker is the test split, by place in the alphabet from 0; the next one is the valid split, the
            others train.
    """
    folder = next((f for f in (job.raw / "recordings", job.raw) if _waves(f)), None)
    if folder is None:
        raise FileNotFoundError(
            f"{job.raw / 'recordings'} has no files such as 7_theo_31.wav: give a clone of "
            "github.com/Jakobovski/free-spoken-digit-dataset as RAW"
        )
    waves = _waves(folder)
    part_of = speaker_split([NAME.fullmatch(name)[2] for name in waves], split)
    tasks = []
    for name, path in waves.items():
        try:
            tasks.append(Task(name, make_recording, (name, job.source(path)), (path,)))
        except Unreadable as error:
            job.skip(name, str(error))
    made = job.run(tasks)
    for part in SPLITS:
        matches = [m for m in map(NAME.fullmatch, waves) if part_of[m[2]] == part and m[0] in made]
        content = "".join(f"{m[0]},{m[1]}\n" for m in matches)
        job.annotations(part, f"annotations/{part}.csv", content, [m[1] for m in matches])
        speakers = [speaker for speaker, p in part_of.items() if p == part]
        job.note(f"{part}: {', '.join(speakers)}")


def speaker_split(speakers: Sequence[str], split: int) -> dict[str, str]:
    """speaker -> train, valid or test, for one of the rotations.

    Raises:
        ValueError: fewer than three speakers, or no such rotation.
    """
    names = sorted(set(speakers))
    if len(names) < 3:
        raise ValueError(f"there are recordings of {', '.join(names)} only: 3 speakers are needed")
    if split not in range(len(names)):
        raise ValueError(f"split must be from 0 to {len(names) - 1}, a speaker each, got {split}")
    part_of = dict.fromkeys(names, "train")
    return part_of | {names[split]: "test", names[(split + 1) % len(names)]: "valid"}


def make_recording(output: Output, name: str, wav: Path) -> None:
    """The sound of one sample."""
    LogMel().compute(wav)  # raises where it cannot be read
    output.copy(f"recordings/{name}.wav", wav)


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a clone of 180 invented recordings: a chord tells the digit, and each speaker's is a little off."""
    rng = np.random.default_rng(derive_seed(seed, "spoken digits"))
    for speaker in ("ada", "ben", "cleo", "dan", "eve", "finn"):
        rate = RATE * rng.uniform(0.95, 1.05)
        for digit in range(len(CLASSES)):
            for number in range(3):
                heard = synthetic.mistaken(digit, len(CLASSES), 0.1, rng)
                sound = synthetic.tones(heard, len(CLASSES), 0.35, round(rate), rng, noise=0.3)
                path = raw / "recordings" / f"{digit}_{speaker}_{number}.wav"
                synthetic.write_wav(path, sound, RATE)


def _waves(folder: Path) -> dict[str, Path]:
    """name -> file of the recordings in a folder, in the order of the names."""
    found = {path.stem: path for path in folder.glob("*") if path.suffix.lower() == ".wav"}
    return {name: found[name] for name in sorted(found) if NAME.fullmatch(name)}


SPOKEN_DIGITS = SpokenDigits(
    "spoken_digits",
    "SpokenDigits",
    CLASSES,
    {split: dict.fromkeys(CLASSES, n) for split, n in PUBLISHED.items()},
    rows,
    readers,
    None,
    prepare,
    sample,
)
