"""models.py: shapes, fusion against NumPy, and weights that depend on seed and modality alone."""

import numpy as np
import pytest
import torch
from torch import nn

from igm import Concatenation, LateFusion, Unimodal, build_model, fuse, paper_head, small_encoder

SHAPES = {"image": (1, 14, 14), "audio": (1, 24, 24), "text": (20,)}


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture
def batch():
    return {name: torch.randn(4, *shape) for name, shape in SHAPES.items()}


# ---------------------------------------------------------------- networks


def test_late_fusion_gives_the_logits_of_each_modality(batch):
    model = build_model(SHAPES, 7, d=8)
    logits = model(batch)
    assert isinstance(model, LateFusion)
    assert list(logits) == list(SHAPES)
    for name, z in logits.items():
        assert z.shape == (4, 7)
        assert isinstance(model[name], Unimodal)
        assert torch.equal(z, model[name](batch[name]))
        assert torch.equal(z, model[name].head(model[name].encoder(batch[name])))


def test_an_unknown_modality_is_a_key_error():
    with pytest.raises(KeyError):
        build_model(SHAPES, 7, d=8)["video"]


def test_concatenation_puts_the_features_side_by_side(batch):
    model = build_model(SHAPES, 7, fusion="concat", d=8)
    assert isinstance(model, Concatenation)
    features = [model.encoders[name](batch[name]) for name in SHAPES]
    assert all(z.shape == (4, 8) for z in features)
    assert model.head.fc1.in_features == 24
    output = model(batch)
    assert list(output) == ["fused"]
    assert torch.equal(output["fused"], model.head(torch.cat(features, 1)))


def test_paper_head_is_fc256_relu_fc64_fc():
    head = paper_head(512, 6)
    assert [type(m) for m in head] == [nn.Linear, nn.ReLU, nn.Linear, nn.Linear]
    assert [tuple(p.shape) for p in head.parameters()] == [
        (256, 512), (256,), (64, 256), (64,), (6, 64), (6,)
    ]  # fmt: skip
    assert count(head) == 512 * 256 + 256 + 256 * 64 + 64 + 64 * 6 + 6


def test_a_linear_head_is_one_layer_that_reads_all_features():
    late = build_model(SHAPES, 7, d=8, head="linear")
    assert all(isinstance(late[name].head, nn.Linear) for name in SHAPES)
    assert late["text"].head.weight.shape == (7, 8)
    early = build_model(SHAPES, 7, fusion="concat", d=8, head="linear")
    assert early.head.weight.shape == (7, 24)
    paper = build_model(SHAPES, 7, d=8)
    assert all(equal(late[name].encoder, paper[name].encoder) for name in SHAPES)
    with pytest.raises(ValueError, match="unknown head 'deep': use one of paper, linear"):
        build_model(SHAPES, 7, head="deep")


def test_head_layers_are_the_linear_layers_of_the_head_alone():
    network = build_model(SHAPES, 7, d=8)["text"]
    layers = network.head_layers()
    assert list(layers) == ["fc1", "fc2", "fc3"]
    assert layers["fc2"] is network.head.fc2


@pytest.mark.parametrize("shape", [(1, 14, 14), (1, 24, 24), (3, 24, 24), (2, 7, 9), (5,)])
def test_small_encoder_gives_non_negative_features(shape):
    z = small_encoder(shape, d=8)(torch.randn(3, *shape))
    assert z.shape == (3, 8)
    assert (z >= 0).all() and (z > 0).any()


def test_small_encoder_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(3, 4\): write your own"):
        small_encoder((3, 4))


# ---------------------------------------------------------------- fusion


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z)
    return e / e.sum(-1, keepdims=True)


def fuse_with_numpy(z: np.ndarray, weighting: str) -> np.ndarray:
    """z: (m, n, c); a sample at a time."""
    fused = []
    for sample in z.transpose(1, 0, 2):  # (m, c)
        p = softmax(sample)
        if weighting == "logits":
            fused.append(softmax(sample.sum(0)))
        elif weighting == "mean":
            fused.append(p.mean(0))
        else:
            entropy = -(p * np.log(p)).sum(-1)
            weights = np.exp(entropy.max() - entropy)
            fused.append((weights[:, None] * p).sum(0) / weights.sum())
    return np.stack(fused)


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(3)
    return {name: 2 * torch.randn(9, 5, generator=generator).double() for name in "abc"}


@pytest.mark.parametrize("weighting", ["mean", "entropy", "logits"])
def test_fuse_agrees_with_numpy(logits, weighting):
    p = fuse(logits, weighting)
    expected = fuse_with_numpy(np.stack([z.numpy() for z in logits.values()]), weighting)
    assert np.allclose(p.numpy(), expected, atol=1e-12)
    assert torch.allclose(p.sum(-1), torch.ones(9, dtype=torch.float64))


@pytest.mark.parametrize("weighting", ["mean", "entropy", "logits"])
def test_a_prediction_does_not_depend_on_its_neighbours(logits, weighting):
    together = fuse(logits, weighting)
    for i in range(9):
        alone = fuse({name: z[i : i + 1] for name, z in logits.items()}, weighting)
        assert torch.allclose(together[i], alone[0], atol=1e-12)


def test_entropy_fusion_stands_certain_predictions():
    sure, unsure = torch.tensor([[1e4, 0.0, 0.0]]), torch.zeros(1, 3)
    p = fuse({"sure": sure, "unsure": unsure}, "entropy")
    weight = 3 / (3 + 1)  # exp(log 3 - 0) against exp(0)
    assert p[0].tolist() == pytest.approx([weight + (1 - weight) / 3] + 2 * [(1 - weight) / 3])


@pytest.mark.parametrize("modalities", [3, 5, 9, 20])
def test_entropy_fusion_of_many_sure_modalities_stays_a_probability(modalities):
    generator = torch.Generator().manual_seed(modalities)
    z = torch.randn(modalities, 4000, 8, generator=generator)
    z[:, :, 0] += 14 + 16 * torch.rand(modalities, 4000, generator=generator)
    logits = dict(zip(map(str, range(modalities)), z))
    p = fuse(logits, "entropy")
    assert p.min() >= 0
    expected = fuse({name: x.double() for name, x in logits.items()}, "entropy")
    assert torch.allclose(p.double(), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ({"a": torch.ones(90, 3), "b": torch.ones(120, 3)}, r"one shape, .* a \(90, 3\), b \(120, 3\)"),
        ({"a": torch.ones(9, 3), "b": torch.ones(9, 4)}, r"a \(9, 3\), b \(9, 4\)"),
        ({}, "got none"),
    ],
)  # fmt: skip
def test_logits_that_do_not_fit_each_other_are_named(logits, message):
    with pytest.raises(ValueError, match=message):
        fuse(logits)


def test_an_unknown_fusion_is_named(logits):
    with pytest.raises(ValueError, match="unknown fusion 'max': use one of mean, entropy, logits"):
        fuse(logits, "max")


# ---------------------------------------------------------------- build_model


@pytest.mark.parametrize(
    "others",
    [{"image": 0}, {"image": 0, "audio": 0}, {"text": 0, "audio": 0, "image": 0}],
    ids=lambda others: "+".join(others),
)
def test_the_image_network_is_the_same_whatever_else_is_in_the_model(others):
    whole = build_model(SHAPES, 7, d=8, seed=3)
    shapes = {name: SHAPES[name] for name in others}
    assert equal(build_model(shapes, 7, d=8, seed=3)["image"], whole["image"])
    encoder = whole["image"].encoder
    shared = build_model(shapes, 7, shared_head=True, d=8, seed=3)
    assert equal(shared["image"].encoder, encoder)
    joint = build_model(shapes, 7, fusion="concat", d=8, seed=3)
    assert equal(joint.encoders["image"], encoder)


def test_networks_of_one_model_start_from_different_weights():
    model = build_model({"left": (20,), "right": (20,)}, 7, d=8)
    assert not equal(model["left"].encoder, model["right"].encoder)
    assert not equal(model["left"].head, model["right"].head)


def test_a_shared_head_is_one_object_and_counted_once():
    separate, shared = (build_model(SHAPES, 7, shared_head=s, d=8) for s in (False, True))
    assert shared["image"].head is shared["audio"].head is shared["text"].head
    assert separate["image"].head is not separate["audio"].head
    assert count(separate) - count(shared) == 2 * count(paper_head(8, 7))


def test_the_seed_decides_the_weights():
    first, again, other = (build_model(SHAPES, 7, d=8, seed=s) for s in (1, 1, 2))
    assert equal(first, again)
    for name in SHAPES:
        assert not equal(first[name].encoder, other[name].encoder)
        assert not equal(first[name].head, other[name].head)


@pytest.mark.parametrize("options", [{}, {"shared_head": True}, {"fusion": "concat"}])
def test_the_global_random_state_is_neither_used_nor_changed(options):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = build_model(SHAPES, 7, d=8, **options)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert equal(first, build_model(SHAPES, 7, d=8, **options))


def test_impossible_models_are_refused():
    with pytest.raises(ValueError, match="'early': use late or concat"):
        build_model(SHAPES, 7, fusion="early")
    with pytest.raises(ValueError, match="one head already"):
        build_model(SHAPES, 7, fusion="concat", shared_head=True)
    with pytest.raises(ValueError, match="write your own"):
        build_model({"video": (3, 8, 24, 24)}, 7)


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_both_kinds_of_model_have_their_encoders_by_modality(fusion):
    model = build_model(SHAPES, 10, fusion=fusion)
    assert list(model.encoders) == list(SHAPES)
    for name, encoder in model.encoders.items():
        held = model[name].encoder if fusion == "late" else model.get_submodule(f"encoders.{name}")
        assert encoder is held
