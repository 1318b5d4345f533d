"""datasets/: what the readers give, checked against the files in data/; the noise dial; clear errors."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from igm import load_dataset
from igm.loading import batches

DATA = Path(__file__).resolve().parents[1] / "data"
SPLITS = ("train", "valid", "test")
SHAPES = {
    "digits": {"image": (1, 14, 14), "audio": (1, 24, 24)},
    "mfeat": {"fou": (76,), "fac": (216,), "kar": (64,), "pix": (240,), "zer": (47,), "mor": (6,)},
    "emoji": {"picture": (3, 24, 24), "name": (512,)},
}
CLASSES = {"digits": 10, "mfeat": 10, "emoji": 8}


def raw(name: str) -> dict[str, np.ndarray]:
    with np.load(DATA / name / f"{name}.npz") as arrays:
        return dict(arrays)


def same(a, b) -> bool:
    """Are the inputs and labels of two sets the same, bit for bit?"""
    inputs = all(torch.equal(a.inputs[name], b.inputs[name]) for name in a.inputs)
    return a.modalities == b.modalities and inputs and torch.equal(a.labels, b.labels)


# ---------------------------------------------------------------- all sets


@pytest.mark.parametrize("name", SHAPES)
def test_each_split_has_its_shapes_types_and_labels(name):
    arrays = raw(name)
    which, label = ("image_split", "image_label") if name == "digits" else ("split", "label")
    for number, split in enumerate(SPLITS):
        dataset = load_dataset(name, split=split)
        expected = np.bincount(arrays[label][arrays[which] == number])
        assert dataset.shapes == SHAPES[name]
        assert dataset.modalities == list(SHAPES[name])
        assert all(x.dtype == torch.float32 for x in dataset.inputs.values())
        assert all(torch.isfinite(x).all() for x in dataset.inputs.values())
        assert dataset.labels.dtype == torch.int64
        assert np.bincount(dataset.labels).tolist() == expected.tolist()
        assert len(dataset) == expected.sum()
        assert len(dataset.classes) == CLASSES[name]
    if name == "emoji":
        assert dataset.classes == arrays["groups"].tolist()


@pytest.mark.parametrize(
    ("name", "by_column"), [("digits", False), ("mfeat", True), ("emoji", False)]
)
def test_training_inputs_are_standardised(name, by_column):
    for x in load_dataset(name).inputs.values():
        x = x.double() if by_column else x.double().reshape(-1, 1)
        mean, variance = x.mean(0), x.var(0, correction=0)
        varies = variance > 1e-9  # a column may be the same in all samples
        assert mean.abs().max() < 0.02
        assert (variance[varies] - 1).abs().max() < 0.02
        assert varies.float().mean() > 0.9


def test_other_splits_use_the_mean_and_deviation_of_train():
    arrays = raw("mfeat")
    train = arrays["kar"][arrays["split"] == 0].astype(np.float64)
    valid = arrays["kar"][arrays["split"] == 1]
    expected = (valid - train.mean(0)) / train.std(0)
    ours = load_dataset("mfeat", split="valid", views=["kar"]).inputs["kar"].numpy()
    by_row = [np.lexsort(x.T) for x in (ours, expected)]
    assert np.allclose(ours[by_row[0]], expected[by_row[1]], atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_the_seed_decides_the_data(name):
    modality = next(iter(SHAPES[name]))
    options = {"split": "valid", "noise": {modality: 1.0}}
    first = load_dataset(name, seed=1, **options)
    assert same(first, load_dataset(name, seed=1, **options))
    other = load_dataset(name, seed=2, **options)
    assert not torch.equal(first.labels, other.labels)  # another order
    assert not torch.equal(first.inputs[modality], other.inputs[modality])


@pytest.mark.parametrize("name", SHAPES)
def test_samples_gives_the_first_of_the_full_set(name):
    noise = {next(iter(SHAPES[name])): 1.0}
    full = load_dataset(name, split="valid", noise=noise)
    assert same(load_dataset(name, split="valid", samples=50, noise=noise), full.subset(range(50)))


def test_mfeat_gives_the_views_asked_for_in_their_order():
    dataset = load_dataset("mfeat", views=["kar", "fou"])
    assert dataset.modalities == ["kar", "fou"]
    assert torch.equal(dataset.inputs["fou"], load_dataset("mfeat").inputs["fou"])


# ---------------------------------------------------------------- the pairs of digits


@pytest.fixture(scope="module")
def pairs():
    """split -> (rows of the images, rows of the clips, labels) in digits.npz, found by their pixels."""
    arrays = raw("digits")
    rows_of = {}
    for key, split in (("images", "image_split"), ("clips", "clip_split")):
        train = arrays[key][arrays[split] == 0].astype(np.float64)
        by_pixels = {picture.tobytes(): row for row, picture in enumerate(arrays[key])}
        rows_of[key] = train.mean(), train.std(), by_pixels
    found = {}
    for split in SPLITS:
        dataset = load_dataset("digits", split=split, image_size=28)
        rows = []
        for modality, key in (("image", "images"), ("audio", "clips")):
            mean, std, by_pixels = rows_of[key]
            pixels = np.rint(dataset.inputs[modality][:, 0].double().numpy() * std + mean)
            rows.append([by_pixels[picture.tobytes()] for picture in pixels.astype(np.uint8)])
        found[split] = *map(np.array, rows), dataset.labels.numpy()
    return arrays, found


def test_image_and_clip_of_a_pair_are_of_its_class_and_split(pairs):
    arrays, found = pairs
    for number, split in enumerate(SPLITS):
        images, clips, labels = found[split]
        assert (arrays["image_label"][images] == labels).all()
        assert (arrays["clip_label"][clips] == labels).all()
        assert (arrays["image_split"][images] == number).all()
        assert (arrays["clip_split"][clips] == number).all()


def test_splits_share_no_image_clip_or_speaker(pairs):
    arrays, found = pairs
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not set(found[a][0]) & set(found[b][0])
        assert not set(found[a][1]) & set(found[b][1])
        assert not set(arrays["clip_speaker"][found[a][1]]) & set(
            arrays["clip_speaker"][found[b][1]]
        )


def test_every_image_occurs_once_and_clips_are_drawn_from_all(pairs):
    images, clips, _ = pairs[1]["train"]
    assert len(set(images)) == 3000
    assert len(set(clips)) > 1400  # of 2,160, drawn 3,000 times: about 1,620


def test_another_seed_pairs_the_same_images_with_other_clips():
    first, other = (load_dataset("digits", split="valid", seed=s) for s in (0, 1))
    partner = [
        {image.numpy().tobytes(): clip.numpy().tobytes() for image, clip in zip(*d.inputs.values())}
        for d in (first, other)
    ]
    assert partner[0].keys() == partner[1].keys()
    assert sum(partner[0][image] != partner[1][image] for image in partner[0]) > 900


def test_small_images_are_means_of_four_pixels(pairs):
    arrays, found = pairs
    pictures = arrays["images"].astype(np.float64)
    means = (
        pictures[:, ::2, ::2]
        + pictures[:, 1::2, ::2]
        + pictures[:, ::2, 1::2]
        + pictures[:, 1::2, 1::2]
    ) / 4
    train = means[arrays["image_split"] == 0]
    expected = (means[found["valid"][0]] - train.mean()) / train.std()
    ours = load_dataset("digits", split="valid").inputs["image"][:, 0].numpy()
    assert np.allclose(ours, expected, atol=1e-5)


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("level", [0.5, 1.0, 3.0])
def test_the_noise_dial(level):
    clean, noisy = (
        load_dataset("digits", samples=1000, noise=noise) for noise in (None, {"image": level})
    )
    x, y = (d.inputs["image"].flatten().double().numpy() for d in (clean, noisy))
    assert np.corrcoef(x, y)[0, 1] == pytest.approx(1 / np.sqrt(1 + level**2), abs=0.01)
    assert y.var() == pytest.approx(1, abs=0.03)
    assert y.mean() == pytest.approx(0, abs=0.03)
    assert torch.equal(clean.inputs["audio"], noisy.inputs["audio"])  # bit for bit
    assert torch.equal(clean.labels, noisy.labels)


def test_no_noise_is_the_clean_data():
    noise = {"image": 0.0, "audio": 0}
    assert same(load_dataset("digits", noise=noise), load_dataset("digits"))


def test_noise_differs_by_split_modality_and_sample():
    def draw(split, view):
        parts = [
            load_dataset("mfeat", split=split, noise=noise).inputs[view].double()
            for noise in ({view: 1.0}, None)
        ]
        return (parts[0] * 2**0.5 - parts[1]).numpy().ravel()[:25000]

    draws = [draw("train", "fou"), draw("valid", "fou"), draw("train", "kar")]
    draws.append(np.roll(draws[0], 76))  # the next sample
    assert abs(np.corrcoef(draws) - np.eye(4)).max() < 0.05


# ---------------------------------------------------------------- batches


@pytest.mark.parametrize("seed", [None, 7])
def test_batches_are_dicts_of_tensors(seed):
    dataset = load_dataset("emoji", split="valid", samples=10)
    parts = list(batches(dataset, 4, seed))
    assert [len(batch["label"]) for batch in parts] == [4, 4, 2]
    index = torch.cat([batch["index"] for batch in parts])
    assert sorted(index.tolist()) == list(range(10))
    assert (index.tolist() == list(range(10))) is (seed is None)
    for batch in parts:
        assert list(batch) == ["picture", "name", "label", "index"]
        assert batch["label"].dtype == batch["index"].dtype == torch.int64
        assert batch["picture"].dtype == batch["name"].dtype == torch.float32
        assert torch.equal(batch["label"], dataset.labels[batch["index"]])
        assert torch.equal(batch["name"], dataset.inputs["name"][batch["index"]])


def test_the_seed_decides_the_order_of_the_batches():
    dataset = load_dataset("mfeat", samples=50)
    first, again, other = (
        [batch["index"].tolist() for batch in batches(dataset, 16, seed)] for seed in (1, 1, 2)
    )
    assert first == again != other


def test_batches_of_a_subset_keep_the_index_of_the_whole():
    dataset = load_dataset("mfeat", samples=50)
    (batch,) = batches(Subset(dataset, [40, 3, 8]), 4, None)
    assert batch["index"].tolist() == [40, 3, 8]
    assert torch.equal(batch["kar"], dataset.inputs["kar"][[40, 3, 8]])


def test_a_plain_data_loader_can_read_a_set():
    dataset = load_dataset("mfeat", samples=10)
    batch = next(iter(DataLoader(dataset, 4)))
    assert batch["fou"].shape == (4, 76)
    assert dataset[5]["index"] == 5
    assert torch.equal(dataset[5]["fou"], dataset.inputs["fou"][5])


# ---------------------------------------------------------------- errors


def test_importing_the_data_sets_needs_no_unix_and_loads_nothing_slow():
    code = """
import sys
sys.modules.update(dict.fromkeys(["fcntl", "resource", "pwd", "grp"]))  # as on Windows
import igm.datasets
slow = {"librosa", "soundfile", "cv2", "av", "transformers", "torchvision", "sklearn", "scipy"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cifar", {}, "unknown data set 'cifar': use one of digits, mfeat, emoji"),
        ("digits", {"split": "dev"}, "unknown split 'dev': use one of train, valid, test"),
        ("digits", {"noise": {"video": 1}}, "unknown modality 'video' in noise: .*image, audio"),
        ("digits", {"noise": {"image": -1}}, "noise of 'image' must be 0 or above, got -1"),
        ("digits", {"noise": {"image": float("nan")}}, "noise of 'image' must be 0 or above"),
        ("digits", {"image_size": 20}, "image_size must be 14 or 28, got 20"),
        ("mfeat", {"views": ["fou", "abc"]}, "unknown view abc: use some of fou, fac"),
        ("mfeat", {"views": []}, "unknown view .*use some of fou"),
        ("mfeat", {"samples": 1201}, "from 1 to 1200 in the train split, got 1201"),
        ("emoji", {"samples": 0}, "samples must be from 1 to"),
    ],
)
def test_bad_values_are_named_with_what_would_do(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset(name, **options)


def test_missing_data_is_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not there: .*--data_root"):
        load_dataset("digits", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"digits\.npz is not there: .*make\.py digits"):
        load_dataset("digits", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"<html>not found</html>"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "emoji").mkdir()
    (tmp_path / "emoji" / "emoji.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"emoji\.npz is damaged: .*make\.py emoji"):
        load_dataset("emoji", tmp_path)
