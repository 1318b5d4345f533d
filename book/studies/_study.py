"""What the studies share: ``digits``, ``train`` and ``scores`` for a run, ``main`` for all runs and the record.

A study is a module with a docstring (its question), SETTINGS, CONDITIONS (a list of names), SEEDS, and
``run(condition, seed) -> {measure: number}``. The record NAME.json holds them all, with the versions and the
machine, as ``results[condition][measure] = [one number a seed]``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path

import numpy
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

import igm
from igm.datasets import load_splits
from igm.methods import Method, find_method


def digits(settings: Mapping, seed: int) -> dict[str, Dataset]:
    """The splits of the digits, with as many training samples and as much noise as a study's SETTINGS say."""
    return load_splits("digits", samples=settings["samples"], noise=settings["noise"], seed=seed)


def train(
    model: nn.Module,
    data: Mapping[str, Dataset],
    seed: int,
    common: Mapping,
    method: str | type[Method] = "igm",
    **settings,
) -> igm.Run:
    """Trains on the CPU, without a progress bar.

    Args:
        common: settings for all methods of a study; a method that has no such setting, such as ``rounds``, goes
            without it.
        settings: those of this run alone. They win over the common ones, and one that the method lacks is an error.
    """
    known = {field.name for field in fields(find_method(method).Settings)}
    given = {name: value for name, value in common.items() if name in known} | settings
    return igm.train(model, data, method, progress=False, **given | {"seed": seed, "device": "cpu"})


def scores(run: igm.Run, *splits: str) -> dict[str, float]:
    """The accuracy of each output on some splits, e.g. ``{"test audio": 0.8, "test fused": 0.9}``."""
    return {
        f"{split} {output}": score["accuracy"]
        for split in splits
        for output, score in run.results[split].items()
    }


def main(study: dict) -> None:
    """Runs all of a study (its module's globals), one thread a run, and writes the record.

    Each run that is done is noted in NAME.journal: a study that was stopped goes on from there. STUDY_WORKERS in the
    environment says how many processes there are, by default one a core.
    """
    path = Path(study["__file__"])
    sys.path.insert(0, str(path.parent))
    question = " ".join(study["__doc__"].split())
    head = json.dumps({"question": question, "settings": study["SETTINGS"]})
    journal = path.with_suffix(".journal")
    workers = int(os.environ.get("STUDY_WORKERS", os.cpu_count()))
    done, seconds = _read_journal(journal, head)
    jobs = [(condition, seed) for seed in study["SEEDS"] for condition in study["CONDITIONS"]]
    todo = [job for job in jobs if job not in done]
    # The workers inherit it: one thread a run, in torch and in BLAS.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    bar = tqdm(total=len(jobs), initial=len(done), desc=path.stem, unit="run")
    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool, bar:
        started = time.perf_counter()
        futures = {pool.submit(study["run"], *job): job for job in todo}
        try:
            for future in as_completed(futures):
                job, done[futures[future]] = futures[future], future.result()
                seconds, started = seconds + time.perf_counter() - started, time.perf_counter()
                with open(journal, "a", encoding="utf-8") as file:
                    file.write(json.dumps([*job, done[job], seconds]) + "\n")
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the others are not begun
    results = {}
    for condition in study["CONDITIONS"]:
        for seed in study["SEEDS"]:
            for measure, value in done[condition, seed].items():
                results.setdefault(condition, {}).setdefault(measure, []).append(round(value, 5))
    record = {
        "study": path.stem,
        "question": question,
        "settings": study["SETTINGS"],
        "seeds": list(study["SEEDS"]),
        "results": results,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "device": f"CPU ({platform.machine()}), one thread a run",
        "wall_seconds": round(seconds),
    }
    out = path.with_suffix(".json")
    partial = out.with_suffix(".json.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, out)
    journal.unlink()


def _read_journal(journal: Path, head: str) -> tuple[dict, float]:
    """(condition, seed) -> the result of a run that is done, and the seconds that all of them took.

    Raises:
        ValueError: the journal is of the study as it was before its question or its settings changed.
    """
    if not journal.exists():
        journal.write_text(head + "\n", encoding="utf-8")
    first, *lines = journal.read_text(encoding="utf-8").splitlines()
    if first != head:
        raise ValueError(f"{journal} was begun with another question or other settings: remove it")
    done, seconds = {}, 0.0
    for line in lines:
        try:
            condition, seed, result, seconds = json.loads(line)
        except ValueError:  # cut off when the study was killed
            continue
        done[condition, seed] = result
    return done, seconds
