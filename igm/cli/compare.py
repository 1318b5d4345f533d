"""Prints mean and spread over seeds of finished runs, and paired differences with intervals."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace

from igm.analysis.compare import compare, comparison_table
from igm.cli.parser import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="the folders of runs")
    parser.add_argument("--score", default="accuracy", help="accuracy, macro_f1 or map")
    parser.add_argument("--output", default="fused", help="fused, or a modality")
    parser.add_argument("--split", default="test", help="test or valid")
    parser.add_argument("--plot", type=str | None, help="a new file for a figure, .png or .svg")


def run(options: Namespace) -> int:
    folders = [Path(run) for run in options.runs]
    comparison = compare(folders, options.score, options.output, options.split)
    print(comparison_table(comparison))
    if options.plot:
        from igm_book.plots import plot_comparison  # matplotlib is slow to load

        plot_comparison(comparison, Path(options.plot))
    return 0
