"""The command line: ``python -m igm train ...``, also installed as ``igm``.

Bad input ends with exit code 2 and one line that says what is wrong and what to do. IGM_TRACEBACK=1 shows where
such an error was raised.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from igm.datasets import DATASETS, load_splits
from igm.methods import find_method
from igm.models import build_model
from igm.train import Run, Settings, train


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
    settings = {field.name: options[field.name] for field in fields(Settings)}
    find_method(settings["method"])  # before the data is read
    Settings(**settings)
    out = Path(options.out) if options.out else _free_folder(options.data, settings)
    reading = {"samples": options.samples, "noise": options.noise, "seed": options.data_seed}
    data = load_splits(options.data, options.data_root, **reading)
    shapes = data["train"].shapes
    wanted = settings["modalities"] or list(shapes)
    for name in wanted:
        if name not in shapes:
            raise ValueError(f"unknown modality {name!r}: the data has {', '.join(shapes)}")
    model = build_model(
        {name: shape for name, shape in shapes.items() if name in wanted},
        classes=len(data["train"].classes),
        fusion=options.model,
        shared_head=options.shared_head,
        seed=settings["seed"],
    )
    notes = {name: options[name] for name in DATA_OPTIONS}
    run = train(model, data, out=out, notes=notes, **settings)
    print(score_table(run))
    print(
        f"best epoch {run.best_epoch} of {len(run.history)}, {run.wall_seconds:.0f} s, saved in {run.folder}"
    )
    return 0


def score_table(run: Run) -> str:
    """The scores of a run, a line for each split and each prediction."""
    lines = [f"{'split':8}{'prediction':14}{'accuracy':>10}{'macro-F1':>10}{'mAP':>8}"]
    for split, predictions in run.results.items():
        for name, s in predictions.items():
            lines.append(
                f"{split:8}{name:14}{s['accuracy']:>10.3f}{s['macro_f1']:>10.3f}{s['map']:>8.3f}"
            )
    return "\n".join(lines)


COMMANDS = {"train": train_command}
DATA_OPTIONS = ("data", "data_root", "samples", "noise", "data_seed", "model", "shared_head")


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


def _parser() -> ArgumentParser:
    training = _Parser(prog="igm train", parser_mode="json", description=train_command.__doc__)
    training.command = "igm train"
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
    training.add_class_arguments(Settings)
    parser = _Parser(
        prog="igm",
        parser_mode="json",
        description="Train multimodal networks by IGM and its rivals.",
    )
    commands = parser.add_subcommands(dest="command", required=True)
    commands.add_subcommand("train", training, help=train_command.__doc__)
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
