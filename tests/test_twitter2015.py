"""datasets/twitter2015.py, and text.py: tables of tweets in all their forms, token ids, and pictures."""

import csv
import json
import os
import pickle
import re
import shutil
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import prepared
import pytest
import torch
from PIL import Image
from prepared import half_written, tree
from torchvision import transforms

from igm.datasets import synthetic, text
from igm.datasets.cache import Cache
from igm.datasets.layout import check
from igm.datasets.media import Unreadable
from igm.datasets.reading import Item
from igm.datasets.tables import Faults
from igm.datasets.text import OPERATIONS, Photo, Tokens, caption, letters
from igm.datasets.twitter2015 import (
    CLASSES,
    TWITTER2015,
    Tweet,
    TweetTokens,
    rows,
    same_tweet,
)

IMAGES = "twitter2015_images"
RAW_HEADER = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String"
TEST_HEADER = "index\t#1 ImageID\t#2 String\t#2 String"

NAME = "twitter2015"

run = partial(prepared.run, TWITTER2015)


@pytest.fixture(scope="module")
def bert(made):
    return str(made / "raw" / "tiny-bert")


def raw_rows(raw, split):
    """label, picture, text, target of TomBERT's file, as its own code reads it: by place."""
    with open(raw / "twitter2015" / f"{split}.tsv", encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [tuple(line[1:]) for line in lines[1:]]


def write(path, *lines, end="\n", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + end for line in lines).encode(encoding))


# ---------------------------------------------------------------- the sample and what prepare makes of it


def test_the_raw_sample_has_the_form_of_the_download(made):
    raw = made / "raw"
    assert {p.name for p in raw.iterdir()} == {"twitter2015", IMAGES, "tiny-bert"}
    for split, n in (("train", 150), ("dev", 45), ("test", 45)):
        content = (raw / "twitter2015" / f"{split}.tsv").read_bytes()
        header, *lines = content.decode().removesuffix("\n").split("\n")
        assert header == (TEST_HEADER if split == "test" else RAW_HEADER)
        assert len(lines) == n and b"\r" not in content
        for number, line in enumerate(lines, 1):
            index, label, picture, tweet, target = line.split("\t")
            assert index == str(number) and label in "012" and tweet.count("$T$") == 1 and target
            assert (raw / IMAGES / picture).read_bytes()[:2] == b"\xff\xd8"
    everything = "".join(
        tweet for split in ("train", "dev", "test") for _, _, tweet, _ in raw_rows(raw, split)
    )
    assert '"' in everything and not everything.isascii()
    assert any(row[2].startswith('"') for row in raw_rows(raw, "train"))


def test_some_rows_of_the_sample_differ_in_the_target_only(made):
    tweets = defaultdict(list)
    for label, picture, tweet, target in raw_rows(made / "raw", "train"):
        tweets[picture, tweet.replace("$T$", target)].append((label, target))
    pairs = [found for found in tweets.values() if len(found) > 1]
    assert all(len({target for _, target in found}) == 2 for found in pairs)
    disputed = [found for found in pairs if len({label for label, _ in found}) == 2]
    assert 0 < len(disputed) < len(pairs) < len(tweets)


def test_the_tiny_bert_loads_like_a_real_one_and_knows_the_words(made, bert):
    from transformers import BertModel, BertTokenizer

    assert {p.name for p in Path(bert).iterdir()} == {
        "config.json",
        "vocab.txt",
        "model.safetensors",
    }
    model, report = BertModel.from_pretrained(bert, output_loading_info=True)
    assert not report["missing_keys"] and model.config.hidden_size == 64
    tokenizer = BertTokenizer.from_pretrained(bert)
    assert len(tokenizer) == model.config.vocab_size
    for _, _, tweet, target in raw_rows(made / "raw", "test"):
        pieces = tokenizer.tokenize(letters(tweet.replace("$T$", target)))
        assert pieces == letters(tweet.replace("$T$", target)).split()  # a whole word each


def test_words_tell_the_label_and_the_picture_less(made):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    found = {split: raw_rows(made / "raw", split) for split in ("train", "test")}
    labels = {split: [row[0] for row in table] for split, table in found.items()}
    words = CountVectorizer().fit([row[2] for row in found["train"]])
    said = {split: words.transform([row[2] for row in table]) for split, table in found.items()}
    seen = {
        split: np.stack([
            np.asarray(Image.open(made / "raw" / IMAGES / row[1]).resize((4, 4))).ravel() / 255
            for row in table
        ])
        for split, table in found.items()
    }  # fmt: skip
    scores = [
        LogisticRegression(max_iter=500)
        .fit(inputs["train"], labels["train"])
        .score(inputs["test"], labels["test"])
        for inputs in (said, seen)
    ]
    assert scores[0] > 0.75 and 0.4 < scores[1] < scores[0] - 0.1


def test_prepare_writes_the_layout(made):
    root, raw = made / "Twitter15", made / "raw"
    assert {p.name for p in root.iterdir()} - {".prepare"} == {
        "annotations",
        IMAGES,
        "manifest.json",
        "report.json",
    }
    for split, source in (("train", "train"), ("valid", "dev"), ("test", "test")):
        lines = (root / "annotations" / f"{split}_data.tsv").read_text(encoding="utf-8").split("\n")
        assert lines[0] == "index\tLabel\tImageID\tString\tTarget" and lines[-1] == ""
        assert [tuple(line.split("\t")[1:]) for line in lines[1:-1]] == raw_rows(raw, source)
    for path in (raw / IMAGES).iterdir():
        assert (root / IMAGES / path.name).read_bytes() == path.read_bytes()


def test_the_code_of_tombert_reads_what_prepare_writes(made):
    lines = (made / "Twitter15/annotations/train_data.tsv").read_text(encoding="utf-8").splitlines()
    label, picture, tweet, target = raw_rows(made / "raw", "train")[3]
    fields = lines[4].split("\t")
    assert (fields[1], fields[2], fields[3], fields[4]) == (label, picture, tweet, target)


def test_the_report_says_how_many_rows_share_a_tweet(raw, tmp_path):
    report = run(raw, tmp_path / "out")
    by_picture = defaultdict(list)
    for label, picture, _, _ in raw_rows(raw, "train"):
        by_picture[picture].append(label)
    shared = sum(len(found) for found in by_picture.values() if len(found) > 1)
    disputed = sum(len(found) for found in by_picture.values() if len(set(found)) > 1)
    best = sum(Counter(found).most_common(1)[0][1] for found in by_picture.values())
    assert report["notes"][0] == (
        f"train: {shared} of 150 rows share their tweet with another target's, {disputed} where the labels "
        f"differ: from the picture alone at most {best / 1.5:.1f} % can be right"
    )
    assert sum(report["counts"]["train"].values()) == 150 and report["skipped"] == {}


def test_rows_of_one_picture_are_one_tweet():
    def item(picture, label):
        return Item("", label, files={"image": Path(picture)})

    items = [
        item("a.jpg", 0),
        item("a.jpg", 2),
        item("a.jpg", 2),
        item("b.jpg", 1),
        item("b.jpg", 1),
    ]
    assert same_tweet([*items, item("c.jpg", 0)]) == {
        "tweets": 3,
        "rows": 6,
        "shared": 5,
        "disputed": 3,
        "ceiling": 5 / 6,
    }
    assert same_tweet([])["rows"] == 0


# ---------------------------------------------------------------- tables in all their forms

FORMS = {
    "TomBERT": [RAW_HEADER, "1\t2\ta.jpg\tjoy in $T$ !\tLima", "2\t0\tb – 1.jpg\tsad $T$\tOslo"],
    "TomBERT's test": [TEST_HEADER, "1\t2\ta.jpg\tjoy in $T$ !\tLima", "2\t0\tb – 1.jpg\tsad $T$\tOslo"],
    "no header": ["1\t2\ta.jpg\tjoy in $T$ !\tLima", "2\t0\tb – 1.jpg\tsad $T$\tOslo"],
    "ours": ["index\tLabel\tImageID\tString\tTarget", "1\t2\ta.jpg\tjoy in $T$ !\tLima", "2\t0\tb – 1.jpg\tsad $T$\tOslo"],
    "pandas": ["\tLabel\tImageID\tString\tString.1", "0\t2\ta.jpg\tjoy in $T$ !\tLima", "1\t0\tb – 1.jpg\tsad $T$\tOslo"],
    "another order": ["String\tTarget\tImageID\tLabel", "joy in $T$ !\tLima\ta.jpg\t2", "sad $T$\tOslo\tb – 1.jpg\t0"],
    "no target": ["ImageID\tLabel\tString", "a.jpg\t2\tjoy in $T$ !", "b – 1.jpg\t0\tsad $T$"],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_are_read_in_every_form(tmp_path, form, end, encoding):
    write(tmp_path / "annotations" / "dev.tsv", *FORMS[form], end=end, encoding=encoding)
    items = rows(tmp_path, "valid", faults := Faults())
    assert not faults
    assert [(i.label, i.files["image"].name, i.text) for i in items] == [
        (2, "a.jpg", "joy in $T$ !"),
        (0, "b – 1.jpg", "sad $T$"),
    ]
    told = form != "no target"
    assert [i.target for i in items] == (["Lima", "Oslo"] if told else ["", ""])
    assert [i.line for i in items] == ([1, 2] if form == "no header" else [2, 3])
    assert items[0].files["image"] == tmp_path / IMAGES / "a.jpg"


def test_quotes_are_characters(tmp_path):
    tweets = ['" joy in $T$', 'so "joy" in $T$', "joy ' in $T$ \"", '"']
    lines = [f'{i}\t2\t{i}.jpg\t{tweet}\t"Lima' for i, tweet in enumerate(tweets)]
    write(tmp_path / "annotations" / "train_data.tsv", RAW_HEADER, *lines)
    items = rows(tmp_path, "train", faults := Faults())
    assert [item.text for item in items] == tweets and not faults
    assert {item.target for item in items} == {'"Lima'}


def test_tomberts_files_can_be_used_as_they_are(raw, layout):
    (raw / "twitter2015").rename(raw / "annotations")
    data = {split: layout.load(raw, split, cache=False) for split in ("train", "valid", "test")}
    assert [len(part) for part in data.values()] == [150, 45, 45]
    assert data["test"].labels.tolist() == [
        int(row[0]) for row in raw_rows_in(raw / "annotations/test.tsv")
    ]


def raw_rows_in(path):
    return [line.split("\t")[1:] for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def test_every_row_has_a_name_of_its_own(made, tmp_path):
    names = [
        i.name for s in ("train", "valid", "test") for i in rows(made / "Twitter15", s, Faults())
    ]
    assert len(set(names)) == len(names) == 240
    alike = ["ImageID\tLabel\tString", *["a.jpg\t2\tjoy in Lima"] * 3]
    write(tmp_path / "annotations/train.tsv", *alike)  # without targets, such rows are no fault
    items = rows(tmp_path, "train", faults := Faults())
    assert not faults and len({item.name for item in items}) == 3


ROW = "1\t2\ta.jpg\tjoy in $T$ !\tLima"
WRONG = {
    "a header without a picture": (["id\tsentiment\tsource\ttweet", "1\t2\tweb\tjoy"], r":1: the header lacks ImageID \(or image, .*\); it has id, sentiment, source, tweet"),
    "an unknown header": (["a\tb\tc", "2\ta.jpg\tjoy"], r":1: the header lacks Label .*, ImageID .*, String .*; it has a, b, c"),
    "label": ([RAW_HEADER, ROW, ROW.replace("\t2\t", "\t3\t")], r":3: unknown label '3': use 0 negative"),
    "label in other words": ([RAW_HEADER, ROW.replace("\t2\t", "\tgood\t")], r":2: unknown label 'good'"),
    "no label": ([TEST_HEADER, "1\ta.jpg\tjoy in $T$ !\tLima"], r":2: unknown label 'a.jpg'"),
    "tab in the text": ([RAW_HEADER, ROW.replace("joy in", "joy\tin")], r":2: 6 columns in place of 5: .* a tab too many"),
    "two columns": ([RAW_HEADER, "1\t2"], r":2: 2 of 3 columns: separate them by commas or tabs"),
    "a way out": ([RAW_HEADER, ROW.replace("a.jpg", "a/..")], r":2: '..' is not the name of a picture"),
    "no picture": ([RAW_HEADER, ROW.replace("a.jpg", "")], r":2: '' is not the name of a picture"),
    "no text": ([RAW_HEADER, "1\t2\ta.jpg\t\tLima"], r":2: no text"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_line_is_named_and_nothing_is_written(raw, tmp_path, wrong):
    lines, message = WRONG[wrong]
    write(raw / "twitter2015" / "dev.tsv", *lines)
    with pytest.raises(ValueError, match=rf"dev\.tsv{message}"):
        run(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == {}
    shutil.copytree(raw / "twitter2015", tmp_path / "root" / "annotations")
    with pytest.raises(ValueError, match=rf"dev\.tsv{message}"):
        TWITTER2015.load(tmp_path / "root", "train")


def test_the_same_row_twice_is_a_fault_of_the_layout_and_left_out_by_prepare(raw, tmp_path):
    path = raw / "twitter2015" / "train.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    label = lines[7].split("\t")[1]
    twice = lines[7].replace(f"\t{label}\t", f"\t{(int(label) + 1) % 3}\t", 1)
    path.write_text("\n".join([*lines[:8], twice, *lines[8:]]), encoding="utf-8")
    shutil.copytree(raw / "twitter2015", tmp_path / "root" / "annotations")
    with pytest.raises(ValueError, match=r"train\.tsv:9: the same as line 8: remove one"):
        TWITTER2015.load(tmp_path / "root", "train")
    report = run(raw, tmp_path / "out")
    assert "train: 1 rows stood there twice and are left out" in report["notes"]
    kept = raw_rows_in(tmp_path / "out/annotations/train_data.tsv")
    assert len(kept) == 150 and kept[6] == lines[7].split("\t")[1:]  # the first one stays


# ---------------------------------------------------------------- pictures that cannot be used


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:600])


def spoil_text(path):
    path.write_text("<html>404</html>")


def spoil_missing(path):
    path.unlink()


def spoil_folder(path):
    path.unlink()
    path.mkdir()


def spoil_link(path):
    outside = path.parent.parent.parent / "outside.jpg"
    path.rename(outside)
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_truncated, "is a damaged picture"),
        (spoil_text, "is not a picture"),
        (spoil_missing, "is missing"),
        (spoil_folder, "is missing"),
        (spoil_link, "is a link out of twitter2015_images: allow it with --follow_links true"),
    ],
)
def test_rows_of_a_picture_that_cannot_be_used_are_left_out_and_counted(
    raw, tmp_path, layout, spoil, why
):
    counts = Counter(row[1] for row in raw_rows(raw, "train"))
    picture = next(name for name, n in counts.items() if n == 2)
    spoil(raw / IMAGES / picture)
    out = tmp_path / "out"
    report = run(raw, out, workers=2)
    assert list(report["skipped"]) == [picture] and why in report["skipped"][picture]
    assert "train: 2 rows are left out with their pictures" in report["notes"]
    assert [r for r in raw_rows(raw, "train") if r[1] != picture] == [
        tuple(r) for r in raw_rows_in(out / "annotations/train_data.tsv")
    ]
    assert not (out / IMAGES / picture).exists() and not half_written(out)
    assert check(layout, out, full=True, progress=False).usable
    with pytest.raises(ValueError, match=re.escape(picture)):
        run(raw, tmp_path / "strict", strict=True)


def test_links_are_followed_on_demand(raw, tmp_path):
    picture = raw_rows(raw, "dev")[0][1]
    spoil_link(raw / IMAGES / picture)
    report = run(raw, tmp_path / "out", follow_links=True)
    assert report["skipped"] == {} and not (tmp_path / "out" / IMAGES / picture).is_symlink()
    shutil.move(raw / IMAGES, tmp_path / "far")
    (raw / IMAGES).symlink_to(tmp_path / "far")
    with pytest.raises(ValueError, match="is a link out of the raw folder: allow it with --follow"):
        run(raw, tmp_path / "refused")
    run(raw, tmp_path / "followed", follow_links=True)


@pytest.mark.parametrize("place", ["../twitter2015_images", "IJCAI2019_data/twitter2015_images"])
def test_the_folder_of_pictures_is_found(raw, tmp_path, place):
    (raw / place).parent.mkdir(exist_ok=True)
    shutil.move(raw / IMAGES, raw / place)
    assert run(raw, tmp_path / "out")["skipped"] == {}


def test_the_folders_can_be_named(raw, tmp_path):
    shutil.move(raw / IMAGES, tmp_path / "my pictures – all")
    shutil.move(raw / "twitter2015", tmp_path / "tables")
    given = {"annotations": str(tmp_path / "tables"), "images": str(tmp_path / "my pictures – all")}
    assert run(raw, tmp_path / "out", **given)["skipped"] == {}
    with pytest.raises(FileNotFoundError, match=r"absa_data/twitter2015 of github.*--annotations"):
        run(raw, tmp_path / "no tables", images=given["images"])
    with pytest.raises(FileNotFoundError, match="no folder twitter2015_images in .* by --images"):
        run(raw, tmp_path / "no pictures", annotations=given["annotations"])
    with pytest.raises(FileNotFoundError, match="no-such is not there.*--images"):
        run(raw, tmp_path / "no such", **(given | {"images": str(tmp_path / "no-such")}))


def test_a_clone_of_tombert_is_a_raw_folder(raw, tmp_path):
    (raw / "absa_data").mkdir()
    shutil.move(raw / "twitter2015", raw / "absa_data" / "twitter2015")
    shutil.copytree(
        raw / "absa_data/twitter2015", raw / "absa_data/twitter"
    )  # Twitter2017 in the clone
    assert run(raw, tmp_path / "out")["skipped"] == {}


def test_names_with_spaces_and_dashes_are_names(raw, tmp_path, layout):
    picture, name = raw_rows(raw, "dev")[0][1], "a b — é.jpg"
    path = raw / "twitter2015" / "dev.tsv"
    path.write_text(path.read_text(encoding="utf-8").replace(picture, name), encoding="utf-8")
    (raw / IMAGES / picture).rename(raw / IMAGES / name)
    run(raw, tmp_path / "out", workers=2)
    assert (tmp_path / "out" / IMAGES / name).is_file()
    valid = layout.load(tmp_path / "out", "valid", cache=False)
    assert valid[0]["image"].shape == (3, 224, 224)


# ---------------------------------------------------------------- check and load


def test_a_damaged_picture_is_named_in_training(root, layout):
    picture = raw_rows_in(root / "annotations/test_data.tsv")[0][1]
    spoil_truncated(root / IMAGES / picture)
    faults = check(layout, root, progress=False).faults
    assert faults and all(f"{picture} is a damaged picture" in fault for fault in faults)
    with pytest.raises(Unreadable, match=rf"{picture} is a damaged picture.*\(sample '\d+-"):
        layout.load(root, "test", cache=False)[0]


def test_the_labels_are_those_of_the_table(made, layout):
    data = layout.load(made, "test", cache=False)
    assert data.classes == ["negative", "neutral", "positive"] == list(CLASSES)
    assert data.labels.tolist() == [int(row[0]) for row in raw_rows(made / "raw", "test")]


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("tweet", "words"),
    [
        ("RT @ ltsChuckBass : $T$ is everything # MCM", "rt ltschuckbass t is everything mcm"),
        ("Don ' t : it's # E3 2nd café 😀 <url> 100%", "don t it s url"),
        ("snake_case under-score U.S.", "under score u s"),
        ("12 : 30 !", ""),
    ],
)
def test_letters_are_what_the_authors_keep_of_a_tweet(tweet, words):
    assert letters(tweet) == words


@pytest.mark.parametrize(
    ("tweet", "words"),
    [
        ("Don't  worry -  it 's 17/18 ! # Fun ...", "dont worry it s 17 18 fun"),
        ("hassle ! .\n.\n. # quote ", "hassle quote"),
        ("<user> emoji_15 & ^ _ “ quoted ”", "<user> emoji_15 & ^ _ “ quoted ”"),
        (" ,.'!?\"()*#:;~ ", ""),
        ("Tell <person> and <PERSON>: so <user> !", "tell person and person so <user>"),
        ("<per.son> < person > </person>", "person < person > < person>"),
    ],
)
def test_captions_lose_their_punctuation(tweet, words):
    assert caption(tweet) == words


def read(reader, **fields):
    return reader.read(Tweet("a-1", 0, **fields), None, False, None)


def test_token_ids_are_those_of_transformers_padded_to_the_end(bert):
    from transformers import BertTokenizer

    tweet = 'RT @ anna : love great $T$ " so they say unknownword'
    expected = BertTokenizer.from_pretrained(bert)(
        "rt anna love great t so they say unknownword", padding="max_length", max_length=40
    )["input_ids"]
    ids = read(Tokens(bert, 40), text=tweet)
    assert ids.dtype == torch.int64 and ids.tolist() == expected
    assert ids[0] == 2 and expected.count(3) == 1 and expected[-1] == 0


def test_clean_none_leaves_the_text_to_the_tokenizer(bert):
    from transformers import BertTokenizer

    tweet = 'Love # E3 , $T$ " 😀'
    expected = BertTokenizer.from_pretrained(bert)(tweet)["input_ids"]
    ids = read(Tokens(bert, 40, clean="none"), text=tweet).tolist()
    assert ids[: len(expected)] == expected and set(ids[len(expected) :]) == {0}
    assert ids != read(Tokens(bert, 40), text=tweet).tolist()


def test_only_fifty_words_are_kept_and_long_texts_keep_their_end_token(bert):
    tweet = " ".join(["love"] * 70)
    love = read(Tokens(bert), text="love")[1]
    for reader, words in (
        (Tokens(bert), 50),
        (Tokens(bert, max_words=None), 70),
        (Tokens(bert, max_words=3), 3),
    ):
        assert (read(reader, text=tweet) == love).sum() == words
    cut = read(Tokens(bert, 10), text=tweet).tolist()
    assert cut == [2, *[love] * 8, 3]


def test_an_empty_text_is_begin_and_end(bert):
    assert read(Tokens(bert, 5), text="12 : 30").tolist() == [2, 3, 0, 0, 0]


def test_the_target_is_told_on_demand(bert):
    fields = {"text": "joy in $T$ , love Nora", "target": "São Paulo # E3"}
    hidden, told = TweetTokens(bert), TweetTokens(bert, target=True)
    tweet = Tweet("a-1", 0, **fields)
    assert hidden.sentence(tweet) == "joy in t love nora"
    assert told.sentence(tweet) == "paulo : joy in paulo love nora"
    other = Tweet("a-2", 0, text="joy in São Paulo # E3 , love $T$", target="Nora")
    assert told.sentence(other) == "nora : joy in paulo love nora"
    assert told.sentence(tweet) != told.sentence(other)
    with pytest.raises(
        Unreadable, match="a-1 has no target: prepare the data from the files of TomBERT"
    ):
        read(told, text="joy in $T$")


def test_the_reading_options_reach_the_readers(made, bert):
    data = TWITTER2015.load(
        made, "test", cache=False, tokenizer=bert, max_tokens=30, target=True, size=32, normalisation="imagenet"
    )  # fmt: skip
    assert data.shapes == {"text": (30,), "image": (3, 32, 32)}
    assert data.readers["text"] == TweetTokens(bert, 30, 50, "letters", True)
    assert data.readers["image"] == Photo(32, "released", "imagenet")
    with pytest.raises(ValueError, match="unknown reading option 'tokens' of twitter2015"):
        TWITTER2015.load(made, "test", tokens=3)


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (lambda: Tokens(clean="words"), "unknown clean 'words': use one of letters, caption, none"),
        (lambda: Tokens(max_tokens=2), "max_tokens must be 3 or above, got 2"),
        (lambda: Tokens(max_words=0), "max_words must be 1 or above, got 0"),
        (lambda: Photo(augment="all"), "unknown augment 'all': use one of released, crop, none"),
        (
            lambda: Photo(normalisation="no"),
            "unknown normalisation 'no': use one of clip, imagenet",
        ),
        (lambda: Photo(size=8), "a size of 16 or above, got 8"),
    ],
)
def test_bad_options_of_the_readers_are_named(reader, message):
    with pytest.raises(ValueError, match=message):
        reader()


@pytest.fixture
def fresh(monkeypatch):
    """No tokenizer is loaded yet."""
    monkeypatch.setattr(text, "_loaded", {})


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with the configuration and the tokenizer of a tiny CLIP of 77 places."""
    from transformers import CLIPConfig, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    CLIPConfig().save_pretrained(folder)
    return folder


def test_a_clip_tokenizer_pads_with_its_end_token_and_keeps_to_77(clip):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(clip)
    ids = read(Tokens(str(clip)), text="Love $T$ 100").tolist()
    expected = tokenizer("love t")["input_ids"]
    end = tokenizer.eos_token_id
    assert end == tokenizer.pad_token_id and expected[-1] == end
    assert ids == expected + [end] * (77 - len(expected))
    cut = read(Tokens(str(clip), clean="none"), text="x" * 100).tolist()
    assert len(cut) == 77 and cut[-1] == end and cut.count(end) == 1
    assert len(read(Tokens(str(clip), 12), text="Love")) == 12


def test_a_tokenizer_is_loaded_once_by_many_threads_and_serves_them_all(
    bert, tmp_path, fresh, monkeypatch
):
    from transformers import AutoTokenizer

    # One that brings its own padding and cutting, whose switching off is what threads could trip over.
    folder = tmp_path / "own"
    shutil.copytree(bert, folder)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    tokenizer.backend_tokenizer.enable_padding(length=16)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.save_pretrained(folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 4
    calls, load = [], AutoTokenizer.from_pretrained

    def counted(*args, **kwargs):
        calls.append(threading.get_ident())
        return load(*args, **kwargs)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", counted)
    rng = np.random.default_rng(0)
    tweets = [" ".join(rng.choice(["love", "sad", "report", "x"], 12)) for _ in range(400)]
    reader = Tokens(str(folder), 40)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda t: read(reader, text=t), tweets))
    assert len(calls) == 1
    plain = Tokens(bert, 40)
    assert all(torch.equal(ids, read(plain, text=t)) for ids, t in zip(found, tweets))


def test_the_tokenizer_is_told_to_keep_to_one_thread(bert, fresh, monkeypatch):
    for before, after in ((None, "false"), ("true", "true")):
        if before is None:
            monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
        else:
            monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
        monkeypatch.setattr(text, "_loaded", {})
        read(Tokens(bert, 20), text="love")
        assert os.environ["TOKENIZERS_PARALLELISM"] == after


def test_a_reader_is_small_to_send_to_another_process(bert):
    reader = Tokens(bert, 20)
    before = read(reader, text="love")
    content = pickle.dumps(reader)
    assert len(content) < 1000 and torch.equal(read(pickle.loads(content), text="love"), before)


REMEDY = (
    r"network\.text_encoder.*Download config\.json, vocab\.txt or tokenizer\.json.*give that folder"
)


@pytest.mark.parametrize("name", ["/no/such/folder", "./bert", "~/no-such-bert", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(fresh, name):
    with pytest.raises(FileNotFoundError, match=rf"there is no folder {name}: .*{REMEDY}"):
        read(Tokens(name), text="love")


def test_a_name_without_a_network_is_one_clear_error(fresh, monkeypatch):
    from transformers import AutoTokenizer

    asked = []

    def offline(name, local_files_only):
        asked.append(local_files_only)
        raise OSError("We couldn't connect to the hub.\nAnd more lines.")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(
        FileNotFoundError,
        match=rf"^bert-base-uncased gives no tokenizer \(We couldn't connect to the hub\): .*{REMEDY}$",
    ):
        read(Tokens(), text="love")
    assert asked == [True, False]  # what was downloaded before is used without asking


def test_a_cache_that_holds_the_model_but_no_vocabulary_is_not_taken(
    bert, tmp_path, fresh, monkeypatch
):
    from transformers import AutoConfig, AutoTokenizer

    (tmp_path / "model only").mkdir()
    shutil.copy(Path(bert) / "config.json", tmp_path / "model only")

    def hub(load):
        def stand_in(name, local_files_only=True, **options):
            place = {True: tmp_path / "model only", False: bert}[local_files_only]
            return load(place if name == "bert" else name, local_files_only=True, **options)

        return stand_in

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    for auto in (AutoTokenizer, AutoConfig):
        monkeypatch.setattr(auto, "from_pretrained", hub(auto.from_pretrained))
    assert torch.equal(read(Tokens("bert", 20), text="love"), read(Tokens(bert, 20), text="love"))


@pytest.mark.parametrize("damage", ["no vocabulary", "broken json", "no files", "no padding"])
def test_a_folder_without_a_good_tokenizer_is_named(bert, tmp_path, fresh, damage):
    folder = tmp_path / "bert"
    shutil.copytree(bert, folder)
    if damage == "no padding":
        settings = {"tokenizer_class": "BertTokenizer", "pad_token": None}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    elif damage == "broken json":
        (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {')
    else:
        for path in list(folder.iterdir()):
            if damage == "no files" or path.name == "vocab.txt":
                path.unlink()
    with pytest.raises(ValueError, match=rf"{folder}.*{REMEDY}"):
        read(Tokens(str(folder)), text="love")


# ---------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A smooth picture, 90 x 60, as PNG, so that every library decodes the same values."""
    path = tmp_path_factory.mktemp("picture") / "a.jpg"
    image = synthetic.blurred((60, 90, 3), 6, np.random.default_rng(0))
    Image.fromarray((255 * image).astype(np.uint8)).save(path, format="PNG")
    return path


def photo(path, train=False, seed=0, cache=None, **options):
    item = Item("a", 0, files={"image": path})
    return Photo(**({"size": 64} | options)).read(item, np.random.default_rng(seed), train, cache)


@pytest.mark.parametrize(
    ("options", "mean", "std"),
    [
        ({}, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ({"normalisation": "imagenet"}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_a_test_picture_is_squeezed_by_cubic_interpolation(picture, options, mean, std):
    expected = transforms.Compose([
        transforms.Resize((64, 64), interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ])(Image.open(picture).convert("RGB"))  # fmt: skip
    x = photo(picture, **options)
    assert x.dtype == torch.float32 and torch.allclose(x, expected, atol=1e-5)
    assert torch.equal(x, photo(picture, train=True, augment="none", **options))


def test_a_training_crop_is_half_of_the_picture_or_more(tmp_path):
    # Red tells the column, green the row: what they span is the crop.
    y, x = np.mgrid[:200, :240]
    image = np.stack([x, y, 0 * x], -1).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.jpg", format="PNG")
    shares, flipped = [], 0
    for seed in range(100):
        crop = photo(tmp_path / "a.jpg", train=True, seed=seed, augment="crop")
        mean, std = torch.tensor(text.NORMALISATIONS["clip"])[:, :, None, None]
        red, green, _ = 255 * (crop * std + mean)
        spans = [(c.max() - c.min()).item() + 2 for c in (red, green)]
        shares.append(spans[0] * spans[1] / image[..., 0].size)
        flipped += bool(red[0, 0] > red[0, -1])
    assert 0.48 < min(shares) < 0.55 and 0.95 < max(shares) < 1.03
    assert 35 < flipped < 65


def test_training_pictures_depend_on_their_generator_alone(picture):
    assert torch.equal(photo(picture, True, 1), photo(picture, True, 1))
    found = [photo(picture, True, seed) for seed in range(6)]
    assert all(x.shape == (3, 64, 64) and torch.isfinite(x).all() for x in found)
    assert not any(torch.equal(a, b) for a, b in zip(found, found[1:]))


def test_operations_are_two_of_ten_each_done_every_other_time(monkeypatch, picture):
    done = []
    spies = tuple(
        lambda image, sign, name=name: done.append((name, sign)) or image for name in range(10)
    )
    monkeypatch.setattr(text, "OPERATIONS", spies)
    for seed in range(600):
        photo(picture, True, seed, size=16)
    assert 520 < len(done) < 680  # of 2 x 600
    counts = Counter(name for name, _ in done)
    assert set(counts) == set(range(10)) and max(counts.values()) < 100
    assert 0.4 < sum(sign == 1 for _, sign in done) / len(done) < 0.6
    done.clear()
    photo(picture, True, 0, augment="crop")
    photo(picture, False, 0)
    assert done == []


def test_operations_do_what_randaugment_says(picture):
    import cv2
    from torchvision.transforms.v2 import functional as F

    smooth = np.asarray(Image.open(picture).convert("RGB").resize((96, 80)))
    noise = np.random.default_rng(0).integers(-30, 30, smooth.shape)
    rough = np.clip(smooth.astype(int) + noise, 0, 255).astype(np.uint8)
    tensor = torch.from_numpy(rough).permute(2, 0, 1)
    grey = (128, 128, 128)

    def warped(*matrix):
        matrix = np.float32(matrix).reshape(2, 3)
        return cv2.warpAffine(smooth, matrix, (96, 80), borderValue=grey)

    def torched(name, *args):
        return getattr(F, name)(tensor, *args).permute(1, 2, 0).numpy()

    for sign in (1, -1):
        turn = cv2.getRotationMatrix2D((48, 40), 21 * sign, 1)
        expected = [
            rough,
            torched("autocontrast"),
            torched("equalize"),
            torched("adjust_brightness", 1.36),
            torched("adjust_sharpness", 1.36),
            warped(1, -0.21 * sign, 0, 0, 1, 0),
            warped(1, 0, 0, -0.21 * sign, 1, 0),
            warped(1, 0, -7 * sign, 0, 1, 0),
            warped(1, 0, 0, 0, 1, -7 * sign),
            warped(*turn.ravel()),
        ]
        for number, (operation, wanted) in enumerate(zip(OPERATIONS, expected)):
            before = rough if number < 5 else smooth
            found = np.asarray(operation(Image.fromarray(before), sign)).astype(int)
            change = np.abs(wanted - before.astype(int)).mean()
            assert np.abs(found - wanted).mean() <= 0.05 * change, number
            assert number == 0 or change > 1, number


def test_a_cache_changes_nothing(picture, tmp_path):
    cache = Cache(tmp_path / "cache")
    for train in (False, True):
        plain = photo(picture, train, 5)
        for _ in range(2):
            assert torch.equal(photo(picture, train, 5, cache), plain)
    kinds = {path.name for path in (tmp_path / "cache").iterdir()}
    assert kinds == {"image", "image-64-bicubic"}


def test_grey_and_transparent_pictures_have_three_channels(tmp_path):
    for mode in ("L", "LA", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.jpg"
        Image.new(mode, (40, 30)).save(path, format="TIFF" if mode == "CMYK" else "PNG")
        assert photo(path).shape == photo(path, train=True).shape == (3, 64, 64)
