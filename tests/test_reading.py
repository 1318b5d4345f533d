"""datasets/reading.py and loading: a sample depends on seed, draw and place, and on nothing else."""

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from igm.datasets import media, synthetic
from igm.datasets.cache import Cache
from igm.datasets.reading import Item, MediaSet, Pictures, Spectrogram
from igm.loading import batches, hold_out, steps


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Twelve clips of two classes, each with a sound and five frames."""
    folder, rng, found = tmp_path_factory.mktemp("clips"), np.random.default_rng(0), []
    for i in range(12):
        sound = folder / f"{i}.wav"
        synthetic.write_wav(sound, synthetic.tones(i % 2, 2, 0.2, 8000, rng, 0.2), 8000)
        for k in range(5):
            image = synthetic.picture(i % 2, 2, 40 + i, rng, 0.0)
            image[:8, :8] = 50 * k  # says which frame it is
            synthetic.write_jpeg(folder / f"{i}" / f"{k}.jpg", image, 95)
        found.append(Item(f"clip {i}", i % 2, i + 1, {"audio": sound, "video": folder / f"{i}"}))
    return found


def media_set(items, train=True, cache=None, seed=0, **options):
    options = {"size": 32, "count": 1} | options
    readers = {"audio": Spectrogram(8000, 0.5), "video": Pictures("video", **options)}
    return MediaSet(items, ["low", "high"], readers, train, seed, cache)


def read(dataset, seed=1, workers=0, batch_size=5, **options):
    found = list(batches(dataset, batch_size, seed, workers=workers, **options))
    return {name: torch.cat([batch[name] for batch in found]) for name in found[0]}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("choice", ["first", "random"])
@pytest.mark.parametrize("cached", [False, True])
def test_workers_change_nothing(tmp_path, items, choice, cached):
    def fresh(name):
        cache = Cache(tmp_path / name) if cached else None
        return media_set(items, choice=choice, count=2, cache=cache)

    first = read(fresh("a"))
    assert first["audio"].shape == (12, 1, 257, 12) and first["video"].shape == (12, 2, 3, 32, 32)
    for name, workers in (("a", 0), ("a", 2), ("b", 2), ("c", 3)):
        assert equal(first, read(fresh(name), workers=workers))


def test_a_sample_does_not_depend_on_its_batch_or_neighbours(items):
    dataset = media_set(items, choice="random")
    whole, pairs = read(dataset, batch_size=12), read(dataset, batch_size=2)
    assert equal(whole, pairs)
    video = read(dataset, modalities=["video"])
    assert torch.equal(video["video"], whole["video"]) and "audio" not in video
    some = dataset.subset([7, 2]).view(draw=1)[0]
    assert some["index"] == 7
    assert torch.equal(some["video"], whole["video"][whole["index"].tolist().index(7)])


def test_epochs_and_seeds_draw_other_crops(items):
    def crops(dataset, seed):
        found = read(dataset, seed)
        return found["video"][found["index"].argsort()]

    dataset = media_set(items)
    first = crops(dataset, 1)
    assert torch.equal(first, crops(dataset, 1))
    for other in (crops(dataset, 2), crops(media_set(items, seed=1), 1)):
        assert sum(torch.equal(a, b) for a, b in zip(first, other)) == 0


def test_the_global_generators_are_left_alone(items):
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    read(media_set(items, choice="random"))
    assert torch.rand(1).item() == pytest.approx(
        torch.rand(1, generator=torch.Generator().manual_seed(3)).item()
    )
    assert np.random.rand() == np.random.RandomState(3).rand()  # noqa: NPY002


def test_evaluation_reads_the_same_in_every_pass(items):
    dataset = media_set(items, train=False, choice="random", count=2)
    a, b = read(dataset, None), read(dataset.evaluating(), 5)
    order = b["index"].argsort()
    assert torch.equal(a["video"], b["video"][order])


@pytest.mark.parametrize(
    ("choice", "count", "expected"),
    [
        ("first", 2, [0, 1]),
        ("spread", 1, [2]),
        ("spread", 2, [1, 3]),
        ("random", 5, [0, 1, 2, 3, 4]),
        ("first", 7, [0, 1, 2, 3, 4, 4, 4]),  # a clip that is too short repeats its last frame
        ("spread", 6, [0, 1, 2, 3, 4, 4]),
        ("random", 6, [0, 1, 2, 3, 4, 4]),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_which_frames_are_taken(items, choice, count, expected, train):
    reader = Pictures("video", count=count, choice=choice)
    paths = reader.paths(items[0], np.random.default_rng(0), train)
    assert [int(path.stem) for path in paths] == expected


def test_random_frames_come_in_order_and_all_come_up(items):
    reader = Pictures("video", count=2, choice="random")
    drawn = [
        [int(path.stem) for path in reader.paths(items[0], np.random.default_rng(s), True)]
        for s in range(60)
    ]
    assert all(a < b for a, b in drawn)
    assert len({tuple(d) for d in drawn}) == 10  # 5 over 2


def test_evaluation_values_against_pillow_and_torchvision(items):
    from torchvision.transforms import v2

    sample = media_set(items, train=False, count=2)[3]
    for k in range(2):
        image = np.array(Image.open(items[3].files["video"] / f"{k}.jpg"))
        resized = v2.functional.resize(torch.from_numpy(image).permute(2, 0, 1), [32, 32])
        mean, std = (np.array(v)[:, None, None] for v in (media.MEAN, media.STD))
        expected = (resized.numpy() / 255 - mean) / std
        assert np.abs(sample["video"][k].numpy() - expected).max() < 1e-4


def test_bgr_swaps_red_and_blue_but_not_the_normalisation(items):
    rgb, bgr = (
        media_set(items, train=False, order=order)[0]["video"][0] for order in ("RGB", "BGR")
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (media.MEAN, media.STD))
    assert torch.allclose((rgb * std + mean).flip(0), bgr * std + mean, atol=1e-5)
    assert not torch.allclose(rgb, bgr, atol=0.1)


def test_the_frames_of_a_clip_get_one_crop(items):
    sample = media_set(items, count=3)[0]
    reader = Pictures("video", 32, 3)
    images = [media.read_image(p) for p in reader.paths(items[0], None, True)]
    same = np.stack([images[0]] * 3)
    rng = np.random.default_rng(0)
    alone = media.random_crop(torch.from_numpy(same).permute(0, 3, 1, 2), 32, rng)
    assert torch.equal(alone[0], alone[2])
    assert sample["video"].shape == (3, 3, 32, 32)


def test_the_cache_rounds_spectrograms_to_float16_and_nothing_else(tmp_path, items):
    exact = read(media_set(items), None)
    for _ in range(2):
        cached = read(media_set(items, cache=Cache(tmp_path)), None)
        assert torch.equal(cached["video"], exact["video"])
        assert torch.equal(cached["audio"], exact["audio"].half().float())
    assert (cached["audio"] - exact["audio"]).abs().max() <= 2**-8


def test_holding_out_reads_no_file_and_does_not_augment(items):
    gone = [Item(i.name, i.label, i.line, {m: p / "no" for m, p in i.files.items()}) for i in items]
    train, valid = hold_out(media_set(gone), 0.5, seed=0)
    assert (len(train), len(valid)) == (6, 6)
    assert valid.labels.bincount().tolist() == [3, 3]
    assert not set(train.index.tolist()) & set(valid.index.tolist())
    assert train.train and not valid.train


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [("sound", "is empty"), ("frames", "no folder of frames"), ("frame", "not a picture")],
)
def test_an_unreadable_file_is_one_clear_error(tmp_path, items, workers, damage, reason):
    files = dict(items[0].files)
    if damage == "sound":
        files["audio"] = tmp_path / "empty.wav"
        files["audio"].touch()
    else:
        files["video"] = tmp_path / "frames"
    if damage == "frame":
        files["video"].mkdir()
        (files["video"] / "0.jpg").write_bytes(b"no picture")
    bad = [*items[:3], Item("bad one", 0, 9, files)]
    with pytest.raises(ValueError, match=reason) as caught:
        read(media_set(bad), workers=workers)
    assert "'bad one'" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("choice", ["first", "random", "spread"])
@pytest.mark.parametrize("train", [False, True])
def test_a_short_clip_repeats_its_last_frame(items, choice, train):
    video = media_set(items, train, choice=choice, count=7)[0]["video"]
    assert video.shape == (7, 3, 32, 32)
    assert torch.equal(video[4], video[5]) and torch.equal(video[4], video[6])
    assert not torch.equal(video[3], video[4])
    if not train:
        assert torch.equal(video[:5], media_set(items, train, choice=choice, count=5)[0]["video"])


def test_frames_are_taken_as_people_count(tmp_path, items):
    folder = tmp_path / "clip"
    for k in range(1, 12):
        image = np.full((40, 40, 3), 20 * k, np.uint8)
        synthetic.write_jpeg(folder / f"{k}.jpg", image)
    item = Item("clip", 0, 1, {"video": folder})
    paths = Pictures("video", 32, 3).paths(item, None, False)
    assert [path.name for path in paths] == ["1.jpg", "2.jpg", "3.jpg"]
    frames = Pictures("video", 32, 11).read(item, None, False, None)
    assert frames.mean((1, 2, 3)).argsort().tolist() == list(range(11))


def test_a_reader_decodes_all_that_training_may_draw(tmp_path, items):
    """igm check finds a damaged frame just where some epoch of training could meet it."""
    folder = tmp_path / "clip"
    for k in range(5):
        synthetic.write_jpeg(folder / f"{k}.jpg", np.full((40, 40, 3), 40 * k, np.uint8))
    item = Item("clip", 0, 1, {"video": folder})
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:-40])
    drawn = Pictures("video", 32, 2, "random")
    for reader, train in ((drawn, True), (Pictures("video", 32, 5), True)):
        with pytest.raises(media.Unreadable, match="4.jpg is a damaged picture"):
            reader.verify(item, train)
    for reader in (drawn, Pictures("video", 32, 4), Pictures("video", 32, 1, "spread")):
        assert reader.verify(item, False) == ""  # such as these take no damaged frame
    (folder / "4.jpg").unlink()
    said = Pictures("video", 32, 5).verify(item, True)
    assert said == "fewer than 5 frames in video: the last is repeated"
    synthetic.write_jpeg(folder / "4.jpg", np.zeros((44, 40, 3), np.uint8))
    reader = Pictures("video", 32, 5)
    with pytest.raises(media.Unreadable, match="4.jpg has another size"):
        reader.verify(item, True)
    assert reader.verify(item, False) == "" and len(reader.read(item, None, False, None)) == 5


def test_files_that_are_missing_are_found_before_any_is_read(tmp_path, items):
    gone = [Item(i.name, i.label, i.line, dict(i.files)) for i in items]
    gone[3].files["video"] = tmp_path / "no clip"
    gone[7].files["audio"] = tmp_path / "empty.wav"
    (tmp_path / "empty.wav").touch()
    dataset = media_set(gone)
    assert dataset.missing_files() == [tmp_path / "no clip", tmp_path / "empty.wav"]
    assert dataset.missing_files(["audio"]) == [tmp_path / "empty.wav"]
    assert dataset.subset([0, 7]).view(["video"]).missing_files() == []
    assert media_set(items).missing_files() == []


def test_frames_of_different_sizes_are_refused_in_training(tmp_path, items):
    for k, size in enumerate((40, 44)):
        synthetic.write_jpeg(tmp_path / f"{k}.jpg", np.zeros((size, size, 3), np.uint8))
    item = Item("mixed", 0, 1, items[0].files | {"video": tmp_path})
    with pytest.raises(ValueError, match="1.jpg has another size than the first frame"):
        media_set([item], count=2)[0]


@pytest.mark.parametrize(
    "options", [{"choice": "last"}, {"order": "GBR"}, {"size": 3}, {"count": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError):
        Pictures("video", **options)


def test_the_shards_of_a_step_are_read_by_workers_too(items):
    dataset, whole = media_set(items), {}
    for size, shards in steps(dataset, 6, 1, shards=3, workers=2):
        assert size == 6 and [len(s["label"]) for s in shards] == [2, 2, 2]
        for shard in shards:
            for i, video in zip(shard["index"].tolist(), shard["video"]):
                whole[i] = video
    expected = read(dataset, 1)
    for i, video in zip(expected["index"].tolist(), expected["video"]):
        assert torch.equal(whole[i], video)


def test_librosa_is_loaded_before_workers_are_forked(items, monkeypatch):
    done = []
    monkeypatch.setattr(media, "log_spectrogram", lambda samples: done.append(len(samples)))
    with media_set(items).view(["video"]).forking():
        assert not done
    with media_set(items).forking():
        assert done == [512]


def test_wav_files_are_what_the_fixture_says(items):
    assert soundfile.info(items[0].files["audio"]).samplerate == 8000
