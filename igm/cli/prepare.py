"""Brings a raw download into the layout that training reads; safe to stop, and to run again."""

from __future__ import annotations

import sys

from jsonargparse import Namespace

from igm.cli.parser import Parser
from igm.cli.terminal import one_line
from igm.datasets import LAYOUTS, find_layout
from igm.datasets.layout import prepare
from igm.datasets.preparing import MANIFEST, REPORT, NothingLeft, report_text


def add_arguments(parser: Parser) -> None:
    kinds = parser.add_subcommands(dest="data", required=True)
    for name, layout in LAYOUTS.items():
        kind = Parser(f"igm prepare {name}")
        add = kind.add_argument
        add("raw", type=str, help="the folder of the download")
        add("out", type=str, help="a new folder, or one that igm prepare began")
        add("--workers", type=int | None, help="processes; by default one a core")
        add("--strict", type=bool, default=False, help="stop at what would be skipped")
        add("--follow_links", type=bool, default=False, help="also links out of the raw folder")
        kind.add_function_arguments(layout.prepare, skip={"job"})
        kinds.add_subcommand(name, kind, help=f"see igm prepare {name} --help")
        kind.prog = f"igm prepare {name}"


def run(options: Namespace) -> int:
    layout = find_layout(options.data)
    mine = options[options.data].as_dict()
    raw, out = mine.pop("raw"), mine.pop("out")
    running = {name: mine.pop(name) for name in ("workers", "strict", "follow_links")}
    try:
        report = prepare(layout, raw, out, mine, **running)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on from here") from None
    except NothingLeft as error:
        print(report_text(error.report))
        print(f"igm: {one_line(str(error))}", file=sys.stderr)
        return 1
    print(report_text(report))
    print(f"{report['files']:,} files in {out}; see {REPORT} and {MANIFEST} there")
    return 0
