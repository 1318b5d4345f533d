"""Kinetics-Sounds: ten seconds of YouTube in 31 actions that can be seen and heard (Arandjelovic and Zisserman, 2017).

The layout::

    kinetics_sound/annotations/{train,valid,test}.csv             header "label,youtube_id", the stem of a clip's files
    kinetics_sound/{train,test}_wav/0ab1cd2EF3g_000012_000022.wav
    kinetics_sound/{train,test}_img/Image-01-FPS/0ab1cd2EF3g_000012_000022/00001.jpg     a frame a second

The clips of valid lie in the folders of train. A stem is a video's ID and the seconds where the clip starts and ends.
It is spelled in several ways, e.g. 0ab1cd2EF3g-000012——000022: where a file is not there as the annotations spell it,
the one with this ID and start is taken. The number of a class is its place in CLASSES; the authors' code numbers the
classes as they first appear. It also stops where there is no annotations/weight.csv, which it does not train on; here
no such file is needed.

The raw form is Kinetics itself: train.csv, validate.csv and test.csv with the header
"label,youtube_id,time_start,time_end,split", and clips 0ab1cd2EF3g_000012_000022.mp4, in any folders. Clips vanish
from the web, so hardly two copies hold the same ones.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from igm.datasets import media, synthetic
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, Pictures, Reader, Spectrogram
from igm.datasets.tables import Faults, plain_name, read_table
from igm.seeds import derive_seed

CLASSES = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
PUBLISHED = {"train": {"all": 14799}, "test": {"all": 2597}}  # the lists of OGM-GE
DASHES = "[-_\u2010-\u2015\u2212]+"  # hyphen, underscore, and the long ones
STEM = re.compile(rf"([A-Za-z0-9_-]{{11}}){DASHES}([0-9]{{1,6}})(?:{DASHES}([0-9]{{1,6}}))?")
SETS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validate", "validation"), "validate"
)
VIDEOS = (".mp4", ".mkv", ".webm", ".avi")

Key = tuple[str, int]  # of a clip: the video's ID and the second at which it starts


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = root / "annotations" / f"{split}.csv"
    if not path.exists():
        return None
    part = _part(split)
    wav = _finder(root / f"{part}_wav", ".wav")
    img = _finder(root / f"{part}_img" / "Image-01-FPS", "")
    return [
        Item(stem, label, line, {"audio": wav(stem), "video": img(stem)})
        for stem, label, line in _stems(path, faults)
    ]


def readers(
    frames: int = 3,
    choice: str = "first",
    order: str = "RGB",
    size: int = 224,
    seconds: float = 10.0,
) -> dict[str, Reader]:
    """Audio (1, 257, 1003), at 35,400 Hz, and video (frames, 3, size, size).

    The defaults are what the authors' code does: it draws three frames at random and then takes the first three. Two
    differences remain. The authors' code takes the frames in the order in which the system lists them, here it is that
    of their names; and it crops each frame of a clip at another place.

    Args:
        frames, choice, order, size: of the video, see ``Pictures``.
        seconds: of the sound, see ``Spectrogram``.
    """
    return {
        "audio": Spectrogram(35400, seconds),
        "video": Pictures("video", size, frames, choice, order),
    }


def prepare(
    job: Preparation, test: str = "test", lists: str | None = None, min_frames: int = 4
) -> None:
    """From Kinetics: takes the clips of the 31 classes, cuts frames from them, and writes their sound as WAV.

    Clips that are missing are counted in the report. One without sound, or with too few frames, is skipped.

    Args:
        test: the set of Kinetics that becomes the test split. test, as in the lists of OGM-GE; Kinetics' validate is
            then the valid split. Or validate, where Kinetics' test set has no labels or no clips; there is no
            valid split then.
        lists: a folder with my_train.txt and my_test.txt, to take the clips in them in place of all. They are in
            data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022.
        min_frames: the frames, one a second, that a clip must have.
    """
    if test not in ("test", "validate"):
        raise ValueError(f"unknown test set {test!r}: use test or validate")
    if min_frames < 1:
        raise ValueError(f"min_frames must be 1 or above, got {min_frames}")
    clips, tables = _search(job)
    wanted = _listed(Path(lists)) if lists else _of_kinetics(job, tables, test)
    tasks = []
    for split, samples in wanted.items():
        _note_missing(job, split, samples, clips)
        for key, (stem, _) in samples.items():
            if key not in clips:
                continue
            try:
                clip = job.source(clips[key])
            except Unreadable as error:
                job.skip(stem, str(error))
            else:
                tasks.append(Task(stem, make_clip, (stem, _part(split), clip, min_frames), (clip,)))
    made = job.run(tasks)
    there = {
        split: [sample for sample in samples.values() if sample[0] in made]
        for split, samples in wanted.items()
    }
    for split in ("train", "test"):
        if not there[split]:
            stems = [stem for stem, _ in wanted[split].values()]
            why = next(job.skipped[stem] for stem in stems if stem in job.skipped)
            raise ValueError(f"no clip of the {split} split could be used: {why}")
    for split, samples in there.items():
        if samples:  # all but valid are never empty
            lines = [f"{CLASSES[label]},{stem}\n" for stem, label in samples]
            names = [CLASSES[label] for _, label in samples]
            content = "".join(["label,youtube_id\n", *lines])
            job.annotations(split, f"annotations/{split}.csv", content, names)


def make_clip(output: Output, stem: str, part: str, clip: Path, min_frames: int) -> None:
    """The frames and the sound of one clip."""
    import soundfile

    frames = media.every_second(media.video_frames(clip))
    if len(frames) < min_frames:
        raise Unreadable(clip, f"has {len(frames)} frames at one a second, {min_frames} are needed")
    sound = media.video_sound(clip)
    if sound is None:
        raise Unreadable(clip, "has no sound track")
    samples, rate = sound
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV", subtype="PCM_16")
    pictures = {f"{i:05}.jpg": media.jpeg(frame) for i, frame in enumerate(frames, 1)}
    output.folder(f"{part}_img/Image-01-FPS/{stem}", pictures)
    output.file(f"{part}_wav/{stem}.wav", wav.getvalue())


def sample(raw: Path, seed: int = 0) -> None:
    """Writes a raw download of 38 tiny clips: a chord tells the action clearly, the picture less so.

    Four of the 31 classes are there. One clip is of another class, one has no sound, and one row has no clip. The sound
    ends before the picture, which keeps the files small.
    """
    rng = np.random.default_rng(derive_seed(seed, "kinetics_sounds"))
    actions = ("bowling", "playing guitar", "singing", "tap dancing")
    letters = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    clips = [("train", action, "") for action in ("abseiling", *actions * 5)]
    clips += [("train", "singing", "no sound"), ("train", "singing", "no clip")]
    clips += [(name, action, "") for name in ("validate", "test") for action in actions * 2]
    lines: dict[str, list[str]] = {"train": [], "validate": [], "test": []}
    for name, action, lack in clips:
        youtube_id, start = "".join(rng.choice(letters, 11)), int(rng.integers(300))
        lines[name].append(f"{action},{youtube_id},{start},{start + 10},{name}\n")
        label = actions.index(action) if action in actions else int(rng.integers(len(actions)))
        count = int(rng.integers(16, 18))  # frames, five a second
        sound = synthetic.tones(label, len(actions), count / 5 - 0.8, 8000, rng, noise=0.3)
        picture = synthetic.picture(label, len(actions), 48, rng, noise=0.4)
        frames = synthetic.moving(picture, count, rng)
        folder = raw / {"validate": "val"}.get(name, name) / action.replace(" ", "_")
        if lack != "no clip":
            clip = folder / f"{youtube_id}_{start:06}_{start + 10:06}.mp4"
            synthetic.write_video(clip, frames, 5, None if lack else sound, 8000)
    for name, text in lines.items():
        header = "label,youtube_id,time_start,time_end,split\n"
        (raw / f"{name}.csv").write_bytes("".join([header, *text]).encode())


def _part(split: str) -> str:
    """The split after which the folders of this one's clips are named: the clips of valid lie beside those of train."""
    return "test" if split == "test" else "train"


def _key(stem: str) -> Key | None:
    match = STEM.fullmatch(stem)
    return (match[1], int(match[2])) if match else None


def _finder(folder: Path, suffix: str) -> Callable[[str], Path]:
    """A function from a stem to its file in a folder, which is listed once."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    exact, others = set(names), {}
    for name in names:
        if name.endswith(suffix) and (key := _key(name.removesuffix(suffix))):
            others.setdefault(key, name)

    def find(stem: str) -> Path:
        name = stem + suffix
        return folder / (name if name in exact else others.get(_key(stem), name))

    return find


def _label(text: str) -> int | None:
    name = " ".join(text.lower().replace("_", " ").split())
    return CLASSES.index(name) if name in CLASSES else None


def _stems(path: Path, faults: Faults) -> list[tuple[str, int, int]]:
    """(stem, label, line) of a CSV with the header "label,youtube_id", or without one."""
    found, seen, label_at, stem_at = [], {}, 0, 1
    for line, fields in read_table(path, 2, faults):
        if {"label", "youtube_id"} <= set(fields):
            label_at, stem_at = fields.index("label"), fields.index("youtube_id")
            continue
        if len(fields) <= max(label_at, stem_at):
            faults.add(path, line, f"only {len(fields)} columns")
            continue
        label, stem = _label(fields[label_at]), re.sub(r"\.(wav|mp4)$", "", fields[stem_at])
        if label is None:
            text = "the header is label,youtube_id, and a label such as 'playing guitar'"
            faults.add(path, line, f"unknown label {fields[label_at]!r}: {text}")
        elif not plain_name(stem):
            faults.add(path, line, f"{stem!r} is no stem such as 0ab1cd2EF3g_000012_000022")
        elif (key := _key(stem) or stem) in seen:
            faults.add(path, line, f"{stem} stands in line {seen[key]} already: remove one")
        else:
            seen[key] = line
            found.append((stem, label, line))
    return found


# ---------------------------------------------------------------- the raw download

Samples = dict[Key, tuple[str, int]]  # -> the stem to be written, the label
Row = tuple[Path, int, str, str, int]  # file, line, set of Kinetics, stem, label


def _search(job: Preparation) -> tuple[dict[Key, Path], list[Path]]:
    """The clips below the raw folder, and the CSVs."""
    clips, tables = {}, []
    for path in _files(job):
        if path.suffix.lower() in VIDEOS and (key := _key(path.stem)):
            clips.setdefault(key, path)
        elif path.suffix.lower() == ".csv":
            tables.append(path)
    if not clips:
        raise FileNotFoundError(
            f"below {job.raw} there is no clip of Kinetics, such as 0ab1cd2EF3g_000012_000022.mp4"
        )
    return clips, tables


def _files(job: Preparation) -> Iterator[Path]:
    """All files below the raw folder, in a fixed order, without those of the output folder."""
    seen = {job.out.resolve()}
    for folder, folders, names in os.walk(job.raw, onerror=_stop, followlinks=True):
        here = Path(folder)
        if here.resolve() in seen:
            folders.clear()
            continue
        seen.add(here.resolve())
        folders[:] = sorted(name for name in folders if not media.hidden(name))
        for name in folders:
            if (here / name).is_symlink() and (here / name).resolve() not in seen:
                job.source(here / name)  # raises where it leads out
        yield from (here / name for name in sorted(names) if not media.hidden(name))


def _stop(error: OSError) -> None:
    raise error


def _of_kinetics(job: Preparation, tables: list[Path], test: str) -> dict[str, Samples]:
    """split -> what Kinetics' own CSVs have of the 31 classes."""
    tables = [path for path in tables if _is_kinetics(job.source(path))]
    if not tables:
        raise FileNotFoundError(
            f"below {job.raw} there is no CSV of Kinetics with the header label,youtube_id,time_start,"
            "time_end,split: put train.csv, validate.csv and test.csv there"
        )
    faults, counts = Faults(), Counter()
    sets = _collect(_rows_of_kinetics(tables, faults, counts), faults)
    for text, count in counts.items():
        job.note(f"{text}: {count:,}")
    splits = {"train": "train", "valid": "validate", "test": "test"}
    if test == "validate":
        splits = {"train": "train", "test": "validate"}
    for split in ("train", "test"):
        if not sets[splits[split]]:
            other = ", or take another set with --test" if split == "test" else ""
            raise ValueError(
                f"the CSVs below {job.raw} have no row with a label of Kinetics' {splits[split]} set: add "
                f"such a CSV{other}"
            )
    return {split: sets[name] for split, name in splits.items() if sets[name]}


def _collect(given: Iterable[Row], faults: Faults) -> dict[str, Samples]:
    """set of Kinetics -> its samples; a clip may be named twice, but not in two sets or classes."""
    sets: dict[str, Samples] = {"train": {}, "validate": {}, "test": {}}
    seen = {}
    for path, line, name, stem, label in given:
        key = _key(stem)
        *first, place = seen.setdefault(key, (name, label, f"{path}:{line}"))
        if first == [name, label]:
            sets[name][key] = (stem, label)
        else:
            text = f"{stem} has another class or set in {place}: take one version of Kinetics only"
            faults.add(path, line, text)
    faults.stop()
    return sets


def _rows_of_kinetics(tables: list[Path], faults: Faults, counts: Counter) -> Iterator[Row]:
    for path in tables:
        for line, row in _table(path, faults):
            name = SETS.get(row["split"].lower())
            if name is None:
                text = f"unknown split {row['split']!r}: use train, validate or test"
                faults.add(path, line, text)
            elif not row.get("label"):
                counts[f"{path.name}: rows without a label, which are not used"] += 1
            elif (label := _label(row["label"])) is None:
                counts[f"{path.name}: rows of other classes"] += 1
            elif stem := _stem(row):
                yield path, line, name, stem, label
            else:
                text = "no ID of 11 letters, start and end in seconds"
                faults.add(path, line, f"{','.join(row.values())}: {text}")


def _is_kinetics(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.readline(4096)
    media.check_content(path, head)
    head = head.replace(b"\0", b"")  # of UTF-16, about which the reader of tables complains
    return b"youtube_id" in head and b"time_start" in head


def _table(path: Path, faults: Faults) -> Iterator[tuple[int, Mapping[str, str]]]:
    """(line, column -> field) of a CSV of Kinetics."""
    needed, names = ("youtube_id", "time_start", "time_end", "split"), None
    for line, fields in read_table(path, 4, faults):
        if names is None:
            names = [field.lower() for field in fields]
            if lacking := [name for name in needed if name not in names]:
                faults.add(path, line, f"the header lacks {', '.join(lacking)}")
                return
        elif len(fields) < len(names):
            faults.add(path, line, f"{len(fields)} of {len(names)} columns")
        else:
            yield line, dict(zip(names, fields))


def _stem(row: Mapping[str, str]) -> str | None:
    """0ab1cd2EF3g_000012_000022, or None where the row makes none."""
    times = [
        re.fullmatch(r"([0-9]{1,6})(?:\.0*)?", row[name]) for name in ("time_start", "time_end")
    ]
    if None in times:
        return None
    stem = "_".join([row["youtube_id"], *(f"{int(time[1]):06}" for time in times)])
    return stem if STEM.fullmatch(stem) else None


def _listed(folder: Path) -> dict[str, Samples]:
    """split -> what is in the lists of OGM-GE, lines "0ab1cd2EF3g_000012_000022,10,25" or "0ab1cd2EF3g_12,10,25"."""
    faults = Faults()
    sets = _collect(_rows_of_lists(folder, faults), faults)
    return {split: sets[split] for split in ("train", "test")}


def _rows_of_lists(folder: Path, faults: Faults) -> Iterator[Row]:
    for split in ("train", "test"):
        path = folder / f"my_{split}.txt"
        for line, (stem, seconds, label, *_) in read_table(path, 3, faults):
            match = STEM.fullmatch(stem)
            if not match or not seconds.isdecimal() or not label.isdecimal():
                faults.add(path, line, f"{stem},{seconds},{label} is no clip, seconds and class")
            elif int(label) >= len(CLASSES):
                faults.add(path, line, f"unknown class {label}: they are 0 to {len(CLASSES) - 1}")
            else:
                start = int(match[2])
                end = int(match[3] or start + int(seconds))
                yield path, line, split, f"{match[1]}_{start:06}_{end:06}", int(label)


def _note_missing(job: Preparation, split: str, samples: Samples, clips: Mapping) -> None:
    missing = Counter(CLASSES[label] for key, (_, label) in samples.items() if key not in clips)
    if missing.total() == len(samples) and split != "valid":
        raise FileNotFoundError(
            f"not one of the {len(samples):,} clips of the {split} split is below {job.raw}: add them, or "
            "choose others with --test or --lists"
        )
    if missing:
        classes = ", ".join(f"{name} {count:,}" for name, count in sorted(missing.items()))
        job.note(f"{split}: {missing.total():,} of {len(samples):,} clips are missing: {classes}")


KINETICS_SOUNDS = Layout(
    "kinetics_sounds",
    "kinetics_sound",
    CLASSES,
    PUBLISHED,
    rows,
    readers,
    "audio_video",
    prepare,
    sample,
)
