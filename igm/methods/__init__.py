"""Training methods, one file each. The training loop knows them by the small interface in ``base``.

The rivals, in a room of their own, and methods of other packages are found by name through the entry points of the
group ``igm.methods``, which a package declares in its pyproject.toml.
"""

from importlib.metadata import entry_points

from igm.methods.alternating import Alternating, AlternatingSettings
from igm.methods.base import Method, Stage
from igm.methods.interactive import VARIANTS, IGMSettings, Interactive
from igm.methods.joint import Joint, JointSettings
from igm.methods.unimodal import EachAlone, UnimodalSettings

METHODS: dict[str, type[Method]] = {
    "unimodal": EachAlone,
    "joint": Joint,
    "alternating": Alternating,
    "igm": Interactive,
}


def method_names() -> list[str]:
    """The names of all methods: those here, then those that installed packages declare."""
    # The names come as a set, whose order changes from one start of Python to the next.
    declared = sorted(entry_points(group="igm.methods").names)
    return list(dict.fromkeys([*METHODS, *declared]))


def find_method(method: str | type[Method]) -> type[Method]:
    """The class of a method's name; a class of your own passes through.

    Raises:
        ValueError: there is no method of that name.
    """
    if not isinstance(method, str):
        return method
    if method in METHODS:
        return METHODS[method]
    for entry in entry_points(group="igm.methods", name=method):
        return entry.load()
    raise ValueError(f"unknown method {method!r}: use one of {', '.join(method_names())}")
