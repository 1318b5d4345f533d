"""What each of the paper's data sets does alike: its sample, igm prepare, igm check, loading, its config.

What only one of them does is tested in its own file, e.g. test_cremad.py.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
import torch
from prepared import half_written, run, tree

import igm
from igm.cli.models import NOTES
from igm.datasets.layout import check, check_report
from igm.datasets.media import Unreadable
from igm.datasets.tables import Faults
from igm.loading import batches, held_out
from igm.methods import find_method

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"


@dataclass
class Facts:
    """What the tests have to know of a data set and its sample."""

    raw: str  # the annotations of train in the raw download
    annotations: str  # those of a split in the layout
    source: str  # a pattern of raw files; each belongs to one sample of train, or to one picture
    drawn: str  # a pattern of names of raw files that have other contents with another seed
    sizes: tuple[int, int | None, int]  # samples of train, valid and test
    decoded: int  # files that a full check reads
    shapes: dict[str, tuple[int, ...]]
    report: tuple[str, ...]  # patterns in what igm check prints
    published: tuple[int, ...]
    settings: dict  # the paper's, in the config


TEXT_IMAGE = {"text": (128,), "image": (3, 224, 224)}
TWEETS = {"optimizer": "adam", "lr": 1e-5, "warmup": 2, "batch_size": 12, "tau": 0.4, "rho": 1e-15}
CLIPS = {"lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-4, "tau": 0.4, "rho": 1e-10}
FACTS = {
    "cremad": Facts(
        "train.csv",
        "annotations/{}.csv",
        "AudioWAV/1003_*.wav",
        r"\.(wav|flv)$",
        (72, None, 24),
        192,
        {"audio": (1, 257, 188), "video": (1, 3, 224, 224)},
        (r"^train +72 +6,698 +6 of 6$", r"NEU 12 \(973\)", "a share of train will be held out"),
        (6698, 744),
        CLIPS | {"batch_size": 12, "eval_batch_size": 64},
    ),
    "kinetics_sounds": Facts(
        "train.csv",
        "annotations/{}.csv",
        "train/bowling/*.mp4",
        r"\.(mp4|csv)$",
        (20, 8, 8),
        72,
        {"audio": (1, 257, 1003), "video": (3, 3, 224, 224)},
        (
            r"^train +20 +14,799 +4 of 31$",
            "^note: train: 20 samples, published 14,799$",
            "^note: test: 8 samples, published 2,597$",
        ),
        (14799, 2597),
        CLIPS | {"batch_size": 12, "eval_batch_size": 64},
    ),
    "twitter2015": Facts(
        "twitter2015/train.tsv",
        "annotations/{}_data.tsv",
        "twitter2015_images/*.jpg",
        r"\.(jpg|tsv|safetensors)$",
        (150, 45, 45),
        240,
        TEXT_IMAGE,
        (
            r"^train +150 +3,179 +3 of 3$",
            r"^note: test: other counts than published .*\(113\).*\(607\).*\(317\)",
        ),
        (3179, 1122, 1037),
        TWEETS | {"stage_epochs": [10, 30, 10, 30]},
    ),
    "sarcasm": Facts(
        "text/train.txt",
        "annotations/{}_data.csv",
        "dataset_image/*.jpg",
        r"\.(jpg|safetensors)$|^text/",
        (150, 45, 45),
        240,
        TEXT_IMAGE,
        (
            r"^train +150 +19,816 +2 of 2$",
            r"^note: train: .*not sarcastic 7\d \(11,174\), sarcastic 7\d \(8,642\)$",
            r"^note: valid: 45 samples, published 2,410$",
        ),
        (19816, 2410, 2409),
        TWEETS | {"stage_epochs": [2, 30, 2, 30]},
    ),
    "nvgesture": Facts(
        "nvgesture_train_correct_cvpr2016_v2.lst",
        "nvgesture_{}_correct_v2.lst",
        "Video_data/class_02/subject*/sk_color.avi",
        r"\.(avi|lst)$",
        (20, None, 10),
        90,
        {"depth": (1, 80, 224, 224), "rgb": (3, 80, 224, 224), "flow": (2, 80, 224, 224)},
        (
            "^note: train: 20 samples, published 1,050$",
            "^note: test: 10 samples, published 482$",
        ),
        (1050, 482),
        {"batch_size": 6, "tau": 0.4, "rho": 1e-15},
    ),
}


@pytest.fixture(scope="module", params=FACTS)
def data_name(request):
    return request.param


@pytest.fixture(scope="module")
def facts(data_name):
    return FACTS[data_name]


def items_of(layout, root, split="train"):
    faults = Faults()
    found = layout.rows(root, split, faults)
    assert not faults
    return found


def report_of(made, layout):
    return json.loads((made / layout.folder / "report.json").read_text())


# ---------------------------------------------------------------- the sample


def test_the_sample_is_small_and_a_function_of_its_seed(made, layout, facts, tmp_path):
    first = tree(made / "raw")
    assert 3e5 < sum(map(len, tree(made, but=()).values())) < 3e6
    assert sum(len(c) for name, c in first.items() if "tiny-bert" in name) < 400_000
    layout.sample(tmp_path / "again", 0)
    assert tree(tmp_path / "again") == first
    layout.sample(tmp_path / "other", 1)
    one, other = (
        {content for name, content in files.items() if re.search(facts.drawn, name)}
        for files in (first, tree(tmp_path / "other"))
    )
    assert one and not one & other


# ---------------------------------------------------------------- igm prepare


def test_the_manifest_has_the_checksum_of_every_file(made, layout):
    there = tree(made / layout.folder)
    manifest = json.loads(there.pop("manifest.json"))["files"]
    del there["report.json"]
    assert manifest.keys() == there.keys()
    for name, content in there.items():
        assert manifest[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert manifest[name]["bytes"] == len(content)


def test_several_workers_make_the_same_files(made, layout, tmp_path):
    assert run(layout, made / "raw", tmp_path / "out", workers=2) == report_of(made, layout)
    assert tree(tmp_path / "out") == tree(made / layout.folder)


def test_a_second_run_makes_nothing_again_and_mends_what_is_gone(made, layout, tmp_path):
    raw, out = made / "raw", tmp_path / "out"
    first = run(layout, raw, out)

    def times():
        names = json.loads((out / "manifest.json").read_text())["files"]
        media = [out / name for name in names if not name.endswith((".csv", ".tsv", ".lst"))]
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in media}

    before, files = times(), tree(out)
    item = items_of(layout, out)[3]
    for path in {*item.files.values()}:
        path.unlink() if path.is_file() else shutil.rmtree(path)
    assert run(layout, raw, out, workers=2) == first
    assert tree(out) == files
    changed = {path for path, stamp in times().items() if before[path] != stamp}
    assert changed and all({path, path.parent} & {*item.files.values()} for path in changed)
    after = times()
    assert run(layout, raw, out) == first and times() == after


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("empty", "is empty"),
        ("pointer", "is a Git LFS pointer.*git lfs pull"),
        ("link", "is a link out of .*--follow_links true"),
    ],
)
def test_a_source_that_cannot_be_used_is_skipped_and_counted(
    made, layout, facts, raw, tmp_path, spoil, reason
):
    source, out = sorted(raw.glob(facts.source))[1], tmp_path / "out"
    if spoil == "link":
        outside = source.rename(tmp_path / source.name)
        source.symlink_to(outside)
    else:
        source.write_bytes({"empty": b"", "pointer": POINTER}[spoil])
    report, whole = run(layout, raw, out, workers=2), report_of(made, layout)
    (name,) = set(report["skipped"]) - set(whole["skipped"])
    assert re.search(f"{source.name} {reason}", report["skipped"][name])
    before, after = (
        [i for split in layout.published for i in items_of(layout, folder, split)]
        for folder in (made / layout.folder, out)
    )
    kept = {item.name for item in after}
    lost = [item for item in before if item.name not in kept]
    assert lost and sum(sum(c.values()) for c in report["counts"].values()) == sum(
        sum(c.values()) for c in whole["counts"].values()
    ) - len(lost)
    homes = {p.relative_to(made / layout.folder) for item in lost for p in item.files.values()}
    assert not [home for home in homes if (out / home).exists()]
    assert half_written(out) == []
    assert check(layout, out, full=True, progress=False).usable
    assert run(layout, raw, out) == report  # also when it is run again
    with pytest.raises(ValueError, match=f"{reason}|has no sound track"):  # as one of Kinetics has
        run(layout, raw, tmp_path / "strict", strict=True)
    assert set(tree(tmp_path / "strict")) <= set(tree(out))  # and no annotations
    assert not (tmp_path / "strict" / facts.annotations.format("train")).exists()
    if spoil == "link":
        followed = run(layout, raw, tmp_path / "all", follow_links=True)
        assert (followed["files"], followed["counts"]) == (whole["files"], whole["counts"])
        assert followed["skipped"].keys() == whole["skipped"].keys()
        assert not [path for path in (tmp_path / "all").rglob("*") if path.is_symlink()]


def test_where_nothing_can_be_used_that_is_an_error(layout, raw, tmp_path):
    for path in raw.rglob("*"):
        if path.suffix in (".wav", ".flv", ".mp4", ".avi", ".jpg"):
            path.write_bytes(b"")
    message = "no sample of the train split could be used.* skipped, .*(is empty|no sound track)"
    with pytest.raises(ValueError, match=message):
        run(layout, raw, tmp_path / "out")


def test_a_raw_folder_that_is_not_there_and_an_output_that_is_a_file_are_refused(
    made, layout, tmp_path
):
    with pytest.raises(FileNotFoundError, match="raw folder .* is not there"):
        run(layout, tmp_path / "no", tmp_path / "out")
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file: give a folder"):
        run(layout, made / "raw", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


# ---------------------------------------------------------------- annotations

BROKEN = {
    "empty": (lambda text: b"", "is empty"),
    "a pointer": (lambda text: POINTER, "is a Git LFS pointer"),
    "UTF-16": (lambda text: text.encode("utf-16"), "is UTF-16: save it as UTF-8"),
    "Latin-1": (lambda text: text.split("\n")[0].encode() + b"\n\xff\xfe\xfa\n", ":2: not UTF-8: save"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_annotations_that_are_no_text_are_one_error(layout, facts, raw, root, tmp_path, case):
    spoil, message = BROKEN[case]
    for path in (raw / facts.raw, root / facts.annotations.format("train")):
        path.write_bytes(spoil(path.read_text(encoding="utf-8-sig")))
        message_here = rf"{re.escape(path.name)} ?{message}"
        if path.is_relative_to(raw):
            with pytest.raises(ValueError, match=message_here):
                run(layout, raw, tmp_path / "out")
            assert tree(tmp_path / "out") == {}
    with pytest.raises(ValueError, match=message_here):
        layout.load(root, "train")
    found = check(layout, root, progress=False)
    assert not found.usable and any(re.search(message_here, fault) for fault in found.faults)


def test_annotations_may_come_from_windows(layout, facts, root):
    path = root / facts.annotations.format("train")
    before = [(item.name, item.label) for item in items_of(layout, root)]
    text = path.read_text(encoding="utf-8")
    path.write_bytes(f"{text}\n".replace("\n", "\r\n").encode("utf-8-sig"))
    if layout.name == "twitter2015":  # the names have a hash of the text
        assert before == [(item.name, item.label) for item in items_of(layout, root)]
    assert [label for _, label in before] == [item.label for item in items_of(layout, root)]


# ---------------------------------------------------------------- igm check


def test_the_sample_is_usable_and_unlike_the_published_counts(made, layout, facts):
    found = check(layout, made, full=True, progress=False)
    assert found.usable and not found.faults
    report = check_report(layout, found)
    for pattern in facts.report:
        assert re.search(pattern, report, re.M), (pattern, report)
    assert report.endswith(f"\nusable ({facts.decoded} files decoded)")
    assert [sum(counts.values()) for counts in layout.published.values()] == [*facts.published]


def test_a_sample_in_two_splits_is_a_fault(layout, facts, root):
    train, test = (root / facts.annotations.format(split) for split in ("train", "test"))
    shutil.copy(train, test)
    names = [item.name for item in items_of(layout, root)]
    found = check(layout, root, progress=False)
    expected = f"{len(names)} samples are in train and in test, e.g. {min(names)}"
    assert not found.usable and expected in found.faults


def test_a_missing_and_an_empty_file_are_named_with_their_line(layout, root):
    missing, empty = items_of(layout, root)[3], items_of(layout, root)[5]
    gone, nothing = (next(p for p in i.files.values() if p.is_file()) for i in (missing, empty))
    gone.unlink()
    nothing.write_bytes(b"")
    found = check(layout, root, sample=0, progress=False)  # without decoding
    for path, reason, item in ((gone, "missing", missing), (nothing, "empty", empty)):
        assert f"{path} is {reason} (line {item.line} of the annotations)" in found.faults
        data = layout.load(root, "train", cache=False, held_out=0.01)
        valid = layout.load(root, "valid", cache=False, held_out=0.01)
        (data, i) = next(
            (part, i)
            for part in (data, valid)
            for i, other in enumerate(part.items)
            if other.name == item.name
        )
        with pytest.raises(Unreadable, match=rf"{path.name} is {reason}.*\(sample '{item.name}'"):
            data[i]


def test_a_missing_split_or_folder_is_named(layout, facts, root, tmp_path):
    (root / facts.annotations.format("test")).unlink()
    found = check(layout, root, progress=False)
    assert any("no annotations of the test split" in fault for fault in found.faults)
    remedy = f"no annotations of the test split: `igm prepare {layout.name}`"
    with pytest.raises(FileNotFoundError, match=remedy):
        layout.load(root, "test")
    with pytest.raises(FileNotFoundError, match="is not there"):
        check(layout, tmp_path / "nowhere")


# ---------------------------------------------------------------- loading


def test_a_sample_has_its_modalities_in_order_and_its_label(made, layout, facts):
    data = layout.load(made, "test", cache=False)
    assert data.shapes == facts.shapes
    assert data.modalities == list(facts.shapes) == list(layout.readers())
    assert data.classes == list(layout.classes)
    sample = data[1]
    assert list(sample) == [*facts.shapes, "label", "index"]
    for name in facts.shapes:
        assert sample[name].dtype == (torch.int64 if name == "text" else torch.float32)
        assert torch.isfinite(sample[name]).all()
    assert sample["label"] == data.items[1].label == data.labels[1] and sample["index"] == 1


def test_the_splits_have_their_sizes_from_the_folder_and_the_one_above(made, layout, facts):
    for place in (made, made / layout.folder):
        sizes = [len(layout.load(place, split)) for split in ("train", "valid", "test")]
        assert sizes[2] == facts.sizes[2]
        if facts.sizes[1] is None:
            assert sizes[0] + sizes[1] == facts.sizes[0]
        else:
            assert sizes == [*facts.sizes]


def test_training_samples_are_drawn_anew_in_each_pass_and_others_are_not(made, layout):
    train, test = (layout.load(made, s, cache=False, size=32) for s in ("train", "test"))
    first, again, other = (train.view(draw=draw)[0] for draw in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    together = train.view(draw=2).__getitems__([0, 1, 2])  # by several threads
    assert all(torch.equal(together[0][name], other[name]) for name in other)
    first, other = (test.view(draw=draw)[0] for draw in (1, 2))
    assert all(torch.equal(first[name], other[name]) for name in first)
    assert train.train and not test.train


def test_batches_are_the_same_from_any_number_of_workers(made, layout, capfd):
    data = layout.load(made, "train", samples=10, cache=False, size=32)
    runs = [list(batches(data, 4, seed=3, workers=workers)) for workers in (0, 2)]
    for a, b in zip(*runs, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    other = [batch["index"] for batch in batches(data, 4, seed=4)]
    assert not all(torch.equal(a["index"], b) for a, b in zip(runs[0], other))
    assert "parallelism" not in capfd.readouterr().err  # the tokenizer's, about forks


def test_without_a_valid_split_a_share_of_each_class_of_train_is_held_out(layout, facts, root):
    (root / facts.annotations.format("valid")).unlink(missing_ok=True)
    items = items_of(layout, root)
    train, valid, again, other = (
        layout.load(root, split, seed=seed, held_out=0.3, cache=False)
        for split, seed in (("train", 0), ("valid", 0), ("valid", 0), ("valid", 1))
    )
    names = [[item.name for item in part.items] for part in (train, valid, again, other)]
    assert not set(names[0]) & set(names[1])
    assert {*names[0], *names[1]} == {item.name for item in items} and len(items) == facts.sizes[0]
    assert names[1] == names[2] != names[3]
    classes = Counter(item.label for item in items)
    expected = {label: max(1, round(0.3 * n)) for label, n in classes.items()}
    assert Counter(valid.labels.tolist()) == expected
    assert valid.notes == train.notes == {"held_out": 0.3, "held_out_samples": len(valid)}
    assert train.train and not valid.train
    found = check(layout, root, progress=False)
    assert found.usable and any("no valid split" in remark for remark in found.remarks)


def test_a_valid_split_that_is_there_is_used(layout, facts, root):
    test, valid = (root / facts.annotations.format(split) for split in ("test", "valid"))
    test.rename(valid)
    data = layout.load(root, "valid")
    assert len(data) == facts.sizes[2] and data.notes == {}
    assert len(layout.load(root, "train")) == facts.sizes[0]


def test_samples_are_drawn_by_the_seed(made, layout):
    names = [
        [item.name for item in layout.load(made, samples=9, seed=s, cache=False).items]
        for s in (0, 0, 1)
    ]
    assert names[0] == names[1] != names[2] and len(names[0]) == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokes": 2}, "unknown reading option 'tokes' of {name}: use some of "),
        ({"samples": 1000}, r"samples must be from 1 to \d+ in the train split, got 1000"),
        ({"held_out": 1.5}, "held_out must be between 0 and 1, got 1.5"),
        ({"split": "dev"}, "unknown split 'dev': use one of train, valid, test"),
    ],
)
def test_bad_options_are_named(made, layout, options, message):
    with pytest.raises(ValueError, match=message.format(name=layout.name)):
        layout.load(made, **options)


def test_holding_out_takes_a_share_of_every_class():
    labels = torch.tensor([0, 1, 2, 3]).repeat_interleave(torch.tensor([100, 10, 2, 1])).numpy()
    kept = held_out(labels, 0.2, 0)
    assert [int(kept[labels == c].sum()) for c in range(4)] == [20, 2, 1, 0]
    assert (kept == held_out(labels, 0.2, 0)).all() and (kept != held_out(labels, 0.2, 1)).any()


# ---------------------------------------------------------------- the config


def test_the_config_has_known_options_and_the_settings_of_the_paper(data_name, facts):
    path = Path(igm.__file__).parent / "configs" / f"{data_name}.json"
    config = json.loads(path.read_text())
    assert config["data"] == data_name
    kind = find_method(config["method"]).Settings
    settings = {field.name for field in fields(kind)}
    assert set(config) <= settings | set(NOTES)
    made = kind.make(**{name: value for name, value in config.items() if name in settings})
    assert {name: getattr(made, name) for name in facts.settings} == facts.settings
    network = {"feature": "paper"} if "text" in facts.shapes else None
    assert config.get("network") == network
