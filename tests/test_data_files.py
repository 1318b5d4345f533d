"""The data shipped in data/: unchanged, as data/README.md describes it, and cleanly split."""

import hashlib
import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from igm.datasets.memory import read_arrays

DATA = Path(__file__).resolve().parents[1] / "data"
MFEAT_COLUMNS = {"fou": 76, "fac": 216, "kar": 64, "pix": 240, "zer": 47, "mor": 6}


@pytest.fixture(scope="module")
def make():
    """data/make.py as a module."""
    spec = importlib.util.spec_from_file_location("data_make", DATA / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(name):
    with np.load(DATA / name / f"{name}.npz", allow_pickle=False) as archive:
        return {key: archive[key] for key in archive}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def mfeat():
    return load("mfeat")


@pytest.fixture(scope="module")
def emoji():
    return load("emoji")


def described(arrays):
    """{key: (dtype, shape)}, unicode arrays as "U"."""
    return {
        key: ("U" if a.dtype.kind == "U" else a.dtype.name, a.shape) for key, a in arrays.items()
    }


def counts(label, split):
    """Items by class and part, (classes, 3)."""
    table = np.zeros((label.max() + 1, 3), int)
    np.add.at(table, (label, split), 1)
    return table


def shared_between_parts(rows, split):
    """Pairs (first index, index) of equal rows that lie in different parts."""
    first, shared = {}, []
    for index, row in enumerate(rows):
        earlier = first.setdefault(row.tobytes(), index)
        if split[earlier] != split[index]:
            shared.append((earlier, index))
    return shared


# ---------------------------------------------------------------- all sets


def test_checksums_match_and_cover_every_data_file():
    lines = (DATA / "checksums.txt").read_text().splitlines()
    listed = dict(reversed(line.split("  ", 1)) for line in lines)
    files = [*DATA.glob("*/*.npz"), *DATA.glob("*/clips/*.wav")]
    found = {
        f.relative_to(DATA).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    assert len(found) > 3
    assert found == listed


def test_data_folder_is_small_and_complete():
    files = [f for f in DATA.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert not [f.name for f in files if f.suffix not in {".npz", ".wav", ".py", ".md", ".txt"}]
    assert sum(f.stat().st_size for f in files) <= 6_000_000


def test_readme_gives_the_versions_of_the_sources(make):
    readme = (DATA / "README.md").read_text()
    for name, version in make.VERSIONS.items():
        assert f"{name} {version}" in readme


@pytest.mark.parametrize("name", ["digits", "mfeat", "emoji"])
@pytest.mark.parametrize("left", [0.5, 0.999, "a byte"])
def test_a_shipped_file_that_was_cut_off_or_changed_is_one_error(tmp_path, name, left):
    content = (DATA / name / f"{name}.npz").read_bytes()
    (tmp_path / name).mkdir()
    middle = len(content) // 2
    if left == "a byte":
        content = content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]
    else:
        content = content[: int(left * len(content))]
    (tmp_path / name / f"{name}.npz").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.npz is damaged: fetch it again"):
        read_arrays(tmp_path, name, "train")


# ---------------------------------------------------------------- digits


def test_digits_arrays(digits):
    assert described(digits) == {
        "images": ("uint8", (5000, 28, 28)),
        "image_label": ("uint8", (5000,)),
        "image_split": ("uint8", (5000,)),
        "clips": ("uint8", (3360, 24, 24)),
        "clip_label": ("uint8", (3360,)),
        "clip_speaker": ("uint8", (3360,)),
        "clip_take": ("uint8", (3360,)),
        "clip_split": ("uint8", (3360,)),
        "clip_speed": ("uint8", (3360,)),
        "clip_pitch": ("uint8", (3360,)),
        "speakers": ("U", (112,)),
        "clip_db_range": ("float32", (2,)),
    }
    assert digits["clip_db_range"].tolist() == [-60, 0]
    assert digits["images"].max() == digits["clips"].max() == 255
    assert (digits["clips"].reshape(3360, -1).max(1) == 255).all()  # dB relative to the loudest


def test_digits_counts(digits):
    images = counts(digits["image_label"], digits["image_split"])
    clips = counts(digits["clip_label"], digits["clip_split"])
    assert images.tolist() == [[300, 100, 100]] * 10
    assert clips.tolist() == [[216, 60, 60]] * 10
    cells = zip(digits["clip_speaker"], digits["clip_label"], digits["clip_take"], strict=True)
    assert len(set(cells)) == 112 * 10 * 3


def test_speakers_stay_in_one_part(digits, make):
    parts = [set(digits["clip_split"][digits["clip_speaker"] == s]) for s in range(112)]
    assert all(len(part) == 1 for part in parts)
    split = np.array([part.pop() for part in parts])
    assert np.bincount(split).tolist() == [72, 20, 20]
    assert digits["speakers"].tolist() == make.SPEAKERS
    accent, variant = np.char.partition(digits["speakers"], "+")[:, ::2].T
    for part in range(3):
        assert len(set(accent[split == part])) == 8
        assert len(set(variant[split == part])) == 14


def test_new_york_stays_with_american(digits):
    """en-us-nyc says 7 of the 10 words exactly as en-us: twins share a part."""
    split = np.zeros(112, int)
    split[digits["clip_speaker"]] = digits["clip_split"]
    part = dict(zip(digits["speakers"].tolist(), split, strict=True))
    twins = [name for name in part if name.startswith("en-us+")]
    assert len(twins) == 14
    assert all(part[name] == part[name.replace("en-us+", "en-us-nyc+")] for name in twins)


def test_no_digit_image_or_clip_occurs_twice(digits):
    assert len({image.tobytes() for image in digits["images"]}) == 5000
    assert len({clip.tobytes() for clip in digits["clips"]}) == 3360


def test_wavs_give_the_stored_log_mels(digits, make):
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("librosa")
    wavs = sorted((DATA / "digits" / "clips").glob("*.wav"))
    assert 10 <= len(wavs) <= 20
    assert sum(f.stat().st_size for f in wavs) <= 300_000
    spoken = set()
    for file in wavs:
        speaker, digit, take = file.stem.rsplit("_", 2)
        row = (
            (digits["clip_speaker"] == digits["speakers"].tolist().index(speaker))
            & (digits["clip_label"] == int(digit))
            & (digits["clip_take"] == int(take[4:]))
        )
        wave, rate = soundfile.read(file, dtype="int16")
        assert (rate, wave.ndim, row.sum()) == (8000, 1, 1)
        stored = digits["clips"][row][0].astype(int)
        assert np.abs(make.log_mel(wave).astype(int) - stored).max() <= 1, file.name
        spoken.add(int(digit))
    assert spoken == set(range(10))


def espeak_version():
    if shutil.which("espeak-ng") is None:
        return ""
    about = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True).stdout
    return about.partition("speech: ")[2].split(" ")[0]


def test_espeak_speaks_the_stored_clips_again(digits, make):
    """The tolerance is for other versions of the resampler; a wrong voice or speed is far off."""
    if espeak_version() != make.VERSIONS["espeak-ng"]:
        pytest.skip(f"needs espeak-ng {make.VERSIONS['espeak-ng']}")
    pytest.importorskip("librosa")
    for row in range(17, 3360, 400):
        name = [int(digits[key][row]) for key in ("clip_speaker", "clip_label", "clip_take")]
        settings = digits["clip_speed"][row], digits["clip_pitch"][row]
        assert make.take_settings(*name) == settings
        spoken = make.log_mel(make.speak(*name)).astype(int)
        assert np.abs(spoken - digits["clips"][row]).mean() < 1, name


def test_log_mel_is_what_the_readme_says(make):
    """A 1 kHz tone of 0.4 s: one band, in the middle of the clip, silence around it."""
    pytest.importorskip("librosa")
    time = np.arange(3200) / 8000
    tone = (20000 * np.sin(2 * np.pi * 1000 * time)).astype(np.int16)
    silence = np.zeros(4000, np.int16)
    picture = make.log_mel(np.concatenate([silence, tone, silence[:1000]]))
    assert picture.shape == (24, 24)
    assert picture[:, [0, 1, 2, -3, -2, -1]].max() == 0
    loudest = picture[:, 8:16].argmax(0)
    assert (loudest == loudest[0]).all()
    assert 8 <= loudest[0] <= 11


# ---------------------------------------------------------------- mfeat


def test_mfeat_arrays_and_counts(mfeat):
    types = {"fac": "uint16", "pix": "uint8"}
    views = {v: (types.get(v, "float32"), (2000, d)) for v, d in MFEAT_COLUMNS.items()}
    assert described(mfeat) == views | {"label": ("uint8", (2000,)), "split": ("uint8", (2000,))}
    assert counts(mfeat["label"], mfeat["split"]).tolist() == [[120, 40, 40]] * 10


def test_mfeat_values_are_those_of_the_source(mfeat):
    np.testing.assert_allclose(mfeat["fou"][0, :3], [0.065882, 0.19731, 0.10383], rtol=1e-6)
    np.testing.assert_allclose(mfeat["kar"][0, :2], [-10.297, -11.667], rtol=1e-6)
    assert mfeat["fac"][0, :3].tolist() == [98, 236, 531]
    assert (mfeat["pix"].min(), mfeat["pix"].max()) == (0, 6)
    assert (mfeat["label"] == np.repeat(np.arange(10), 200)).all()
    assert all(np.isfinite(mfeat[view]).all() for view in MFEAT_COLUMNS)


def test_mfeat_copies_share_a_part(mfeat):
    assert len(np.unique(mfeat["pix"], axis=0)) == 1994  # six digits occur twice
    assert shared_between_parts(mfeat["pix"], mfeat["split"]) == []


# ---------------------------------------------------------------- emoji


def test_emoji_arrays(emoji):
    assert described(emoji) == {
        "pictures": ("uint8", (1601, 24, 24, 3)),
        "names": ("U", (1601,)),
        "base": ("U", (1601,)),
        "label": ("uint8", (1601,)),
        "groups": ("U", (8,)),
        "split": ("uint8", (1601,)),
    }
    assert len(set(emoji["names"])) == 1601
    assert not [name for name in emoji["names"] if "skin tone" in name or name.startswith("flag:")]
    assert (emoji["pictures"].reshape(1601, -1).std(1) > 2).all()  # no empty picture


def test_emoji_counts(emoji):
    table = counts(emoji["label"], emoji["split"])
    assert table.sum(1).tolist() == [166, 363, 152, 133, 218, 85, 261, 223]
    assert table.sum(0).tolist() == [961, 318, 322]
    share = table / table.sum(1, keepdims=True)
    assert np.abs(share - [0.6, 0.2, 0.2]).max() < 0.03


def test_emoji_bases_and_pictures_share_a_part(emoji):
    base = dict(zip(emoji["names"].tolist(), emoji["base"].tolist(), strict=True))
    assert base["woman singer"] == base["man singer"] == base["singer"] == "singer"
    assert base["man: red hair"] == base["woman"] == "person"
    assert base["woman’s hat"] == "woman’s hat"
    assert len(set(emoji["base"])) == 1398
    assert shared_between_parts(emoji["base"], emoji["split"]) == []
    assert shared_between_parts(emoji["pictures"], emoji["split"]) == []


# ---------------------------------------------------------------- the script


def test_split_by_group_is_seeded_and_whole(make):
    label, group = np.repeat([0, 1], 50), np.repeat(np.arange(50), 2)
    split = make.split_by_group(label, group, seed=1)
    assert (split == make.split_by_group(label, group, seed=1)).all()
    assert (split != make.split_by_group(label, group, seed=2)).any()
    assert shared_between_parts(group, split) == []
    assert np.abs(counts(label, split) - [30, 10, 10]).max() <= 1


def test_a_missing_package_is_one_line_with_its_remedy(make, monkeypatch, tmp_path):
    def without_mlxtend(out):
        raise ModuleNotFoundError("No module named 'mlxtend'", name="mlxtend")

    monkeypatch.setitem(make.MAKERS, "mfeat", without_mlxtend)
    monkeypatch.setattr(make.sys, "argv", ["make.py", "mfeat", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        make.main()
    assert str(stop.value).startswith("error: the Python package mlxtend is missing: pip install")


def test_a_missing_program_is_one_line_with_its_remedy(make, monkeypatch, tmp_path):
    monkeypatch.setattr(make.shutil, "which", lambda name: None)
    monkeypatch.setattr(make.sys, "argv", ["make.py", "digits", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        make.main()
    assert str(stop.value) == ("error: espeak-ng is not installed: apt-get install espeak-ng")
    assert list(tmp_path.iterdir()) == []
