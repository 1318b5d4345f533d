"""CREMA-D: 91 actors say twelve sentences in six emotions; a face and a voice (Cao et al., 2014).

The layout::

    CREMAD/annotations/{train,valid,test}.csv         lines "1001_DFA_ANG_XX,ANG", no header
    CREMAD/AudioWAV/1001_DFA_ANG_XX.wav
    CREMAD/Image-01-FPS/1001_DFA_ANG_XX/00001.jpg     a frame a second

The name of a clip is actor, sentence, emotion and level. The split that papers use has all 91 actors in both parts: the
faces and voices of its test clips are known from training. ``igm prepare`` also makes a split by speakers, in which no
actor is in two parts.

The raw download is a clone of github.com/CheyneyComputerScience/CREMA-D with Git LFS: AudioWAV/*.wav and
VideoFlash/*.flv, 7,442 each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from igm.datasets import media, synthetic
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, Pictures, Reader, Spectrogram
from igm.datasets.tables import Faults, plain_name, read_table
from igm.seeds import derive_seed

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
PUBLISHED = {
    "train": dict(zip(CLASSES, (973, 1148, 1131, 1138, 1142, 1166))),
    "test": dict(zip(CLASSES, (114, 123, 140, 133, 129, 105))),
}
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX|X)")


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = root / "annotations" / f"{split}.csv"
    if not path.exists():
        return None
    return [
        Item(
            stem,
            label,
            line,
            {
                "audio": root / "AudioWAV" / f"{stem}.wav",
                "video": root / "Image-01-FPS" / stem,
            },
        )
        for stem, label, line in _stems(path, faults)
    ]


def readers(
    frames: int = 1,
    choice: str = "first",
    order: str = "RGB",
    size: int = 224,
    seconds: float = 3.0,
) -> dict[str, Reader]:
    """Audio (1, 257, 188) and video (frames, 3, size, size); the defaults are what the authors' code does.

    Args:
        frames, choice, order, size: of the video, see ``Pictures``.
        seconds: of the sound, see ``Spectrogram``.
    """
    return {
        "audio": Spectrogram(22050, seconds),
        "video": Pictures("video", size, frames, choice, order),
    }


def prepare(job: Preparation, split: str = "common", annotations: str | None = None) -> None:
    """From a clone of CREMA-D: copies the sounds that can be read, and cuts frames from the videos.

    Args:
        split: common, the one that papers use, from train.csv and test.csv; or speakers, with every actor in one part
            only: 64 train, 9 valid, 18 test.
        annotations: the folder of train.csv and test.csv of the common split; by default RAW or RAW/annotations.
    """
    if split not in ("common", "speakers"):
        raise ValueError(f"unknown split {split!r}: use common or speakers")
    wanted = _by_speakers(job.raw) if split == "speakers" else _common(job, annotations)
    labels = {stem: label for stems in wanted.values() for stem, label in stems.items()}
    tasks = []
    for stem in labels:
        try:
            wav = job.source(job.raw / "AudioWAV" / f"{stem}.wav")
            flv = job.source(job.raw / "VideoFlash" / f"{stem}.flv")
        except Unreadable as error:
            job.skip(stem, str(error))
        else:
            tasks.append(Task(stem, make_clip, (stem, wav, flv), (wav, flv)))
    made = job.run(tasks)
    actors = {part: {stem[:4] for stem in stems if stem in made} for part, stems in wanted.items()}
    known = len(actors["test"] & actors["train"])
    job.note(f"{known} of the {len(actors['test'])} actors of test are in train, too")
    for part, stems in wanted.items():
        there = {stem: label for stem, label in stems.items() if stem in made}
        content = "".join(f"{stem},{CLASSES[label]}\n" for stem, label in there.items())
        names = [CLASSES[label] for label in there.values()]
        job.annotations(part, f"annotations/{part}.csv", content, names)


def make_clip(output: Output, stem: str, wav: Path, flv: Path) -> None:
    """The sound and the frames of one clip."""
    media.read_audio(wav, 22050)  # raises where it cannot be read
    frames = media.every_second(media.video_frames(flv))
    pictures = {f"{i:05}.jpg": media.jpeg(frame) for i, frame in enumerate(frames, 1)}
    output.folder(f"Image-01-FPS/{stem}", pictures)
    output.copy(f"AudioWAV/{stem}.wav", wav)


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a raw download of 96 tiny clips: the picture tells the emotion, a chord does so half the time."""
    rng = np.random.default_rng(derive_seed(seed, "cremad"))
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for part, actors in (("train", range(1001, 1013)), ("test", range(1013, 1017))):
        for actor in actors:
            for label, emotion in enumerate(CLASSES):
                stem = f"{actor}_DFA_{emotion}_XX"
                heard = synthetic.mistaken(label, len(CLASSES), 0.5, rng)
                sound = synthetic.tones(heard, len(CLASSES), 0.3, 16000, rng, noise=0.5)
                synthetic.write_wav(raw / "AudioWAV" / f"{stem}.wav", sound, 16000)
                picture = synthetic.picture(label, len(CLASSES), 64, rng, noise=0.15)
                frames = synthetic.moving(picture, 8, rng)
                synthetic.write_video(raw / "VideoFlash" / f"{stem}.flv", frames, 6, sound, 16000)
                lines[part].append(f"{stem},{emotion}\r\n")
    for part, text in lines.items():
        (raw / f"{part}.csv").write_bytes("".join(text).encode("utf-8-sig"))


def _stems(path: Path, faults: Faults) -> list[tuple[str, int, int]]:
    """(stem, label, line) of a CSV with lines "1001_DFA_ANG_XX,ANG"."""
    found, seen = [], {}
    for line, (stem, emotion, *_) in read_table(path, 2, faults):
        if line == 1 and emotion.lower() in ("label", "emotion", "emo", "class"):
            continue  # a header
        stem = re.sub(r"\.(wav|flv|mp4)$", "", stem)
        if not plain_name(stem) or not NAME.fullmatch(stem):
            faults.add(path, line, f"{stem!r} is no clip of CREMA-D, such as 1001_DFA_ANG_XX")
        elif emotion not in CLASSES:
            faults.add(path, line, f"unknown emotion {emotion!r}: use one of {', '.join(CLASSES)}")
        elif stem in seen:
            faults.add(path, line, f"{stem} stands in line {seen[stem]} already: remove one")
        else:
            seen[stem] = line
            found.append((stem, CLASSES.index(emotion), line))
    return found


def _common(job: Preparation, given: str | None) -> dict[str, dict[str, int]]:
    """The split of train.csv and test.csv: part -> stem -> label."""
    folders = [Path(given)] if given else [job.raw, job.raw / "annotations"]
    folder = next((f for f in folders if (f / "train.csv").is_file()), None)
    if folder is None or not (folder / "test.csv").is_file():
        raise FileNotFoundError(
            f"train.csv and test.csv are not in {' or '.join(map(str, folders))}: the common split is in "
            "the folder data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022; name its folder by "
            "--annotations, or take --split speakers"
        )
    faults, wanted = Faults(), {}
    for part in ("train", "valid", "test"):
        if (folder / f"{part}.csv").is_file():
            wanted[part] = {s: label for s, label, _ in _stems(folder / f"{part}.csv", faults)}
    faults.stop()
    return wanted


def _by_speakers(raw: Path) -> dict[str, dict[str, int]]:
    """A split of all clips in which every actor is in one part only, always the same."""
    stems = sorted(path.stem for path in _waves(raw))
    actors = sorted({stem[:4] for stem in stems})
    if len(actors) < 3:
        raise ValueError(f"{raw / 'AudioWAV'} has clips of {len(actors)} actors: 3 are needed")
    order = np.random.default_rng(derive_seed(0, "cremad speakers")).permutation(actors).tolist()
    tests, valids = max(1, round(0.2 * len(actors))), max(1, round(0.1 * len(actors)))
    part_of = dict.fromkeys(order, "train")
    part_of |= dict.fromkeys(order[:tests], "test")
    part_of |= dict.fromkeys(order[tests : tests + valids], "valid")
    wanted: dict[str, dict[str, int]] = {"train": {}, "valid": {}, "test": {}}
    for stem in stems:
        wanted[part_of[stem[:4]]][stem] = CLASSES.index(NAME.fullmatch(stem)[3])
    return wanted


def _waves(raw: Path) -> Iterable[Path]:
    folder = raw / "AudioWAV"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there: give the clone of CREMA-D as RAW")
    for path in folder.glob("*.wav"):
        match = NAME.fullmatch(path.stem)
        if match and match[3] in CLASSES:
            yield path


CREMAD = Layout(
    "cremad", "CREMAD", CLASSES, PUBLISHED, rows, readers, "audio_video", prepare, sample
)
