"""Runs a study over conditions and seeds, and writes its record beside the script.

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
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy
import torch
from tqdm.auto import tqdm


def main(study: dict) -> None:
    """Runs all of a study (its module's globals) on all cores, one thread each, and writes the record."""
    path = Path(study["__file__"])
    sys.path.insert(0, str(path.parent))
    jobs = [(condition, seed) for condition in study["CONDITIONS"] for seed in study["SEEDS"]]
    started = time.perf_counter()
    done = {}
    # The workers inherit it: one thread a run, in torch and in BLAS.
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), spawn, torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(study["run"], *job): job for job in jobs}
        for future in tqdm(as_completed(futures), total=len(jobs), desc=path.stem, unit="run"):
            done[futures[future]] = future.result()
    results = {}
    for condition, seed in jobs:
        for measure, value in done[condition, seed].items():
            results.setdefault(condition, {}).setdefault(measure, []).append(round(value, 5))
    record = {
        "study": path.stem,
        "question": " ".join(study["__doc__"].split()),
        "settings": study["SETTINGS"],
        "seeds": list(study["SEEDS"]),
        "results": results,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
        },
        "device": f"CPU ({platform.machine()}), one thread a run",
        "wall_seconds": round(time.perf_counter() - started),
    }
    out = path.with_suffix(".json")
    partial = out.with_suffix(".json.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(partial, out)
