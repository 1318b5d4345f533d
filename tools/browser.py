"""Find a Chromium for the tests of the pages, or install one: python tools/browser.py

It takes the path in CHROMIUM, a Chromium or Chrome on the PATH, or the one that Playwright installed.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The path of a browser, or None."""
    from playwright.sync_api import sync_playwright

    if named := os.environ.get("CHROMIUM"):
        return named
    if found := next(filter(None, map(shutil.which, NAMES)), None):
        return found
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).is_file() else None


def install() -> None:
    if shutil.which("apt-get") and os.geteuid() == 0:
        for command in (
            ["update"],
            ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"],
        ):
            subprocess.run(["apt-get", "-q", *command], stdout=subprocess.DEVNULL, check=False)
    if not find():
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


if __name__ == "__main__":
    if not find():
        print("== Chromium, for the tests of the pages", flush=True)
        install()
    if not find():
        sys.exit(
            "error: no Chromium was found or installed: install one, or give its path as CHROMIUM"
        )
