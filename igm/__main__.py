"""The command line: ``python -m igm train ...``, also installed as ``igm``.

Bad input ends with exit code 2 and one line that says what is wrong and what to do. IGM_TRACEBACK=1 shows where
such an error was raised.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from difflib import get_close_matches
from pathlib import Path

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from igm.compare import compare, comparison_table, plot_comparison
from igm.datasets import DATASETS, load_splits
from igm.devices import Devices
from igm.landscape import (
    hessian_eigenvalues,
    hessian_trace,
    loss_surface,
    random_direction,
    worst_case_loss,
)
from igm.loading import batches
from igm.methods import find_method
from igm.models import LateFusion, build_model
from igm.runs import WEIGHTS, load_weights, read_record, write, write_json
from igm.settings import Settings
from igm.train import Run, evaluate, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        return COMMANDS[options.command](options[options.command])
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("IGM_TRACEBACK"):
            raise
        print(f"igm: {_one_line(str(error))}", file=sys.stderr)
        return 2


def train_command(options: Namespace) -> int:
    """Trains on a data set, prints a table of scores, and leaves a run folder."""
    if options.resume:
        return _resume(options)
    settings = {field.name: options[field.name] for field in fields(Settings)}
    find_method(settings["method"])  # before the data is read
    Settings(**settings)
    out = Path(options.out) if options.out else _free_folder(options.data, settings)
    notes = {name: options[name] for name in DATA_OPTIONS}
    model, data = _model_and_data(notes, settings["modalities"], settings["seed"])
    run = train(model, data, out=out, notes=notes, tensorboard=options.tensorboard, **settings)
    return _report(run)


def evaluate_command(options: Namespace) -> int:
    """Scores the weights of a finished run on its data, or on other data of the same kind."""
    method, data, device = _finished(options)
    results = {
        split: evaluate(method.logits, data[split], method.settings.fusion, device)
        for split in ("valid", "test")
    }
    print(score_table(results))
    return 0


def landscape_command(options: Namespace) -> int:
    """Draws the loss around the weights of a finished run, and prints how sharp it is there."""
    method, data, device = _finished(options)
    if options.points < 2 or not options.radius > 0:
        raise ValueError("a landscape needs 2 points or more and a radius above 0")
    name, dataset = options.output, data[options.split]
    if name != "fused" and not (isinstance(method.model, LateFusion) and name in method.modalities):
        raise ValueError(f"unknown output {name!r}: give fused, or a modality of late fusion")
    stem = Path(options.run) / f"landscape-{name}-{options.split}"
    if stem.with_suffix(".json").exists():
        raise FileExistsError(f"{stem}.json is there already and is not overwritten: move it away")
    network = method.model if name == "fused" else method.model[name]
    pairs = [
        (batch if name == "fused" else batch[name], batch["label"])
        for batch in batches(dataset, 256, None, device)
    ]
    axis = torch.linspace(-options.radius, options.radius, options.points).tolist()
    directions = [random_direction(network, seed) for seed in (0, 1)]
    surface = loss_surface(network, pairs, directions, axis, axis)
    rhos = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]
    found = {
        "hessian_eigenvalue": hessian_eigenvalues(network, pairs)[0].item(),
        "hessian_trace": hessian_trace(network, pairs),
        "worst_case_loss": dict(
            zip(map(str, rhos), worst_case_loss(network, pairs, rhos).tolist())
        ),
    }
    _draw_surface(stem.with_suffix(".png"), axis, surface)
    write_json(stem.with_suffix(".json"), found | {"axis": axis, "loss_surface": surface.tolist()})
    print(f"largest eigenvalue of the Hessian {found['hessian_eigenvalue']:.3g}")
    print(f"trace of the Hessian {found['hessian_trace']:.3g}")
    for rho, loss in found["worst_case_loss"].items():
        print(f"loss at SAM's perturbation of rho {rho:5} {loss:.4f}")
    print(f"saved in {stem}.json and {stem}.png")
    return 0


def compare_command(options: Namespace) -> int:
    """Prints mean and spread over seeds of finished runs, and paired differences with intervals."""
    comparison = compare(
        [Path(run) for run in options.runs], options.score, options.output, options.split
    )
    print(comparison_table(comparison))
    if options.plot:
        plot_comparison(comparison, Path(options.plot))
    return 0


def score_table(results: Mapping) -> str:
    """The scores of a run, a line for each split and each prediction."""
    lines = [f"{'split':8}{'prediction':14}{'accuracy':>10}{'macro-F1':>10}{'mAP':>8}"]
    for split, predictions in results.items():
        for name, s in predictions.items():
            lines.append(
                f"{split:8}{name:14}{s['accuracy']:>10.3f}{s['macro_f1']:>10.3f}{s['map']:>8.3f}"
            )
    return "\n".join(lines)


COMMANDS = {
    "train": train_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "landscape": landscape_command,
}
DATA_OPTIONS = ("data", "data_root", "samples", "noise", "data_seed", "model", "shared_head")


def _resume(options: Namespace) -> int:
    """Goes on with an interrupted run; all its options stand in its run.json."""
    defaults = _train_parser().get_defaults()
    for name, value in options.items():
        if name not in ("resume", "device", "tensorboard") and value != defaults[name]:
            raise ValueError(
                f"--resume takes the options of the run: leave --{name} out, or begin another run"
            )
    record = read_record(options.resume)
    settings = asdict(_settings_of(record))
    if options.device != defaults["device"]:
        settings["device"] = options.device
    model, data = _model_of(record)
    notes = {name: record[name] for name in DATA_OPTIONS}
    run = train(
        model,
        data,
        out=options.resume,
        resume=True,
        notes=notes,
        tensorboard=options.tensorboard,
        **settings,
    )
    return _report(run)


def _model_of(record: Mapping, data_root: str | None = None):
    """The untrained model of a run and its data."""
    if not all(name in record for name in DATA_OPTIONS):
        raise ValueError("this run was not begun by igm train: go on with it in Python")
    notes = {name: record[name] for name in DATA_OPTIONS}
    if data_root:
        notes["data_root"] = data_root
    return _model_and_data(notes, record["settings"]["modalities"], record["settings"]["seed"])


def _finished(options: Namespace):
    """The method of a finished run with its trained model in evaluation mode, its data, and the device."""
    record = read_record(options.run)
    if record["status"] != "complete":
        raise ValueError(
            f"{options.run} is not finished ({record['status']}): igm train --resume {options.run}"
        )
    settings = _settings_of(record)
    model, data = _model_of(record, options.data_root)
    load_weights(Path(options.run) / WEIGHTS, model)
    devices = Devices(options.device, settings.precision)
    model.to(devices.device).eval()
    method = find_method(settings.method)(model, settings.modalities, settings)
    method.autocast = devices.autocast
    return method, data, devices.device


def _settings_of(record: Mapping) -> Settings:
    """The settings of a run; those that it does not have, as one of version 0.1.0, are at their defaults."""
    known = {field.name for field in fields(Settings)}
    if unknown := sorted(record["settings"].keys() - known):
        raise ValueError(
            f"the run has settings that are not known here ({', '.join(unknown)}): it was made by "
            "another version of igm, use that one"
        )
    return Settings(**record["settings"])


def _draw_surface(path: Path, axis: list[float], surface: torch.Tensor) -> None:
    from matplotlib.figure import Figure

    from igm.plots import plot_surface  # matplotlib is slow to load

    figure = Figure(figsize=(5, 4), layout="constrained")
    plot_surface(surface, axis, axis, ax=figure.subplots())
    write(path, lambda name: figure.savefig(name, format="png", dpi=150))


def _model_and_data(notes: Mapping, modalities: list[str] | None, seed: int):
    reading = {"samples": notes["samples"], "noise": notes["noise"], "seed": notes["data_seed"]}
    data = load_splits(notes["data"], notes["data_root"], **reading)
    shapes = data["train"].shapes
    wanted = modalities or list(shapes)
    for name in wanted:
        if name not in shapes:
            raise ValueError(f"unknown modality {name!r}: the data has {', '.join(shapes)}")
    model = build_model(
        {name: shape for name, shape in shapes.items() if name in wanted},
        classes=len(data["train"].classes),
        fusion=notes["model"],
        shared_head=notes["shared_head"],
        seed=seed,
    )
    return model, data


def _report(run: Run) -> int:
    if int(os.environ.get("RANK", 0)) == 0:  # one of several processes speaks
        print(score_table(run.results))
        print(
            f"best epoch {run.best_epoch} of {len(run.history)} ({run.why}), "
            f"{run.wall_seconds:.0f} s, saved in {run.folder}"
        )
    return 0


class _Parser(ArgumentParser):
    """An argument parser whose errors are one line."""

    command = "igm"

    def error(self, message: str, ex: Exception | None = None) -> None:
        if os.environ.get("IGM_TRACEBACK") and ex is not None:
            raise ex
        print(
            f"igm: {_one_line(self._plain(message))} (`{self.command} --help` lists all options)",
            file=sys.stderr,
        )
        raise SystemExit(2)

    def _plain(self, message: str) -> str:
        """A message of jsonargparse without its Python types; one that is not known here stays as it is."""
        if "but it was not provided" in message:
            return f"no command: give {' or '.join(COMMANDS)}"
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            options = [o for o in self._option_string_actions if o.startswith("--")]
            return f"unknown option {unknown[1]}{_suggestion(unknown[1].split('=')[0], options)}"
        key = re.match(r'Parser key "(\w+)"', message)
        kind = re.search(r"Subtypes: \[(\w+)|<class '(\w+)'>", message)
        value = re.search(r"(?:Got|Given) value: ([^\n]*)$", message.rstrip())
        if key and kind and value:
            kind = KINDS.get(kind[1] or kind[2], kind[1] or kind[2])
            return f"--{key[1]} must be {kind}, got {value[1]}"
        return message


class _Config(ActionConfigFile):
    """--config: the file is looked at before its options are used, so that an error names it."""

    def __call__(self, parser, cfg, value, option_string=None):
        try:
            config = json.loads(Path(value).read_text(encoding="utf-8"))
        except OSError as error:
            parser.error(f"cannot read the config file {value}: {error.strerror}")
        except ValueError as error:
            parser.error(f"the config file {value} is not valid JSON: {error}")
        if not isinstance(config, dict):
            parser.error(f'the config file {value} must hold options, e.g. {{"epochs": 20}}')
        options = [action.dest for action in parser._actions if action is not self]
        for key in config:
            if key not in options:
                parser.error(
                    f"unknown option {key!r} in the config file {value}{_suggestion(key, options)}"
                )
        super().__call__(parser, cfg, value, option_string)


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": 'a list such as \'["image", "audio"]\'',
    "dict": "a number by name, such as '{\"image\": 1.5}'",
}


def _train_parser() -> ArgumentParser:
    training = _new_parser("train")
    add = training.add_argument
    add("--config", action=_Config, help="a JSON file with any of these options")
    add("--data", default="digits", help=f"data set: {', '.join(DATASETS)}")
    add(
        "--data_root",
        type=str | None,
        help="its folder; by default the data that comes with the book",
    )
    add("--samples", type=int | None, help="train on this many samples")
    add(
        "--noise", type=dict[str, float] | None, help='noise level by modality, e.g. {"image": 1.5}'
    )
    add("--data_seed", type=int, default=0, help="of the pairs and the noise")
    add("--shared_head", type=bool, default=False, help="one head for all modalities")
    add(
        "--model",
        default="late",
        help="late: a head for each modality; concat: one over all features",
    )
    add(
        "--out", type=str | None, help="a new folder for the run; by default runs/DATA-METHOD-seedN"
    )
    add("--resume", type=str | None, help="go on with the interrupted run in this folder")
    add("--tensorboard", type=bool, default=False, help="write the history for TensorBoard, too")
    training.add_class_arguments(Settings)
    return training


def _parser() -> ArgumentParser:
    parser = _Parser(
        prog="igm",
        parser_mode="json",
        description="Train multimodal networks by IGM and its rivals.",
    )
    commands = parser.add_subcommands(dest="command", required=True)
    commands.add_subcommand("train", _train_parser(), help=train_command.__doc__)

    evaluation = _new_parser("evaluate")
    _add_run(evaluation)
    commands.add_subcommand("evaluate", evaluation, help=evaluate_command.__doc__)

    landscape = _new_parser("landscape")
    _add_run(landscape)
    landscape.add_argument("--output", default="fused", help="fused, or a modality")
    landscape.add_argument(
        "--split", default="valid", choices=["train", "valid", "test"], help="data"
    )
    landscape.add_argument("--points", type=int, default=25, help="of each axis")
    landscape.add_argument("--radius", type=float, default=1.0, help="of the axes, in filter norms")
    commands.add_subcommand("landscape", landscape, help=landscape_command.__doc__)

    comparison = _new_parser("compare")
    comparison.add_argument("runs", nargs="+", type=str, help="the folders of runs")
    comparison.add_argument("--score", default="accuracy", help="accuracy, macro_f1 or map")
    comparison.add_argument("--output", default="fused", help="fused, or a modality")
    comparison.add_argument("--split", default="test", help="test or valid")
    comparison.add_argument("--plot", type=str | None, help="a new file for a figure, .png or .svg")
    commands.add_subcommand("compare", comparison, help=compare_command.__doc__)
    return parser


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="the folder of a run")
    parser.add_argument("--data_root", type=str | None, help="another folder of the same data")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... or auto")


def _new_parser(command: str) -> _Parser:
    parser = _Parser(
        prog=f"igm {command}", parser_mode="json", description=COMMANDS[command].__doc__
    )
    parser.command = f"igm {command}"
    return parser


def _free_folder(data: str, settings: dict) -> Path:
    stem = Path("runs") / f"{data}-{settings['method']}-seed{settings['seed']}"
    folder, number = stem, 2
    while folder.exists():
        folder, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return folder


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""


def _one_line(message: str) -> str:
    return " ".join(message.split())


if __name__ == "__main__":
    sys.exit(main())
