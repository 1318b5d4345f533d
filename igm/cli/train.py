"""Trains on a data set, prints a table of scores, and leaves a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from igm.cli.config import Config, read_config
from igm.cli.models import NOTES, model_and_data, model_of, settings_of
from igm.cli.parser import Parser
from igm.cli.terminal import speaks
from igm.datasets import DATASETS
from igm.methods import VARIANTS, find_method, method_names
from igm.runs import RECORD, read_record
from igm.train import Run, train

DEFAULT = "igm"  # the method


def add_arguments(parser: Parser, words: Sequence[str] = ()) -> None:
    """The options, with the defaults that are in force for the --method and the --variant among ``words``."""
    method, variant = _chosen(words)
    settings = find_method(method).Settings
    add = parser.add_argument
    config = add("--config", action=Config, help="a JSON file with any of these options")
    config.elsewhere = _elsewhere(settings)
    add("--data", default=NOTES["data"], help=f"data set: {', '.join(DATASETS)}")
    add(
        "--data_root",
        type=str | None,
        help="its folder, or the folder that holds it; by default the data that comes with the book, and for "
        "other data IGM_DATA",
    )
    add("--samples", type=int | None, help="train on this many samples")
    noise = 'noise level by modality, e.g. {"image": 1.5}'
    add("--noise", type=dict[str, float] | None, help=noise)
    seed = "of the pairs, the noise, the augmentation"
    add("--data_seed", type=int, default=NOTES["data_seed"], help=seed)
    reading = "how the data is read, e.g. --reading.frames 3; the options of each data set are in igm/datasets"
    add("--reading", type=dict[str, Any] | None, help=reading)
    cache = "keep decoded files beside the data; --no-cache for false"
    add("--cache", type=bool, default=NOTES["cache"], help=cache)
    shared = "one head for all modalities"
    add("--shared_head", type=bool, default=NOTES["shared_head"], help=shared)
    model = "late: a head for each modality; concat: one over all features"
    add("--model", default=NOTES["model"], help=model)
    network = "options of the encoders, e.g. --network.size tiny; see igm/encoders"
    add("--network", type=dict[str, Any] | None, help=network)
    out = "a new folder for the run; by default runs/DATA-METHOD-seedN"
    add("--out", type=str | None, help=out)
    add("--resume", type=str | None, help="go on with the interrupted run in this folder")
    add("--method", default=method, help=f"the training method: {', '.join(method_names())}")
    parser.add_class_arguments(settings, skip={"method"})
    parser.set_defaults(settings.defaults({"variant": variant}) | _variant(settings, variant))
    for option, methods in config.elsewhere.items():
        of = " and ".join(methods)
        parser.foreign[f"--{option}"] = f"--{option} is an option of {of}, not of --method {method}"


def run(options: Namespace) -> int:
    if options.resume:
        return _resume(options)
    kind = find_method(options.method)
    settings = {field.name: options[field.name] for field in fields(kind.Settings)}
    kind.Settings.make(**settings)  # before the data is read
    out = Path(options.out) if options.out else _free_folder(options.data, settings)
    notes = {name: plain_value(options[name]) for name in NOTES}
    model, data = model_and_data(notes, settings["modalities"], settings["seed"])
    if held_out := getattr(data["valid"], "notes", None):
        notes["held_out"] = held_out
    with _resumable(out):
        return _report(train(model, data, out=out, notes=notes, **settings))


def score_table(results: Mapping) -> str:
    """The scores of a run, a line for each split and each prediction."""
    lines = [f"{'split':8}{'prediction':14}{'accuracy':>10}{'macro-F1':>10}{'mAP':>8}"]
    for split, predictions in results.items():
        for name, s in predictions.items():
            lines.append(
                f"{split:8}{name:14}{s['accuracy']:>10.3f}{s['macro_f1']:>10.3f}{s['map']:>8.3f}"
            )
    return "\n".join(lines)


def _resume(options: Namespace) -> int:
    """Goes on with an interrupted run; all its options stand in its run.json."""
    plain = Parser("igm train")
    add_arguments(plain)
    defaults = plain.get_defaults()
    for name, value in options.items():
        if name not in ("resume", "device") and value != defaults.get(name):
            raise ValueError(
                f"--resume takes the options of the run: leave --{name} out, or begin another run"
            )
    record = read_record(options.resume)
    settings = asdict(settings_of(record))
    if options.device != defaults["device"]:
        settings["device"] = options.device
    with _resumable(Path(options.resume)):
        model, data = model_of(record)
        notes = {name: record[name] for name in (*NOTES, "held_out") if name in record}
        return _report(train(model, data, out=options.resume, resume=True, notes=notes, **settings))


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """Ctrl-C inside says how to go on with the run in a folder, once it has begun."""
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / RECORD).is_file():
            raise
        command = f"igm train --resume {shlex.quote(str(folder))}"
        raise KeyboardInterrupt(f"go on with: {command}") from None


def _report(run: Run) -> int:
    if speaks():
        print(score_table(run.results))
        print(
            f"best epoch {run.best_epoch} of {len(run.history)} ({run.why}), "
            f"{run.wall_seconds:.0f} s, saved in {run.folder}"
        )
    return 0


def _free_folder(data: str, settings: dict) -> Path:
    stem = Path("runs") / f"{data}-{settings['method']}-seed{settings['seed']}"
    folder, number = stem, 2
    while folder.exists():
        folder, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return folder


def plain_value(value):
    """An option of several parts as a dict."""
    return value.as_dict() if isinstance(value, Namespace) else value


# ---------------------------------------------------------------- which options there are


def _chosen(words: Sequence[str]) -> tuple[str, str]:
    """The method and the variant that a command line, or its config file, asks for."""
    found = {"method": DEFAULT, "variant": DEFAULT}
    given = {name: _value(words, f"--{name}") for name in (*found, "config")}
    if given["config"]:
        try:
            config = read_config(given["config"])[0]
        except ValueError:
            config = {}  # the parser will say what is wrong with it
        found |= {name: config[name] for name in found if isinstance(config.get(name), str)}
    found |= {name: given[name] for name in found if given[name]}
    return found["method"], found["variant"]


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option among the words, as ``--option value`` or ``--option=value``."""
    value = None
    for word, after in zip(words, [*words[1:], None]):
        if word == option:
            value = after
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return value


def _variant(settings: type, variant: str) -> dict:
    named = "variant" in [field.name for field in fields(settings)]
    return {"variant": variant} if named and variant in VARIANTS else {}


def _elsewhere(settings: type) -> dict[str, list[str]]:
    """The options of other methods: name -> the methods that have it."""
    here = {field.name for field in fields(settings)}
    found: dict[str, list[str]] = {}
    for method in method_names():
        for field in fields(find_method(method).Settings):
            if field.name not in here:
                found.setdefault(field.name, []).append(method)
    return found
