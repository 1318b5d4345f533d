"""imbalance.py against NumPy, SciPy and the axioms of the Shapley value."""

import copy
import math
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from igm import (
    Concatenation,
    LateFusion,
    Unimodal,
    build_model,
    fuse,
    modification_matrix,
    modify_gradients,
    train,
)
from igm.analysis.imbalance import (
    discrepancy_ratio,
    gradient_cosine,
    gradient_norms,
    head_gradients,
    shapley_values,
    unimodal_gap,
)
from igm.metrics import scores

NAMES = ("image", "audio", "text", "depth", "flow", "touch")


def random_logits(m: int, n: int = 120, c: int = 4, seed: int = 0):
    """Logits of m modalities, the later the surer, and labels in which every class has n/c samples."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % c
    logits = {}
    for i, name in enumerate(NAMES[:m]):
        z = torch.randn(n, c, generator=generator)
        z[torch.arange(n), labels] += 0.4 * (i + 1)
        logits[name] = z
    return logits, labels


# ---------------------------------------------------------------- accuracies


def test_the_gap_is_inside_minus_alone():
    gap = unimodal_gap({"image": 0.2, "audio": 0.9}, {"audio": 0.8, "image": 0.5})
    assert gap == pytest.approx({"image": -0.3, "audio": 0.1})


def test_a_gap_needs_both_accuracies():
    with pytest.raises(ValueError, match="no pair of accuracies for audio, text"):
        unimodal_gap({"image": 0.2, "audio": 0.9}, {"image": 0.5, "text": 0.1})


# ---------------------------------------------------------------- discrepancy ratio


def probability_sums(logits, labels) -> dict[str, float]:
    rows = np.arange(len(labels))
    return {
        name: softmax(z.numpy().astype(float), axis=1)[rows, labels.numpy()].sum()
        for name, z in logits.items()
    }


def test_for_two_modalities_the_ratio_is_that_of_ogm():
    logits, labels = random_logits(2)
    s = probability_sums(logits, labels)
    ratio = discrepancy_ratio(logits, labels)
    expected = {"image": s["image"] / s["audio"], "audio": s["audio"] / s["image"]}
    assert ratio == pytest.approx(expected, rel=1e-12)
    assert ratio["audio"] > 1 > ratio["image"]


def test_for_more_modalities_the_ratio_is_over_the_mean_of_the_others():
    logits, labels = random_logits(3)
    image, audio, text = probability_sums(logits, labels).values()
    expected = [2 * image / (audio + text), 2 * audio / (image + text), 2 * text / (image + audio)]
    assert list(discrepancy_ratio(logits, labels).values()) == pytest.approx(expected, rel=1e-12)


def test_equal_modalities_are_in_balance():
    logits, labels = random_logits(1)
    same = dict.fromkeys(("a", "b", "c"), logits["image"])
    assert discrepancy_ratio(same, labels) == pytest.approx({"a": 1, "b": 1, "c": 1})


def test_a_ratio_of_one_modality_is_refused():
    with pytest.raises(ValueError, match="two modalities or more, got image"):
        discrepancy_ratio(*random_logits(1))


@pytest.mark.parametrize("measure", [discrepancy_ratio, shapley_values])
def test_tensors_that_do_not_fit_together_are_refused(measure):
    logits, labels = random_logits(2)
    with pytest.raises(ValueError, match="the same samples"):
        measure(logits, labels[:-1])
    with pytest.raises(ValueError, match="the same samples"):
        measure(logits, F.one_hot(labels))
    with pytest.raises(ValueError, match=r"'audio': \(120, 3\)"):
        measure(logits | {"audio": logits["audio"][:, :3]}, labels)
    with pytest.raises(ValueError, match="no modality"):
        measure({}, labels)


# ---------------------------------------------------------------- gradient norms


def numpy_norm(*tensors) -> float:
    return np.linalg.norm(np.concatenate([t.numpy().astype(float).ravel() for t in tensors]))


def test_gradient_norms_of_late_fusion(tiny, networks):
    model = networks()
    batch = tiny["train"].fetch(range(20))
    F.cross_entropy(sum(model(batch).values()), batch["label"]).backward()
    norms = gradient_norms(model)
    assert list(norms) == ["fou", "kar"]
    for name, network in model.modalities.items():
        expected = {
            part: numpy_norm(*(p.grad for p in getattr(network, part).parameters()))
            for part in ("encoder", "head")
        }
        assert norms[name] == pytest.approx(expected, rel=1e-6)
        assert min(norms[name].values()) > 0


def test_parts_without_a_gradient_count_as_zero(tiny, networks):
    model = networks()
    assert gradient_norms(model)["fou"] == {"encoder": 0, "head": 0}
    batch = tiny["train"].fetch(range(20))
    model["kar"].head.fc1.requires_grad_(False)
    F.cross_entropy(model["kar"](batch["kar"]), batch["label"]).backward()
    norms = gradient_norms(model)
    assert norms["fou"] == {"encoder": 0, "head": 0}
    trained = [*model["kar"].head.fc2.parameters(), *model["kar"].head.fc3.parameters()]
    assert norms["kar"]["head"] == pytest.approx(numpy_norm(*(p.grad for p in trained)), rel=1e-6)
    without_parameters = LateFusion({"x": Unimodal(nn.Flatten(), nn.Linear(2, 2))})
    assert gradient_norms(without_parameters)["x"]["encoder"] == 0


@pytest.mark.parametrize("options", [{"shared_head": True}, {"fusion": "concat"}], ids=str)
def test_a_shared_head_has_one_gradient(tiny, networks, options):
    model = networks(**options)
    batch = tiny["train"].fetch(range(20))
    F.cross_entropy(sum(model(batch).values()), batch["label"]).backward()
    head = model.head if isinstance(model, Concatenation) else model["fou"].head
    encoders = model.encoders if isinstance(model, Concatenation) else model.modalities
    norms = gradient_norms(model)
    assert norms["fou"]["head"] == norms["kar"]["head"]
    assert norms["fou"]["head"] == pytest.approx(
        numpy_norm(*(p.grad for p in head.parameters())), rel=1e-6
    )
    for name, network in encoders.items():
        encoder = getattr(network, "encoder", network)
        expected = numpy_norm(*(p.grad for p in encoder.parameters()))
        assert norms[name]["encoder"] == pytest.approx(expected, rel=1e-6)


def test_gradient_norms_of_another_model_are_refused():
    with pytest.raises(TypeError, match="got Linear"):
        gradient_norms(nn.Linear(2, 2))


# ---------------------------------------------------------------- Shapley values


def numpy_accuracy(logits, labels, names) -> float:
    """v(S) of the mean of the probabilities; 1/c for nobody."""
    if not names:
        c = next(iter(logits.values())).shape[1]
        return 1 / c
    p = np.mean([softmax(logits[name].numpy(), axis=1) for name in names], axis=0)
    return float(np.mean(p.argmax(1) == labels.numpy()))


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_shapley_values_are_mean_marginal_gains_over_all_orders(m):
    logits, labels = random_logits(m)
    expected = dict.fromkeys(logits, 0.0)
    for order in permutations(logits):
        for place, name in enumerate(order):
            before, after = order[:place], order[: place + 1]
            gain = numpy_accuracy(logits, labels, after) - numpy_accuracy(logits, labels, before)
            expected[name] += gain / math.factorial(m)
    assert shapley_values(logits, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weighting", ["mean", "entropy", "logits"])
def test_efficiency_the_values_add_up_to_the_fused_score_above_chance(weighting):
    logits, labels = random_logits(4)
    values = shapley_values(logits, labels, weighting=weighting)
    right = fuse(logits, weighting).argmax(1) == labels
    assert sum(values.values()) == pytest.approx(right.double().mean().item() - 1 / 4, abs=1e-6)


def test_symmetry_equal_modalities_get_equal_values():
    logits, labels = random_logits(3)
    values = shapley_values(logits | {"text": logits["image"].clone()}, labels)
    assert values["image"] == pytest.approx(values["text"], abs=1e-12)
    assert values["image"] != pytest.approx(values["audio"], abs=1e-3)


def test_dummy_a_modality_that_changes_no_prediction_gets_nothing():
    # It always answers class 0, by a little, which is right for 1/c of these labels: as good as guessing.
    logits, labels = random_logits(3)
    audio = torch.zeros(120, 4)
    audio[:, 0] = 1e-4  # no tie, which rounding would decide
    values = shapley_values(logits | {"audio": audio}, labels)
    assert values["audio"] == pytest.approx(0, abs=1e-7)
    assert min(values["image"], values["text"]) > 0.01


def test_shapley_values_of_another_score():
    logits, labels = random_logits(2)

    def macro_f1(p, y):
        return scores(p, y)["macro_f1"]

    image, audio, both = (
        f1_score(labels, fuse({n: logits[n] for n in names}).argmax(1), average="macro")
        for names in (["image"], ["audio"], ["image", "audio"])
    )
    expected = {
        "image": ((image - 0.25) + (both - audio)) / 2,
        "audio": ((audio - 0.25) + (both - image)) / 2,
    }
    assert shapley_values(logits, labels, macro_f1) == pytest.approx(expected, abs=1e-6)


def test_six_modalities_are_too_many():
    with pytest.raises(ValueError, match="at most 5 modalities, got 6"):
        shapley_values(*random_logits(6))


# ---------------------------------------------------------------- gradients of head layers


def test_head_gradients_are_those_of_the_cross_entropy(tiny, networks):
    network = networks()["fou"].double()
    x, labels = tiny["train"].inputs["fou"][:20].double(), tiny["train"].labels[:20]
    gradients = head_gradients(network, x, labels)
    assert list(gradients) == ["head.fc1", "head.fc2", "head.fc3"]
    for name, layer in network.layers("head").items():
        assert gradients[name].shape == layer.weight.shape
        i, j = divmod(gradients[name].abs().argmax().item(), layer.weight.shape[1])
        losses = []
        for step in (1e-5, -1e-5):  # a central difference in one weight
            moved = copy.deepcopy(network)
            moved.layers("head")[name].weight.data[i, j] += step
            losses.append(F.cross_entropy(moved(x), labels).item())
        assert gradients[name][i, j].item() == pytest.approx(
            (losses[0] - losses[1]) / 2e-5, rel=1e-4
        )


def test_head_gradients_leave_the_network_and_the_random_state_alone():
    encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    network = Unimodal(encoder, nn.Sequential(nn.Linear(4, 2)))
    network.head[0].weight.grad = torch.ones(2, 4)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        head_gradients(network, torch.randn(8, 3, generator=torch.Generator()), torch.arange(8) % 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(network.head[0].weight.grad, torch.ones(2, 4))
    assert all(p.grad is None for p in encoder.parameters())
    assert all(module.training for module in network.modules())


@pytest.fixture
def gradients():
    """Of an old and a new modality: two layers, in the layout of torch."""
    generator = torch.Generator().manual_seed(3)
    shapes = {"head.fc1": (4, 6), "head.fc2": (3, 4)}
    return [
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(2)
    ]


def random_matrix(d: int) -> torch.Tensor:
    a = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(d))
    return a @ a.T


def numpy_cosine(a, b) -> float:
    a, b = (np.concatenate([np.asarray(g, float).ravel() for g in layers]) for layers in (a, b))
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


def test_the_cosine_runs_over_all_layers_at_once(gradients):
    old, new = gradients
    expected = numpy_cosine(old.values(), new.values())
    by_layer = np.mean([numpy_cosine([old[name]], [new[name]]) for name in old])
    assert gradient_cosine(old, new) == pytest.approx(expected, rel=1e-12)
    assert abs(expected - by_layer) > 1e-3  # another definition, and not ours


def test_the_cosine_matches_layers_by_name(gradients):
    old, new = gradients
    other_order = dict(reversed(new.items()))
    assert gradient_cosine(old, other_order) == gradient_cosine(old, new)


def test_the_matrices_modify_the_new_gradient_only(gradients):
    old, new = gradients
    T = random_matrix(6)  # of fc1; fc2 has none and keeps T = I
    paper = T.numpy() @ new["head.fc1"].double().numpy().T  # W is d x c there: T grad
    expected = numpy_cosine([old["head.fc1"], old["head.fc2"]], [paper.T, new["head.fc2"]])
    assert gradient_cosine(old, new, {"head.fc1": T}) == pytest.approx(expected, rel=1e-12)
    assert abs(expected - gradient_cosine(old, new)) > 1e-3


def test_the_modified_cosine_sees_what_modify_gradients_makes(gradients):
    old, new = gradients
    T = {"head.fc1": random_matrix(6), "head.fc2": random_matrix(4)}
    layers = {name: nn.Linear(*reversed(g.shape)) for name, g in new.items()}
    for name, layer in layers.items():
        layer.weight.grad = new[name].clone()
    modify_gradients(layers, T)
    modified = {name: layer.weight.grad for name, layer in layers.items()}
    before = {name: g.clone() for name, g in new.items()}
    assert gradient_cosine(old, new, T) == pytest.approx(gradient_cosine(old, modified), abs=1e-6)
    assert all(torch.equal(before[name], g) for name, g in new.items())


def test_a_convolution_is_flattened_as_its_weight_is():
    generator = torch.Generator().manual_seed(5)
    old, new = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(2))
    T = random_matrix(18)
    modified = new.double().view(4, 18).numpy() @ T.numpy()
    expected = numpy_cosine([old], [modified])
    assert gradient_cosine({"conv": old}, {"conv": new}, {"conv": T}) == pytest.approx(expected)


def test_parallel_and_opposite_gradients(gradients):
    old, _ = gradients
    assert gradient_cosine(old, {k: 3 * g for k, g in old.items()}) == pytest.approx(1)
    assert gradient_cosine(old, {k: -g for k, g in old.items()}) == pytest.approx(-1)
    assert math.isnan(gradient_cosine(old, {k: 0 * g for k, g in old.items()}))


def test_layers_of_other_shapes_are_left_out(gradients):
    old, new = gradients
    wider = new | {"head.fc1": torch.ones(4, 9)}
    assert gradient_cosine(old, wider) == pytest.approx(
        numpy_cosine([old["head.fc2"]], [new["head.fc2"]])
    )
    with pytest.raises(
        ValueError, match=r"in common: there are head.fc1 \(4, 6\) and head.fc1 \(4, 9\)"
    ):
        gradient_cosine({"head.fc1": old["head.fc1"]}, {"head.fc1": wider["head.fc1"]})


def test_a_matrix_of_the_wrong_size_names_the_layer(gradients):
    with pytest.raises(ValueError, match="layer 'head.fc2' takes 4 inputs"):
        gradient_cosine(*gradients, {"head.fc2": torch.eye(6)})


@pytest.mark.parametrize("shift", [0, 5])  # with other labels the two losses pull apart
def test_on_a_shared_head_the_cosine_is_the_change_of_the_old_loss(tiny, networks, shift):
    # A step of size eta along -g_new changes the old loss by -eta <g_old, g_new>.
    model = networks(shared_head=True).double()
    batch = tiny["train"].fetch(range(40))
    x_old, x_new, labels = batch["fou"].double(), batch["kar"].double(), batch["label"]
    old = head_gradients(model["fou"], x_old, labels)
    new = head_gradients(model["kar"], x_new, (labels + shift) % 10)

    def old_loss(eta: float) -> float:
        moved = copy.deepcopy(model["fou"])
        for name, layer in moved.layers("head").items():
            layer.weight.data -= eta * new[name]
        return F.cross_entropy(moved(x_old), labels).item()

    slope = (old_loss(1e-4) - old_loss(-1e-4)) / 2e-4
    product = gradient_cosine(old, new) * numpy_norm(*old.values()) * numpy_norm(*new.values())
    assert slope == pytest.approx(-product, rel=1e-4)


def test_the_matrices_of_a_run_are_those_of_the_same_layers(mfeat):
    """Names of ``head_gradients`` and of ``FeatureCovariance.matrices`` agree, so that no T is left out in silence."""
    data = {split: dataset.subset(range(100)) for split, dataset in mfeat.items()}
    model = build_model(data["train"].shapes, 10, shared_head=True, d=16)
    run = train(model, data, tau=3.0, epochs=1, rounds=1, device="cpu", progress=False)
    old, new = (
        head_gradients(model[name], data["train"].inputs[name], data["train"].labels)
        for name in ("fou", "kar")
    )
    moments = run.method.covariances["fou"].matrices
    T = {layer: modification_matrix(moment, 3.0) for layer, moment in moments.items()}
    assert T.keys() == old.keys()
    assert gradient_cosine(old, new, T) != pytest.approx(gradient_cosine(old, new), abs=1e-3)
