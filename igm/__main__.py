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
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from torch.nn.functional import nll_loss

from igm.authors_config import is_authors, translate
from igm.compare import compare, comparison_table, plot_comparison
from igm.datasets import DATASETS, LAYOUTS, Layout, check_options, find_layout, load_splits
from igm.datasets.layout import check, check_report, make_sample, prepare
from igm.datasets.preparing import MANIFEST, REPORT, report_text
from igm.devices import Devices
from igm.files import write, write_json
from igm.landscape import (
    cross_entropy,
    hessian_eigenvalues,
    hessian_trace,
    loss_surface,
    random_direction,
    worst_case_loss,
)
from igm.loading import batches
from igm.methods import find_method
from igm.models import LateFusion, build_model, fuse
from igm.runs import WEIGHTS, load_weights, read_record
from igm.settings import Settings
from igm.train import Run, evaluate, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    parser = _parser()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser.parse_args(["--cache=false" if w == "--no-cache" else w for w in words])
        return COMMANDS[options.command](options[options.command])
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("IGM_TRACEBACK"):
            raise
        print(f"igm: {_one_line(str(error))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if os.environ.get("IGM_TRACEBACK") or not error.name:
            raise
        print(
            f"igm: {error.name} is not installed, which reading media files needs: in the book's folder "
            "`pip install '.[media]'`",
            file=sys.stderr,
        )
        return 2


def train_command(options: Namespace) -> int:
    """Trains on a data set, prints a table of scores, and leaves a run folder."""
    if options.resume:
        return _resume(options)
    settings = {field.name: options[field.name] for field in fields(Settings)}
    find_method(settings["method"])  # before the data is read
    Settings(**settings)
    out = Path(options.out) if options.out else _free_folder(options.data, settings)
    notes = {name: _plain(options[name]) for name in DATA_OPTIONS}
    model, data = _model_and_data(notes, settings["modalities"], settings["seed"])
    if held_out := getattr(data["valid"], "notes", None):
        notes["held_out"] = held_out
    run = train(model, data, out=out, notes=notes, tensorboard=options.tensorboard, **settings)
    return _report(run)


def evaluate_command(options: Namespace) -> int:
    """Scores the weights of a finished run on its data, or on other data of the same kind."""
    method, data, device = _finished(options)
    s = method.settings
    sizes = {"batch_size": s.eval_batch_size, "workers": s.workers}
    results = {
        split: evaluate(method.logits, data[split], s.fusion, device, **sizes)
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
        for batch in batches(dataset, method.settings.eval_batch_size, None, device)
    ]
    axis = torch.linspace(-options.radius, options.radius, options.points).tolist()
    directions = [random_direction(network, seed) for seed in (0, 1)]
    loss = _fused_loss(method.settings.fusion) if name == "fused" else cross_entropy
    surface = loss_surface(network, pairs, directions, axis, axis, loss)
    rhos = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2]
    found = {
        "hessian_eigenvalue": hessian_eigenvalues(network, pairs, loss=loss)[0].item(),
        "hessian_trace": hessian_trace(network, pairs, loss=loss),
        "worst_case_loss": dict(
            zip(map(str, rhos), worst_case_loss(network, pairs, rhos, loss=loss).tolist())
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


def prepare_command(options: Namespace) -> int:
    """Brings a raw download into the layout that training reads; safe to stop, and to run again."""
    layout = find_layout(options.data)
    mine = options[options.data].as_dict()
    raw, out = mine.pop("raw"), mine.pop("out")
    running = {name: mine.pop(name) for name in ("workers", "strict", "follow_links")}
    try:
        report = prepare(layout, raw, out, mine, **running)
    except KeyboardInterrupt:
        print("igm: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    print(report_text(report))
    print(f"{report['files']:,} files in {out}; see {REPORT} and {MANIFEST} there")
    return 0


def check_command(options: Namespace) -> int:
    """Reads all annotations and looks for all files of a data set; exit code 0 if it can be used, else 1."""
    layout = find_layout(options.data)
    found = check(layout, options.root, options.full)
    print(check_report(layout, found))
    return 0 if found.usable else 1


def sample_command(options: Namespace) -> int:
    """Makes a small synthetic data set, as raw download and in the layout that training reads."""
    layout, out = find_layout(options.data), Path(options.out)
    make_sample(layout, out, options.seed)
    print(f"{layout.name}: raw form in {out / 'raw'}, ready for training in {out / layout.folder}")
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
    "prepare": prepare_command,
    "check": check_command,
    "sample": sample_command,
}
DATA_OPTIONS = {  # what run.json says of data and model, with its defaults
    "data": "digits",
    "data_root": None,
    "samples": None,
    "noise": None,
    "data_seed": 0,
    "reading": None,
    "cache": True,
    "model": "late",
    "network": None,
    "shared_head": False,
}
DECIDED = {  # what the functions behind --network and --reading get from elsewhere
    *("name", "root", "split", "samples", "cache"),
    *("classes", "shapes", "modalities", "kind", "fusion", "shared_head", "seed"),
}
SINCE_0_2 = ("reading", "cache", "network")  # a run without them did what their defaults do


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
    notes = {name: record[name] for name in (*DATA_OPTIONS, "held_out") if name in record}
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


def _model_of(record: Mapping, data_root: str | None = None, pretrained: bool = True):
    """The untrained model of a run and its data."""
    if not all(name in record for name in DATA_OPTIONS if name not in SINCE_0_2):
        raise ValueError("this run was not begun by igm train: go on with it in Python")
    notes = {name: record.get(name, default) for name, default in DATA_OPTIONS.items()}
    if data_root:
        notes["data_root"] = data_root
    settings = record["settings"]
    return _model_and_data(notes, settings["modalities"], settings["seed"], pretrained)


def _finished(options: Namespace):
    """The method of a finished run with its trained model in evaluation mode, its data, and the device."""
    record = read_record(options.run)
    if record["status"] != "complete":
        raise ValueError(
            f"{options.run} is not finished ({record['status']}): igm train --resume {options.run}"
        )
    settings = _settings_of(record)
    model, data = _model_of(record, options.data_root, pretrained=False)
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


def _fused_loss(fusion: str):
    """The loss of the prediction that the run is scored by."""
    if fusion == "mean":
        return cross_entropy
    smallest = torch.finfo(torch.float32).tiny
    return lambda output, y: nll_loss(fuse(output, fusion).clamp_min(smallest).log(), y)


def _draw_surface(path: Path, axis: list[float], surface: torch.Tensor) -> None:
    from matplotlib.figure import Figure

    from igm.plots import plot_surface  # matplotlib is slow to load

    figure = Figure(figsize=(5, 4), layout="constrained")
    plot_surface(surface, axis, axis, ax=figure.subplots())
    write(path, lambda name: figure.savefig(name, format="png", dpi=150))


def _model_and_data(
    notes: Mapping, modalities: list[str] | None, seed: int, pretrained: bool = True
):
    """An untrained model, its encoders pretrained where they are, and the splits of its data."""
    name, network = notes["data"], dict(notes["network"] or {})
    options = dict(notes["reading"] or {})
    for flag, given in {"network": network, "reading": options}.items():
        if decided := sorted(DECIDED & given.keys()):
            raise ValueError(
                f"{decided[0]!r} is no option of --{flag}: the data or another option of the command "
                "decides it, see igm train --help"
            )
    if name in LAYOUTS:
        if notes["noise"]:
            raise ValueError(f"noise is for the small data sets, not for {name}: leave it out")
        options["cache"] = notes["cache"]
        _same_tokenizer(LAYOUTS[name], network, options)
    elif notes["noise"]:
        options["noise"] = notes["noise"]
    data = load_splits(
        name, notes["data_root"], samples=notes["samples"], seed=notes["data_seed"], **options
    )
    there = data["train"].modalities
    wanted = modalities or there
    for modality in wanted:
        if modality not in there:
            raise ValueError(f"unknown modality {modality!r}: the data has {', '.join(there)}")
    wanted = [modality for modality in there if modality in wanted]
    kind, classes = notes["model"], len(data["train"].classes)
    shared = {"shared_head": notes["shared_head"], "seed": seed}
    if name in LAYOUTS:
        from igm.encoders.build import build_network  # torchvision is slow to load

        network |= shared | ({} if pretrained else {"pretrained": False})
        return build_network(LAYOUTS[name].network, classes, wanted, kind, **network), data
    shapes = {modality: data["train"].shapes[modality] for modality in wanted}
    check_options("network", name, network, build_model)
    return build_model(shapes, classes, fusion=kind, **shared, **network), data


def _same_tokenizer(layout: Layout, network: Mapping, reading: dict) -> None:
    """A text encoder reads the numbers of its own tokenizer."""
    if "tokenizer" in signature(layout.readers).parameters:
        text_encoder = network.get("clip") or network.get("text_encoder")
        if text_encoder:
            reading.setdefault("tokenizer", text_encoder)


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
        content = value
        if is_authors(config):
            try:
                config, told = translate(config)
            except ValueError as error:
                parser.error(f"in the config file {value} {error}")
            if int(os.environ.get("RANK", 0)) == 0:  # one of several processes speaks
                for sentence in told:
                    print(f"igm: config {value}: {sentence}", file=sys.stderr)
            content = json.dumps(config)  # jsonargparse takes a file or what would be in one
        options = [action.dest for action in parser._actions if action is not self]
        for key in config:
            if key not in options:
                parser.error(
                    f"unknown option {key!r} in the config file {value}{_suggestion(key, options)}"
                )
        super().__call__(parser, cfg, content, option_string)


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
        help="its folder, or the folder that holds it; by default the data that comes with the book, and for "
        "other data IGM_DATA",
    )
    add("--samples", type=int | None, help="train on this many samples")
    add(
        "--noise", type=dict[str, float] | None, help='noise level by modality, e.g. {"image": 1.5}'
    )
    add("--data_seed", type=int, default=0, help="of the pairs, the noise, the augmentation")
    add(
        "--reading",
        type=dict[str, Any] | None,
        help="how the data is read, e.g. --reading.frames 3; the options of each data set are in igm/datasets",
    )
    add(
        "--cache",
        type=bool,
        default=True,
        help="keep decoded files beside the data; --no-cache for false",
    )
    add("--shared_head", type=bool, default=False, help="one head for all modalities")
    add(
        "--model",
        default="late",
        help="late: a head for each modality; concat: one over all features",
    )
    add(
        "--network",
        type=dict[str, Any] | None,
        help="options of the encoders, e.g. --network.size tiny; see igm/encoders",
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

    preparation = _new_parser("prepare")
    commands.add_subcommand("prepare", preparation, help=prepare_command.__doc__)
    kinds = preparation.add_subcommands(dest="data", required=True)
    for name, layout in LAYOUTS.items():
        kind = _Parser(prog=f"igm prepare {name}", parser_mode="json")
        kind.command = f"igm prepare {name}"
        kind.add_argument("raw", type=str, help="the folder of the download")
        kind.add_argument("out", type=str, help="a new folder, or one that igm prepare began")
        kind.add_argument("--workers", type=int | None, help="processes; by default one a core")
        kind.add_argument(
            "--strict", type=bool, default=False, help="stop at what would be skipped"
        )
        kind.add_argument(
            "--follow_links", type=bool, default=False, help="also links out of the raw folder"
        )
        kind.add_function_arguments(layout.prepare, skip={"job"})
        kinds.add_subcommand(name, kind, help=f"see igm prepare {name} --help")

    checking = _new_parser("check")
    checking.add_argument("data", type=str, help=f"one of {', '.join(LAYOUTS)}")
    checking.add_argument("root", type=str, help="its folder, or the folder that holds it")
    checking.add_argument("--full", type=bool, default=False, help="decode every file")
    commands.add_subcommand("check", checking, help=check_command.__doc__)

    sampling = _new_parser("sample")
    sampling.add_argument("data", type=str, help=f"one of {', '.join(LAYOUTS)}")
    sampling.add_argument("out", type=str, help="a new folder")
    sampling.add_argument("--seed", type=int, default=0, help="of all that is drawn")
    commands.add_subcommand("sample", sampling, help=sample_command.__doc__)
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


def _plain(value):
    """An option of several parts as a dict."""
    return value.as_dict() if isinstance(value, Namespace) else value


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
