"""Training methods, one file each; the training loop knows them by the small interface in base.py."""

from igm.methods.alternating import Alternating
from igm.methods.base import Method, Stage
from igm.methods.igm import IGM, VARIANTS
from igm.methods.joint import Joint
from igm.methods.mla import MLA
from igm.methods.ogm import OGM
from igm.methods.unimodal import Unimodal

METHODS: dict[str, type[Method]] = {
    "unimodal": Unimodal,
    "joint": Joint,
    "alternating": Alternating,
    "igm": IGM,
    "ogm": OGM,
    "mla": MLA,
}

__all__ = [
    "IGM",
    "METHODS",
    "MLA",
    "OGM",
    "VARIANTS",
    "Alternating",
    "Joint",
    "Method",
    "Stage",
    "Unimodal",
    "find_method",
]


def find_method(method: str | type[Method]) -> type[Method]:
    """The class of a method's name; a class of your own passes through."""
    if not isinstance(method, str):
        return method
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    return METHODS[method]
