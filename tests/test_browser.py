"""The built pages in a real browser: every page on a screen and a phone, light and dark, and what a reader does there.

Like tests/test_book.py it needs the pages, which `make book` builds. BOOK_BUILT=1 makes their absence a failure.
"""

import functools
import http.server
import os
import threading
from pathlib import Path

import browser
import check_book
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright import sync_api

ROOT = Path(__file__).parents[1]
HTML = ROOT / "_build" / "html"
NAMES = check_book.toc_pages(ROOT)
NOTEBOOKS = [name for name in NAMES if (ROOT / f"{name}.ipynb").exists()]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SCREEN = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def site():
    """The address of the built book."""
    if not (HTML / "book" / "index.html").is_file():
        reason = "the book is not built: make book"
        (pytest.fail if os.environ.get("BOOK_BUILT") else pytest.skip)(reason)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def chromium():
    path = browser.find()
    if path is None:
        reason = "no Chromium: python tools/browser.py installs one"
        (pytest.fail if os.environ.get("BOOK_BUILT") else pytest.skip)(reason)
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def visit(site, chromium):
    """visit(page, theme) -> the open page and what it does wrong from now on."""
    contexts = []

    def visit(name: str, theme: str = "light"):
        context = chromium.new_context(viewport=SCREEN, color_scheme=theme)
        contexts.append(context)
        page, faults = context.new_page(), []
        page.on("console", lambda m: m.type == "error" and faults.append(f"console: {m.text}"))
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("request", lambda r: is_foreign(r.url, site) and faults.append(f"asks {r.url}"))
        page.on("response", lambda r: r.status >= 400 and faults.append(f"{r.status} {r.url}"))
        page.goto(f"{site}/{name}.html", wait_until="load")
        page.evaluate("() => window.MathJax?.startup?.promise")
        return page, faults

    yield visit
    for context in contexts:
        context.close()


def is_foreign(url: str, site: str) -> bool:
    return not url.startswith((site, "data:", "blob:"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_page_loads_fits_and_is_accessible(visit, name, theme):
    page, faults = visit(name, theme)
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    for size in (PHONE, SCREEN):
        page.set_viewport_size(size)
        assert too_wide(page) == []
    assert faults == []
    # At last, for axe-core fetches style sheets, some of which are not there.
    assert barriers(page) == []


def too_wide(page) -> list[str]:
    """What sticks out to the right, where the page scrolls sideways."""
    return page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            return [...document.querySelectorAll("main *")]
                .filter(e => e.getBoundingClientRect().right > width + 1)
                .map(e => `${e.tagName}.${e.className}`).slice(0, 5);
        }"""
    )


def barriers(page) -> list[str]:
    """What axe-core finds that is serious or critical."""
    return [
        f"{v['id']}: {v['help']}: " + "; ".join(node["html"][:120] for node in v["nodes"][:3])
        for v in Axe().run(page).response["violations"]
        if v["impact"] in ("serious", "critical")
    ]


def shown(page) -> list[int]:
    """Which picture of the first slider can be seen."""
    images = page.locator(".igm-frames").first.locator("img").all()
    return [i for i, image in enumerate(images) if image.is_visible()]


SLIDERS = [name for name in NOTEBOOKS if "Frames(" in (ROOT / f"{name}.ipynb").read_text()]


@pytest.mark.parametrize("name", SLIDERS)
def test_the_slider_moves_the_figure(visit, name):
    page, _ = visit(name)
    slider = page.locator(".igm-frames input").first
    (before,) = shown(page)
    value = page.locator(".igm-frames output").first.inner_text()
    slider.focus()
    page.keyboard.press("ArrowLeft" if before else "ArrowRight")
    (after,) = shown(page)
    assert abs(after - before) == 1
    assert page.locator(".igm-frames output").first.inner_text() != value
    page.keyboard.press("End")
    assert shown(page) == [int(slider.get_attribute("max"))]


def test_the_surface_turns(visit):
    name = next(n for n in NOTEBOOKS if "RotatableSurface(" in (ROOT / f"{n}.ipynb").read_text())
    page, faults = visit(name)
    surface = page.locator(".igm-surface").first
    surface.scroll_into_view_if_needed()
    page.wait_for_selector(".igm-surface .js-plotly-plot")
    assert page.evaluate("document.querySelector('.igm-surface .js-plotly-plot').data.length") == 1
    eye = "document.querySelector('.igm-surface .js-plotly-plot')._fullLayout.scene.camera.eye"
    before, box = page.evaluate(eye), surface.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 120, y + 40, steps=5)
    page.mouse.up()
    page.wait_for_function(f"before => {eye}.x !== before.x", arg=before, timeout=10_000)
    assert faults == []


WITH_SOLUTIONS = [
    name for name in NOTEBOOKS if "Solution of" in (ROOT / f"{name}.ipynb").read_text()
]


@pytest.mark.parametrize("name", WITH_SOLUTIONS)
def test_hints_and_solutions_unfold(visit, name):
    page, _ = visit(name)
    for kind, inside in [("details.hint", "p"), ("details:has-text('Solution of')", "pre")]:
        fold = page.locator(kind).first
        assert not fold.locator(inside).first.is_visible()
        fold.locator("summary").click()
        assert fold.locator(inside).first.is_visible()


def test_the_search_finds_flat_directions(visit):
    page, faults = visit("search")
    page.goto(page.url + "?q=flat+direction")
    results = page.locator("#search-results li")
    results.first.wait_for()
    assert any("Flat directions" in text for text in results.all_inner_texts())
    assert faults == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_colab_link_opens_this_notebook(visit, name):
    page, _ = visit(name)
    links = page.locator("a[href*='colab.research.google.com']")
    assert {link.get_attribute("href") for link in links.all()} == {
        f"https://colab.research.google.com/github/igm-book/igm-book/blob/main/{name}.ipynb"
    }
