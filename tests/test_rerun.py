"""Does rerun.py find what it is there to find?"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

TESTS = Path(__file__).parent

SLIDER = """
from ipywidgets import Image, IntSlider, VBox
top = 9
def control(draw, slider):
    picture = Image(value=draw(slider.value))
    slider.observe(lambda change: setattr(picture, "value", draw(change.new)), "value")
    return VBox([slider, picture])
control(lambda x: b"%d of %d" % (x, top), IntSlider(1, min=0, max=3))
"""


def failures(folder: Path, *sources: str, printed=()) -> list[str]:
    """Which cells of such a notebook fail, by number and time."""
    notebook = new_notebook()
    for number, source in enumerate(sources, 1):
        cell = new_code_cell(source, execution_count=number)
        if "print" in source:
            cell.outputs = [new_output("stream", name="stdout", text=f"{printed[number - 1]}\n")]
        else:
            cell.metadata["tags"] = ["nbval-ignore-output"]
        notebook.cells.append(cell)
    nbformat.write(notebook, folder / "notebook.ipynb")
    shutil.copy(TESTS / "rerun.py", folder / "conftest.py")
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider"]
    command += ["--nbval", "--nbval-current-env", "--color=no", "notebook.ipynb"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=without_pytest()
    )
    assert done.returncode < 2, done.stdout + done.stderr
    return re.findall(r"^FAILED notebook.ipynb::(.*?) - ", done.stdout, flags=re.M)


def without_pytest() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def test_cells_that_may_run_again_pass(tmp_path):
    once = "# Once: the value stays\nassert 'done' not in globals()\ndone = True"
    assert failures(tmp_path, "x = 1", "print(x)", SLIDER, once, printed=["", 1]) == []


def test_cells_that_give_something_else_are_found(tmp_path):
    cells = ["print('late' in globals())", "x = [0]", "x.append(len(x)); print(x)", SLIDER]
    cells += ["!false", "late = top = 5"]
    found = failures(tmp_path, *cells, printed=[False, "", "[0, 1]"])
    assert found == ["Cell 2 again", "Cell 4 shell", "sliders at the end", "Cell 0 at the end"]
