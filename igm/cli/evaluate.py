"""Scores the weights of a finished run on its data, or on other data of the same kind."""

from __future__ import annotations

from jsonargparse import Namespace

from igm.cli.models import add_run, finished
from igm.cli.parser import Parser
from igm.cli.train import score_table
from igm.metrics import evaluate


def add_arguments(parser: Parser) -> None:
    add_run(parser)


def run(options: Namespace) -> int:
    method, data, device = finished(options)
    s = method.settings
    sizes = {"batch_size": s.eval_batch_size, "workers": s.workers}
    results = {
        split: evaluate(method.logits, data[split], s.fusion, device, **sizes)
        for split in ("valid", "test")
    }
    print(score_table(results))
    return 0
