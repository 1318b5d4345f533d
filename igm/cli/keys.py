"""The keys of a nested config: each is taken, ignored or told of, so that none is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

KINDS = {
    "text": "text",
    "number": "a number",
    "whole number": "a whole number",
    "list": "a list of whole numbers, e.g. [25, 50]",
    "whole number or list": "a whole number, or a list of them",
}


class Keys:
    """The values by nested name, such as "train.batch_size".

    ``take`` and ``ignore`` strike one off what is ``left``; ``told`` are the sentences, each beginning with its key.

    Args:
        config: as a JSON file has it.
        sections: nested names of what holds further keys. A mapping anywhere else is a value.

    Raises:
        ValueError: a section that holds no keys. The message begins with its name.
    """

    def __init__(self, config: Mapping, sections: Sequence[str]):
        self.left = _flat(config, sections)
        self.told: list[str] = []

    def take(self, name: str, kind: str):
        """The value, which must be of one of ``KINDS``, or None where there is none."""
        if name not in self.left:
            return None
        value = self.left.pop(name)
        if not _is(value, kind):
            raise ValueError(f"{name} must be {KINDS[kind]}, got {value!r}")
        return value

    def ignore(self, name: str, reason: str) -> None:
        if name in self.left:
            del self.left[name]
            self.tell(name, f"is ignored: {reason}")

    def tell(self, name: str, text: str) -> None:
        self.told.append(f"{name} {text}")


def _flat(config: Mapping, sections: Sequence[str], prefix: str = "") -> dict:
    """``{"train": {"batch_size": 12}}`` -> ``{"train.batch_size": 12}``; only sections are opened."""
    values = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name not in sections:
            values[name] = value
        elif isinstance(value, Mapping):
            values |= _flat(value, sections, f"{name}.")
        else:
            raise ValueError(f"{name} must hold keys in braces, got {value!r}")
    return values


def _is(value, kind: str) -> bool:
    if " or " in kind:
        return any(_is(value, k) for k in kind.split(" or "))
    if kind == "text":
        return isinstance(value, str)
    if kind == "list":
        return (
            isinstance(value, list) and value != [] and all(_is(x, "whole number") for x in value)
        )
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole or (kind == "number" and isinstance(value, float))
