"""The command line, ``igm ...`` or ``python -m igm ...``: a file a command, each with ``add_arguments`` and ``run``.

What they share: ``parser`` (one line for each mistake), ``terminal`` (one line for each error), ``config`` (--config),
``authors_config`` (the configs of the authors' code), ``models`` (the model and the data that a run's options name).
Bad input ends with exit code 2 and one line that says what is wrong and what to do, Ctrl-C with 130 and how to go on.
IGM_TRACEBACK=1 shows where an error was raised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from igm.cli import check, compare, evaluate, landscape, prepare, sample, train
from igm.cli.parser import Parser
from igm.cli.terminal import BAD_INPUT, STOPPED, one_line, plain_output, sentence
from igm.runs import VERSION

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (train, evaluate, compare, landscape, prepare, check, sample)
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    words = ["--cache=false" if word == "--no-cache" else word for word in words]
    plain_output()
    try:
        options = build_parser(words).parse_args(words)
        return COMMANDS[options.command].run(options[options.command])
    except KeyboardInterrupt as stop:
        # A command that has left something says in its KeyboardInterrupt how to go on.
        code, text = STOPPED, f"stopped; {str(stop) or 'the same command begins anew'}"
    except Exception as error:
        code, text = BAD_INPUT, sentence(error)
        if text is None or os.environ.get("IGM_TRACEBACK"):
            raise
    print(f"igm: {one_line(text)}", file=sys.stderr)
    return code


def build_parser(words: Sequence[str] = ()) -> Parser:
    """The parser of all commands. ``words`` are those of the command line: the method among them decides options."""
    about = "Train multimodal networks by IGM and its rivals."
    parser = Parser("igm", description=about, version=VERSION)
    parser.commands = list(COMMANDS)
    commands = parser.add_subcommands(dest="command", required=True)
    for name, module in COMMANDS.items():
        command = Parser(f"igm {name}", description=module.__doc__)
        commands.add_subcommand(name, command, help=module.__doc__)
        command.prog = f"igm {name}"  # add_subcommand gives it another
        module.add_arguments(command, *([words] if module is train else []))
    return parser
