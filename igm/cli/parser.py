"""An argument parser whose errors are one line that says what is wrong and what to do.

jsonargparse says what went wrong in the text of its error only. ``plain`` takes from it, for the mistakes that people
make, the option, the kind of value that it wants and what it got; a text that it does not know stays as it is. Each
kind of mistake has its test in tests/test_cli.py, so a change of those texts is seen.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches

from jsonargparse import ArgumentParser, set_parsing_settings

from igm.cli.terminal import BAD_INPUT, one_line

set_parsing_settings(docstring_parse_attribute_docstrings=True)  # the lines beneath the settings

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": 'a list such as \'["image", "audio"]\'',
    "dict": "a number by name, such as '{\"image\": 1.5}'",
}


class Parser(ArgumentParser):
    """The parser of ``command``, e.g. "igm train"; ``commands`` are those below it."""

    def __init__(self, command: str = "igm", **options):
        super().__init__(prog=command, parser_mode="json", **options)
        self.commands: list[str] = []
        self.foreign: dict[str, str] = {}  # options that are not here -> what to say of them

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Ends the program with exit code 2."""
        if os.environ.get("IGM_TRACEBACK") and ex is not None:
            raise ex
        text = one_line(self.plain(message))
        print(f"igm: {text} (`{self.prog} --help` lists all options)", file=sys.stderr)
        raise SystemExit(BAD_INPUT)

    def plain(self, message: str) -> str:
        """A message of jsonargparse without its Python types."""
        if "but it was not provided" in message:
            return f"no command: give {' or '.join(self.commands)}"
        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            return self.unknown(unknown[1])
        key = re.match(r'Parser key "(\w+)"', message)
        kind = re.search(r"Subtypes: \[(\w+)|<class '(\w+)'>", message)
        value = re.search(r"(?:Got|Given) value: ([^\n]*)$", message.rstrip())
        if key and kind and value:
            kind = KINDS.get(kind[1] or kind[2], kind[1] or kind[2])
            return f"--{key[1]} must be {kind}, got {value[1]}"
        return message

    def unknown(self, word: str) -> str:
        """What to say of an option that is not here."""
        option = word.split("=")[0]
        if option in self.foreign:
            return self.foreign[option]
        known = [o for o in self._option_string_actions if o.startswith("--")]
        return f"unknown option {word}{suggestion(option, known)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), 1)
    return f": did you mean {close[0]}?" if close else ""
