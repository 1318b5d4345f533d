"""The small scripts around the build."""

import nbformat
import strip_notebooks
from fresh_cache import refresh
from nbformat.v4 import new_code_cell, new_notebook, new_output


def test_notebooks_run_anew_only_when_what_they_run_on_changes(tmp_path):
    (tmp_path / "igm").mkdir()
    (tmp_path / "igm" / "flat.py").write_text("tau = 0.4")
    assert refresh(tmp_path) == ["notebooks", "pages"]
    executed = tmp_path / "_build" / ".jupyter_cache"
    executed.mkdir()
    (tmp_path / "igm" / "__pycache__").mkdir()
    (tmp_path / "igm" / "__pycache__" / "flat.pyc").touch()
    assert refresh(tmp_path) == [] and executed.exists()
    (tmp_path / "igm" / "flat.py").write_text("tau = 0.5")
    assert refresh(tmp_path) == ["notebooks", "pages"] and not executed.exists()
    (tmp_path / "book" / "igm_book").mkdir(parents=True)
    (tmp_path / "book" / "igm_book" / "plots.py").write_text("COLOURS = []")
    assert refresh(tmp_path) == ["notebooks", "pages"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "digits.npz").write_bytes(b"1")
    assert refresh(tmp_path) == ["notebooks", "pages"]
    assert refresh(tmp_path) == []


def test_pages_are_written_anew_when_the_table_of_contents_changes(tmp_path):
    (tmp_path / "_toc.yml").write_text("root: index")
    refresh(tmp_path)
    for folder in ("html", ".jupyter_cache"):
        (tmp_path / "_build" / folder).mkdir()
    (tmp_path / "_toc.yml").write_text("root: intro")
    assert refresh(tmp_path) == ["pages"]
    assert not (tmp_path / "_build" / "html").exists()
    assert (tmp_path / "_build" / ".jupyter_cache").exists()


def test_an_executed_notebook_loses_what_differs_from_run_to_run():
    widget = {strip_notebooks.WIDGET: {"model_id": "0"}, "text/plain": "100%"}
    cell = new_code_cell(
        "run()",
        execution_count=1,
        metadata={"tags": ["hide-input"], "execution": {"iopub.status.busy": "2026-01-01"}},
        outputs=[new_output("display_data", data=widget)],
    )
    metadata = {
        "widgets": {},
        "kernelspec": {"name": "mine", "display_name": "Mine"},
        "language_info": {"name": "python", "version": "3.11.7"},
    }
    notebook = strip_notebooks.strip(new_notebook(cells=[cell], metadata=metadata))
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python", "pygments_lexer": "ipython3"}
    assert notebook.cells[0].metadata == {"tags": ["hide-input"]}
    assert notebook.cells[0].execution_count == 1
    assert list(notebook.cells[0].outputs[0].data) == ["text/plain"]


def test_what_no_page_shows_is_not_stored():
    hidden = new_code_cell(
        "control()",
        outputs=[new_output("display_data", data={"text/plain": "VBox()"})],
        metadata={"tags": ["remove-output"]},
    )
    shown = new_code_cell("1", outputs=[new_output("display_data", data={"text/plain": "1"})])
    stripped = strip_notebooks.strip(new_notebook(cells=[hidden, shown]))
    assert [len(cell.outputs) for cell in stripped.cells] == [0, 1]
