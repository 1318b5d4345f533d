"""MLA: its projection against a dense inverse, its gradients against the features that were seen, its runs."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from igm import LateFusion, Unimodal, fuse, train
from igm.loading import batches
from igm.methods import Alternating, Joint, Stage, find_method
from igm.rivals.mla import MLA, project_off
from igm.sam import SAM
from igm.seeds import derive_seed

QUICK = dict(epochs=4, batch_size=16, select="last", progress=False, device="cpu")
LAYERS = ["head.fc1", "head.fc2", "head.fc3"]
WAYS = ["batch", "stage"]


def make(model, **settings) -> MLA:
    return MLA(model, ["fou", "kar"], MLA.Settings.make(method="mla", **settings))


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in pairs)


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    """Features as a ReLU gives them, with a mean of their own."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.5).clamp(min=0)


def dense(features, alpha: float) -> np.ndarray:
    """alpha (alpha I + sum r r^T)^-1."""
    r = np.asarray(features, dtype=float)
    return alpha * np.linalg.inv(alpha * np.eye(r.shape[1]) + r.T @ r)


# ---------------------------------------------------------------- recursive least squares


@pytest.mark.parametrize("alpha", [10.0, 0.1, 1e-3])
@pytest.mark.parametrize("n", [1, 5, 12, 500])
def test_recursive_least_squares_is_the_dense_inverse(n, alpha):
    features = rows(n, 12)
    before = torch.eye(12, dtype=torch.float64)
    P = project_off(before, features, alpha)
    assert np.allclose(P, dense(features, alpha), atol=1e-10)
    assert torch.equal(P, P.T)
    eigenvalues = torch.linalg.eigvalsh(P)
    assert eigenvalues.min() > -1e-12 and eigenvalues.max() < 1 + 1e-12
    assert torch.equal(before, torch.eye(12, dtype=torch.float64))  # not changed in place


def test_features_may_come_in_any_order_and_in_parts():
    features, P = rows(9, 6), torch.eye(6, dtype=torch.float64)
    whole = project_off(P, features, 0.1)
    assert torch.allclose(whole, project_off(P, features.flip(0), 0.1))
    assert torch.equal(whole, project_off(project_off(P, features[:4], 0.1), features[4:], 0.1))
    assert torch.equal(P, project_off(P, features[:0], 0.1))


def test_with_alpha_near_zero_it_is_the_orthogonal_projection():
    features = rows(5, 12)
    P = project_off(torch.eye(12, dtype=torch.float64), features, 1e-10).numpy()
    Q = np.linalg.qr(features.numpy().T)[0]  # an orthonormal basis of the features' span
    assert np.allclose(P, np.eye(12) - Q @ Q.T, atol=1e-7)
    assert np.abs(P @ features.numpy().T).max() < 1e-8
    assert np.trace(P) == pytest.approx(12 - 5)


def test_every_feature_leaves_less_to_learn_in():
    P = torch.eye(8, dtype=torch.float64)
    spectra = [torch.linalg.eigvalsh(P)]
    for r in rows(40, 8):
        P = project_off(P, r[None], 0.1)
        spectra.append(torch.linalg.eigvalsh(P))
    assert all((after <= before + 1e-12).all() for before, after in zip(spectra, spectra[1:]))
    assert spectra[0].sum() == pytest.approx(8) and spectra[-1].sum() < 0.3


# ---------------------------------------------------------------- one step


@pytest.fixture
def batch(tiny):
    (batch,) = batches(tiny["train"], 100, None)
    return batch | {name: batch[name].double() for name in ("fou", "kar")}


def head_inputs(network: Unimodal, x: torch.Tensor) -> dict[str, np.ndarray]:
    """layer -> its inputs, (n, d), computed without a hook."""
    with torch.no_grad():
        z = network.encoder(x)
        hidden = network.head.fc1(z).clamp(min=0)
        inputs = [z, hidden, network.head.fc2(hidden)]
    return {layer: z.double().numpy() for layer, z in zip(LAYERS, inputs)}


def step_gradient(method: MLA, name: str, batch) -> dict[str, torch.Tensor]:
    """What the method leaves in ``.grad`` for a turn of one modality, which then ends."""
    network, turn = method.model[name], Stage((name,), 1)
    optimizer = SAM(torch.optim.SGD(network.parameters(), lr=0.1), method.settings.rho)
    method.gradient(turn, batch, optimizer)
    found = {n: p.grad.clone() for n, p in network.named_parameters()}
    method.end_turn(turn)
    return found


def plain_gradient(network: Unimodal, batch, name: str) -> dict[str, torch.Tensor]:
    loss = F.cross_entropy(network(batch[name]), batch["label"])
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return dict(zip(dict(network.named_parameters()), gradients))


@pytest.mark.parametrize("alpha", [1.0, 0.01])
def test_a_turn_is_projected_by_the_features_of_the_turns_before(networks, batch, alpha):
    model = networks(shared_head=True).double()
    method = make(model, mla_alpha=alpha)
    seen = {layer: [] for layer in LAYERS}
    for turn, name in enumerate(["fou", "kar", "fou", "kar"]):
        part = {key: x[20 * turn : 20 * turn + 30] for key, x in batch.items()}
        plain = plain_gradient(model[name], part, name)
        found = step_gradient(method, name, part)
        for parameter, g in plain.items():
            layer = parameter.removesuffix(".weight")
            if layer in LAYERS and turn:  # the first turn of all has P = I
                projected = g.numpy() @ dense(seen[layer], alpha)  # stored out x in
                assert np.abs(projected - g.numpy()).max() > 1e-3 * g.abs().max()
                g = torch.from_numpy(projected)
            assert torch.allclose(found[parameter], g, atol=1e-10), (turn, parameter)
        for layer, z in head_inputs(model[name], part[name]).items():
            seen[layer].append(z.mean(0))
    for layer, features in seen.items():
        assert np.allclose(method.projections[layer], dense(features, alpha), atol=1e-9)


def test_the_gradient_is_orthogonal_to_what_was_seen(networks, batch):
    model = networks(shared_head=True).double()
    method = make(model, mla_alpha=1e-9)
    step_gradient(method, "fou", batch)
    seen = {layer: z.mean(0) for layer, z in head_inputs(model["fou"], batch["fou"]).items()}
    plain = plain_gradient(model["kar"], batch, "kar")
    found = step_gradient(method, "kar", batch)
    for layer, r in seen.items():
        r = torch.from_numpy(r)
        size = found[f"{layer}.weight"].norm() * r.norm()
        assert (found[f"{layer}.weight"] @ r).norm() < 1e-7 * size
        assert (plain[f"{layer}.weight"] @ r).norm() > 1e-3 * size  # without P it is not


def test_of_sams_two_passes_the_second_gives_the_features(networks, batch):
    model = networks(shared_head=True).double()
    method = make(model, rho=0.5)
    network = copy.deepcopy(model["fou"])
    step_gradient(method, "fou", batch)
    g = plain_gradient(network, batch, "fou")
    norm = torch.cat([x.flatten() for x in g.values()]).norm()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p += 0.5 * g[name] / norm
    for layer, z in head_inputs(network, batch["fou"]).items():
        assert np.allclose(method.projections[layer], dense([z.mean(0)], 0.1), atol=1e-9)


def test_at_the_end_of_a_stage_the_means_of_its_batches_are_taken_out(networks, tiny):
    model = networks(shared_head=True).train()
    method = make(model, alternate="stage", mla_alpha=0.01)
    before, means = copy.deepcopy(model), {layer: [] for layer in LAYERS}
    for name in ("fou", "kar"):
        parts = list(batches(tiny["train"], 32, None))
        method.end_stage(Stage((name,), 1), iter(parts))
        for part in parts:
            for layer, z in head_inputs(model[name], part[name]).items():
                means[layer].append(z.mean(0))
        for layer, features in means.items():  # of both modalities, in the end
            assert np.allclose(method.projections[layer], dense(features, 0.01), atol=1e-6)
    assert equal(model, before) and all(module.training for module in model.modules())


def test_in_stages_a_turn_takes_nothing_out(networks, batch):
    method = make(networks(shared_head=True).double(), alternate="stage")
    step_gradient(method, "fou", batch)
    assert not method.projections and not method.sums


# ---------------------------------------------------------------- runs


@pytest.fixture
def trained(networks, tiny):
    """trained(method, ...): a run of four epochs a modality with one shared head."""

    def run(method, **settings):
        return train(networks(shared_head=True), tiny, method, **(QUICK | settings))

    return run


class Unprojected(MLA):
    """The control P = I."""

    def take_out(self, name, features):
        pass


@pytest.mark.parametrize("alternate", WAYS)
def test_with_p_the_identity_it_is_alternating_bit_by_bit(trained, alternate):
    alternating = trained("alternating", alternate=alternate).model
    assert equal(trained(Unprojected, alternate=alternate).model, alternating)
    assert close(trained("mla", alternate=alternate, mla_alpha=1e12).model, alternating)
    assert not close(trained("mla", alternate=alternate).model, alternating)


def test_each_batch_gives_a_step_for_each_modality(networks, tiny):
    found = networks(shared_head=True)
    run = train(
        found, tiny, "alternating", alternate="batch", lr=0.05, schedule="constant", **QUICK
    )
    assert [row["modality"] for row in run.history] == ["fou+kar"] * 4

    by_hand = networks(shared_head=True)
    sgd = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(4):
        losses = []
        for batch in batches(tiny["train"], 16, derive_seed(0, "fou", "kar", epoch)):
            for name in ("fou", "kar"):
                sgd.zero_grad()
                losses.append(F.cross_entropy(by_hand[name](batch[name]), batch["label"]))
                losses[-1].backward()
                sgd.step()
        assert run.history[epoch]["loss"] == pytest.approx(np.mean([x.item() for x in losses]))
    assert equal(by_hand, found)


def test_the_defaults_are_those_of_the_method(trained):
    settings = trained("mla").settings
    assert (settings.alternate, settings.mla_alpha, settings.fusion) == ("batch", 0.1, "entropy")
    assert find_method("mla") is MLA
    assert trained("alternating").settings.alternate == "stage"


@pytest.mark.parametrize("alternate", WAYS)
def test_a_step_in_parts_is_the_same_step(trained, alternate):
    options = dict(alternate=alternate, lr=0.05)
    whole, parts = (trained("mla", accumulation=a, **options) for a in (1, 3))
    assert close(whole.model, parts.model)
    for layer, P in whole.method.projections.items():
        assert torch.allclose(P, parts.method.projections[layer], atol=1e-4)


@pytest.mark.parametrize("alternate", WAYS)
def test_a_run_that_is_interrupted_goes_on_the_same(networks, tiny, tmp_path, alternate):
    class Stopped(MLA):
        steps = 0

        def gradient(self, stage, batch, optimizer):
            self.steps += 1
            if self.steps > 38:  # of 56: an epoch has 7 steps, or 14 with turns of batches
                raise KeyboardInterrupt
            return super().gradient(stage, batch, optimizer)

    Stopped.__name__ = "mla"
    options = QUICK | dict(alternate=alternate, lr=0.05)
    whole = train(networks(shared_head=True), tiny, "mla", out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        train(networks(shared_head=True), tiny, Stopped, out=tmp_path / "run", **options)
    again = train(
        networks(shared_head=True), tiny, "mla", out=tmp_path / "run", resume=True, **options
    )
    assert again.history == whole.history
    assert equal(again.model, whole.model)
    assert again.method.projections.keys() == set(LAYERS)
    for layer, P in whole.method.projections.items():
        assert P.dtype == torch.float64
        assert torch.equal(again.method.projections[layer], P)


# ---------------------------------------------------------------- fusion


def test_the_authors_fusion_weights_logits_and_ours_probabilities(trained):
    """By the same weights, in NumPy: exp(largest entropy - own), normalised for each sample."""
    rng = np.random.default_rng(0)
    logits = {name: scale * rng.standard_normal((50, 6)) for name, scale in (("a", 1), ("b", 5))}

    def softmax(z, axis):
        e = np.exp(z - z.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    p = np.stack([softmax(z, -1) for z in logits.values()])
    entropy = -(p * np.log(p)).sum(-1)  # (2, n)
    weights = softmax(-entropy, 0)[..., None]
    tensors = {name: torch.from_numpy(z) for name, z in logits.items()}
    ours, theirs = (fuse(tensors, way).numpy() for way in ("entropy", "entropy-logits"))
    assert np.allclose(ours, (weights * p).sum(0), atol=1e-12)
    mixed = softmax((weights * np.stack(list(logits.values()))).sum(0), -1)
    assert np.allclose(theirs, mixed, atol=1e-12)
    assert (
        ours.argmax(1) != theirs.argmax(1)
    ).any()  # they do not only differ in how sure they are
    assert trained("mla", fusion="entropy-logits").settings.fusion == "entropy-logits"


def test_both_fusions_are_probabilities_where_a_modality_is_certain():
    sure = torch.tensor([[1000.0, 0.0, -1000.0]])
    unsure = torch.tensor([[0.0, 0.1, 0.0]])
    for way in ("entropy", "entropy-logits"):
        p = fuse({"a": sure, "b": unsure, "c": sure}, way)
        assert torch.isfinite(p).all() and p.sum().item() == pytest.approx(1, abs=1e-6)
        assert p.argmax() == 0


# ---------------------------------------------------------------- mistakes


def test_heads_of_different_sizes_are_refused():
    heads = {name: nn.Sequential(nn.Linear(d, 10)) for name, d in (("fou", 8), ("kar", 6))}
    model = LateFusion({name: Unimodal(nn.Identity(), head) for name, head in heads.items()})
    with pytest.raises(ValueError, match="head.0 has 8 inputs in one modality and 6 in kar"):
        make(model)


@pytest.mark.parametrize(
    ("method", "settings", "fault"),
    [
        ("mla", {"mla_alpha": 0.0}, "mla_alpha must be above 0"),
        ("mla", {"alternate": "epoch"}, "unknown alternate 'epoch': use one of stage, batch"),
        ("igm", {"alternate": "batch"}, "igm makes its matrices when a stage ends"),
        (
            "alternating",
            {"alternate": "batch", "stage_epochs": [1, 1]},
            "stage_epochs needs stages",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named(networks, tiny, method, settings, fault):
    with pytest.raises(ValueError, match=fault):
        train(networks(), tiny, method, **(QUICK | settings))


def test_other_methods_take_one_step_a_batch(networks):
    stage = Stage(("fou",), 3, round=1)
    method = Alternating(networks(), ["fou", "kar"], Alternating.Settings())
    assert method.turns(stage) == [stage]
    both = Stage(("fou", "kar"), 3)
    joint = Joint(networks(), ["fou", "kar"], Joint.Settings())
    assert joint.turns(both) == [both]
