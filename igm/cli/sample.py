"""Makes a small synthetic data set, as raw download and in the layout that training reads."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from igm.cli.parser import Parser
from igm.datasets import LAYOUTS, find_layout
from igm.datasets.layout import make_sample


def add_arguments(parser: Parser) -> None:
    parser.add_argument("data", type=str, help=f"one of {', '.join(LAYOUTS)}")
    parser.add_argument("out", type=str, help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn")


def run(options: Namespace) -> int:
    layout, out = find_layout(options.data), Path(options.out)
    try:
        make_sample(layout, out, options.seed)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{out} is not whole: begin again with a new folder") from None
    print(f"{layout.name}: raw form in {out / 'raw'}, ready for training in {out / layout.folder}")
    return 0
