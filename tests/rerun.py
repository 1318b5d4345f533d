"""Every cell of a notebook again: right after itself, and once more after the last one; and every slider moved.

A plugin for nbval. A reader runs cells again, and out of order. Each has to give the output of its first run then,
text and pictures, and a slider has to draw at the end what it drew when it appeared. A cell may say why it cannot, in
a line ``# Once: ...``; tests/test_notebooks.py allows one a notebook. A shell line that fails is found, too.

Slow cells are left out, so that this takes little time. What they could break, tools/cell_names.py finds by reading.
"""

import os
import time
from collections import defaultdict

import pytest
from nbformat.v4 import new_code_cell
from nbval.plugin import IPyNbCell

ONCE = "# Once: "
# A cell that took longer, in seconds, is not run again: right after itself, at the end. RERUN_SECONDS="inf inf" runs all.
LIMITS = [float(limit) for limit in os.environ.get("RERUN_SECONDS", "1 2").split()]

SLIDER = """
def pictures_of(box):
    "What the slider draws at its ends and where it stood."
    slider, picture = box.children
    if hasattr(slider, "options"):
        ends = [slider.options[0], slider.options[-1]]
    else:
        ends = [slider.base**end if hasattr(slider, "base") else end for end in (slider.min, slider.max)]
    drawn = []
    for slider.value in [*ends, slider.value]:
        drawn.append(hash(picture.value))
    assert len(set(drawn)) > 1, "the slider moves nothing"
    return drawn

sliders_seen = [*globals().get("sliders_seen", []), (_, pictures_of(_))]
"""
SLIDERS_AT_END = """
for box, drawn in globals().get("sliders_seen", []):
    assert pictures_of(box) == drawn, f"{box.children[0]} draws something else by now"
"""
SHELL = 'assert globals().get("_exit_code", 0) == 0, "the line that begins with ! failed"'


class Again(IPyNbCell):
    """A cell once more: it has to give what it gave at first."""

    first, limit = None, 0.0

    def runtest(self):
        if self.first.test_outputs is None or self.first.seconds > self.limit:
            pytest.skip("slow")
        self.cell = new_code_cell(
            self.cell.source, outputs=self.first.test_outputs, execution_count=1
        )
        super().runtest()

    def sanitize(self, s):
        """Pictures are left as they are: the patterns take minutes for a long text without a blank."""
        return s if isinstance(s, str) and len(s) > 20_000 else super().sanitize(s)

    def compare_outputs(self, test, ref, skip_compare=None):
        compared = ("image/png", "image/jpeg")
        skipped = tuple(key for key in self.parent.skip_compare if key not in compared)
        return super().compare_outputs(test, ref, skipped)


def again(first, where, limit):
    item = Again.from_parent(
        first.parent,
        name=f"{first.name} {where}",
        cell_num=first.cell_num,
        cell=first.cell,
        options=defaultdict(bool, check=True),
    )
    item.first, item.limit = first, limit
    return item


def hidden(first, name, code):
    """A cell that the notebook does not have."""
    return IPyNbCell.from_parent(
        first.parent,
        name=name,
        cell_num=first.cell_num,
        cell=new_code_cell(code),
        options=defaultdict(bool),
    )


def pytest_collection_modifyitems(items):
    cells, twice, end = list(items), [], []
    for cell in cells:
        twice.append(cell)
        if "control(" in cell.cell.source:
            twice.append(hidden(cell, f"{cell.name} slider", SLIDER))
        if any(line.strip().startswith("!") for line in cell.cell.source.splitlines()):
            twice.append(hidden(cell, f"{cell.name} shell", SHELL))
        if ONCE not in cell.cell.source:
            twice.append(again(cell, "again", LIMITS[0]))
            end.append(again(cell, "at the end", LIMITS[1]))
    items[:] = [*twice, hidden(cells[-1], "sliders at the end", SLIDERS_AT_END), *end]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    started = time.perf_counter()
    try:
        return (yield)
    finally:
        item.seconds = time.perf_counter() - started
