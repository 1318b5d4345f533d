"""CREMA-D: 91 actors say twelve sentences in six emotions; a face and a voice (Cao et al., 2014).

The layout::

    CREMAD/annotations/{train,valid,test}.csv         lines "1001_DFA_ANG_XX,ANG", no header
    CREMAD/AudioWAV/1001_DFA_ANG_XX.wav
    CREMAD/Image-01-FPS/1001_DFA_ANG_XX/00001.jpg     a frame a second

The name of a clip is actor, sentence, emotion and level. The split that papers use has all 91 actors in both parts: the
faces and voices of its test clips are known from training. ``igm prepare`` also makes a split by speakers, in which no
actor is in two parts.

The raw download is a clone of github.com/CheyneyComputerScience/CREMA-D with Git LFS: AudioWAV/*.wav and
VideoFlash/*.flv, 7,442 each. The clips may lie in any folders. A label that is not the emotion in the clip's name is
an error: in every published list they are the same.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from igm.datasets import media, synthetic
from igm.datasets.annotations import (
    Form,
    Row,
    all_files,
    file_of,
    find_annotations,
    once,
    read_rows,
)
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, Pictures, Reader, Spectrogram
from igm.datasets.tables import Faults, plain_word, stem_of
from igm.seeds import derive_seed

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
PUBLISHED = {
    "train": dict(zip(CLASSES, (973, 1148, 1131, 1138, 1142, 1166))),
    "test": dict(zip(CLASSES, (114, 123, 140, 133, 129, 105))),
}
NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX|X)")
SUFFIXES = {"audio": (".wav",), "video": (".flv", ".mp4", ".avi", ".mov", ".mkv")}
EMOTIONS = {
    "NEU": ("neutral",),
    "HAP": ("happy", "happiness", "joy"),
    "SAD": ("sadness",),
    "FEA": ("fear", "fearful"),
    "DIS": ("disgust", "disgusted"),
    "ANG": ("anger", "angry"),
}
WORDS = {w: i for i, (c, words) in enumerate(EMOTIONS.items()) for w in (c.lower(), *words)}


def _emotions(rows: Sequence[Mapping[str, str]], _: str) -> dict[str, int]:
    """label -> class: the words, and a number for the emotion that most clips with it have in their names."""
    names: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        label, emotion = plain_word(row["label"]), stem_of(row["clip"])[9:12]
        if label.isdecimal() and emotion in CLASSES:
            names[label][CLASSES.index(emotion)] += 1
    return WORDS | {label: counts.most_common(1)[0][0] for label, counts in names.items()}


FORM = Form(
    columns={
        "clip": ("stem", "file", "filename", "clip", "path", "name", "id", "video", "audio"),
        "label": ("emotion", "label", "emo", "emotions", "class", "category"),
    },
    needed=("clip", "label"),
    classes=_emotions,
    labels=f"one of {', '.join(CLASSES)}, words such as happy, or a number for each",
    source="the common split is in the folder data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022, or take "
    "--split speakers",
    folders=("annotations",),
    looks={
        "clip": lambda text: NAME.fullmatch(stem_of(text)),
        "label": lambda text: plain_word(text) in WORDS or text.isdecimal(),
    },
)


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = file_of(root / "annotations", split, FORM)
    if path is None:
        return None
    audio, video = root / "AudioWAV", root / "Image-01-FPS"
    return [
        Item(stem, row.label, row.line, {"audio": audio / f"{stem}.wav", "video": video / stem})
        for stem, row in _clips(path, faults)
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
        annotations: the folder of train.csv and test.csv of the common split; by default RAW or a folder in it. Other
            names and forms are understood, see the table in the book's appendix on data.
    """
    if split not in ("common", "speakers"):
        raise ValueError(f"unknown split {split!r}: use common or speakers")
    files = _files(job)
    if split == "speakers":
        wanted = _by_speakers(job.raw, (stem for kind, stem in files if kind == "audio"))
    else:
        wanted = _common(job, annotations)
    labels = {stem: label for stems in wanted.values() for stem, label in stems.items()}
    tasks = []
    for stem in labels:
        wav = files.get(("audio", stem), job.raw / "AudioWAV" / f"{stem}.wav")
        flv = files.get(("video", stem), job.raw / "VideoFlash" / f"{stem}.flv")
        try:
            tasks.append(
                Task(stem, make_clip, (stem, job.source(wav), job.source(flv)), (wav, flv))
            )
        except Unreadable as error:
            job.skip(stem, str(error))
    made = job.run(tasks)
    actors = {part: {stem[:4] for stem in stems if stem in made} for part, stems in wanted.items()}
    known = len(actors["test"] & actors["train"])
    job.note(f"{known} of the {len(actors['test'])} actors of test are in train, too")
    for part, stems in wanted.items():
        there = {stem: label for stem, label in stems.items() if stem in made}
        content = "".join(f"{stem},{CLASSES[label]}\n" for stem, label in there.items())
        names = [CLASSES[label] for label in there.values()]
        job.annotations(part, "annotations/{}.csv", content, names)


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


def _clips(path: Path, faults: Faults) -> list[tuple[str, Row]]:
    """The rows of an annotation file, each with the stem of its clip; a label against the name is a fault."""
    found, against = [], []
    for row in read_rows(path, FORM, faults):
        stem = stem_of(row.values["clip"])
        match = NAME.fullmatch(stem)
        if not match or match[3] not in CLASSES:
            text = f"{row.values['clip']!r} is no clip of CREMA-D, such as 1001_DFA_ANG_XX"
            faults.add(path, row.place, text)
            continue
        found.append((row, stem))
        if match[3] != CLASSES[row.label]:
            against.append(f"line {row.place}, {stem} as {row.values['label']}")
    if against:
        text = f"{len(against)} of {len(found)} labels are not the emotion in the clip's name"
        faults.add(path, None, f"{text}: {'; '.join(against[:3])}: has a column been shifted?")
    return [(stem, row) for row, stem in once(found, str, faults)]


def _common(job: Preparation, given: str | None) -> dict[str, dict[str, int]]:
    """The split of the annotations: part -> stem -> label."""
    faults, paths = Faults(), find_annotations(job, given, FORM)
    wanted = {
        part: {stem: row.label for stem, row in _clips(path, faults)}
        for part, path in paths.items()
    }
    faults.stop()
    return wanted


def _by_speakers(raw: Path, stems: Iterable[str]) -> dict[str, dict[str, int]]:
    """A split of these clips in which every actor is in one part only, always the same."""
    stems = sorted(stem for stem in stems if NAME.fullmatch(stem)[3] in CLASSES)
    actors = sorted({stem[:4] for stem in stems})
    if len(actors) < 3:
        raise ValueError(
            f"{raw} has sounds (AudioWAV/*.wav) of {len(actors)} actors, 3 are needed: give the clone of "
            "CREMA-D as RAW"
        )
    order = np.random.default_rng(derive_seed(0, "cremad speakers")).permutation(actors).tolist()
    tests, valids = max(1, round(0.2 * len(actors))), max(1, round(0.1 * len(actors)))
    part_of = dict.fromkeys(order, "train")
    part_of |= dict.fromkeys(order[:tests], "test")
    part_of |= dict.fromkeys(order[tests : tests + valids], "valid")
    wanted: dict[str, dict[str, int]] = {"train": {}, "valid": {}, "test": {}}
    for stem in stems:
        wanted[part_of[stem[:4]]][stem] = CLASSES.index(NAME.fullmatch(stem)[3])
    return wanted


def _files(job: Preparation) -> dict[tuple[str, str], Path]:
    """(modality, stem) -> its file, wherever it lies below the raw folder, the usual suffix first."""
    found: dict[tuple[str, str], Path] = {}
    for path in all_files(job):
        for kind, suffixes in SUFFIXES.items():
            if path.suffix.lower() in suffixes and NAME.fullmatch(path.stem):
                old = found.get((kind, path.stem))
                if not old or path.suffix.lower() == suffixes[0] != old.suffix.lower():
                    found[kind, path.stem] = path
    return found


CREMAD = Layout(
    "cremad", "CREMAD", CLASSES, PUBLISHED, rows, readers, "audio_video", prepare, sample
)
