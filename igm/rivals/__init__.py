"""Competitors of IGM, one file each, on the interface of ``igm.methods.Method``.

A rival has its own settings and says in its docstring where the paper and the published code part. It is found by name,
``igm.train(..., method="ogm")``, through its line in pyproject.toml.
"""

from igm.rivals.mla import MLA, MLASettings
from igm.rivals.ogm import OGM, OGMSettings

__all__ = ["MLA", "OGM", "MLASettings", "OGMSettings"]
