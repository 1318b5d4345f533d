"""methods/ogm.py against NumPy, and against joint training, of which it is a change."""

import copy

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from igm import SAM, Concatenation, LateFusion, Unimodal, build_model, train
from igm.loading import batches
from igm.methods import Stage
from igm.rivals.ogm import OGM, coefficient, head_shares, modulate

NAMES = ("image", "audio", "text")


def make(model, modalities=NAMES[:2], **settings):
    return OGM(model, list(modalities), OGM.Settings.make(method="ogm", **settings))


def a_batch(modalities=NAMES[:2], n=20, d=5, c=4) -> dict:
    """Inputs (n, d); the later modalities give the class away."""
    torch.manual_seed(0)
    labels = torch.arange(n) % c
    batch = {"label": labels}
    for i, name in enumerate(modalities):
        x = torch.randn(n, d, dtype=torch.float64)
        x[torch.arange(n), labels] += 3.0 * i
        batch[name] = x
    return batch


def linear_model(kind: str, modalities=NAMES[:2], d=5, c=4) -> nn.Module:
    """Encoders (d -> 3) and heads that are one matrix each; the later modalities pass their class on."""
    torch.manual_seed(1)
    encoders = {name: nn.Linear(d, 3) for name in modalities}
    if kind == "concat":
        return Concatenation(encoders, nn.Linear(3 * len(modalities), c)).double()
    networks = {name: Unimodal(encoder, nn.Linear(3, c)) for name, encoder in encoders.items()}
    return LateFusion(networks).double()


def gradient_of(method, batch, rho=0.0):
    """Leaves the method's gradient of a batch in .grad; returns its loss."""
    stage = method.stages()[0]
    optimizer = SAM(torch.optim.SGD(method.parameters(stage), 0.1), rho)
    return method.gradient(stage, batch, optimizer)


def array(tensor) -> np.ndarray:
    return tensor.detach().numpy()


# ---------------------------------------------------------------- the formulas


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.8, 5.0])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 1.0001, 1.7, 30.0])
def test_the_coefficient(ratio, alpha):
    e = np.exp(2 * alpha * ratio)
    expected = 2 / (e + 1) if ratio > 1 else 1.0  # 1 - tanh(x) = 2 / (exp(2 x) + 1)
    assert coefficient(ratio, alpha) == pytest.approx(expected, abs=1e-12)


def test_the_coefficient_jumps_where_a_modality_gets_ahead():
    assert coefficient(1.0, 0.8) == 1.0
    assert coefficient(1.0 + 1e-9, 0.8) == pytest.approx(1 - np.tanh(0.8), abs=1e-6)


@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("kind", ["late", "concat"])
def test_the_gradient_of_a_tiny_model_by_hand(kind, m):
    """Cross-entropy, ratio, coefficient and chain rule in NumPy; with one matrix a head both kinds are the same sum."""
    modalities = NAMES[:m]
    model, batch = linear_model(kind, modalities), a_batch(modalities)
    method = make(model, modalities, ogm_alpha=0.3, ogm_noise=False)
    loss = gradient_of(method, batch)

    y = np.eye(4)[array(batch["label"])]
    x = {j: array(batch[j]) for j in modalities}
    if kind == "concat":
        encoders = model.encoders
        V = dict(zip(modalities, np.split(array(model.head.weight), m, axis=1)))  # (c, 3) each
        b = {j: array(model.head.bias) / m for j in modalities}
    else:
        encoders = {j: model[j].encoder for j in modalities}
        V = {j: array(model[j].head.weight) for j in modalities}
        b = {j: array(model[j].head.bias) for j in modalities}
    z = {j: x[j] @ array(encoders[j].weight).T + array(encoders[j].bias) for j in modalities}
    o = {j: z[j] @ V[j].T + b[j] for j in modalities}
    p = softmax(sum(o.values()), axis=1)
    assert loss.item() == pytest.approx(-np.log((p * y).sum(1)).mean())

    s = {j: (softmax(o[j], axis=1) * y).sum() for j in modalities}
    ratios = {j: s[j] / np.mean([s[k] for k in modalities if k != j]) for j in modalities}
    k = {j: 1 - np.tanh(0.3 * rho) if rho > 1 else 1.0 for j, rho in ratios.items()}
    assert min(k.values()) < 0.8 < max(k.values()) == 1.0
    r = (p - y) / len(y)  # the gradient in o
    for j in modalities:
        weight, bias = k[j] * (r @ V[j]).T @ x[j], k[j] * (r @ V[j]).sum(0)
        assert np.allclose(array(encoders[j].weight.grad), weight, atol=1e-12), j
        assert np.allclose(array(encoders[j].bias.grad), bias, atol=1e-12), j
        head = model.head.weight.grad if kind == "concat" else model[j].head.weight.grad
        place = slice(3 * modalities.index(j), None) if kind == "concat" else slice(None)
        assert np.allclose(array(head)[:, place][:, :3], r.T @ z[j], atol=1e-12), j  # not scaled


@pytest.mark.parametrize("m", [2, 3])
def test_the_shares_of_a_linear_head_are_its_blocks_and_add_up(m):
    torch.manual_seed(0)
    head = nn.Linear(3 * m, 4).double()
    z = {name: torch.randn(7, 3, dtype=torch.float64) for name in NAMES[:m]}
    shares = head_shares(head, z)
    for i, name in enumerate(z):
        block = array(head.weight)[:, 3 * i : 3 * i + 3]
        expected = array(z[name]) @ block.T + array(head.bias) / m
        assert np.allclose(array(shares[name]), expected, atol=1e-12)
    assert torch.allclose(sum(shares.values()), head(torch.cat(list(z.values()), 1)), atol=1e-12)


def test_the_share_of_a_deeper_head_is_its_mean_gain(networks, tiny):
    """AGM's formula for two modalities; and what is shared out is the head's answer."""
    model = networks(fusion="concat").double()
    method = make(model, ("fou", "kar"))
    (batch,) = batches(tiny["train"], 100, None)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    method.loss(method.stages()[0], batch)
    fou, kar = (model.encoders[name](batch[name]) for name in ("fou", "kar"))

    def f(a, b):  # in the model's order
        return model.head(torch.cat([a, b], dim=1))

    expected = (f(fou, kar) - f(fou, 0 * kar) + f(0 * fou, kar)) / 2
    assert torch.allclose(method.shares["kar"], expected, atol=1e-12)
    assert torch.allclose(sum(method.shares.values()), f(fou, kar), atol=1e-12)


def test_the_order_of_the_modalities_is_the_models(networks, tiny):
    batch = next(batches(tiny["train"], 100, None))
    found = []
    for modalities in (("fou", "kar"), ("kar", "fou")):
        method = make(networks(fusion="concat"), modalities)
        method.loss(method.stages()[0], batch)
        found.append(method.shares)
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# ---------------------------------------------------------------- noise


def parameter(g: torch.Tensor) -> nn.Parameter:
    p = nn.Parameter(torch.zeros_like(g))
    p.grad = g.clone()
    return p


@pytest.mark.parametrize("k", [1.0, 0.25, 0.0])
def test_the_noise_has_the_spread_of_the_gradient_before_the_coefficient(k):
    torch.manual_seed(0)
    g = 0.3 * torch.randn(400, 250) + 2.0  # its mean is not 0
    p = parameter(g)
    modulate([p], k, noise=True)
    h = p.grad - k * g
    assert h.std().item() == pytest.approx(g.std().item(), rel=0.02)
    assert abs(h.mean().item()) < 0.01
    assert abs(torch.corrcoef(torch.stack([h.flatten(), g.flatten()]))[0, 1].item()) < 0.02


def test_without_noise_the_gradient_is_scaled_alone():
    g = torch.randn(5, 3)
    p = parameter(g)
    modulate([p], 0.5, noise=False)
    assert torch.equal(p.grad, 0.5 * g)


def test_a_gradient_of_one_entry_or_none_does_no_harm():
    one, none = parameter(torch.tensor([3.0])), nn.Parameter(torch.zeros(2))
    modulate([one, none], 0.5, noise=True)
    assert one.grad.item() == pytest.approx(1.5)
    assert none.grad is None


def test_both_encoders_get_noise_and_the_heads_do_not():
    batch = a_batch()
    found = []
    for noise in (False, True):
        model = linear_model("late")
        gradient_of(make(model, ogm_alpha=0.3, ogm_noise=noise), batch)
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, g in found[0].items():
        assert torch.equal(g, found[1][name]) == ("head" in name), name


# ---------------------------------------------------------------- which gradients


def test_conv_takes_the_convolutions_alone():
    model = build_model({"image": (1, 14, 14), "audio": (12,)}, 10, d=8)
    method = make(model, ogm_layers="conv")
    assert [p.dim() for p in method.held_back("image")] == [4, 4]
    assert method.held_back("audio") == []  # an MLP has none
    method = make(model)
    assert method.held_back("image") == list(model["image"].encoder.parameters())


def test_a_strong_modality_is_stopped_by_a_large_alpha():
    model, batch = linear_model("late"), a_batch()
    method = make(model, ogm_alpha=1e3, ogm_noise=False)
    gradient_of(method, batch)
    stopped = [j for j in NAMES[:2] if not model[j].encoder.weight.grad.any()]
    (ahead,) = [j for j, k in method.coefficients(batch).items() if k < 1]
    assert stopped == [ahead]
    assert model[ahead].head.weight.grad.any()


# ---------------------------------------------------------------- training

QUICK = dict(epochs=4, select="last", batch_size=16, progress=False, device="cpu")


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_with_alpha_0_and_no_noise_it_is_joint_training_bit_by_bit(networks, tiny, fusion):
    joint, ogm, other, noisy = (networks(fusion=fusion) for _ in range(4))
    train(joint, tiny, "joint", **QUICK)
    train(ogm, tiny, "ogm", ogm_alpha=0.0, ogm_noise=False, **QUICK)
    train(other, tiny, "ogm", ogm_alpha=0.5, ogm_noise=False, **QUICK)
    train(noisy, tiny, "ogm", ogm_alpha=0.0, ogm_noise=True, **QUICK)
    assert same(joint, ogm)
    assert not same(joint, other)
    assert not same(joint, noisy)


def test_a_small_alpha_changes_little(networks, tiny):
    joint = train(networks(), tiny, "joint", **QUICK).model
    ogm = train(networks(), tiny, "ogm", ogm_alpha=1e-9, ogm_noise=False, **QUICK).model
    pairs = zip(joint.parameters(), ogm.parameters(), strict=True)
    assert all(torch.allclose(p, q, rtol=1e-3, atol=1e-5) for p, q in pairs)


def test_the_last_epochs_may_go_without_modulation(networks, tiny):
    rows = []

    class Noted(OGM):
        def coefficients(self, batch):
            rows.append(len(batch["label"]))
            return super().coefficients(batch)

    run = train(networks(), tiny, Noted, ogm_epochs=1, ogm_alpha=0.5, **QUICK)
    assert sum(rows) == len(tiny["train"])  # one epoch
    joint = train(networks(), tiny, "joint", **QUICK)
    assert [row["lr"] for row in run.history] == [
        row["lr"] for row in joint.history
    ]  # one schedule
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]


def test_more_modulated_epochs_than_epochs_are_refused(networks):
    with pytest.raises(ValueError, match="ogm_epochs must be at most epochs, got 5 of 4"):
        make(networks(), ("fou", "kar"), epochs=4, ogm_epochs=5).stages()
    assert make(networks(), ("fou", "kar"), epochs=4, ogm_epochs=4).stages() == [
        Stage(("fou", "kar"), 4)
    ]


def test_batchnorm_and_dropout_see_each_batch_once(tiny):
    """As in joint training; the look at the shares leaves no trace."""

    def model():
        torch.manual_seed(0)
        encoders = {
            name: nn.Sequential(nn.Linear(d, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
            for name, d in (("fou", 76), ("kar", 64))
        }
        return Concatenation(encoders, nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 10)))

    joint, ogm = model(), model()
    train(joint, tiny, "joint", **QUICK)
    train(ogm, tiny, "ogm", ogm_alpha=0.0, ogm_noise=False, **QUICK)
    a, b = joint.state_dict(), ogm.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_it_goes_with_sam(networks, tiny):
    """The coefficients scale the gradient at the perturbed weights."""
    batch = next(batches(tiny["train"], 100, None))
    plain, scaled = networks(), networks()
    gradient_of(make(plain, ("fou", "kar"), ogm_alpha=0.0, ogm_noise=False), batch, rho=0.2)
    method = make(scaled, ("fou", "kar"), ogm_alpha=0.5, ogm_noise=False)
    before = copy.deepcopy(scaled)
    gradient_of(method, batch, rho=0.2)
    assert same(before, scaled)
    for j, k in method.coefficients(batch).items():
        g, expected = (m[j].encoder[0].weight.grad for m in (scaled, plain))
        assert torch.allclose(g, k * expected, atol=1e-7)
