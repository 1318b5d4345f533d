"""The pages in _build/html, as a reader's browser gets them; and that the checks find faults."""

import json
import os
from pathlib import Path

import check_book as check
import pytest
import yaml

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
NAMES = check.toc_pages(ROOT)


@pytest.fixture(scope="session")
def html() -> Path:
    if not HTML.is_dir():
        reason = "the book is not built: make book"
        (pytest.fail if os.environ.get("BOOK_BUILT") else pytest.skip)(reason)
    return HTML


@pytest.mark.parametrize("name", NAMES)
def test_page_has_title_and_text(html, name):
    assert not check.check_page(html / f"{name}.html")


@pytest.mark.parametrize("name", [name for name in NAMES if (ROOT / f"{name}.ipynb").exists()])
def test_page_shows_what_the_notebook_stores(html, name):
    assert not check.check_outputs(html / f"{name}.html", ROOT / f"{name}.ipynb")


@pytest.mark.parametrize("of_page", check.OF_EVERY_PAGE)
def test_every_page(html, of_page):
    assert not [fault for page in check.pages(html) for fault in of_page(page)]


def test_styles_ask_no_other_host(html):
    assert not check.check_styles(html)


def test_the_book_is_light(html):
    assert not check.check_total(html)


def test_every_notebook_page_says_what_it_took(html):
    """But for that which is not run: it has stored outputs from recordings that are not ours."""
    stored = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["exclude_patterns"]
    assert stored == ["book/spoken-digits.ipynb"]
    ran = [n for n in NAMES if (ROOT / f"{n}.ipynb").exists() and f"{n}.ipynb" not in stored]
    for name in ran:
        assert check.soup(html / f"{name}.html").find(class_="igm-measured"), name
    rows = check.soup(html / "book" / "status.html").select("article tbody tr")
    assert len(rows) == len(ran)


def test_the_stored_page_is_of_the_recordings(html):
    text = check.soup(html / "book" / "spoken-digits.html").get_text()
    assert "the recordings of six people" in text and "train: george, jackson" in text


# Does the check find what it is there to find?

TEXT = "A sentence that says something about flat directions. " * 5
OUTPUT = '<div class="cell_output"><img src="figure.png" alt="A falling curve."></div>'


def page(
    folder: Path, body="", title="<h1>Title</h1>", text=TEXT, name="page.html", head=""
) -> Path:
    (folder / "figure.png").touch()
    path = folder / name
    path.write_text(
        f"<html><head>{head}</head><body><article>{title}{text}{body}</article></body></html>"
    )
    return path


def notebook(folder: Path, *outputs) -> Path:
    cells = [
        {"cell_type": "code", "metadata": {}, "source": "", "outputs": [output]}
        for output in outputs
    ]
    path = folder / "page.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    return path


FIGURE = {"output_type": "display_data", "data": {"image/png": ""}}


def test_a_good_page_passes(tmp_path):
    good = page(
        tmp_path, OUTPUT + '<h2 id="here">x</h2><a href="#here">x</a><a href="page.html">x</a>'
    )
    assert check.check_page(good) == []
    assert check.check_outputs(good, notebook(tmp_path, FIGURE)) == []
    for of_page in check.OF_EVERY_PAGE:
        assert of_page(good) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"text": ""}, "nearly empty"),
        ({"title": ""}, "no title"),
        ({"title": "<h1> </h1>"}, "no title"),
    ],
)
def test_an_empty_page_is_found(tmp_path, changes, fault):
    assert fault in check.check_page(page(tmp_path, **changes))[0]


def test_a_missing_page_is_found(tmp_path):
    assert "missing" in check.check_page(tmp_path / "none.html")[0]


@pytest.mark.parametrize(
    ("body", "outputs", "fault"),
    [
        ("", [FIGURE], "0 cells with output"),
        ('<div class="cell_output">text</div>', [FIGURE], "0 figures, 1 in"),
        ("", [], "never run"),
        (
            OUTPUT + '<div class="cell_output">Traceback (most recent call last)</div>',
            [FIGURE],
            "error",
        ),
    ],
)
def test_lost_outputs_are_found(tmp_path, body, outputs, fault):
    faults = check.check_outputs(page(tmp_path, body), notebook(tmp_path, *outputs))
    assert fault in faults[0]


@pytest.mark.parametrize(
    "href", ["gone.html", "#nowhere", "page.html#nowhere", "other.html#nowhere"]
)
def test_a_dead_link_is_found(tmp_path, href):
    page(tmp_path, name="other.html")
    assert href in check.check_links(page(tmp_path, f'<a href="{href}">x</a>'))[0]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<img src="figure.png">', "no alternative text"),
        ('<img src="figure.png" alt="">', "no alternative text"),
        ('<img src="figure.png" alt="figure.png">', "no alternative text"),
        ('<img src="gone.png" alt="A curve.">', "missing"),
    ],
)
def test_a_picture_that_cannot_be_seen_or_read_is_found(tmp_path, body, fault):
    assert fault in check.check_images(page(tmp_path, body))[0]


@pytest.mark.parametrize(
    "head",
    [
        '<script src="https://cdn.example.org/a.js"></script>',
        '<script src="//cdn.example.org/a.js"></script>',
        '<link rel="stylesheet" href="https://cdn.example.org/a.css">',
        '<img alt="x" src="https://cdn.example.org/a.png">',
        "<style>@import 'https://cdn.example.org/a.css';</style>",
    ],
)
def test_a_request_to_another_host_is_found(tmp_path, head):
    assert "cdn.example.org" in check.check_offline(page(tmp_path, head=head))[0]


def test_a_style_sheet_that_asks_another_host_is_found(tmp_path):
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "a.css").write_text(
        "@font-face {src: url(https://fonts.example.org/a)}"
    )
    assert "fonts.example.org" in check.check_styles(tmp_path)[0]


def test_a_heavy_page_is_found_and_pictures_do_not_count(tmp_path):
    picture = f'<img alt="x" src="data:image/png;base64,{"A" * check.MAX_PAGE}">'
    assert check.check_size(page(tmp_path, picture)) == []
    assert "MB" in check.check_size(page(tmp_path, "x" * check.MAX_PAGE))[0]


def test_a_heavy_book_is_found(tmp_path):
    (tmp_path / "big.bin").write_bytes(b"0" * (check.MAX_BOOK + 1))
    assert "25.0 MB" in check.check_total(tmp_path)[0]


def test_analytics_are_found(tmp_path):
    head = "<script>gtag('config', 'G-1')</script>"
    assert "gtag(" in check.check_nobody_counts(page(tmp_path, head=head))[0]


def test_the_whole_book_is_checked(tmp_path):
    """One empty chapter among good ones is enough."""
    (tmp_path / "_toc.yml").write_text(
        "root: index\nparts: [{chapters: [{file: one}, {file: two}]}]"
    )
    built = tmp_path / "_build" / "html"
    built.mkdir(parents=True)
    for name in ("index.html", "one.html", "two.html"):
        page(built, name=name)
    assert check.check_book(tmp_path) == []
    page(built, name="two.html", text="")
    check.soup.cache_clear()
    assert check.check_book(tmp_path) == ["two.html: nearly empty, 5 characters of text"]
