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
"label,youtube_id,time_start,time_end,split", and clips 0ab1cd2EF3g_000012_000022.mp4, in any folders. In place of the
CSVs there may be lists such as those of OGM-GE, my_train.txt and my_test.txt, or only folders such as train/bowling.
Clips vanish from the web, so hardly two copies hold the same ones.
"""

from __future__ import annotations

import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from igm.datasets import files, media, synthetic
from igm.datasets.annotations import Form, all_files, file_of, files_in, once, read_rows, split_of
from igm.datasets.layout import Layout
from igm.datasets.media import Unreadable
from igm.datasets.preparing import Output, Preparation, Task
from igm.datasets.reading import Item, Pictures, Reader, Spectrogram
from igm.datasets.tables import Faults, plain_name, plain_word, stem_of
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
SETS = {"train": "train", "valid": "validate", "test": "test"}
VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".flv", ".mov")

# Of a clip: the video's ID and the second at which it starts, None where its name does not tell.
Key = tuple[str, int | None]

FORM = Form(
    columns={
        "id": ("youtube_id", "video_id", "ytid", "vid", "id", "stem", "filename", "file", "name"),
        "seconds": ("seconds", "duration"),
        "label": ("label", "label_name", "class", "class_name", "action", "category"),
        "start": ("time_start", "start", "start_time", "start_seconds", "t_start"),
        "end": ("time_end", "end", "end_time", "end_seconds", "t_end"),
        "split": ("split", "subset", "set"),
    },
    needed=("id", "label"),
    classes={name: number for number, name in enumerate(CLASSES)},
    labels="the name of a class, such as 'playing guitar'",
    source="my_train.txt and my_test.txt are in data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022",
    suffixes=(".csv", ".tsv", ".txt"),
    looks={
        "id": lambda text: STEM.fullmatch(stem_of(text)),
        "label": lambda text: plain_word(text) in CLASSES,
    },
)

LISTS = replace(  # with the numbers of OGM-GE
    FORM,
    classes=FORM.classes | {str(number): number for number in range(len(CLASSES))},
    labels=f"the name of a class, such as 'playing guitar', or 0 to {len(CLASSES) - 1}",
)


def rows(root: Path, split: str, faults: Faults) -> list[Item] | None:
    """The samples of a split, or None where there is no file of it."""
    path = file_of(root / "annotations", split, FORM)
    if path is None:
        return None
    part = _part(split)
    wav = _finder(root / f"{part}_wav", ".wav")
    img = _finder(root / f"{part}_img" / "Image-01-FPS", "")
    found = [(row, stem_of(row.values["id"])) for row in read_rows(path, FORM, faults)]
    items = []
    for row, stem in once(found, lambda stem: _key(stem) or stem, faults):
        if plain_name(stem):
            paths = {"audio": wav(stem), "video": img(stem)}
            items.append(Item(stem, row.label, row.line, paths))
        else:
            faults.add(path, row.place, f"{stem!r} is no stem such as 0ab1cd2EF3g_000012_000022")
    return items


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
            data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022. Other names and forms are understood, see the table
            in the book's appendix on data. Where RAW has no CSV of Kinetics, lists in it are taken.
        min_frames: the frames, one a second, that a clip must have.
    """
    if test not in ("test", "validate"):
        raise ValueError(f"unknown test set {test!r}: use test or validate")
    if min_frames < 1:
        raise ValueError(f"min_frames must be 1 or above, got {min_frames}")
    clips, tables = _search(job)
    wanted = _wanted(job, clips, tables, test, lists)
    found = _assigned(job, wanted, clips)
    tasks = []
    for split, samples in wanted.items():
        _note_missing(job, split, samples, found)
        for key, (stem, _) in samples.items():
            if key not in found:
                continue
            try:
                clip = job.source(found[key])
            except Unreadable as error:
                job.skip(stem, str(error))
            else:
                tasks.append(Task(stem, make_clip, (stem, _part(split), clip, min_frames), (clip,)))
    made = job.run(tasks)
    for split, samples in wanted.items():
        there = [(stem, label) for stem, label in samples.values() if stem in made]
        lines = [f"{CLASSES[label]},{stem}\n" for stem, label in there]
        content = "".join(["label,youtube_id\n", *lines])
        names = [CLASSES[label] for _, label in there]
        job.annotations(split, "annotations/{}.csv", content, names)


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
    if match:
        return match[1], int(match[2])
    return (stem, None) if re.fullmatch("[A-Za-z0-9_-]{11}", stem) else None


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


# ---------------------------------------------------------------- the raw download

Samples = dict[Key, tuple[str, int]]  # -> the stem to be written, the label
Entry = tuple[Path, int | str, str, str, int]  # file, place, split, stem, label


def _search(job: Preparation) -> tuple[dict[Key, Path], list[Path]]:
    """The clips below the raw folder, and the tables."""
    clips, tables = {}, []
    for path in all_files(job):
        if path.suffix.lower() in VIDEOS and (key := _key(path.stem)):
            clips.setdefault(key, path)
        elif path.suffix.lower() == ".csv" or (
            path.suffix.lower() in FORM.suffixes and split_of(path.stem)
        ):
            tables.append(path)
    if not clips:
        raise FileNotFoundError(
            f"below {job.raw} there is no clip of Kinetics, such as 0ab1cd2EF3g_000012_000022.mp4"
        )
    return clips, tables


def _wanted(
    job: Preparation, clips: Mapping[Key, Path], tables: list[Path], test: str, lists: str | None
) -> dict[str, Samples]:
    """split -> its samples: of the given lists, or else of Kinetics' CSVs, of lists in RAW, or of folders."""
    if lists is not None:
        found = files_in(Path(lists), FORM) if Path(lists).is_dir() else {}
        if lacking := {"train", "test"} - set(found):
            which = " and ".join(sorted(lacking, reverse=True))
            raise FileNotFoundError(f"no list of {which} in {lists}: {FORM.source}")
        return _of_lists({split: paths[0] for split, paths in found.items()})
    kinetics = [path for path in tables if _has_header(job.source(path))]
    others: dict[str, list[Path]] = defaultdict(list)
    for path in tables:
        if path not in kinetics and (split := split_of(path.stem)) and _names_clips(path):
            others[split].append(path)
    listed = {"train", "test"} <= set(others)
    if kinetics:
        if listed:
            folder = others["train"][0].parent
            job.note(f"the lists in {folder} are not read: to take them give --lists {folder}")
        return _of_kinetics(job, kinetics, test)
    if listed:
        if twice := next((paths for paths in others.values() if len(paths) > 1), None):
            raise ValueError(
                f"{twice[0]} and {twice[1]} are of one split: name a folder by --lists"
            )
        return _of_lists({split: paths[0] for split, paths in others.items()})
    return _of_folders(job, clips)


def _of_kinetics(job: Preparation, tables: list[Path], test: str) -> dict[str, Samples]:
    """What Kinetics' own CSVs have of the 31 classes."""
    faults, counts = Faults(), Counter()
    entries = list(_entries_of_kinetics(tables, faults, counts))
    sets = _collect(entries, faults)
    for text, count in counts.items():
        job.note(f"{text}: {count:,}")
    _note_versions(job, entries)
    splits = {split: split for split in SETS}
    if test == "validate":
        splits = {"train": "train", "test": "valid"}
    for split in ("train", "test"):
        if not sets[splits[split]]:
            other = ", or take another set with --test" if split == "test" else ""
            raise ValueError(
                f"the CSVs below {job.raw} have no row with a label of Kinetics' {SETS[splits[split]]} "
                f"set: add such a CSV{other}"
            )
    return {split: sets[name] for split, name in splits.items() if sets[name]}


def _collect(given: Iterable[Entry], faults: Faults) -> dict[str, Samples]:
    """split -> its samples; a clip may be named twice, but not in two splits or classes."""
    sets: dict[str, Samples] = {split: {} for split in SETS}
    seen = {}
    for path, place, split, stem, label in given:
        key = _key(stem)
        *first, where = seen.setdefault(key, (split, label, f"{path}:{place}"))
        if first == [split, label]:
            sets[split][key] = (stem, label)
        else:
            text = f"{stem} has another class or set in {where}: take one version of Kinetics only"
            faults.add(path, place, text)
    faults.stop()
    return sets


def _note_versions(job: Preparation, entries: Iterable[Entry]) -> None:
    """Notes a set that is joined from several files, as of two versions of Kinetics."""
    clips: dict[str, dict[Path, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, _, split, stem, _ in entries:
        clips[split][path].add(stem)
    for split, of_file in clips.items():
        if len(of_file) > 1:
            names = ", ".join(
                f"{path.relative_to(job.raw)} {len(s):,}" for path, s in of_file.items()
            )
            both = sum(map(len, of_file.values())) - len(set().union(*of_file.values()))
            job.note(
                f"Kinetics' {SETS[split]} set is joined from {len(of_file)} files: {names} clips, {both:,} of "
                "them twice. Leave one in RAW if they are two versions of Kinetics"
            )


def _entries_of_kinetics(tables: list[Path], faults: Faults, counts: Counter) -> Iterator[Entry]:
    for path in tables:
        for row in read_rows(path, FORM, faults, ("id", "start", "end")):
            values = row.values
            split = split_of(values["split"] or path.stem)
            if split is None:
                text = (
                    f"unknown split {values['split'] or path.stem!r}: use train, validate or test"
                )
                faults.add(path, row.place, text)
            elif not values["label"]:
                counts[f"{path.name}: rows without a label, which are not used"] += 1
            elif row.label is None:
                counts[f"{path.name}: rows of other classes"] += 1
            elif stem := _stem(values):
                yield path, row.place, split, stem, row.label
            else:
                text = "no ID of 11 letters, start and end in seconds"
                faults.add(path, row.place, f"{','.join(filter(None, values.values()))}: {text}")


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        head = file.read(4096)
    files.check_content(path, head)
    return head.replace(b"\0", b"")  # of UTF-16, about which the reader of tables complains


def _has_header(path: Path) -> bool:
    """Does a table have a header with an ID and a start, as those of Kinetics?"""
    words = set(re.split(rb"[\W]+", _head(path).split(b"\n")[0].lower()))
    return all(words & {name.encode() for name in FORM.columns[c]} for c in ("id", "start"))


def _names_clips(path: Path) -> bool:
    form = rb"[A-Za-z0-9_-]{11}(?:[-_]|\xe2\x80.)+[0-9]{1,6}(?![0-9])"
    return re.search(form, _head(path), re.S) is not None


def _stem(row: Mapping[str, str]) -> str | None:
    """0ab1cd2EF3g_000012_000022, or None where the row makes none."""
    times = [re.fullmatch(r"([0-9]{1,6})(?:\.0*)?", row[name]) for name in ("start", "end")]
    if None in times:
        return None
    stem = "_".join([row["id"], *(f"{int(time[1]):06}" for time in times)])
    return stem if STEM.fullmatch(stem) else None


def _of_lists(paths: Mapping[str, Path]) -> dict[str, Samples]:
    """What is in lists such as those of OGM-GE, "0ab1cd2EF3g_000012_000022,10,25" or "0ab1cd2EF3g_12,10,25"."""
    faults = Faults()
    sets = _collect(_entries_of_lists(paths, faults), faults)
    return {split: sets[split] for split in paths}


def _entries_of_lists(paths: Mapping[str, Path], faults: Faults) -> Iterator[Entry]:
    for split, path in paths.items():
        for row in read_rows(path, LISTS, faults):
            match, seconds = (
                STEM.fullmatch(stem_of(row.values["id"])),
                row.values["seconds"] or "10",
            )
            if match and seconds.isdecimal():
                start = int(match[2])
                end = int(match[3] or start + int(seconds))
                yield path, row.place, split, f"{match[1]}_{start:06}_{end:06}", row.label
            else:
                text = f"{row.values['id']} is no clip such as 0ab1cd2EF3g_000012_000022, or has no seconds"
                faults.add(path, row.place, text)


def _of_folders(job: Preparation, clips: Mapping[Key, Path]) -> dict[str, Samples]:
    """Clips in folders such as train/bowling/ or bowling/train/."""
    sets: dict[str, Samples] = {}
    for key, path in clips.items():
        parts = path.relative_to(job.raw).parts[:-1]
        labels = [plain_word(part) for part in parts if plain_word(part) in CLASSES]
        split = next(filter(None, map(split_of, parts)), None)
        if labels and split:
            sets.setdefault(split, {})[key] = (path.stem, CLASSES.index(labels[-1]))
    if not {"train", "test"} <= set(sets):
        raise FileNotFoundError(
            f"below {job.raw} there is no CSV of Kinetics with the header label,youtube_id,time_start,"
            "time_end,split, there are no lists such as my_train.txt and my_test.txt, and no folders such as "
            "train/bowling and test/bowling: put train.csv, validate.csv and test.csv there"
        )
    job.note("there is no CSV of Kinetics: split and class are those of the folders")
    return sets


def _assigned(
    job: Preparation, wanted: Mapping[str, Samples], clips: Mapping[Key, Path]
) -> dict[Key, Path]:
    """The clips by the keys that are wanted; one named by its ID alone is that of the only row with this ID."""
    keys = {key for samples in wanted.values() for key in samples}
    rows = Counter(youtube_id for youtube_id, _ in keys)
    found = {key: clips[key] for key in keys if key in clips}
    unclear = set()
    for youtube_id, start in keys - set(found):
        if (youtube_id, None) in clips:
            if rows[youtube_id] == 1:
                found[youtube_id, start] = clips[youtube_id, None]
            else:
                unclear.add(youtube_id)
    if unclear:
        job.note(
            f"{len(unclear):,} clips named by their ID alone, e.g. {min(unclear)}, could be of several "
            "rows and are not used: name them ID_START_END"
        )
    return found


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
