"""Reads all annotations and looks for all files of a data set; exit code 0 if it can be used, else 1."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

from igm.cli.parser import Parser
from igm.cli.train import plain_value
from igm.datasets import LAYOUTS, find_layout
from igm.datasets.layout import check, check_report


def add_arguments(parser: Parser) -> None:
    parser.add_argument("data", type=str, help=f"one of {', '.join(LAYOUTS)}")
    parser.add_argument("root", type=str, help="its folder, or the folder that holds it")
    parser.add_argument("--full", type=bool, default=False, help="decode every file")
    reading = (
        "the same options as for igm train, e.g. --reading.frames 3: what it would meet is found"
    )
    parser.add_argument("--reading", type=dict[str, Any] | None, help=reading)


def run(options: Namespace) -> int:
    layout = find_layout(options.data)
    reading = plain_value(options.reading)
    found = check(layout, options.root, options.full, reading=reading)
    print(check_report(layout, found))
    return 0 if found.usable else 1
