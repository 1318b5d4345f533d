"""The three variants of the method igm side by side; README and the page on training show the same table."""

from __future__ import annotations

from dataclasses import fields

from igm.methods import VARIANTS, IGMSettings


def variants_table() -> list[list[str]]:
    """The settings in which the variants differ: rows of ["tau", "0.4", "0.4", "20.0"], the first row has the names."""
    used = [IGMSettings.make(variant=variant) for variant in VARIANTS]
    rows = [["", *VARIANTS]]
    for field in fields(IGMSettings):
        values = [str(getattr(settings, field.name)) for settings in used]
        if len(set(values)) > 1 and field.name != "variant":
            rows.append([field.name, *values])
    return rows


def markdown(rows: list[list[str]]) -> str:
    """A table in Markdown, names and values as code."""
    lines = [[f"`{cell}`" if cell else "" for cell in row] for row in rows]
    lines.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
