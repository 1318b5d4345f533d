"""devices.py: two processes (gloo, on the CPU) give the run of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from two_processes import RUNS, matrices_of, run

from igm.devices import Devices


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found, and the folder they wrote in."""
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(Path(__file__).parent / "two_processes.py"), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(out / f"rank{rank}.pt") for rank in (0, 1)], out


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_run_of_one(ranks, name):
    (first, second), _ = ranks
    alone = run(name, alone=True)
    for found in (first[name], second[name]):
        losses = [row["loss"] for row in alone.history]
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        for parameter, value in alone.model.state_dict().items():
            # The losses say it sharply; a weight jumps where rounding moves a ReLU across 0.
            assert torch.allclose(found["weights"][parameter], value, atol=1e-3), parameter
        matrices = matrices_of(alone)
        assert bool(matrices) is (alone.settings.method == "igm")
        assert found["matrices"].keys() == matrices.keys()
        for modality, layers in matrices.items():
            assert found["matrices"][modality].keys() == layers.keys()
            for layer, T in layers.items():
                distance = (found["matrices"][modality][layer] - T).abs().max()
                assert distance < 1e-5, (modality, layer)
        for split, predictions in alone.results.items():
            for output, scores in predictions.items():
                assert found["results"][split][output] == pytest.approx(scores, abs=0.011)


@pytest.mark.parametrize("name", RUNS)
def test_both_processes_hold_the_same_weights(ranks, name):
    (first, second), _ = ranks
    for parameter, value in first[name]["weights"].items():
        assert torch.equal(second[name]["weights"][parameter], value)
    assert first[name]["results"] == second[name]["results"]


def test_sam_on_one_process_would_perturb_by_the_whole_batch(ranks):
    """That the match above is one of the unsynchronised first pass, and not of anything."""
    whole = run("sam", alone=False)
    losses = [row["loss"] for row in whole.history]
    assert ranks[0][0]["sam"]["losses"] != pytest.approx(losses, rel=1e-5)


def test_one_process_writes_the_files(ranks):
    (first, _), out = ranks
    files = sorted(f.name for f in (out / "run").iterdir())
    assert files == ["metrics.csv", "model.safetensors", "run.json"]
    record = json.loads((out / "run" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["device"].startswith("2 x cpu")
    assert record["results"] == first["igm"]["results"]


def test_all_processes_take_up_a_finished_run(ranks):
    (first, second), _ = ranks
    assert first["resumed"] == second["resumed"]
    assert [row["loss"] for row in first["resumed"]["history"]] == first["igm"]["losses"]


def test_processes_start_from_the_same_weights_and_average_their_batchnorm_statistics(ranks):
    (first, second), _ = ranks
    for name, value in first["batchnorm"].items():
        assert torch.equal(second["batchnorm"][name], value), name
    assert not torch.equal(first["batchnorm"]["modalities.fou.encoder.1.running_mean"], torch.zeros(16))  # fmt: skip


def test_a_loss_that_is_not_finite_names_the_samples_of_all_processes(ranks):
    (first, second), _ = ranks
    assert first["error"] == second["error"]
    text = first["error"]
    samples = json.loads(text[text.index("[") : text.index("]") + 1])
    assert 37 in samples and len(samples) == 32


# ---------------------------------------------------------------- one process


def test_one_process_is_its_own_total():
    devices = Devices("cpu")
    assert (devices.rank, devices.processes, devices.main) == (0, 1, True)
    x = torch.ones(3)
    assert devices.total(x) is x
    assert devices.gather([1, 2]) == [1, 2]
    assert devices.share == {"device": torch.device("cpu"), "part": (0, 1)}


def test_auto_takes_the_gpu_where_there_is_one():
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if torch.backends.mps.is_available():
        kind = "mps"
    assert Devices("auto").device.type == kind
    assert str(Devices("cpu")).startswith("1 x cpu (")


def test_an_unusable_device_is_named():
    with pytest.raises(ValueError, match="device 'tpu' cannot be used: give cpu, or auto"):
        Devices("tpu")


def test_gradients_are_summed_over_processes_also_where_they_are_sparse(monkeypatch):
    devices, words = Devices("cpu", "no"), torch.nn.Embedding(3, 2, sparse=True)
    other, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    (words(torch.tensor([0, 2, 2])).sum() + 3 * other.sum()).backward()
    devices.state = object()
    monkeypatch.setattr(devices, "total", lambda mine: 2 * mine)  # another has the same
    devices.total_gradients([words.weight, other, unused])
    assert words.weight.grad.tolist() == [[2.0, 2.0], [0.0, 0.0], [4.0, 4.0]]
    assert other.grad.tolist() == [6.0, 6.0]
    assert unused.grad is None


def test_the_buffers_of_all_processes_are_averaged(monkeypatch):
    devices, norm = Devices("cpu", "no"), torch.nn.BatchNorm1d(3)
    devices.state, devices.processes = object(), 2
    monkeypatch.setattr(devices, "total", lambda mine: mine + (mine + 4))  # another has 4 more
    norm.running_mean[:] = torch.tensor([0.0, 1.0, 2.0])
    devices.average_buffers(norm)
    assert norm.running_mean.tolist() == [2.0, 3.0, 4.0]
    assert norm.running_var.tolist() == [3.0] * 3
    assert norm.num_batches_tracked == 0  # no floating point: it is the same everywhere
