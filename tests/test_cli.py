"""The command line: what it prints and writes, and one clear line for each mistake."""

import importlib
import io
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace

import numpy as np
import pytest
import torch

from igm import build_model, load_dataset, train
from igm.cli import main, models
from igm.encoders.build import build_network
from igm.models import fuse

TINY = {
    "data": "mfeat",
    "modalities": ["fou", "kar"],
    "samples": 60,
    "epochs": 2,
    "device": "cpu",
}
IN_ROUNDS = ("igm", "alternating", "mla")  # the methods that have rounds


def arguments(**options) -> list[str]:
    """The arguments for ``igm train`` with a tiny setting; other options replace its own."""
    listed = ["train"]
    rounds = {"rounds": 1} if options.get("method", "igm") in IN_ROUNDS else {}
    for name, value in (TINY | rounds | options).items():
        listed += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return listed


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IGM_TRACEBACK", raising=False)


@pytest.fixture
def igm(capsys):
    """igm(*arguments): exit code, stdout and stderr."""

    def run(*arguments):
        try:
            code = main(arguments)
        except SystemExit as leaving:
            code = leaving.code or 0
        except KeyboardInterrupt:  # would end all tests
            code = "a traceback"
        return code, *capsys.readouterr()

    return run


def scores_in(table: str) -> dict:
    """The rows of the printed table: (split, prediction) -> [accuracy, macro-F1, mAP]."""
    rows = re.findall(r"^(valid|test) +(\w+) +([01]\.\d{3}) +([01]\.\d{3}) +([01]\.\d{3})$", table, re.M)  # fmt: skip
    return {(split, name): [float(x) for x in numbers] for split, name, *numbers in rows}


# ---------------------------------------------------------------- a run


def test_a_run_from_the_shell(tmp_path):
    command = [sys.executable, "-m", "igm", *arguments(out="run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    header = done.stdout.splitlines()[0].split()
    assert header == ["split", "prediction", "accuracy", "macro-F1", "mAP"]
    table = scores_in(done.stdout)
    assert list(table) == [
        (split, name) for split in ("valid", "test") for name in ("fou", "kar", "fused")
    ]
    assert "saved in run" in done.stdout
    assert re.search(r"igm: 100%.* 4/4 .*modality=kar", done.stderr)  # the progress bar
    assert "modality=kar" not in done.stdout

    files = sorted(f.name for f in (tmp_path / "run").iterdir())
    assert files == ["metrics.csv", "model.safetensors", "run.json"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    for (split, name), printed in table.items():
        kept = record["results"][split][name]
        assert printed == pytest.approx(
            [kept[k] for k in ("accuracy", "macro_f1", "map")], abs=6e-4
        )
    assert (record["data"], record["samples"]) == ("mfeat", 60)
    assert record["settings"]["modalities"] == ["fou", "kar"]


def test_the_same_command_gives_the_same_scores_and_a_new_folder(igm, tmp_path):
    for _ in range(3):
        code, out, _ = igm(*arguments(noise={"fou": 1.0}, method="alternating"))
        assert code == 0
    assert "saved in runs/mfeat-alternating-seed0-3" in out
    assert igm(*arguments(noise={"fou": 1.0}, method="alternating", seed=1))[0] == 0
    folders = sorted(f.name for f in (tmp_path / "runs").iterdir())
    stem = "mfeat-alternating-seed"
    assert folders == [f"{stem}0", f"{stem}0-2", f"{stem}0-3", f"{stem}1"]
    records = [json.loads((tmp_path / "runs" / f / "run.json").read_text()) for f in folders]
    first, again, _, other = records
    assert first["noise"] == {"fou": 1.0}
    assert first["results"] == again["results"] != other["results"]
    assert first["history"] == again["history"]


@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        ({"method": "joint"}, ["fou", "kar", "fused"]),
        ({"method": "joint", "model": "concat"}, ["fused"]),
        ({"method": "unimodal", "modalities": ["kar"]}, ["kar", "fused"]),
        ({"method": "igm", "shared_head": True, "fusion": "entropy"}, ["fou", "kar", "fused"]),
    ],
    ids=str,
)
def test_methods_and_models(igm, options, outputs):
    code, out, _ = igm(*arguments(**options))
    assert code == 0
    assert [name for split, name in scores_in(out) if split == "test"] == outputs


# ---------------------------------------------------------------- going on with a run


def test_a_run_that_was_killed_goes_on_from_the_shell(igm, tmp_path):
    options = {"epochs": 20, "rounds": 2}
    _, table, _ = igm(*arguments(out="whole", **options))
    shell = dict(cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True)
    shell |= dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run = [sys.executable, "-m", "igm", "train"]
    with subprocess.Popen(run + arguments(out="killed", **options)[1:], **shell) as child:
        while not (tmp_path / "killed" / "checkpoint.pt").exists() and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    assert (record["status"], record["results"]) == ("running", {})
    done = subprocess.run([*run, "--resume", "killed"], **shell)
    assert done.returncode == 0, done.stderr
    assert scores_in(done.stdout) == scores_in(table)
    assert "saved in killed" in done.stdout
    whole, killed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    for record in (whole["run.json"], killed["run.json"]):
        del record["wall_seconds"], record["commit"]
    assert killed == whole


def contents(folder) -> dict:
    """The files of a run: bytes, and run.json as what it says."""
    files = {f.name: f.read_bytes() for f in folder.iterdir()}
    return files | {"run.json": json.loads(files["run.json"])}


@pytest.fixture
def finished(igm, tmp_path):
    """The folder "run" of a finished run."""
    assert igm(*arguments(out="run"))[0] == 0
    return tmp_path / "run"


def edit(folder, **entries) -> None:
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | entries))


def test_a_finished_run_reports_again(igm, finished):
    before = contents(finished)
    code, out, _ = igm("train", "--resume", "run", "--device", "cpu")
    assert code == 0
    results = before["run.json"]["results"]
    for (split, name), (accuracy, *_) in scores_in(out).items():
        assert accuracy == pytest.approx(results[split][name]["accuracy"], abs=6e-4)
    assert len(scores_in(out)) == 6
    assert f"best epoch {before['run.json']['best_epoch']} of 4" in out
    assert contents(finished) == before


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["nowhere"], ["nowhere/run.json is not there", "give the folder of a run"]),
        (["run", "--lr", "0.5"], ["--resume takes the options of the run", "leave --lr out"]),
        (["run", "--epochs", "40"], ["leave --epochs out, or begin another run"]),
        (["run", "--samples", "50"], ["leave --samples out"]),
        (["run", "--out", "other"], ["leave --out out"]),
        (["run", "--config", "config.json"], ["--resume takes the options of the run"]),
    ],
    ids=" ".join,
)
def test_a_run_goes_on_with_its_own_options_only(igm, finished, tmp_path, words, parts):
    (tmp_path / "config.json").write_text('{"lr": 0.5}')
    before = contents(finished)
    check_mistake(igm("train", "--resume", *words), parts)
    assert contents(finished) == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "run"]


BEGUN_IN_PYTHON = ["was not begun by igm train", "go on with it in Python"]


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"]], ids=" ".join)
@pytest.mark.parametrize(
    ("notes", "parts"),
    [
        ({}, BEGUN_IN_PYTHON),
        ({"data": "mfeat"}, BEGUN_IN_PYTHON),
    ],
    ids=str,
)
def test_a_run_that_was_begun_in_python_is_refused(igm, command, notes, parts):
    data = {s: load_dataset("mfeat", split=s, samples=60) for s in ("train", "valid", "test")}
    options = dict(modalities=["fou", "kar"], epochs=2, device="cpu", progress=False)
    train(build_model(data["train"].shapes, 10), data, out="run", notes=notes, **options)
    check_mistake(igm(*command, "run"), parts)


# ---------------------------------------------------------------- evaluate


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "joint", "model": "concat"},
        {"shared_head": True, "fusion": "entropy", "noise": {"fou": 2.0}, "data_seed": 3},
        {"modalities": ["kar"], "method": "unimodal"},
        {"precision": "bf16", "epochs": 20, "lr": 0.05},
    ],
    ids=str,
)
def test_evaluate_prints_the_table_of_train(igm, tmp_path, options):
    code, trained, err = igm(*arguments(out="run", **options))
    assert code == 0, err
    before = contents(tmp_path / "run")
    code, out, err = igm("evaluate", "run", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.splitlines() == trained.splitlines()[:-1]
    assert len(scores_in(out)) >= 2
    assert contents(tmp_path / "run") == before


def test_evaluate_reads_the_weights_of_the_run(igm, finished):
    other = arguments(out="other", seed=1)
    assert igm(*other)[0] == 0
    table = igm("evaluate", "run")[1]
    os.replace("other/model.safetensors", "run/model.safetensors")
    assert igm("evaluate", "run")[1] != table


@pytest.mark.parametrize("status", ["running", "failed: the loss of fou became nan"])
def test_evaluate_waits_for_the_end_of_a_run(igm, finished, status):
    edit(finished, status=status)
    check_mistake(
        igm("evaluate", "run"), [f"run is not finished ({status})", "igm train --resume run"]
    )


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"]], ids=" ".join)
@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", '{"status": "complete", "sett'),
        ("run.json", "[1, 2]"),
        ("run.json", '{"weight": 80}'),
        ("run.json", '{"settings": {"seed": 0}}'),
        ("model.safetensors", "weights"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(igm, finished, command, file, content):
    (finished / file).write_text(content)
    check_mistake(igm(*command, "run"), [f"run/{file} is damaged"])


@pytest.mark.parametrize("command", [["train", "--resume"], ["evaluate"]], ids=" ".join)
def test_a_run_of_a_version_to_come_is_refused_in_one_line(igm, finished, command):
    settings = json.loads((finished / "run.json").read_text())["settings"]
    edit(finished, settings=settings | {"momentum_decay": 3})
    check_mistake(igm(*command, "run"), ["momentum_decay", "another version of igm"])


# ---------------------------------------------------------------- compare


def test_two_methods_on_two_seeds_are_compared(igm, tmp_path):
    scores = {}
    for method in ("igm", "alternating"):
        for seed in (0, 1):
            options = {"method": method, "seed": seed, "shared_head": True, "epochs": 6}
            assert igm(*arguments(out=f"{method}{seed}", **options))[0] == 0
            record = json.loads((tmp_path / f"{method}{seed}" / "run.json").read_text())
            scores[method, seed] = 100 * record["results"]["test"]["fused"]["accuracy"]
    folders = ["igm0", "igm1", "alternating0", "alternating1"]
    code, out, err = igm("compare", *folders, "--plot", "figure.png")
    assert (code, err) == (0, "")
    means = {m: np.mean([scores[m, 0], scores[m, 1]]) for m in ("igm", "alternating")}
    assert "accuracy of fused on test" in out
    for method, mean in means.items():
        assert re.search(rf"^{method}.* 2  {mean:.1f} ± ", out, re.M), out
    delta = means["alternating"] - means["igm"]
    assert re.search(rf"^alternating.* 2  {delta:+.1f} ± ", out, re.M), out
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    macro_f1 = igm(
        "compare", *folders, "--score", "macro_f1", "--output", "kar", "--split", "valid"
    )
    assert macro_f1[0] == 0 and "macro_f1 of kar on valid" in macro_f1[1]
    edit(tmp_path / "igm1", status="running")
    check_mistake(igm("compare", *folders), ["igm1/run.json", "not complete (running)"])
    check_mistake(igm("compare", "igm0", "igm0"), ["igm0 is given twice"])
    check_mistake(igm("compare", "nowhere"), ["nowhere/run.json is not there"])


# ---------------------------------------------------------------- configuration files


def test_a_config_file_is_honoured_and_options_override_it(igm, tmp_path):
    config = TINY | {"method": "alternating", "lr": 0.05, "noise": {"kar": 2.0}, "seed": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, _, err = igm("train", "--config", "config.json", "--seed", "5", "--out", "run")
    assert code == 0, err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    settings = record["settings"]
    assert (settings["method"], settings["lr"], settings["epochs"]) == ("alternating", 0.05, 2)
    assert record["noise"] == {"kar": 2.0}
    assert settings["seed"] == 5


def test_a_printed_config_can_be_read_again(igm, tmp_path):
    code, printed, _ = igm(*arguments(rho=1e-10, noise={"fou": 2.0}), "--print_config")
    assert code == 0
    (tmp_path / "config.json").write_text(printed)
    assert igm("train", "--config", "config.json", "--print_config")[1] == printed
    assert json.loads(printed)["rho"] == 1e-10


# ---------------------------------------------------------------- mistakes

HINT = "--help` lists all options"


@pytest.mark.parametrize(
    ("mistake", "parts"),
    [
        (["--data_root", "nowhere"], ["nowhere", "--data_root"]),
        (["--data_root", "."], ["mfeat.npz is not there", "--data_root", "make.py mfeat"]),
        (["--data", "cifar"], ["data set 'cifar'", "use one of digits, mfeat, emoji"]),
        (["--tau", "0"], ["tau must be above 0, got 0"]),
        (["--tau=-1"], ["tau must be above 0, got -1"]),
        (["--tau", "nan"], ["--tau must be a number, got nan", HINT]),
        (["--rho=-0.1"], ["rho must be 0 or above, got -0.1"]),
        (["--epochs", "0"], ["epochs must be 1 or above, got 0"]),
        (["--rounds", "3"], ["3 rounds need at least 3 epochs"]),
        (["--samples", "5000"], ["samples must be from 1 to 1200", "got 5000"]),
        (["--method", "pmr"], ["method 'pmr'", "use one of unimodal, joint, alternating, igm"]),
        (["--model", "cat"], ["'cat'", "use late or concat"]),
        (["--model", "concat"], ["igm trains one network a modality", "late fusion", "joint"]),
        (["--device", "tpu"], ["device 'tpu'", "give cpu, or auto"]),
        (["--modalities", '["video"]'], ["modality 'video'", "fou, fac, kar, pix, zer, mor"]),
        (["--modalities", "fou"], ["--modalities must be a list such as", "got fou", HINT]),
        (["--noise", '{"video": 1}'], ["modality 'video' in noise", "fou, fac, kar"]),
        (["--noise", '{"fou": -1}'], ["noise of 'fou' must be 0 or above", "-1"]),
        (["--noise", "1.5"], ["--noise must be a number by name, such as", "got 1.5", HINT]),
        (["--noise", '{"fou": "loud"}'], ["--noise must be a number by name", "loud", HINT]),
        (["--epochs", "many"], ["--epochs must be a whole number, got many", HINT]),
        (["--samples", "1.5"], ["--samples must be a whole number, got 1.5", HINT]),
        (["--shared_head", "maybe"], ["--shared_head must be true or false, got maybe", HINT]),
        (["--taw", "0.3"], ["unknown option --taw", "did you mean --tau?", HINT]),
        (["--taw=0.3"], ["unknown option --taw", "did you mean --tau?", HINT]),
        (["--epochs"], ["--epochs", "expected one argument", HINT]),
        (["stray"], ["stray", HINT]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do(igm, tmp_path, mistake, parts):
    check_mistake(igm(*arguments(), *mistake), parts)
    assert list(tmp_path.iterdir()) == []


def check_mistake(answer, parts):
    code, out, err = answer
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("igm: ")
    for part in parts:
        assert part in lines[0]
    assert "  " not in lines[0]
    assert "<class" not in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"tua": 0.4}', ["'tua'", "config.json", "did you mean tau?"]),
        ('{"igm": {"tau": 0.4}}', ["'igm'", "config.json"]),
        ('{"tau": 0.4,', ["config.json is not valid JSON", "line 1"]),
        ("tau: 0.4", ["config.json is not valid JSON"]),
        ("[1, 2]", ["config.json must hold options, e.g."]),
        ('{"epochs": "many"}', ["--epochs must be a whole number, got many"]),
        ('{"tau": -1}', ["tau must be above 0, got -1"]),
        (None, ["cannot read the config file config.json", "No such file"]),
    ],
)
def test_a_mistake_in_the_config_file_names_it(igm, tmp_path, content, parts):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    check_mistake(igm("train", "--config", "config.json"), parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["no command: give train", "`igm --help`"]),
        (["trian"], ["'trian'", "choose from", "train", "`igm --help`"]),
    ],
)
def test_a_missing_or_unknown_command(igm, words, parts):
    check_mistake(igm(*words), parts)


def test_an_existing_folder_is_kept(igm, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("precious")
    check_mistake(igm(*arguments(out="mine")), ["mine is there already", "another folder as --out"])
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["run.json"]
    assert (tmp_path / "mine" / "run.json").read_text() == "precious"


def test_a_loss_that_is_not_finite_ends_with_one_line_after_the_bar(igm):
    code, out, err = igm(*arguments(lr=1e9))
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert re.match("igm: (the loss of fou became|valid split, epoch 1: fou: .* are NaN)", last)
    assert "try a smaller lr" in last
    assert "Traceback" not in err


def test_a_mistake_shows_where_it_was_raised_on_request(monkeypatch):
    monkeypatch.setenv("IGM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="tau must be above 0"):
        main(arguments(tau=0.0))


def test_help_shows_the_defaults_in_force(igm):
    def default(option, *words):
        text = " ".join(igm("train", *words, "--help")[1].split())
        return re.search(rf" --{option} [A-Z_]+ .*?default: ([^)]*)\)", text)[1]

    assert default("tau") == "20.0" and default("rho") == "0.02"
    assert default("tau", "--variant", "paper") == "0.4"
    assert default("rho", "--variant=released") == "1e-10"
    assert default("fusion", "--variant", "paper") == "entropy"
    assert default("fusion", "--method", "joint") == "logits"
    assert default("rho", "--method", "joint") == "0.0"
    assert default("mla_alpha", "--method", "mla") == "0.1"


def test_a_config_decides_which_defaults_are_in_force(igm, tmp_path):
    (tmp_path / "config.json").write_text('{"variant": "paper", "rho": 0.5}')
    printed = json.loads(igm("train", "--config", "config.json", "--print_config")[1])
    assert (printed["tau"], printed["rho"], printed["fusion"]) == (0.4, 0.5, "entropy")
    printed = igm("train", "--config", "config.json", "--variant", "igm", "--print_config")[1]
    assert json.loads(printed)["fusion"] == "mean"


def test_a_setting_of_another_method_is_an_error_and_in_a_config_it_is_said(igm, tmp_path):
    parts = ["--tau is an option of igm, not of --method joint", HINT]
    check_mistake(igm("train", "--method", "joint", "--tau", "3"), parts)
    (tmp_path / "config.json").write_text('{"tau": 3, "lr": 0.5}')
    words = ("train", "--config", "config.json", "--method", "joint", "--print_config")
    code, printed, err = igm(*words)
    assert code == 0 and err.strip() == (
        "igm: config config.json: tau is ignored: it is a setting of other methods"
    )
    printed = json.loads(printed)
    assert "tau" not in printed and printed["lr"] == 0.5


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
def test_help(igm, words):
    code, out, err = igm(*words)
    assert (code, err) == (0, "")
    assert "train" in out
    if words[0] == "train":
        for option in ("--config", "--data_root", "--tau", "--rho", "--out", "--seed"):
            assert option in out
        assert "Strength of the gradient modification" in out


# ---------------------------------------------------------------- landscape


def test_the_landscape_of_a_run(igm, tmp_path):
    assert igm(*arguments(out="run"))[0] == 0
    code, out, err = igm("landscape", "run", "--output", "kar", "--points", "3", "--device", "cpu")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "landscape-kar-valid.json").read_text())
    assert found["axis"] == [-1.0, 0.0, 1.0]
    surface = found["loss_surface"]
    assert len(surface) == len(surface[0]) == 3
    # At the centre, and at rho 0, it is the loss of the saved weights.
    assert found["worst_case_loss"]["0.0"] == pytest.approx(surface[1][1], rel=1e-5)
    assert f"trace of the Hessian {found['hessian_trace']:.3g}" in out
    assert (tmp_path / "run" / "landscape-kar-valid.png").stat().st_size > 1000
    again = igm("landscape", "run", "--output", "kar", "--points", "3", "--device", "cpu")
    check_mistake(again, ["landscape-kar-valid.json is there already"])


def test_the_fused_landscape_is_of_the_fusion_by_which_the_run_is_scored(igm, tmp_path):
    assert igm(*arguments(out="run", fusion="entropy", epochs=40, lr=0.1, select="last"))[0] == 0
    options = ["--points", "3", "--device", "cpu", "--split", "test"]
    code, out, err = igm("landscape", "run", *options)
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "landscape-fused-test.json").read_text())
    method, data, _ = models.finished(Namespace(run="run", data_root=None, device="cpu"))
    batch = data["test"].fetch(range(len(data["test"])))
    with torch.no_grad():
        logits = method.predict(batch)
    y = batch["label"]
    losses = {
        fusion: -fuse(logits, fusion)[torch.arange(len(y)), y].log().mean().item()
        for fusion in ("entropy", "mean")
    }
    assert abs(losses["mean"] / losses["entropy"] - 1) > 1e-2
    assert found["worst_case_loss"]["0.0"] == pytest.approx(losses["entropy"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--output", "video"], ["unknown output 'video'", "fused, or a modality"]),
        (["--points", "1"], ["2 points or more"]),
        (["--radius", "0"], ["a radius above 0"]),
    ],
)
def test_a_landscape_that_cannot_be_drawn(igm, tmp_path, words, parts):
    assert igm(*arguments(out="run", epochs=1))[0] == 0
    check_mistake(igm("landscape", "run", "--device", "cpu", *words), parts)
    assert not list((tmp_path / "run").glob("landscape*"))


# ---------------------------------------------------------------- Ctrl-C


def stopping(monkeypatch, place, at=1):
    """Ctrl-C comes when the function at ``place``, "module.name", is called the ``at``-th time."""
    module, _, name = place.rpartition(".")
    module = importlib.import_module(module)  # igm.train, too, which as an attribute is a function
    function, calls = getattr(module, name), itertools.count(1)

    def stopped(*arguments, **options):
        if next(calls) == at:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    monkeypatch.setattr(module, name, stopped)


def check_stopped(answer, how):
    code, out, err = answer
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == f"igm: stopped; {how}"
    assert "Traceback" not in err


@pytest.mark.parametrize("out", ["run", "a run's folder/1"])
@pytest.mark.parametrize("place", ["igm.runs.save_checkpoint", "igm.runs.write_metrics", "igm.train.evaluate"])  # fmt: skip
def test_ctrl_c_says_how_a_run_goes_on_and_it_does(igm, tmp_path, monkeypatch, place, out):
    _, table, _ = igm(*arguments(out="whole"))
    with monkeypatch.context() as patched:
        stopping(patched, place, at=2)
        code, _, err = igm(*arguments(out=out))
        assert code == 130 and "Traceback" not in err
        last = err.splitlines()[-1]
        command = f"igm train --resume {shlex.quote(out)}"
        assert last == f"igm: stopped; go on with: {command}"
    with monkeypatch.context() as patched:  # and once more
        stopping(patched, place, at=1)
        check_stopped(igm(*shlex.split(command)[1:]), f"go on with: {command}")
    code, resumed, _ = igm(*shlex.split(command)[1:])
    assert code == 0 and scores_in(resumed) == scores_in(table)
    assert [f.name for f in tmp_path.rglob("*.partial")] == []


ANEW = "the same command begins anew"


@pytest.mark.parametrize("place", ["igm.cli.train.model_and_data", "igm.runs.write_json"])
def test_ctrl_c_before_a_run_has_begun(igm, tmp_path, monkeypatch, place):
    stopping(monkeypatch, place)
    check_stopped(igm(*arguments(out="run")), ANEW)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "place", "how"),
    [
        ("evaluate run", "igm.cli.evaluate.evaluate", ANEW),
        ("compare run", "igm.cli.compare.compare", ANEW),
        ("landscape run --points 3", "igm.cli.landscape.loss_surface", ANEW),
        ("check cremad run", "igm.cli.check.check", ANEW),
        ("sample cremad new", "igm.cli.sample.make_sample", "new is not whole: begin again with a new folder"),
        ("prepare cremad run new", "igm.cli.prepare.prepare", "the same command goes on from here"),
        ("train --help", "igm.cli.build_parser", ANEW),
    ],
)  # fmt: skip
def test_ctrl_c_in_every_command(igm, finished, monkeypatch, words, place, how):
    before = contents(finished)
    stopping(monkeypatch, place)
    check_stopped(igm(*words.split()), how)
    assert contents(finished) == before


def test_ctrl_c_in_a_terminal_stops_the_workers_too(tmp_path):
    """A terminal sends it to all processes of a command."""
    code = (
        "import signal, sys, time; import igm.datasets.memory as m;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell may have it ignored
        "del m.MemorySet.fetch; one = m.MemorySet.__getitem__;"
        "m.MemorySet.__getitem__ = lambda self, i: (time.sleep(0.01), {k: x[i] for k, x in"
        " (self.inputs | {'label': self.labels, 'index': self.index}).items()})[1];"
        "from igm.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *arguments(out="run", workers=2, epochs=50)]
    options = dict(cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    with subprocess.Popen(words, **options) as process:
        while not (tmp_path / "run").is_dir() and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err and b"igm: stopped; go on with: igm train --resume run" in err


# ---------------------------------------------------------------- machines and terminals


def test_version(igm):
    import igm as library

    assert igm("--version") == (0, f"igm {library.__version__}\n", "")


def test_a_terminal_that_knows_only_ascii(igm, finished, monkeypatch):
    written = {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdout", "stderr")}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, stream)
    assert main(["compare", "run"]) == 0
    assert main(["compare", "où – \udcff"]) == 2
    texts = {
        name: stream.buffer.getvalue() for name, stream in written.items() if not stream.flush()
    }
    assert b"mean over the seeds +/- half-width" in texts["stdout"]
    assert rb"igm: o\xf9 - \udcff/run.json is not there" in texts["stderr"]


def test_every_command_speaks_ascii_where_the_locale_does(tmp_path, finished):
    variables = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    script = (
        "import sys; from igm.cli import main;"
        "codes = [main(w.split()) for w in ('compare run', 'evaluate run', 'train --resume run')];"
        "sys.exit(max(codes))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | variables | {"PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"+/-" in done.stdout and done.stdout.isascii() and done.stderr.isascii()


@pytest.mark.parametrize(
    "left", [{"RANK": "1"}, {"RANK": "1", "LOCAL_RANK": "1"}, {"RANK": "3", "WORLD_SIZE": "1"}], ids=str
)  # fmt: skip
def test_a_rank_that_a_launcher_left_behind_does_not_silence_a_run(igm, monkeypatch, left):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    code, out, err = igm(*arguments(out="run"))
    assert code == 0 and len(scores_in(out)) == 6 and "saved in run" in out and "4/4" in err


@pytest.mark.parametrize("size", ["2", "many", ""])
def test_a_world_size_that_a_launcher_left_behind_is_named(igm, tmp_path, monkeypatch, size):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "1")
    check_mistake(igm(*arguments(out="run")), [f"WORLD_SIZE is {size}", "or unset WORLD_SIZE"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), KeyError("uid not found: 7")])  # fmt: skip
def test_a_user_without_a_home_is_told_so(igm, finished, monkeypatch, error):
    import pwd

    def fails(*_, **__):
        raise error

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", fails)
    monkeypatch.setattr("igm.cli.compare.compare", fails)
    check_mistake(igm("compare", "run"), ["has no home folder", str(error.args[0]), "set HOME to"])
    monkeypatch.setenv("HOME", "/tmp")
    with pytest.raises(type(error)):  # with a home it is an error of the program
        igm("compare", "run")


GL = "libGL.so.1: cannot open shared object file: No such file or directory"
NO_CV2 = ["library for cv2 cannot be loaded (libGL.so.1: cannot open", "apt-get install libgl1", "opencv-python-headless"]  # fmt: skip
NO_SNDFILE = ["library for sndfile cannot be loaded", "apt-get install libsndfile1"]


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (ImportError(GL, name="cv2", path="/x/cv2.abi3.so"), NO_CV2),
        (ImportError("libgthread-2.0.so.0: cannot open", name="cv2.cv2"), ["libglib2.0-0"]),
        (OSError("sndfile library not found using ctypes.util.find_library"), NO_SNDFILE),
        (OSError("cannot load library 'libsndfile.so': libsndfile.so: cannot open shared object file"), NO_SNDFILE),
        (ImportError("DLL load failed while importing _av", name="av._av"), ["DLL load failed", "install av anew"]),
        (ImportError("cannot import name 'x' from 'PIL'", name="PIL"), ["install pillow anew"]),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), ["cv2 is not installed", "pip install '.[media]'"]),
        (ModuleNotFoundError("No module named 'seaborn.x'", name="seaborn.x"), ["seaborn is not", "`pip install seaborn`"]),
        (ImportError(GL), ["library for libGL cannot be loaded (libGL.so.1", "libgl1"]),  # in a worker
        (ModuleNotFoundError("No module named 'av'"), ["av is not installed", ".[media]"]),
    ],
)  # fmt: skip
def test_a_library_that_cannot_be_loaded_is_one_line_with_a_remedy(igm, monkeypatch, error, parts):
    def fails(*_):
        raise error

    monkeypatch.setattr("igm.cli.compare.compare", fails)
    check_mistake(igm("compare", "run"), parts)


@pytest.mark.parametrize("error", [ImportError("no", name="igm.x"), ModuleNotFoundError("", name="igm.y"), RuntimeError("x"), KeyError("x")])  # fmt: skip
def test_an_error_of_the_program_itself_shows_where(igm, monkeypatch, error):
    def fails(*_):
        raise error

    monkeypatch.setattr("igm.cli.compare.compare", fails)
    with pytest.raises(type(error)):
        igm("compare", "run")


# ---------------------------------------------------------------- options of networks and of reading


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--data mfeat --network.size 3", {"d", "head"}),
        ("--data mfeat --reading.size 3", {"views"}),
        ("--data digits --reading.size 3", {"image_size", "noise"}),
    ],
)
def test_only_what_may_be_given_is_listed(igm, words, options):
    code, _, err = igm("train", *words.split())
    assert code == 2 and "option 'size' of" in err
    listed = set(re.findall(r"\w+", err.partition("use some of ")[2]))
    assert options <= listed
    assert not listed & models.DECIDED
    for option in listed:  # each is known: what is wrong with it is its value, or nothing
        flag = "--network" if "network" in words else "--reading"
        _, _, err = igm("train", *words.split()[:2], f"{flag}.{option}", "-1", "--epochs", "0")
        assert "unknown" not in err or "unknown head" in err or "unknown view" in err, err


@pytest.mark.parametrize("name", ["audio_video", "text_image", "gestures"])
def test_only_what_may_be_given_is_listed_for_the_networks_of_media(name):
    with pytest.raises(ValueError, match=f"unknown network option 'sise' of {name}") as caught:
        build_network(name, 3, ["any"], sise=1)
    listed = set(re.findall(r"\w+", str(caught.value).partition("use some of ")[2]))
    assert listed and not listed & models.DECIDED
