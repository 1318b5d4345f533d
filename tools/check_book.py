"""Does the built book show what it should? python tools/check_book.py [ROOT]

Each check takes the folder of HTML pages and returns what is wrong, as a list of lines.
"""

import json
import re
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup

MIN_TEXT = 200  # characters; a page that came out empty has its title and little else
HIDDEN = {"remove-cell", "remove-output"}  # tags whose outputs Jupyter Book leaves out
MAX_PAGE = 1_500_000  # bytes
MAX_BOOK = 25_000_000
ANALYTICS = ("google-analytics", "googletagmanager", "gtag(", "plausible.io", "matomo", "hotjar")
LOADED = [  # what a browser fetches by itself when it opens a page
    *[(tag, "src") for tag in ("script", "img", "iframe", "audio", "video", "source", "embed")],
    ("object", "data"),
]


@cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def pages(html: Path) -> list[Path]:
    return sorted(p for p in html.rglob("*.html") if p.relative_to(html).parts[0][0] != "_")


def toc_pages(root: Path) -> list[str]:
    """The names in _toc.yml, in the book's order."""

    def walk(node):
        if isinstance(node, list):
            for child in node:
                yield from walk(child)
        elif isinstance(node, dict):
            yield from (node[key] for key in ("root", "file") if key in node)
            for key in ("parts", "chapters", "sections"):
                yield from walk(node.get(key, []))

    return list(walk(yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))))


def check_page(page: Path) -> list[str]:
    """The page exists, has a title and text."""
    if not page.is_file():
        return [f"{page.name}: the page is missing"]
    article = soup(page).find("article")
    if article is None or not article.find("h1") or not article.find("h1").get_text(strip=True):
        return [f"{page.name}: no title (h1)"]
    length = len(article.get_text(" ", strip=True))
    if length < MIN_TEXT:
        return [f"{page.name}: nearly empty, {length} characters of text"]
    return []


def check_outputs(page: Path, notebook: Path) -> list[str]:
    """The page of a notebook shows as many outputs and figures as the notebook stores."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [
        cell["outputs"]
        for cell in cells
        if cell.get("outputs") and not HIDDEN & set(cell["metadata"].get("tags", []))
    ]
    images = [
        out
        for outputs in shown
        for out in outputs
        if any(mime.startswith("image/") for mime in out.get("data", {}))
    ]
    cell_outputs = soup(page).select("div.cell_output")
    figures = [img for out in cell_outputs for img in out.find_all(["img", "svg"])]
    errors = []
    if not shown:
        errors.append(f"{page.name}: {notebook.name} stores no output, it was never run")
    if len(cell_outputs) < len(shown):
        errors.append(f"{page.name}: {len(cell_outputs)} cells with output, {len(shown)} stored")
    if len(figures) < len(images):
        errors.append(f"{page.name}: {len(figures)} figures, {len(images)} in {notebook.name}")
    for out in cell_outputs:
        text = out.get_text()
        if "Traceback (most recent call last)" in text or "unknown mime type" in text.lower():
            errors.append(f"{page.name}: an output shows an error: {text.strip()[-80:]!r}")
    return errors


def check_images(page: Path) -> list[str]:
    """Every picture has an alternative text and its file."""
    errors = []
    for img in soup(page).find_all("img"):
        source = img.get("src", "")
        alt = img.get("alt", "").strip()
        if not alt or unquote(source).endswith(alt):  # docutils writes the file's name for none
            errors.append(f"{page.name}: {source[:60]} has no alternative text")
        if not urlsplit(source).scheme and not (page.parent / unquote(source)).is_file():
            errors.append(f"{page.name}: {source[:60]} is missing")
    return errors


@cache
def anchors(page: Path) -> set[str]:
    return {tag["id"] for tag in soup(page).find_all(id=True)} | {
        tag["name"] for tag in soup(page).find_all("a", attrs={"name": True})
    }


def check_links(page: Path) -> list[str]:
    """Every link inside the book leads to a file, and to a place in it."""
    errors = []
    for link in soup(page).find_all("a", href=True):
        url = urlsplit(link["href"])
        if url.scheme or url.netloc or link["href"] == "#":
            continue
        target = (page.parent / unquote(url.path)).resolve() if url.path else page.resolve()
        if not target.is_file():
            errors.append(f"{page.name}: dead link {link['href']}")
        elif (
            url.fragment
            and target.suffix == ".html"
            and unquote(url.fragment) not in anchors(target)
        ):
            errors.append(f"{page.name}: no such place: {link['href']}")
    return errors


def check_offline(page: Path) -> list[str]:
    """Nothing that the page loads by itself comes from another host."""
    loaded = [tag[key] for name, key in LOADED for tag in soup(page).find_all(name, **{key: True})]
    for tag in soup(page).find_all("link", href=True):
        if not {"canonical", "search", "author", "next", "prev"} & set(tag.get("rel", [])):
            loaded.append(tag["href"])
    for style in soup(page).find_all("style"):
        loaded += css_urls(style.get_text())
    hint = " (a widget? tqdm.auto's bar is one: plain tqdm needs no script)"
    return [
        f"{page.name}: asks another host: {url[:80]}{hint * ('jupyter-widgets' in url)}"
        for url in loaded
        if is_external(url)
    ]


def check_size(page: Path) -> list[str]:
    """What a browser has to read before the first picture."""
    text = re.sub(r"data:image/[^\"]*", "", page.read_text(encoding="utf-8"))
    if len(text.encode()) > MAX_PAGE:
        return [f"{page.name}: {len(text) / 1e6:.1f} MB without pictures, at most {MAX_PAGE / 1e6}"]
    return []


def check_nobody_counts(page: Path) -> list[str]:
    """No analytics."""
    text = page.read_text(encoding="utf-8").lower()
    return [f"{page.name}: loads {name}" for name in ANALYTICS if name in text]


def check_total(html: Path) -> list[str]:
    total = sum(path.stat().st_size for path in html.rglob("*") if path.is_file())
    if total > MAX_BOOK:
        return [f"the book has {total / 1e6:.1f} MB, at most {MAX_BOOK / 1e6:.0f}"]
    return []


def css_urls(css: str) -> list[str]:
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.S)
    return re.findall(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""", css)


def is_external(url: str) -> bool:
    return url.startswith(("http:", "https:", "//"))


def check_styles(html: Path) -> list[str]:
    """Neither do the style sheets ask another host."""
    return [
        f"{css.name}: asks another host: {url[:80]}"
        for css in sorted((html / "_static").rglob("*.css"))
        for url in css_urls(css.read_text(encoding="utf-8"))
        if is_external(url)
    ]


OF_EVERY_PAGE = (check_images, check_links, check_offline, check_size, check_nobody_counts)


def check_book(root: Path) -> list[str]:
    html = root / "_build" / "html"
    errors = check_styles(html) + check_total(html)
    for name in toc_pages(root):
        page, notebook = html / f"{name}.html", root / f"{name}.ipynb"
        errors += check_page(page)
        if page.is_file() and notebook.is_file():
            errors += check_outputs(page, notebook)
    for page in pages(html):
        for of_page in OF_EVERY_PAGE:
            errors += of_page(page)
    return errors


if __name__ == "__main__":
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = check_book(root)
    if found:
        print("The book was built, but:", *found, sep="\n  ")
        sys.exit(1)
    print(f"The book is complete. Open {(root / '_build/html/index.html').as_uri()}")
