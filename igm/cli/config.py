"""--config FILE: a JSON file with any options of the command, or a config of the authors' code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ActionConfigFile

from igm.cli.authors_config import is_authors, translate
from igm.cli.parser import suggestion
from igm.cli.terminal import speaks


def read_config(path: str) -> tuple[dict, list[str]]:
    """The options in a file, and a sentence on each key that is not honoured.

    Raises:
        ValueError: the file cannot be read, or does not hold options.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read the config file {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"the config file {path} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f'the config file {path} must hold options, e.g. {{"epochs": 20}}')
    if not is_authors(config):
        return config, []
    try:
        return translate(config)
    except ValueError as error:
        raise ValueError(f"in the config file {path} {error}") from None


class Config(ActionConfigFile):
    """The action of --config: the file is looked at before its options are used, so that an error names it.

    ``elsewhere`` are the options of other methods, which a config may have: they are left out, and it is said.
    """

    elsewhere: Sequence[str] = ()

    def __call__(self, parser, cfg, value, option_string=None):
        try:
            config, told = read_config(value)
        except ValueError as error:
            parser.error(str(error))
        options = [action.dest for action in parser._actions if action is not self]
        for key in list(config):
            if key in options:
                continue
            if key not in self.elsewhere:
                parser.error(
                    f"unknown option {key!r} in the config file {value}{suggestion(key, options)}"
                )
            del config[key]
            told.append(f"{key} is ignored: it is a setting of other methods")
        if speaks():
            for sentence in told:
                print(f"igm: config {value}: {sentence}", file=sys.stderr)
        # jsonargparse takes a file or what would be in one.
        super().__call__(parser, cfg, json.dumps(config), option_string)
