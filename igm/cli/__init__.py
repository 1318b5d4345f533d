"""The command line, ``igm ...`` or ``python -m igm ...``: a file a command, each with ``add_arguments`` and ``run``.

What they share: ``parser`` (one line for each mistake), ``config`` (--config), ``authors_config`` (the configs of the
authors' code), ``models`` (the model and the data that a run's options name). Bad input ends with exit code 2 and one
line that says what is wrong and what to do. IGM_TRACEBACK=1 shows where such an error was raised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from igm.cli import check, compare, evaluate, landscape, prepare, sample, train
from igm.cli.parser import Parser, one_line

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (train, evaluate, compare, landscape, prepare, check, sample)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = ["--cache=false" if word == "--no-cache" else word for word in words]
    traceback = os.environ.get("IGM_TRACEBACK")
    try:
        options = build_parser(words).parse_args(words)
        return COMMANDS[options.command].run(options[options.command])
    except (ValueError, OSError, FloatingPointError) as error:
        if traceback:
            raise
        print(f"igm: {one_line(str(error))}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if traceback or not error.name:
            raise
        print(
            f"igm: {error.name} is not installed, which reading media files needs: in the book's folder "
            "`pip install '.[media]'`",
            file=sys.stderr,
        )
        return 2


def build_parser(words: Sequence[str] = ()) -> Parser:
    """The parser of all commands. ``words`` are those of the command line: the method among them decides options."""
    parser = Parser("igm", description="Train multimodal networks by IGM and its rivals.")
    parser.commands = list(COMMANDS)
    commands = parser.add_subcommands(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = Parser(f"igm {name}", description=module.__doc__)
        commands.add_subcommand(name, command, help=module.__doc__)
        command.prog = f"igm {name}"  # add_subcommand gives it another
        module.add_arguments(command, *([words] if module is train else []))
    return parser
