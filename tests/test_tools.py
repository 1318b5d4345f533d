"""The small scripts around the build."""

from types import SimpleNamespace

import elsewhere
import nbformat
import pytest
import strip_notebooks
import torch
from fresh_cache import refresh
from nbformat.v4 import new_code_cell, new_notebook, new_output
from rounding import Rounding


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
    assert notebook.metadata.language_info["pygments_lexer"] == "ipython3"  # % and ! lines
    assert "version" not in notebook.metadata.language_info
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


def test_what_is_left_out_elsewhere_exists():
    names = elsewhere.NOT_NUMBERS.split()
    assert names == sorted(set(names))
    assert all((elsewhere.TESTS / f"test_{name}.py").is_file() for name in names)
    left = {path.stem for path in elsewhere.files()}
    assert left >= {"test_flat", "test_sam", "test_igm", "test_margins", "test_teaching_07"}


def test_every_commit_tries_another_part_elsewhere():
    parts = [elsewhere.part(f"commit {i}") for i in range(60)]
    assert {name for name, _ in parts} == set(elsewhere.ARITHMETICS)
    assert len({paths[0] for _, paths in parts}) > 10
    assert all(sorted(paths) == elsewhere.files() for _, paths in parts)
    assert elsewhere.part("commit 1") == parts[1]


def test_a_failure_under_one_arithmetic_is_named_and_the_others_are_tried(monkeypatch, capsys):
    def run(command, env, check):
        return SimpleNamespace(returncode=int(env.get("ROUNDING") == "1"))

    monkeypatch.setattr(elsewhere.subprocess, "run", run)
    assert elsewhere.main([]) == 1
    said = capsys.readouterr().out
    assert said.endswith("== failed under: sums in another order\n")
    assert all(f"== {name}: " in said for name in elsewhere.ARITHMETICS)
    assert elsewhere.main(["AVX2"]) == 0
    with pytest.raises(SystemExit):
        elsewhere.main(["AVX3"])
    assert "unknown: AVX3; there are oldest" in capsys.readouterr().err


def test_the_rounding_of_another_processor_is_small_and_the_same_each_time():
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = x @ x.T
    with Rounding(1, float64=1e-9):
        first, again, kept = x @ x.T, x @ x.T, (x + x) * 2 - x
        in_rows = torch.stack([row @ x.T for row in x])
    assert torch.equal(first, again) and torch.equal(kept, (x + x) * 2 - x)
    assert 1e-10 < ((first - exact) / exact).abs().max() < 1.1e-9
    assert not torch.equal(first, in_rows)
    with Rounding(2, float64=1e-9):
        assert not torch.equal(x @ x.T, first)
    leaf = x.clone().requires_grad_()
    with Rounding(1, float64=1e-9):
        leaf.exp().sum().backward()
    assert 0 < ((leaf.grad - x.exp()) / x.exp()).abs().max() < 3e-9
