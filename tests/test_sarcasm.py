"""datasets/sarcasm.py: lists, JSON and CSV, rows that are left out, and a wrong line that is never run."""

import ast
import csv
import json
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import prepared
import pytest
from PIL import Image
from prepared import half_written, tree

from igm.datasets.layout import check
from igm.datasets.sarcasm import CLASSES, SARCASM, readers, rows
from igm.datasets.tables import Faults
from igm.datasets.text import Photo, Tokens

FILES = {"train": "train.txt", "valid": "valid2.txt", "test": "test2.txt"}
# As the authors of the data drop them.
DROPPED = ["exgag", "sarcasm", "sarcastic", "reposting", "<url>", "joke", "jokes", "humour", "humor", "irony", "ironic"]  # fmt: skip

NAME = "sarcasm"

run = partial(prepared.run, SARCASM)


def raw_rows(raw, split):
    """The lists of a raw file."""
    with open(raw / "text" / FILES[split], encoding="utf-8") as file:
        return [ast.literal_eval(line) for line in file]


def kept_rows(raw, split):
    """(picture, text, label) of the raw rows that are part of the data set."""
    return [
        [f"{row[0]}.jpg", row[1], str(row[-1])]
        for row in raw_rows(raw, split)
        if not set(row[1].split()) & set(DROPPED)
    ]


def annotated(root, split):
    with open(root / "annotations" / f"{split}_data.csv", encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ---------------------------------------------------------------- the sample and what prepare makes of it


def test_the_raw_sample_has_the_form_of_the_download(made):
    raw = made / "raw"
    assert {p.name for p in raw.iterdir()} == {"text", "dataset_image", "tiny-bert"}
    for split, n in (("train", 150), ("valid", 45), ("test", 45)):
        lines = (raw / "text" / FILES[split]).read_bytes().decode().removesuffix("\n").split("\n")
        assert all(line.startswith("['") and line.endswith("]") for line in lines)
        found = raw_rows(raw, split)
        assert len(found) == len(lines) == n + n // 15
        assert {len(row) for row in found} == ({3} if split == "train" else {4})
        assert all(
            isinstance(row[0], str) and row[0].isdigit() and len(row[0]) >= 18 for row in found
        )
        assert all(label in (0, 1) for row in found for label in row[2:])
    everything = (raw / "text/train.txt").read_text(encoding="utf-8")
    assert r"\n" in everything and '"' in everything and "…" in everything
    tests = raw_rows(raw, "test")
    assert any(row[2] != row[3] for row in tests)  # the hashtag and the person disagree


def test_only_rows_that_are_kept_have_a_picture(made):
    raw = made / "raw"
    pictures = {path.name for path in (raw / "dataset_image").iterdir()}
    kept = {row[0] for split in FILES for row in kept_rows(raw, split)}
    rows_of_all = sum(len(raw_rows(raw, split)) for split in FILES)
    assert pictures == kept and len(kept) == 240 < rows_of_all
    assert all(p.read_bytes()[:2] == b"\xff\xd8" for p in (raw / "dataset_image").iterdir())


def test_words_tell_the_label_and_the_picture_less(made):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    train, test = (kept_rows(made / "raw", split) for split in ("train", "test"))
    words = CountVectorizer().fit([row[1] for row in train])
    scores = []
    for inputs in (
        lambda found: words.transform([row[1] for row in found]),
        lambda found: np.stack([
            np.asarray(Image.open(made / "raw/dataset_image" / row[0]).resize((4, 4))).ravel() / 255
            for row in found
        ]),
    ):  # fmt: skip
        model = LogisticRegression(max_iter=500).fit(inputs(train), [row[2] for row in train])
        scores.append(model.score(inputs(test), [row[2] for row in test]))
    assert scores[0] > 0.8 and 0.5 < scores[1] < scores[0] - 0.1


def test_prepare_writes_the_layout(made):
    root, raw = made / "sarcasm", made / "raw"
    assert {p.name for p in root.iterdir()} - {".prepare"} == {
        "annotations",
        "images",
        "manifest.json",
        "report.json",
    }
    for split in FILES:
        header, *found = annotated(root, split)
        assert header == ["image", "text", "label"] and found == kept_rows(raw, split)
    content = (root / "annotations/train_data.csv").read_text(encoding="utf-8")
    assert re.search(r'^"\d{18,}\.jpg","[^"]+",[01]$', content, re.M)
    for path in (raw / "dataset_image").iterdir():
        assert (root / "images" / path.name).read_bytes() == path.read_bytes()


def test_pandas_reads_what_prepare_writes(made):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(made / "sarcasm/annotations/test_data.csv")
    assert table["text"].tolist() == [row[1] for row in kept_rows(made / "raw", "test")]
    assert table["label"].tolist() == [int(row[2]) for row in kept_rows(made / "raw", "test")]


def test_the_report_counts_the_rows_that_are_left_out(made):
    report = json.loads((made / "sarcasm" / "report.json").read_text())
    assert report["skipped"] == {}  # their pictures do not exist: no fault
    for split, note in zip(FILES, report["notes"]):
        words = [set(row[1].split()) & set(DROPPED) for row in raw_rows(made / "raw", split)]
        counts = Counter(word for found in words for word in found)
        told = ", ".join(f"{word} {n}" for word, n in sorted(counts.items()))
        dropped = sum(map(bool, words))
        assert note == f"{split}: {dropped} rows are left out for a telling word: {told}"
    assert sum(report["counts"]["train"].values()) == 150


@pytest.mark.parametrize("word", DROPPED)
def test_a_telling_word_counts_as_a_token_only(tmp_path, word):
    texts = [f"so {word} # lol", f"{word}", f"so {word}s", f"so #{word} lol", f"so {word.upper()}"]
    lines = "".join(f"{[str(i), text, 1]!r}\n" for i, text in enumerate(texts))
    write(tmp_path / "annotations" / "train.txt", lines)
    kept = [item.text for item in rows(tmp_path, "train", Faults())]
    assert kept == [t for t in texts if word not in t.split() and t != "so jokes"]
    assert len(kept) == (2 if word == "joke" else 3)


# ---------------------------------------------------------------- annotations in all their forms

LISTS = "['11', \"it 's \\\" so \\\" good , yes\\n # lol\", 1]\n['12', 'é ü 😀', 0]\n"
LISTS_2 = LISTS.replace(", 1]", ", 0, 1]").replace(", 0]", ", 1, 0]")
TEXT = 'it \'s " so " good , yes\n # lol'
CSV = 'image,text,label\n11.jpg,"it \'s "" so "" good , yes\n # lol",1\n"12.jpg","é ü 😀",0\n'
JSON = json.dumps([
    {"image": "images/11.jpg", "text": TEXT, "label": 1},
    {"label": "0", "text": "é ü 😀", "image": "12", "more": None},
])  # fmt: skip
FORMS = {
    "lists": ("train.txt", LISTS),
    "lists with CRLF": ("train.txt", LISTS.replace("\n", "\r\n")),
    "lists with two labels": ("train.txt", LISTS_2),
    "JSON": ("train_data.json", JSON),
    "JSON of lines": ("train.json", json.dumps(json.loads(JSON), indent=1, ensure_ascii=False)),
    "CSV": ("train_data.csv", CSV),
    "CSV with BOM": ("train.csv", CSV.encode("utf-8-sig")),
    "CSV with CRLF": ("train_data.csv", CSV.replace("label\n", "label\r\n").replace("0\n", "0\r\n")),
    "CSV in another order": ("train_data.csv", 'Label,x,Text,Image\n1,,"' + TEXT.replace('"', '""') + '",11\n0,,é ü 😀,12.jpg\n'),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_annotations_are_read_in_every_form(tmp_path, form):
    name, content = FORMS[form]
    write(tmp_path / "annotations" / name, content)
    items = rows(tmp_path, "train", faults := Faults())
    assert not faults
    assert [(i.name, i.label, i.text) for i in items] == [("11", 1, TEXT), ("12", 0, "é ü 😀")]
    assert items[0].files == {"image": tmp_path / "images" / "11.jpg"}


def test_the_last_label_of_a_raw_row_counts(raw, made):
    labels = [item.label for item in rows(made / "sarcasm", "valid", Faults())]
    assert labels == [int(row[2]) for row in kept_rows(raw, "valid")]
    assert labels != [
        row[2] for row in raw_rows(raw, "valid") if not set(row[1].split()) & set(DROPPED)
    ]


def test_raw_files_can_be_used_as_they_are(raw, layout):
    (raw / "text").rename(raw / "annotations")
    (raw / "dataset_image").rename(raw / "images")
    assert [len(layout.load(raw, split, cache=False)) for split in FILES] == [150, 45, 45]
    assert check(layout, raw, progress=False).usable


def test_the_authors_json_can_be_prepared(raw, made, tmp_path):
    for split in FILES:
        entries = [
            {"image": f"some/folder/{i}", "text": t, "label": int(n)}
            for i, t, n in kept_rows(raw, split)
        ]
        write(raw / "annotations" / f"{split}_data.json", json.dumps(entries))
    shutil.rmtree(raw / "text")
    run(raw, tmp_path / "out")
    for split in FILES:
        assert annotated(tmp_path / "out", split) == annotated(made / "sarcasm", split)


def test_a_text_may_be_empty(tmp_path):
    write(tmp_path / "annotations" / "train.txt", "['11', ' ', 1]\n")
    write(tmp_path / "annotations" / "test_data.csv", 'image,text,label\n11.jpg,"",1\n')
    for split in ("train", "test"):
        (item,) = rows(tmp_path, split, faults := Faults())
        assert item.text == "" and not faults


GOOD = "['11', 'fine', 1]\n"
WRONG = {
    "a call": ("train.txt", GOOD + "__import__('os').system('touch ran')\n", r":2: not a list such as \['9"),
    "a call in a list": ("train.txt", GOOD + "['12', open('ran', 'w'), 1]\n", r":2: not a list"),
    "no list": ("train.txt", GOOD + "12, 'fine', 1\n", r":2: not a list"),
    "cut off": ("train.txt", GOOD + "['12', 'fi", r":2: not a list"),
    "a label missing": ("train.txt", "['12', 'fine']\n", r":1: not a list"),
    "too many labels": ("train.txt", "['12', 'fine', 1, 1, 1]\n", r":1: not a list"),
    "a number as name": ("train.txt", "[12, 'fine', 1]\n", r":1: not a list"),
    "brackets without end": ("train.txt", "[" * 50_000 + "\n", r":1: not a list"),
    "a long sum": ("train.txt", GOOD + "['12', 'fine', " + "+".join("1" * 20_000) + "]\n", r":2: not a list"),
    "many signs": ("train.txt", GOOD + "['12', 'fine', " + "-" * 20_000 + "1]\n", r":2: not a list"),
    "a label of 2": ("train.txt", GOOD + "\n['12', 'fine', 2]\n", r":3: unknown label '2': use 0 or 1 for sarcastic"),
    "a way out": ("train.txt", "['../..', 'fine', 1]\n", r":1: '..' is not the name of a picture"),
    "no name": ("train.txt", "['', 'fine', 1]\n", r":1: '' is not the name of a picture"),
    "a row twice": ("train.txt", GOOD + "['12', 'fine', 1]\n" + GOOD, r":3: 11\.jpg stands in line 1 already: remove one"),
    "no marks": ("train.csv", "image/text/label\n11.jpg/fine/1\n", r":1: not a list such as"),
    "another header": ("train.csv", "id,words,label\n11.jpg,fine,1\n", r":1: the header lacks text \(or tweet, .*\); it has id, words, label"),
    "text without quotes": ("train.csv", "image,text,label\n11.jpg,fine, too,1\n", r":2: 4 columns in place of 3: put the text in quotes"),
    "a quote too few": ("train.csv", 'image,text,label\n11.jpg,"fine,1\n', r":2: not a table: unexpected end of data"),
    "a quote too many": ("train.csv", 'image,text,label\n11.jpg,"a "fine" day",1\n', r":2: not a table: ',' expected after '\"'"),
    "a row twice in CSV": ("train.csv", "image,text,label\n11.jpg,fine,1\n11.jpg,fine,1\n", r":3: 11\.jpg stands in line 2 already"),
    "broken JSON": ("train.json", '[{"image": "11",\n "text" "fine"}]', r":2: not JSON: Expecting ':' delimiter"),
    "deep JSON": ("train.json", "[" * 100_000, r":? ?.*(not JSON|has to be a list)"),
    "no list in JSON": ("train.json", '{"image": "11", "text": "fine", "label": 1}', r": has to be a list of \{"),
    "an entry without a text": ("train.json", '[{"image": "11", "label": 1}]', r": entry 1: has no text \(or tweet, sentence, caption\); it has image, label"),
    "an entry that is none": ("train.json", '["11", "fine", 1]', r": entry 1: is no entry such as"),
    "true as a label": ("train.json", '[{"image": "11", "text": "fine", "label": true}]', r": entry 1: unknown label 'True'"),
    "a way out in JSON": ("train.json", '[{"image": "../..", "text": "fine", "label": 1}]', r": entry 1: '..' is not the name"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_line_is_named_and_neither_run_nor_written(raw, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    name, content, message = WRONG[wrong]
    (raw / "text" / "train.txt").unlink()
    write(raw / "text" / name, content)
    with pytest.raises(ValueError, match=re.escape(name) + message):
        run(raw, tmp_path / "out")
    assert tree(tmp_path / "out") == {} and not Path("ran").exists()
    shutil.copytree(raw / "text", tmp_path / "root" / "annotations")
    with pytest.raises(ValueError, match=re.escape(name) + message):
        SARCASM.load(tmp_path / "root", "train")
    assert not Path("ran").exists()


def test_rows_that_are_left_out_are_not_looked_at_further(tmp_path):
    twice = "['11', 'so much humor', 1]\n" * 2 + "['11', 'fine', 1]\n"
    write(tmp_path / "annotations" / "train.txt", twice)
    (item,) = rows(tmp_path, "train", faults := Faults())
    assert item.text == "fine" and not faults


# ---------------------------------------------------------------- pictures that cannot be used


def spoil_truncated(path):
    path.write_bytes(path.read_bytes()[:600])


def spoil_missing(path):
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_truncated, "is a damaged picture"),
        (spoil_missing, "is missing"),
    ],
)
def test_a_row_whose_picture_cannot_be_used_is_left_out_and_counted(
    raw, tmp_path, layout, spoil, why
):
    picture = kept_rows(raw, "test")[4][0]
    spoil(raw / "dataset_image" / picture)
    out = tmp_path / "out"
    report = run(raw, out, workers=2)
    assert list(report["skipped"]) == [picture] and why in report["skipped"][picture]
    assert annotated(out, "test")[1:] == [r for r in kept_rows(raw, "test") if r[0] != picture]
    assert sum(report["counts"]["test"].values()) == 44
    assert not (out / "images" / picture).exists() and not half_written(out)
    assert check(layout, out, full=True, progress=False).usable
    with pytest.raises(ValueError, match=re.escape(picture)):
        run(raw, tmp_path / "strict", strict=True)


def test_folders_are_found_or_named(raw, tmp_path):
    for path in list((raw / "text").iterdir()):
        path.rename(raw / path.name)
    (raw / "text").rmdir()
    (raw / "dataset_image").rename(raw / "images")
    assert run(raw, tmp_path / "a")["skipped"] == {}
    (raw / "images").rename(tmp_path / "some pictures")
    (tmp_path / "texts").mkdir()
    for name in FILES.values():
        (raw / name).rename(tmp_path / "texts" / name)
    given = {"annotations": str(tmp_path / "texts"), "images": str(tmp_path / "some pictures")}
    assert run(raw, tmp_path / "b", **given)["skipped"] == {}
    with pytest.raises(
        FileNotFoundError, match=r"no annotations of train and test in .*feiLinX.*--annotations"
    ):
        run(raw, tmp_path / "c", images=given["images"])
    with pytest.raises(
        FileNotFoundError,
        match="no folder dataset_image or images or .* there is tiny-bert: name .* by --images",
    ):
        run(raw, tmp_path / "d", annotations=given["annotations"])


# ---------------------------------------------------------------- check and load


def test_a_sample_is_the_text_and_the_label_of_its_row(made, layout):
    from transformers import BertTokenizer

    data = layout.load(made, "valid", cache=False)
    assert data.classes == ["not sarcastic", "sarcastic"] == list(CLASSES)
    tokenizer = BertTokenizer.from_pretrained(made / "raw" / "tiny-bert")
    for i, (picture, text, label) in enumerate(kept_rows(made / "raw", "valid")):
        words = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower()).replace("-", " ").replace("/", " ")
        expected = tokenizer(" ".join(words.split()))["input_ids"]
        ids = data.readers["text"].read(data.items[i], None, False, None).tolist()
        assert ids == expected + [0] * (128 - len(expected))
        assert data.items[i].files["image"].name == picture and data.labels[i] == int(label)


def test_the_reading_options_reach_the_readers():
    found = readers(tokenizer="x", max_tokens=60, max_words=9, clean="none", size=96, augment="crop", normalisation="imagenet")  # fmt: skip
    assert found == {"text": Tokens("x", 60, 9, "none"), "image": Photo(96, "crop", "imagenet")}
    assert readers() == {"text": Tokens(clean="caption"), "image": Photo()}
