"""annotations.py and tables.py: the forms in which people have annotations of the five data sets. All text is invented."""

import json
import os
import re

import prepared
import pytest

from igm.datasets import LAYOUTS, cremad, kinetics_sounds, nvgesture, text
from igm.datasets.annotations import Form, files_in, find_annotations, read_rows, split_of
from igm.datasets.layout import check
from igm.datasets.preparing import NothingLeft, Preparation
from igm.datasets.tables import Faults, file_name, last_part, plain_word, read_records

SIMPLE = Form({"name": ("name",), "label": ("label",)}, ("name", "label"), {"a": 0}, "a", "ask Ann")


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def understood(name, root, split="train"):
    """[(name, label)] of a split, without a fault."""
    items = LAYOUTS[name].rows(root, split, faults := Faults())
    assert not faults, faults
    return items


def wrong(name, root, split="train"):
    LAYOUTS[name].rows(root, split, faults := Faults())
    return "\n".join(faults)


# ---------------------------------------------------------------- formats, without a meaning


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('1\t"so she said\n2\tsaid "yes" \'\n', [["1", '"so she said'], ["2", 'said "yes" \'']]),
        ('1\t"a\n2\tb"\n', [["1", '"a'], ["2", 'b"']]),  # a pair of quotes by chance
        ('1\t"she said ""yes"""\n2\tno\n', [["1", 'she said "yes"'], ["2", "no"]]),
        ('"i"\t"text"\n"1"\t"hi"\n', [["i", "text"], ["1", "hi"]]),
        ('1\t"two\nlines"\n2\tb\n', [["1", "two\nlines"], ["2", "b"]]),
        ('1,"a, b"\n2,c\n', [["1", "a, b"], ["2", "c"]]),
        ("1;a, b\r\n\r\n2;c\r\n", [["1", "a, b"], ["2", "c"]]),
        ("1|a\r2|b\r", [["1", "a"], ["2", "b"]]),
        ("x.flv Sad one\ny.flv  Happy\n", [["x.flv", "Sad one"], ["y.flv", "Happy"]]),
    ],
)
def test_tables_are_told_from_their_content(tmp_path, content, expected):
    path = write(tmp_path / "a.txt", content)
    _, records = read_records(path, faults := Faults())
    assert [list(record.fields) for record in records] == expected and not faults


ENTRIES = [{"name": "x", "label": 1}, {"name": "y", "label": None}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", json.dumps(ENTRIES)),
        ("a.json", json.dumps(ENTRIES, indent=1)),
        ("a.txt", json.dumps(ENTRIES)),
        ("a.jsonl", "\n".join(map(json.dumps, ENTRIES)) + "\n"),
        ("a.json", "\n\n".join(map(json.dumps, ENTRIES))),
        ("a.json", json.dumps({"data": ENTRIES})),
    ],
)
def test_json_may_be_whole_or_an_entry_a_line(tmp_path, name, content):
    kind, records = read_records(write(tmp_path / name, content), faults := Faults())
    assert [record.fields for record in records] == [
        {"name": "x", "label": "1"},
        {"name": "y", "label": ""},
    ]
    assert kind == "json" and not faults


def test_json_may_be_an_object_of_entries_by_their_names(tmp_path):
    path = write(tmp_path / "a.json", json.dumps({"7": {"label": 1}, "8": {"label": 0}}))
    _, records = read_records(path, Faults())
    assert [record.fields for record in records] == [
        {"id": "7", "label": "1"},
        {"id": "8", "label": "0"},
    ]


def test_a_broken_line_of_json_lines_is_named(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"name": "x"}\n{"name": y}\n{"name": "z"}\n')
    _, records = read_records(path, faults := Faults())
    assert len(list(records)) == 2 and re.search(r"a\.jsonl:2: not JSON", faults[0])


def test_a_block_that_ends_early_is_named(tmp_path):
    path = write(tmp_path / "a.txt", "joy in $T$\nLima\n1\n7.jpg\nsad $T$\nOslo\n")
    _, records = read_records(path, faults := Faults(), 3, "blocks")
    assert len(list(records)) == 1 and "a.txt:5: the last block has 2 of 4 lines" in faults[0]


# ---------------------------------------------------------------- names and words


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("my_train_cre", "train"),
        ("kinetics400_train", "train"),
        ("nvgesture_test_correct_cvpr2016_v2", "test"),
        ("test2", "test"),
        ("valid2", "valid"),
        ("val", "valid"),
        ("dev_data", "valid"),
        ("Validation", "valid"),
        ("validate", "valid"),
        ("train_test", None),
        ("contest", None),
        ("strained", None),
        ("README", None),
    ],
)
def test_a_name_announces_a_split(name, split):
    assert split_of(name) == split


def test_words_and_names_are_plain():
    words = {"Non-Sarcastic": "non sarcastic", " playing_guitar ": "playing guitar", "1.0": "1"}
    words |= {"-1": "-1", "+1": "1", "-1.0": "-1"}
    assert {word: plain_word(word) for word in words} == words
    assert (
        last_part(r"C:\data\x\7.jpg") == last_part("/data/x/7.jpg") == last_part("7.jpg") == "7.jpg"
    )
    assert file_name("../../7") == "7.jpg" and file_name("a/7.PNG") == "7.PNG"
    for name in ("", "a/", "..", "a/.."):
        with pytest.raises(ValueError, match="is not the name of a picture"):
            file_name(name)
    with pytest.raises(ValueError, match="a spreadsheet has rounded"):
        file_name("9.08913E+17")


# ---------------------------------------------------------------- finding the files


@pytest.fixture
def job(tmp_path):
    (tmp_path / "raw").mkdir()
    return Preparation("x", tmp_path / "raw", tmp_path / "raw" / "out")


TABLE = "name,label\nx,a\n"


def test_the_nearest_folder_with_train_and_test_counts_and_the_report_says_what_is_not_read(job):
    for name in ("deep/a/train.csv", "deep/a/test.csv", "train.csv"):
        write(job.raw / name, TABLE)
    found = find_annotations(job, None, SIMPLE)
    assert found == {s: job.raw / "deep/a" / f"{s}.csv" for s in ("train", "test")}
    assert job.notes == []
    for name in ("test.csv", "dev.json", "val.csv", "holdout.csv", "vocabulary.txt"):
        write(job.raw / name, TABLE)
    found = find_annotations(job, None, SIMPLE)
    assert [path.name for path in found.values()] == ["train.csv", "val.csv", "test.csv"]
    assert job.notes == [
        "the annotations are train.csv, val.csv, test.csv; not read: dev.json, deep/a/, holdout.csv"
    ]


def test_two_folders_that_are_equally_near_are_refused_or_told_by_their_name(job):
    for folder in ("text_json_clean", "text_json_final"):
        for split in ("train", "test"):
            write(job.raw / "data" / folder / f"{split}.json", TABLE)
    with pytest.raises(ValueError, match="_clean and .*_final both have .* --annotations"):
        find_annotations(job, None, SIMPLE)
    given = str(job.raw / "data" / "text_json_final")
    assert find_annotations(job, given, SIMPLE)["test"].parent.name == "text_json_final"
    named = Form(**{**vars(SIMPLE), "folders": ("text_json_clean",)})
    assert find_annotations(job, None, named)["test"].parent.name == "text_json_clean"


def test_what_igm_prepare_has_made_and_what_is_linked_or_hidden_is_not_looked_at(job, tmp_path):
    for folder in (job.out, job.raw / "older", job.raw / ".git", tmp_path / "away"):
        for split in ("train", "test"):
            write(folder / f"{split}.csv", TABLE)
    (job.raw / "older" / ".prepare").mkdir()
    (job.raw / "link").symlink_to(tmp_path / "away")
    with pytest.raises(FileNotFoundError, match="no annotations of train and test"):
        find_annotations(job, None, SIMPLE)
    job.follow_links = True
    assert find_annotations(job, None, SIMPLE)["train"] == job.raw / "link" / "train.csv"


def test_the_message_names_what_is_missing_and_lists_what_is_there(job):
    missing = "no annotations of train and test in .*raw, where there is nothing: ask Ann; name"
    with pytest.raises(FileNotFoundError, match=missing):
        find_annotations(job, None, SIMPLE)
    for name in ("README.md", "a/train.csv", "a/val.csv", "b/test.xlsx"):
        write(job.raw / name, TABLE)
    there = "no annotations of test in .*raw/a, where there is train.csv, val.csv: ask Ann; name"
    with pytest.raises(FileNotFoundError, match=there):
        find_annotations(job, None, SIMPLE)
    with pytest.raises(FileNotFoundError, match="train and test in .*b, where there is test.xlsx"):
        find_annotations(job, str(job.raw / "b"), SIMPLE)
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        find_annotations(job, str(job.raw / "nowhere"), SIMPLE)


def test_of_several_files_of_a_split_the_corrected_one_counts(tmp_path):
    for name in ("test.txt", "test2.txt", "valid.txt", "valid2.txt", "train.txt", "train_x.txt"):
        write(tmp_path / name, TABLE)
    found = files_in(tmp_path, SIMPLE)
    assert [paths[0].name for paths in found.values()] == ["train.txt", "valid2.txt", "test2.txt"]
    for name in ("train_correct.txt", "train_correct_v2.txt", "train_correct_cvpr2016_v2.txt"):
        write(tmp_path / "lists" / name, TABLE)
    (names,) = files_in(tmp_path / "lists", SIMPLE).values()
    assert [path.stem[14:] for path in names] == ["v2", "cvpr2016_v2", ""]


# ---------------------------------------------------------------- headers


def test_a_header_that_lacks_a_column_or_names_none_is_told_so(tmp_path):
    form = Form(**{**vars(SIMPLE), "looks": {"label": lambda text: text == "a"}})
    path = write(tmp_path / "a.csv", "name,size\nx,3\n")
    assert list(read_rows(path, form, faults := Faults())) == []
    assert faults == [f"{path}:1: the header lacks label; it has name, size"]
    rows = read_rows(write(path, "x,a\ny,a\n"), form, Faults())
    assert [row.values["name"] for row in rows] == ["x", "y"]


@pytest.mark.parametrize(
    "name", ["cremad", "kinetics_sounds", "twitter2015", "sarcasm", "nvgesture"]
)
def test_a_valid_split_under_another_common_name_is_used(made_of, name):
    layout, root = made_of(name)
    train = [p for p in root.rglob("*train*") if p.suffix in (".csv", ".tsv", ".lst")]
    (train,) = [p for p in train if p.parent.name in ("annotations", root.name)]
    content = train.read_bytes()
    for other in ("val", "validation", "dev"):
        path = write(train.with_name(train.name.replace("train", other)), content)
        assert len(layout.rows(root, "valid", Faults())) == len(
            layout.rows(root, "train", Faults())
        )
        path.unlink()


@pytest.fixture
def made_of(samples, tmp_path):
    """made_of(name): the data set, and a copy of its layout's annotations without those of valid."""

    def make(name):
        layout, made = LAYOUTS[name], samples(name)
        for path in (made / layout.folder).rglob("*"):
            if path.suffix in (".csv", ".tsv", ".lst"):
                write(tmp_path / name / path.relative_to(made / layout.folder), path.read_bytes())
        for path in (tmp_path / name).rglob("*valid*"):
            path.unlink()
        return layout, tmp_path / name

    return make


# ---------------------------------------------------------------- CREMA-D

CLIPS = [
    ("1001_DFA_ANG_XX", 5),
    ("1002_DFA_HAP_LO", 1),
    ("1003_DFA_SAD_XX", 2),
    ("1004_IEO_ANG_HI", 5),
]
CREMAD = {
    "MLA's lists": "{0}.flv Anger\n{1}.flv Happy\n{2}.flv Sad\n{3}.flv Anger\n",
    "words": "{0},Anger\n{1},happiness\n{2},sad\n{3},angry\n",
    "lower case": "{0},ang\n{1},hap\n{2},sad\n{3},ang\n",
    "our numbers": "{0},5\n{1},1\n{2},2\n{3},5\n",
    "other numbers": "{0},0\n{1},3\n{2},5\n{3},0\n",
    "numbers with .0": "clip,emotion\n{0},0.0\n{1},3.0\n{2},5.0\n{3},0.0\n",
    "an index": "0,{0},ANG\n1,{1},HAP\n2,{2},SAD\n3,{3},ANG\n",
    "an index and numbers": "0,{0},5\n1,{1},1\n2,{2},2\n3,{3},5\n",
    "pandas": ",Path,Emotions\n0,AudioWAV/{0}.wav,anger\n1,x/{1}.wav,happy\n2,x/{2}.wav,sad\n3,{3}.WAV,anger\n",
    "label first": "label,file\nANG,{0}\nHAP,{1}\nSAD,{2}\nANG,{3}\n",
    "Windows paths": "ANG;C:\\crema\\{0}.wav\nHAP;C:\\crema\\{1}.wav\nSAD;C:\\{2}.wav\nANG;{3}.mp4\n",
    "tabs and quotes": '"file"\t"emotion"\n"{0}"\t"ANG"\n"{1}"\t"HAP"\n"{2}"\t"SAD"\n"{3}"\t"ANG"\n',
    "more columns": "id,actor,emotion,level\n{0},1001,ANG,XX\n{1},1002,HAP,LO\n{2},1003,SAD,XX\n{3},1004,ANG,HI\n",
}


@pytest.mark.parametrize("form", CREMAD)
def test_cremad_in_its_forms(tmp_path, form):
    content = CREMAD[form].format(*(stem for stem, _ in CLIPS))
    write(tmp_path / "annotations" / "my_train_cre.txt", content)
    assert [(i.name, i.label) for i in understood("cremad", tmp_path)] == CLIPS


def test_cremad_in_json(tmp_path):
    entries = [
        {"filename": f"{stem}.flv", "emotion": cremad.CLASSES[label]} for stem, label in CLIPS
    ]
    write(tmp_path / "annotations" / "train.json", json.dumps(entries))
    assert [(i.name, i.label) for i in understood("cremad", tmp_path)] == CLIPS


@pytest.mark.parametrize("labels", [["HAP", "SAD", "ANG", "ANG"], ["1", "2", "5", "5"]])
def test_labels_against_the_clips_names_are_refused_with_the_first_of_them(tmp_path, labels):
    """As where a column has slipped by a row; with numbers, any that stand for several emotions."""
    lines = "".join(f"{stem},{label}\n" for (stem, _), label in zip(CLIPS, labels))
    for path in (tmp_path / "raw" / "train.csv", tmp_path / "root" / "annotations" / "train.csv"):
        write(path, lines)
        write(path.with_name("test.csv"), "1005_DFA_FEA_XX,FEA\n")
    message = r"train\.csv: \d of 4 labels are not the emotion in the clip's name: line \d, 100\d_"
    assert re.search(message, wrong("cremad", tmp_path / "root"))
    with pytest.raises(ValueError, match=message):
        prepared.run(LAYOUTS["cremad"], tmp_path / "raw", tmp_path / "out")
    found = check(LAYOUTS["cremad"], tmp_path / "root", progress=False)
    assert any(re.search(message, fault) for fault in found.faults)


def copy_stub(output, stem, wav, flv):
    output.file(f"AudioWAV/{stem}.wav", f"{wav.name} {flv.name}".encode())


@pytest.mark.parametrize(
    ("wav", "flv"),
    [
        ("AudioWAV/{}.WAV", "VideoFlash/{}.mp4"),
        ("CREMA-D-master/AudioWAV/{}.wav", "CREMA-D-master/VideoFlash/{}.flv"),
        ("audio/train/{}.wav", "visual/train/{}.FLV"),
    ],
)
@pytest.mark.parametrize("split", ["common", "speakers"])
def test_clips_of_cremad_are_found_in_any_folder_and_suffix(tmp_path, monkeypatch, wav, flv, split):
    monkeypatch.setattr(cremad, "make_clip", copy_stub)
    for stem, _ in CLIPS:
        for name in (wav, flv):
            write(tmp_path / "raw" / name.format(stem), "x")
    lines = [f"{stem}.flv {stem[9:12].lower()}\n" for stem, _ in CLIPS]
    write(tmp_path / "raw" / "data" / "my_train_cre.txt", "".join(lines[:3]))
    write(tmp_path / "raw" / "data" / "my_test_cre.txt", lines[3])
    report = prepared.run(LAYOUTS["cremad"], tmp_path / "raw", tmp_path / "out", split=split)
    assert report["skipped"] == {} and sum(sum(c.values()) for c in report["counts"].values()) == 4


# ---------------------------------------------------------------- Twitter2015

HEAD = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n"
TWEETS = [
    (2, "71.jpg", 'joy in $T$ , "really"', "Lima"),
    (0, "72.jpg", "sad $T$", "Oslo"),
    (1, "73.jpg", "at $T$", "Bern"),
]
TWITTER = {
    "blocks.txt": 'joy in $T$ , "really"\nLima\n1\n71.jpg\nsad $T$\nOslo\n-1\n72.jpg\nat $T$\nBern\n0\n73.jpg\n',
    "commas.csv": 'label,image,text,target\n2,71.jpg,"joy in $T$ , ""really""",Lima\n0,72.jpg,sad $T$,Oslo\n1,73.jpg,at $T$,Bern\n',
    "quoted.tsv": HEAD + '1\t2\t71.jpg\t"joy in $T$ , ""really"""\tLima\n2\t0\t72.jpg\tsad $T$\tOslo\n3\t1\t73.jpg\tat $T$\tBern\n',
    "signed.tsv": HEAD + '1\t1\t71.jpg\tjoy in $T$ , "really"\tLima\n2\t-1\t72.jpg\tsad $T$\tOslo\n3\t0\t73.jpg\tat $T$\tBern\n',
    "words.tsv": HEAD + '1\tPositive\t71.jpg\tjoy in $T$ , "really"\tLima\n2\tNEG\t72.jpg\tsad $T$\tOslo\n3\tneutral\t73.jpg\tat $T$\tBern\n',
    "paths.tsv": HEAD + '1\t2\t/data/x/71.jpg\tjoy in $T$ , "really"\tLima\n2\t0\tC:\\x\\72.jpg\tsad $T$\tOslo\n3\t1\tx/73\tat $T$\tBern\n',
    "names.csv": 'sentiment,image_path,sentence,aspect\n2,71.jpg,"joy in $T$ , ""really""",Lima\n0,72.jpg,sad $T$,Oslo\n1,73.jpg,at $T$,Bern\n',
    "bare.tsv": '1\t2\t71.jpg\tjoy in $T$ , "really"\tLima\n2\t0\t72.jpg\tsad $T$\tOslo\n3\t1\t73.jpg\tat $T$\tBern\n',
    "bare.csv": '2,71.jpg,"joy in $T$ , ""really""",Lima\n0,72.jpg,sad $T$,Oslo\n1,73.jpg,at $T$,Bern\n',
    "x.json": json.dumps([{"img": i, "tweet": t, "aspect": a, "polarity": ("NEG", "NEU", "POS")[n]} for n, i, t, a in TWEETS]),
    "x.jsonl": "\n".join(json.dumps({"image_id": i, "text": t, "target": a, "label": n - 1}) for n, i, t, a in TWEETS),
}  # fmt: skip


@pytest.mark.parametrize("form", TWITTER)
def test_twitter2015_in_its_forms(tmp_path, form):
    write(tmp_path / "annotations" / f"val_{form}", TWITTER[form])
    items = understood("twitter2015", tmp_path, "valid")
    assert [(i.label, i.files["image"].name, i.text, i.target) for i in items] == TWEETS


def test_labels_of_both_kinds_in_one_file_are_refused(tmp_path):
    content = HEAD + "1\t-1\t71.jpg\tjoy in $T$\tLima\n2\t2\t72.jpg\tsad $T$\tOslo\n"
    write(tmp_path / "annotations" / "train.tsv", content)
    assert ":3: unknown label '2': use 0 negative, 1 neutral or 2" in wrong("twitter2015", tmp_path)


def test_a_text_of_several_lines_is_one_line_of_the_layout(tmp_path):
    entry = {"image": "71", "text": "joy\nin\t$T$", "target": "Lima", "label": 2}
    write(tmp_path / "annotations" / "train.json", json.dumps([entry]))
    (item,) = understood("twitter2015", tmp_path)
    assert item.text == "joy in $T$"


@pytest.mark.parametrize("name", ["val.tsv", "valid.tsv", "dev.tsv", "validation.csv"])
@pytest.mark.parametrize("below", ["", "TomBERT-master/absa_data/twitter2015"])
def test_twitter2015_one_or_more_folders_deeper(tmp_path, monkeypatch, name, below):
    monkeypatch.setattr(text, "copy_picture", lambda output, name, _: output.file(name, b"x"))
    for split, number in (("train.tsv", 1), (name, 4), ("test.tsv", 7)):
        rows = [f"{i}\t{i}\t{number + i}.jpg\tjoy in $T$ {number}\tLima\n" for i in range(3)]
        write(tmp_path / "raw" / below / split, HEAD + "".join(rows))
    for number in range(1, 10):
        folder = tmp_path / "raw" / below[:14] / "twitter2015_images"
        write(folder / ("part 1" if number % 2 else "") / f"{number}.JPG", "x")
    report = prepared.run(LAYOUTS["twitter2015"], tmp_path / "raw", tmp_path / "out")
    assert {split: sum(c.values()) for split, c in report["counts"].items()} == {
        "train": 3, "valid": 3, "test": 3,
    }  # fmt: skip
    assert report["skipped"] == {} and report["notes"] == []


def test_the_tables_of_twitter2017_are_not_taken_for_those_of_twitter2015(tmp_path):
    for split in ("train", "dev", "test"):
        write(tmp_path / "raw" / "twitter2017" / f"{split}.tsv", TWITTER["words.tsv"])
    with pytest.raises(ValueError, match="twitter2017 is Twitter2017, another data set"):
        prepared.run(LAYOUTS["twitter2015"], tmp_path / "raw", tmp_path / "out")


# ---------------------------------------------------------------- Sarcasm

POSTS = [
    ("908913372199915520", 'what a lovely queue , "really" 1', 1),
    ("908913372199915521", "a walk", 0),
    ("908913372199915522", "rain", 1),
]
SARCASM = {
    "lists.txt": "".join(f"{[name, words, label]!r}\n" for name, words, label in POSTS),
    "two labels.txt": "".join(f"{[name, words, 1 - label, label]!r}\n" for name, words, label in POSTS),
    "MMSD2.json": json.dumps([{"image_id": int(i), "text": t, "label": n} for i, t, n in POSTS]),
    "x.jsonl": "\n".join(json.dumps({"image_path": i, "tweet": t, "label": n}) for i, t, n in POSTS),
    "absolute.json": json.dumps([{"image": f"/data_root/Sarcasm/images/{i}.jpg", "text": t, "label": n} for i, t, n in POSTS]),
    "Windows.json": json.dumps([{"image": f"D:\\sarcasm\\{i}.jpg", "text": t, "label": n} for i, t, n in POSTS]),
    "object.json": json.dumps({i: {"text": t, "label": n} for i, t, n in POSTS}),
    "words.csv": "id,tweet,label\n" + "".join(f'{i},"{t.replace(chr(34), chr(34) * 2)}",{("Non-sarcastic", "sarcastic")[n]}\n' for i, t, n in POSTS),
    "bare.csv": "".join(f'{i}.jpg,"{t.replace(chr(34), chr(34) * 2)}",{n}\n' for i, t, n in POSTS),
    "an index.tsv": "".join(f"{k}\t{i}\t{t}\t{n}\n" for k, (i, t, n) in enumerate(POSTS)),
}  # fmt: skip


@pytest.mark.parametrize("form", SARCASM)
def test_sarcasm_in_its_forms(tmp_path, form):
    write(tmp_path / "annotations" / f"train {form}", SARCASM[form])
    items = understood("sarcasm", tmp_path)
    assert [(i.name, i.text, i.label) for i in items] == POSTS
    assert items[0].files["image"] == tmp_path / "images" / f"{POSTS[0][0]}.jpg"


@pytest.mark.parametrize(
    ("names", "pictures"),
    [
        (("text_data/train.txt", "text_data/valid.txt", "text_data/test.txt"), "image_data"),
        (("text/train.txt", "text/valid2.txt", "text/test2.txt"), "dataset_image"),
        (("clone/text/train.txt", "clone/text/valid.txt", "clone/text/test2.txt"), "clone/images"),
    ],
)
def test_the_clones_of_sarcasm(tmp_path, monkeypatch, names, pictures):
    monkeypatch.setattr(text, "copy_picture", lambda output, name, _: output.file(name, b"x"))
    for start, name in enumerate(names):
        rows = [[str(10**17 + 10 * start + i), f"a walk {i}", i % 2] for i in range(4)]
        write(tmp_path / "raw" / name, "".join(f"{row!r}\n" for row in rows))
        for row in rows:
            write(tmp_path / "raw" / pictures / f"{row[0]}.jpg", "x")
    report = prepared.run(LAYOUTS["sarcasm"], tmp_path / "raw", tmp_path / "out")
    assert list(report["counts"]) == ["train", "valid", "test"] and report["skipped"] == {}


def test_a_row_that_lacks_its_text_is_a_fault(tmp_path):
    """An empty target at the end may be cut off, a text may not."""
    write(tmp_path / "annotations" / "train.csv", "image,label,text\n1.jpg,1,x\n2.jpg,0\n")
    assert "train.csv:3: 2 of 3 columns" in wrong("sarcasm", tmp_path)
    write(tmp_path / "annotations" / "train.csv", "image,label,text\n")
    assert understood("sarcasm", tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '[{"image_id": 1, "text": "x"}]',
            "entry 1: has no label .or human_label.*; it has image_id",
        ),
        ('[{"image": "9.0891E+17", "text": "x", "label": 1}]', "a spreadsheet has rounded"),
        ('[{"image": "a/", "text": "x", "label": 1}]', "entry 1: '' is not the name of a picture"),
        (
            '[{"image": "1", "text": "x", "label": true}]',
            "entry 1: unknown label 'True': use 0 or 1",
        ),
        ('{"image": {"0": "1"}, "text": {"0": "x"}}', "has no text .* it has id, 0"),
    ],
)
def test_json_that_is_not_understood_says_why(tmp_path, content, message):
    write(tmp_path / "annotations" / "train.json", content)
    assert re.search(message, wrong("sarcasm", tmp_path))


# ---------------------------------------------------------------- Kinetics-Sounds

HEADER = "label,youtube_id,time_start,time_end,split\n"
IDS = ("AAAAAAAAAA1", "-B_BBBBBBB2", "CCCCCCCCC_-")
STEMS = [f"{youtube_id}_000012_000022" for youtube_id in IDS]


def clip_stub(output, stem, part, clip, min_frames):
    output.file(f"{part}_wav/{stem}.wav", b"x")


@pytest.fixture
def kinetics(tmp_path, monkeypatch):
    """kinetics(files): the report of a preparation of these files, and what it writes for train and test."""
    monkeypatch.setattr(kinetics_sounds, "make_clip", clip_stub)

    def run(files, clips=(), **options):
        raw = tmp_path / "raw"
        for name, content in files.items():
            write(raw / name, content)
        for name in clips or [f"clips/{stem}.mp4" for stem in STEMS]:
            write(raw / name, "x")
        out = tmp_path / f"out {len(list(tmp_path.iterdir()))}"
        report = prepared.run(LAYOUTS["kinetics_sounds"], raw, out, **options)
        written = {
            split: (out / "annotations" / f"{split}.csv").read_text().splitlines()[1:]
            for split in ("train", "test")
        }
        return report, written

    return run


EXPECTED = {
    "train": [f"bowling,{STEMS[0]}", f"singing,{STEMS[1]}"],
    "test": [f"tickling,{STEMS[2]}"],
}
LISTS = {
    "OGM-GE": {
        "my_train.txt": f"{STEMS[0]},10,2\n{STEMS[1]},10,25\n",
        "my_test.txt": f"{IDS[2]}_12,10,30\n",
    },
    "as CSV": {
        "lists/my_train.csv": f"{STEMS[0]},10,2\n{STEMS[1]},10,25\n",
        "lists/my_test.csv": f"{STEMS[2]},10,30\n",
    },
    "MLA": {
        "my_train_ks.txt": f"{STEMS[0]}.mp4 bowling\n{STEMS[1]}.mp4 singing\n",
        "my_test_ks.txt": f"{STEMS[2]}.mp4 tickling\n",
    },
    "the layout's": {
        "annotations/train.csv": f"label,youtube_id\nbowling,{STEMS[0]}\nsinging,{STEMS[1]}\n",
        "annotations/test.csv": f"label,youtube_id\ntickling,{IDS[2]}-000012——000022\n",
    },
}


KINETICS = {
    "usual": {
        "train.csv": f"{HEADER}bowling,{IDS[0]},12,22,train\nsinging,{IDS[1]},12,22,train\n",
        "test.csv": f"{HEADER}tickling,{IDS[2]},12,22,test\n",
    },
    "other names": {
        "train.csv": f"video_id,start,end,class\n{IDS[0]},12,22,bowling\n{IDS[1]},12,22,Singing\n",
        "k400/test.tsv": f"ytid\tstart_time\tend_time\tlabel\tsubset\n{IDS[2]}\t12.0\t22.0\ttickling\ttesting\n",
    },
}


@pytest.mark.parametrize("files", [*LISTS.values(), *KINETICS.values()], ids=[*LISTS, *KINETICS])
def test_lists_and_csvs_of_kinetics_in_their_forms(kinetics, files):
    assert kinetics(files)[1] == EXPECTED


def test_clips_named_by_their_id_alone(kinetics):
    clips = [f"clips/{IDS[0]}.mp4", f"clips/{STEMS[1]}.mp4", f"clips/{IDS[2]}.MKV"]
    report, written = kinetics(KINETICS["usual"], clips)
    assert written == EXPECTED and report["notes"] == []


def test_an_id_alone_that_has_two_rows_is_not_used(kinetics):
    files = dict(KINETICS["usual"])
    files["train.csv"] += f"singing,{IDS[0]},40,50,train\n"
    report, written = kinetics(files, [f"{IDS[0]}.mp4", f"{STEMS[1]}.mp4", f"{STEMS[2]}.mp4"])
    assert written["train"] == [f"singing,{STEMS[1]}"]
    assert (
        f"1 clips named by their ID alone, e.g. {IDS[0]}, could be of several" in report["notes"][0]
    )


@pytest.mark.parametrize(
    "folders", ["{split}/{action}", "{action}/{split}", "videos/{split}/{action}"]
)
def test_class_folders_without_a_csv(kinetics, folders):
    where = (("train", "bowling"), ("train", "singing"), ("test", "tickling"))
    clips = [
        f"{folders.format(split=split, action=action)}/{stem}.mp4"
        for (split, action), stem in zip(where, STEMS)
    ]
    report, written = kinetics({}, clips)
    assert {split: sorted(lines) for split, lines in written.items()} == EXPECTED
    assert report["notes"] == [
        "there is no CSV of Kinetics: split and class are those of the folders"
    ]


def test_without_csv_lists_or_class_folders_the_error_says_what_to_put_there(kinetics):
    with pytest.raises(FileNotFoundError, match="no CSV of Kinetics .*my_train.txt.*train/bowling"):
        kinetics({"notes.txt": "x"})


def test_lists_beside_csvs_are_named_as_not_read(kinetics):
    report, _ = kinetics(KINETICS["usual"] | LISTS["OGM-GE"])
    assert re.fullmatch("the lists in .*raw are not read: .* --lists .*raw", report["notes"][0])


def test_a_set_that_is_joined_from_two_versions_is_noted(kinetics):
    files = {f"k400/{name}": content for name, content in KINETICS["usual"].items()}
    files["k400/val.csv"] = f"{HEADER}bowling,DDDDDDDDDD4,1,11,val\n"
    files["k600/val.csv"] = f"{HEADER}bowling,DDDDDDDDDD4,1,11,val\nsinging,EEEEEEEEEE5,1,11,val\n"
    report, _ = kinetics(files)
    assert report["notes"][0] == (
        "Kinetics' validate set is joined from 2 files: k400/val.csv 1, k600/val.csv 2 clips, 1 of them "
        "twice. Leave one in RAW if they are two versions of Kinetics"
    )


# ---------------------------------------------------------------- NVGesture


def gesture(subject, label, path="./Video_data/class_01/subject{}_r0"):
    span = "2:10"
    return (
        f"path:{path.format(subject)} depth:sk_depth:{span} color:sk_color:{span} "
        f"duo_left:duo_left:{span} label:{label} \n"
    )


def recording_stub(output, raw, items, sources, copy):
    for path in sources:
        output.copy(path.relative_to(raw).as_posix(), path)


@pytest.fixture
def gestures(tmp_path, monkeypatch):
    monkeypatch.setattr(nvgesture, "make_recording", recording_stub)

    def run(names, path="./Video_data/class_01/subject{}_r0", below=""):
        raw = tmp_path / "raw"
        for subject, (name, label) in enumerate(zip(names, (1, 25))):
            write(raw / name, gesture(subject, label, path))
            folder = raw / below / "Video_data" / "class_01" / f"subject{subject}_r0"
            for video in ("sk_color.avi", "sk_depth.avi"):
                write(folder / video, "x")
        report = prepared.run(LAYOUTS["nvgesture"], raw, tmp_path / "out")
        return report, (tmp_path / "out" / "nvgesture_train_correct_v2.lst").read_text()

    return run


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("nvgesture_{}_correct.lst", ""),
        ("nvgesture_{}_correct_v2.lst", ""),
        ("annotations/nvgesture_{}_correct_cvpr2016_v2.lst", ""),
        ("nvGesture_v1/nvgesture_{}_correct_cvpr2016_v2.lst", "nvGesture_v1"),
        ("meta/nvgesture_{}_correct.lst", "nvGesture/v1"),
    ],
)
def test_lists_of_nvgesture_under_other_names_and_in_other_folders(gestures, name, below):
    report, written = gestures([name.format("train"), name.format("test")], below=below)
    assert report["counts"] == {"train": {"class_01": 1}, "test": {"class_25": 1}}
    assert written == gesture(0, 1).rstrip() + "\n" and report["skipped"] == {}


@pytest.mark.parametrize(
    "path",
    [
        "/data/nvGesture/Video_data/class_01/subject{}_r0",
        r"D:\nv\Video_data\class_01\subject{}_r0",
        "Video_data/class_01/subject{}_r0",
    ],
)
def test_paths_of_nvgesture_from_elsewhere(gestures, path):
    names = [f"nvgesture_{split}_correct_v2.lst" for split in ("train", "test")]
    report, written = gestures(names, path)
    assert report["skipped"] == {} and written == gesture(0, 1).rstrip() + "\n"


def test_the_list_before_its_correction_is_refused(gestures):
    names = [f"nvgesture_{split}_correct_cvpr2016.lst" for split in ("train", "test")]
    with pytest.raises(ValueError, match="is the list before its correction: add .* ends in _v2"):
        gestures(names)


# ---------------------------------------------------------------- what is left, and going on


def test_without_a_training_sample_nothing_is_written_and_the_report_says_why(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(cremad, "make_clip", copy_stub)
    (gone, _), (stem, _) = CLIPS[:2]
    for name in (f"AudioWAV/{stem}.wav", f"VideoFlash/{stem}.flv"):
        write(tmp_path / "raw" / name, "x")
    write(tmp_path / "raw" / "train.csv", f"{gone},ANG\n")
    write(tmp_path / "raw" / "test.csv", f"{stem},HAP\n")
    message = rf"no sample of the train split could be used .*: in all 1 samples are skipped, e\.g\. .*{gone}.wav is"
    with pytest.raises(NothingLeft, match=message) as error:
        prepared.run(LAYOUTS["cremad"], tmp_path / "raw", tmp_path / "out")
    assert not (tmp_path / "out" / "annotations").exists()
    assert error.value.report["counts"] == {"train": {}, "test": {"HAP": 1}}


def test_a_valid_split_of_which_nothing_is_left_is_not_written_nor_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(cremad, "make_clip", copy_stub)
    raw, stems = tmp_path / "raw", [stem for stem, _ in CLIPS[:3]]
    for stem, split in zip(stems, ("train", "val", "test")):
        write(raw / f"{split}.csv", f"{stem},{stem[9:12]}\n")
        for name in (f"AudioWAV/{stem}.wav", f"VideoFlash/{stem}.flv"):
            write(raw / name, "x")
    for valid in (True, False):
        report = prepared.run(LAYOUTS["cremad"], raw, tmp_path / "out")
        assert (tmp_path / "out" / "annotations" / "valid.csv").exists() == valid
        assert ("valid" in report["counts"]) == valid
        (raw / "AudioWAV" / f"{stems[1]}.wav").unlink(missing_ok=True)
    assert any("valid: not one sample can be used" in note for note in report["notes"])


def test_the_same_folder_by_another_path_goes_on(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        cremad,
        "make_clip",
        lambda output, *names: (done.append(names[0]), copy_stub(output, *names)),
    )
    raw = tmp_path / "raw"
    for stem, _ in CLIPS[:2]:
        for name in (f"AudioWAV/{stem}.wav", f"VideoFlash/{stem}.flv"):
            write(raw / name, "x")
    for split, (stem, _) in zip(("train", "test"), CLIPS):
        write(tmp_path / "lists" / f"{split}.csv", f"{stem},{stem[9:12]}\n")
    (tmp_path / "link").symlink_to(tmp_path / "lists")
    monkeypatch.chdir(tmp_path)
    for spelled in ("lists", str(tmp_path / "lists"), "./lists/", "link", "raw/../lists"):
        prepared.run(LAYOUTS["cremad"], raw, tmp_path / "out", annotations=spelled)
    assert sorted(done) == [stem for stem, _ in CLIPS[:2]]
    os.rename(tmp_path / "lists", tmp_path / "others")
    with pytest.raises(FileExistsError, match="was begun as .* give the same options"):
        prepared.run(LAYOUTS["cremad"], raw, tmp_path / "out", annotations="others")
