"""IGM's variants and options, each against an explicit computation or against the run it must equal."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from igm import (
    SAM,
    FeatureCovariance,
    LateFusion,
    Unimodal,
    build_model,
    load_dataset,
    modification_matrix,
    train,
)
from igm.devices import Devices
from igm.loading import batches
from igm.methods import METHODS, VARIANTS, Alternating, Interactive, Stage
from igm.methods.unimodal import draw_mixup
from igm.seeds import derive_seed
from igm.train import step_gradient

QUICK = dict(epochs=4, batch_size=16, select="last", progress=False, device="cpu")


def make(model, method="igm", modalities=("fou", "kar"), devices=None, **settings):
    kind = METHODS[method]
    return kind(model, list(modalities), kind.Settings.make(method=method, **settings), devices)


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters()}


# ---------------------------------------------------------------- the three variants


def test_the_variants_are_what_the_table_says(networks):
    used = {variant: make(networks(), variant=variant).settings for variant in VARIANTS}
    assert list(used) == ["paper", "released", "igm"]

    def column(name):
        return [getattr(settings, name) for settings in used.values()]

    assert column("tau") == [0.4, 0.4, 20.0]
    assert column("rho") == [1e-10, 1e-10, 0.02]
    assert column("rho_norm") == ["all", "tensor", "all"]
    assert column("flat_ratio") == [0.0, 0.3, 0.0]
    assert column("mixup") == [0.0, 1.0, 0.0]
    assert column("statistic") == ["batch-mean", "batch-mean", "sample"]
    assert column("cumulative") == [True, False, False]
    assert column("restart") == column("from_best") == column("drop_last") == [False, True, False]
    assert column("score") == ["accuracy", "macro_f1", "accuracy"]
    assert column("fusion") == ["entropy", "mean", "mean"]
    assert column("select") == ["best"] * 3  # none of them looks at the test split unasked
    assert column("scope") == ["head"] * 3


def test_a_setting_that_is_given_overrides_the_variant(networks):
    settings = make(networks(), variant="released", tau=3.0, mixup=0.0, from_best=False).settings
    assert (settings.tau, settings.mixup, settings.from_best) == (3.0, 0.0, False)
    assert settings.flat_ratio == 0.3


def test_an_unknown_variant_is_named(networks):
    with pytest.raises(ValueError, match="unknown variant 'ours': use one of paper, released, igm"):
        make(networks(), variant="ours")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shared_head", [False, True])
def test_every_variant_learns(mfeat, variant, shared_head):
    data = mfeat | {"train": mfeat["train"].subset(range(300))}
    model = build_model(data["train"].shapes, 10, shared_head=shared_head, d=32)
    options = QUICK | dict(epochs=14, select="best")
    run = train(model, data, variant=variant, lr=0.05, **options)
    test = {name: score["accuracy"] for name, score in run.results["test"].items()}
    assert test["fused"] > 0.7, test  # chance: 0.1


# ---------------------------------------------------------------- the released step


@pytest.fixture
def batch(tiny):
    (batch,) = batches(tiny["train"], 100, None)
    return {"fou": batch["fou"].double(), "label": batch["label"], "index": batch["index"]}


def released_step(network, batch, **settings):
    """The gradient that the variant leaves, and its loss."""
    method = make(LateFusion({"fou": network}), modalities=["fou"], variant="released", **settings)
    stage = Stage(("fou",), 1)
    optimizer = method.optimizer(stage, torch.optim.SGD(network.parameters(), lr=0.1))
    torch.manual_seed(4)
    loss = method.gradient(stage, batch, optimizer)
    return gradients(network), loss.item()


@pytest.fixture
def linear():
    """A network that is linear from end to end, so that its gradients can be written down."""
    torch.manual_seed(1)
    encoder, head = nn.Linear(76, 8, bias=False), nn.Linear(8, 10, bias=False)
    return Unimodal(encoder, head).double()


def released_by_hand(network, batch, rho, r, mixup):
    """The step of released.py in NumPy: what was computed before the move keeps its weights."""
    torch.manual_seed(4)
    lam, partner = draw_mixup(mixup, 100) if mixup else (1.0, torch.arange(100))
    E, H = (p.detach().numpy().copy() for p in network.parameters())
    x, y = batch["fou"].numpy(), np.eye(10)[batch["label"]]
    target = lam * y + (1 - lam) * y[partner]
    x = lam * x + (1 - lam) * x[partner]
    z = x @ E.T
    softmax = lambda o: np.exp(o) / np.exp(o).sum(1, keepdims=True)  # noqa: E731
    mixed = softmax(z @ H.T)
    dmix = (mixed - target) / 100
    gE, gH = (dmix @ H).T @ x, dmix.T @ z
    E_moved = E + rho * gE / np.linalg.norm(gE)
    H_moved = H + rho * gH / np.linalg.norm(gH)
    flat = softmax(z @ H_moved.T)  # the head alone, at the old feature
    dmix, dflat = (1 - r) * dmix, r * (flat - y) / 100
    loss = (1 - r) * -(target * np.log(mixed)).sum(1).mean() - r * (y * np.log(flat)).sum(1).mean()
    dz = dmix @ H + dflat @ H_moved  # the old head for the first loss, the moved one for the second
    return dz.T @ x, (dmix + dflat).T @ z, E_moved, H_moved, loss


@pytest.mark.parametrize("mixup", [0.0, 1.0])
@pytest.mark.parametrize("r", [0.3, 1.0])
def test_the_released_step_is_the_one_written_out_by_hand(linear, batch, mixup, r):
    gE, gH, E, H, expected = released_by_hand(linear, batch, rho=0.5, r=r, mixup=mixup)
    found, loss = released_step(linear, batch, rho=0.5, flat_ratio=r, mixup=mixup)
    assert np.allclose(found["encoder.weight"], gE, atol=1e-12)
    assert np.allclose(found["head.weight"], gH, atol=1e-12)
    assert loss == pytest.approx(expected)
    # and the weights stay where the perturbation took them
    assert np.allclose(linear.encoder.weight.detach(), E, atol=1e-12)
    assert np.allclose(linear.head.weight.detach(), H, atol=1e-12)


class Pixel(nn.Module):
    """Two convolutions, of 1 x 1 on one pixel: matrices, and yet not ``nn.Linear``. (n, d) -> (n, 6)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(76, 8, 1, bias=False)
        self.conv2 = nn.Conv2d(8, 6, 1, bias=False)

    def forward(self, x):
        return self.conv2(self.conv1(x[:, :, None, None])).flatten(1)


def test_a_convolution_hands_the_released_gradient_on_by_its_moved_weight(batch):
    """Where a linear layer does so by its old one: autograd keeps that one's transposed view."""
    torch.manual_seed(1)
    network, rho, r = Unimodal(Pixel(), nn.Linear(6, 10, bias=False)).double(), 0.5, 0.3
    A, B, H = (p.detach().numpy().copy().reshape(len(p), -1) for p in network.parameters())
    x, y = batch["fou"].numpy(), np.eye(10)[batch["label"]]
    hidden = x @ A.T
    z = hidden @ B.T

    def slope(logits):  # of the cross-entropy in the logits
        p = np.exp(logits)
        return (p / p.sum(1, keepdims=True) - y) / 100

    dmix = slope(z @ H.T)
    weights = [A, B, H]
    gradients = [(dmix @ H @ B).T @ x, (dmix @ H).T @ hidden, dmix.T @ z]
    A1, B1, H1 = (W + rho * g / np.linalg.norm(g) for W, g in zip(weights, gradients))
    dmix, dflat = (1 - r) * dmix, r * slope(z @ H1.T)
    dz = dmix @ H + dflat @ H1
    expected = [(dz @ B1).T @ x, dz.T @ hidden, (dmix + dflat).T @ z]
    found, _ = released_step(network, batch, rho=rho, flat_ratio=r, mixup=0.0)
    for g, W, e, W1 in zip(found.values(), network.parameters(), expected, (A1, B1, H1)):
        assert np.allclose(g.numpy().reshape(e.shape), e, atol=1e-12)
        assert np.allclose(W.detach().numpy().reshape(W1.shape), W1, atol=1e-12)
    assert np.abs(dz @ B1 - dz @ B).max() > 1e-3  # and it makes a difference


def step_of_the_scripts(network: Unimodal, x, y, rho: float, r: float, rebind: bool):
    """The gradient, from a description of their scripts; without ``rebind`` the weights are moved in place."""
    z = network.encoder(x)
    loss = F.cross_entropy(network.head(z), y)
    parts = [list(network.encoder.parameters()), list(network.head.parameters())]
    slopes = [torch.autograd.grad(loss, part, retain_graph=True) for part in parts]
    for p, g in zip(sum(parts, []), [g for part in slopes for g in part]):
        if rebind:
            p.data = p.data + rho * g / g.norm()
        else:
            p.data += rho * g / g.norm()
    ((1 - r) * loss + r * F.cross_entropy(network.head(z), y)).backward()
    return torch.cat([p.grad.flatten() for p in network.parameters()])


def test_the_released_step_is_that_of_the_scripts_at_a_rho_that_acts(networks, tiny):
    (batch,) = batches(tiny["train"], 100, None)
    x, y = batch["fou"].double(), batch["label"]
    network = networks()["fou"].double()
    twins = [copy.deepcopy(network) for _ in range(2)]
    found, _ = released_step(network, batch | {"fou": x}, rho=0.05, flat_ratio=0.3, mixup=0.0)
    ours = torch.cat([g.flatten() for g in found.values()])
    theirs, in_place = (
        step_of_the_scripts(twin, x, y, 0.05, 0.3, rebind)
        for twin, rebind in zip(twins, (True, False))
    )
    assert (ours - theirs).norm() < 1e-12 * theirs.norm()
    assert all(torch.allclose(a, b) for a, b in zip(network.parameters(), twins[0].parameters()))
    assert (in_place - theirs).norm() > 0.01 * theirs.norm()  # the moved weights throughout


def test_in_low_precision_the_second_loss_has_the_moved_head(batch):
    """Autocast keeps the weights that it has converted: without care the head would not have moved."""
    torch.manual_seed(1)
    network = Unimodal(nn.Linear(76, 8), nn.Linear(8, 10))
    x = batch["fou"].float()
    found = []
    for precision in ("no", "bf16"):
        twin = copy.deepcopy(network)
        devices = Devices("cpu", precision)
        model = LateFusion({"fou": twin})
        options = dict(variant="released", rho=3.0, flat_ratio=1.0, mixup=0.0)
        method = make(model, modalities=["fou"], devices=devices, **options)
        optimizer = method.optimizer(Stage(("fou",), 1), torch.optim.SGD(twin.parameters(), lr=0.1))
        found.append(method.gradient(Stage(("fou",), 1), batch | {"fou": x}, optimizer).item())
    still = F.cross_entropy(network(x), batch["label"]).item()
    exact, low = found
    assert abs(exact - still) > 1
    assert low == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("rho", [1e-10, 1e-15, 0.0])
@pytest.mark.parametrize("mixup", [0.0, 1.0])
def test_the_fast_path_gives_the_same_gradient(networks, tiny, rho, mixup):
    network = networks()["fou"]
    (batch,) = batches(tiny["train"], 100, None)
    twin = copy.deepcopy(network)
    fast, loss = released_step(network, batch, rho=rho, mixup=mixup)
    slow, slow_loss = released_step(twin, batch, rho=rho, mixup=mixup, fast=False)
    assert loss == pytest.approx(slow_loss, rel=1e-6)
    for name in fast:
        distance = (fast[name] - slow[name]).norm() / slow[name].norm()
        assert distance < 1e-5, name
    assert equal(network, networks()["fou"])  # it has moved nothing


def test_the_fast_path_is_mixup_with_another_weight_and_not_with_lambda(networks, tiny):
    model = networks()
    train(
        model, tiny, "unimodal", lr=0.1, **(QUICK | {"epochs": 20})
    )  # one that has learned something
    network = model["fou"].train()
    (batch,) = batches(tiny["train"], 100, None)
    found, _ = released_step(network, batch)

    def mixup_gradient(weight):
        torch.manual_seed(4)
        lam, partner = draw_mixup(1.0, 100)
        weight = weight(lam)
        logits = network(lam * batch["fou"] + (1 - lam) * batch["fou"][partner])
        target = F.one_hot(batch["label"], 10).float()
        target = weight * target + (1 - weight) * target[partner]
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        grads = torch.autograd.grad(loss, list(network.parameters()))
        return torch.cat([g.flatten() for g in grads])

    ours = torch.cat([g.flatten() for g in found.values()])
    assert torch.allclose(ours, mixup_gradient(lambda lam: 0.3 + 0.7 * lam), rtol=1e-4, atol=1e-6)
    plain = mixup_gradient(lambda lam: lam)
    assert (ours - plain).norm() / plain.norm() > 0.01  # 100 times the tolerance above


def test_a_rho_that_acts_never_takes_the_fast_path(networks, tiny):
    (batch,) = batches(tiny["train"], 100, None)
    acting, _ = released_step(networks()["fou"], batch, rho=0.05)
    slow, _ = released_step(networks()["fou"], batch, rho=0.05, fast=False)
    fast, _ = released_step(networks()["fou"], batch, rho=0.0)
    assert all(torch.equal(acting[name], slow[name]) for name in acting)
    assert not torch.allclose(acting["head.fc1.weight"], fast["head.fc1.weight"], rtol=1e-3)


def test_a_tensor_without_gradient_does_not_become_nan(linear, batch):
    linear.encoder.weight.data.zero_()  # then the head's gradient is exactly 0
    found, _ = released_step(linear, batch, rho=0.1, fast=False)
    assert all(torch.isfinite(g).all() for g in found.values())
    assert all(torch.isfinite(p).all() for p in linear.parameters())


def test_mixup_without_igm_is_the_loss_on_mixed_labels(networks, tiny):
    model = networks()
    method = make(model, "alternating", mixup=0.7)
    (batch,) = batches(tiny["train"], 100, None)
    torch.manual_seed(3)
    loss = method.loss(Stage(("kar",), 1), batch)
    torch.manual_seed(3)
    lam, partner = draw_mixup(0.7, 100)
    assert 0 < lam < 1 and sorted(partner.tolist()) == list(range(100))
    x, y = batch["kar"].numpy(), np.eye(10)[batch["label"]]
    logits = model["kar"](torch.from_numpy(lam * x + (1 - lam) * x[partner]).float())
    target = lam * y + (1 - lam) * y[partner]
    expected = -(target * logits.detach().log_softmax(1).numpy()).sum(1).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_joint_training_refuses_mixup(networks, tiny):
    with pytest.raises(ValueError, match="joint has no setting 'mixup'"):
        train(networks(), tiny, "joint", mixup=1.0, **QUICK)


# ---------------------------------------------------------------- which T modifies which gradient


class Watched(Interactive):
    """Notes, at the first batch of each stage, which matrices act."""

    def gradient(self, stage, batch, optimizer):
        (j,) = stage.modalities
        self.__dict__.setdefault("seen", {}).setdefault((stage.round, j), optimizer.matrices)
        return super().gradient(stage, batch, optimizer)


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_any_number_of_modalities(m):
    views = ("fou", "kar", "pix", "zer", "mor")[:m]
    data = {s: load_dataset("mfeat", split=s, views=views, samples=60) for s in ("train", "valid")}
    for shared_head in (False, True):
        model = build_model(data["train"].shapes, 10, shared_head=shared_head, d=8)
        run = train(model, data, Watched, rounds=2, **(QUICK | {"epochs": 2}))
        for j, name in enumerate(views):
            k = views[(j - 1) % m]  # the one before in the cycle: for m = 1 the modality itself
            first, second = (run.method.seen[i, name] for i in (0, 1))
            assert bool(first) is (j > 0)
            assert second.keys() == {"head.fc1", "head.fc2", "head.fc3"}
            if j > 0:
                assert second["head.fc1"] is not first["head.fc1"]
            if j == 0:  # its source was last trained in round 0, by then it had one T
                assert len(run.method.covariances[k].matrices) == 3
        assert run.results["valid"].keys() == {*views, "fused"}


def test_one_way_modification_leaves_the_other_way_alone(networks, tiny):
    run = train(networks(), tiny, Watched, gm=["fou>kar"], rounds=2, **QUICK)
    seen = run.method.seen
    assert seen[0, "kar"] and seen[1, "kar"]
    assert not seen[0, "fou"] and not seen[1, "fou"]
    assert run.method.covariances.keys() == {"fou"}  # and what nobody uses is not computed


def test_one_way_modification_changes_one_network_only(networks, tiny):
    options = dict(rho=0.0, rounds=2, **QUICK)
    plain = train(networks(), tiny, "alternating", **options).model
    for changed, other in (("kar", "fou"), ("fou", "kar")):
        gm = {"tau": 3.0, "gm": [f"{other}>{changed}"]}
        one_way = train(networks(), tiny, "igm", **gm, **options).model
        assert equal(one_way[other], plain[other])
        assert not equal(one_way[changed], plain[changed])


def test_without_pairs_igm_is_alternating_with_sam(networks, tiny):
    igm = train(networks(), tiny, "igm", gm=[], rho=0.05, **QUICK).model
    assert equal(igm, train(networks(), tiny, "alternating", rho=0.05, **QUICK).model)


@pytest.mark.parametrize(
    ("gm", "message"),
    [
        (["fou"], "gm has the pair 'fou': give pairs such as fou>kar"),
        (["fou>video"], "gm has the pair 'fou>video'"),
        (["fou>kar", "kar>kar"], "gm modifies kar by two matrices"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(networks, gm, message):
    with pytest.raises(ValueError, match=message):
        make(networks(), gm=gm)


# ---------------------------------------------------------------- scope


@pytest.fixture
def images():
    """Two convolutional networks; their first two convolutions agree in size, their third layers do not."""
    shapes = {"image": (1, 14, 14), "audio": (1, 24, 24)}
    return build_model(shapes, 10, d=8), shapes


def test_the_scope_runs_from_the_top_down_to_a_named_module(images):
    network = images[0]["image"]
    head = ["head.fc1", "head.fc2", "head.fc3"]
    assert list(network.layers()) == list(network.layers("head")) == head
    assert list(network.layers("head.fc2")) == head[1:]
    assert list(network.layers("encoder.5")) == ["encoder.5", *head]
    assert list(network.layers("encoder.2")) == ["encoder.2", "encoder.5", *head]
    assert list(network.layers("encoder")) == ["encoder.0", "encoder.2", "encoder.5", *head]
    assert network.layers("encoder")["encoder.2"] is network.encoder[2]


def test_a_scope_without_layers_is_refused(images):
    with pytest.raises(ValueError, match=r"no module 'layer4' for the scope: use one of encoder"):
        images[0]["image"].layers("layer4")
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        Unimodal(nn.Linear(3, 2), nn.Sequential(nn.ReLU())).layers("head")


def test_a_grouped_convolution_is_left_out_of_the_scope():
    encoder = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten())
    assert list(Unimodal(encoder, nn.Linear(4, 2)).layers("encoder")) == ["encoder.0", "head"]


def test_t_passes_where_names_and_sizes_agree_and_is_the_identity_elsewhere(images):
    model, shapes = images
    method = make(model, modalities=["audio", "image"], scope="encoder", rho=0.0)
    data = [{name: torch.randn(16, *shape) for name, shape in shapes.items()} for _ in range(3)]
    for batch in data:
        batch["label"] = torch.randint(10, (16,))
    method.end_stage(Stage(("audio",), 1), data)
    assert len(method.covariances["audio"].matrices) == 6
    network, turn = model["image"], Stage(("image",), 1)
    optimizer = method.optimizer(turn, torch.optim.SGD(network.parameters(), lr=0.1))
    method.begin_stage(turn, optimizer)
    acting = optimizer.matrices
    assert acting.keys() == {"encoder.0", "encoder.2", "head.fc1", "head.fc2", "head.fc3"}

    with FeatureCovariance({"conv": model["audio"].encoder[2]}, "sample") as covariance:
        for batch in data:
            model["audio"](batch["audio"])
    T = modification_matrix(covariance.matrices["conv"], tau=20.0).float()
    assert torch.allclose(acting["encoder.2"], T, atol=1e-6)

    batch = data[0]
    expected = torch.autograd.grad(
        F.cross_entropy(network(batch["image"]), batch["label"]), list(network.parameters())
    )
    method.gradient(turn, batch, optimizer)
    for (name, p), g in zip(network.named_parameters(), expected):
        if name.removesuffix(".weight") in acting:  # W is out x d, patches in the order of unfold
            g = (g.flatten(1) @ acting[name.removesuffix(".weight")]).view_as(g)
        assert torch.allclose(p.grad, g, atol=1e-6), name


def test_networks_without_common_layers_train_unmodified(mfeat, tiny):
    model = LateFusion(
        {
            "fou": Unimodal(nn.Linear(76, 12), nn.Sequential(nn.ReLU(), nn.Linear(12, 10))),
            "kar": Unimodal(nn.Linear(64, 9), nn.Sequential(nn.ReLU(), nn.Linear(9, 10))),
        }
    )
    twin = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="T is the identity"):
        train(model, tiny, "igm", rho=0.0, **QUICK)
    train(twin, tiny, "alternating", **QUICK)
    assert equal(model, twin)


# ---------------------------------------------------------------- stages


def test_stage_epochs_name_each_stage(networks):
    method = make(networks(), stage_epochs=[2, 5, 1])
    assert method.stages() == [Stage(("fou",), 2), Stage(("kar",), 5), Stage(("fou",), 1, round=1)]


def test_cumulative_moments_add_up_over_the_rounds(networks, tiny):
    class Passes(Interactive):
        """Keeps the moment of each pass, collected a second time by hand."""

        moments = []

        def end_stage(self, stage, batches):
            batches = list(batches)
            (j,) = stage.modalities
            if j == "fou":
                with FeatureCovariance(self.layers[j]) as covariance, torch.no_grad():
                    for batch in batches:
                        self.model[j](batch[j])
                Passes.moments.append(covariance.matrices["head.fc1"])
            super().end_stage(stage, batches)

    for cumulative in (False, True):
        Passes.moments = []
        settings = dict(variant="paper", cumulative=cumulative, rounds=2, **QUICK)
        run = train(networks(), tiny, Passes, **settings)
        first, second = Passes.moments
        assert not torch.allclose(first, second)
        expected = first + second if cumulative else second
        assert torch.allclose(run.method.covariances["fou"].matrices["head.fc1"], expected)


class Steps(Alternating):
    """Notes the learning rate and the size of the momentum at the first batch of each epoch."""

    def gradient(self, stage, batch, optimizer):
        momentum = [s["momentum_buffer"] for s in optimizer.state.values()]
        row = (stage.name, stage.round, optimizer.param_groups[0]["lr"], len(momentum))
        self.__dict__.setdefault("rows", []).append(row)
        return super().gradient(stage, batch, optimizer)


def test_restart_begins_each_stage_with_a_fresh_optimiser_and_schedule(networks, tiny):
    options = dict(stage_epochs=[2, 2, 2], batch_size=100, lr=0.1)
    run = train(networks(), tiny, Steps, restart=True, **(QUICK | options))
    rates = [lr for _, _, lr, _ in run.method.rows]
    assert rates == pytest.approx([0.1, 0.05] * 3)  # a cosine over each stage
    assert [moments for *_, moments in run.method.rows][::2] == [0, 0, 0]
    kept = train(networks(), tiny, Steps, restart=False, **(QUICK | options))
    assert [moments > 0 for *_, moments in kept.method.rows] == [
        False,
        True,
        False,
        True,
        True,
        True,
    ]


def test_from_best_throws_a_stage_away_that_did_not_improve(networks, tiny):
    class Spoiled(Alternating):
        """The second stage destroys what it trains."""

        starts = []

        def gradient(self, stage, batch, optimizer):
            if len(Spoiled.starts) <= stage.round * 2 + self.modalities.index(stage.name):
                Spoiled.starts.append(copy.deepcopy(self.model.state_dict()))
            return super().gradient(stage, batch, optimizer)

        def loss(self, stage, batch):
            return (-100 if stage.name == "kar" else 1) * super().loss(stage, batch)

    settings = dict(stage_epochs=[30, 1, 1], from_best=True, select="best", lr=0.05, clip=5.0)
    run = train(networks(), tiny, Spoiled, **(QUICK | settings))
    assert run.best_epoch <= 30 or run.history[run.best_epoch - 1]["modality"] == "fou"
    before, after = Spoiled.starts[1], Spoiled.starts[2]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_from_best_needs_a_choice(networks, tiny):
    with pytest.raises(ValueError, match="from_best goes with select best or test"):
        train(networks(), tiny, "igm", variant="released", **QUICK)


# ---------------------------------------------------------------- schedules and optimisers


def rates(networks, tiny, **settings):
    run = train(networks(), tiny, "unimodal", modalities=["fou"], **(QUICK | settings))
    return [row["lr"] for row in run.history]


def test_the_step_schedule_divides_at_the_milestones(networks, tiny):
    settings = dict(schedule="step", milestones=[2, 3], lr=0.1, lr_factor=0.5, epochs=5)
    found = rates(networks, tiny, **settings)
    assert found == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.025])


def test_the_plateau_schedule_divides_when_the_score_stands_still(networks, tiny):
    settings = dict(schedule="plateau", lr=1e-12, epochs=9)
    assert rates(networks, tiny, **settings) == pytest.approx([1e-12] * 7 + [1e-13] * 2)


def test_adam_takes_adams_first_step(networks, tiny):
    model = networks()
    options = dict(optimizer="adam", lr=1e-3, weight_decay=0.0, epochs=1, batch_size=100)
    train(model, tiny, "unimodal", modalities=["fou"], **(QUICK | options))
    moved = model["fou"].head.fc3.weight - networks()["fou"].head.fc3.weight
    assert torch.allclose(moved.abs(), torch.tensor(1e-3), rtol=1e-2)  # lr x sign of the gradient


def test_clip_bounds_the_step(networks, tiny):
    options = dict(momentum=0.0, weight_decay=0.0, lr=1.0, schedule="constant", epochs=1)
    options |= dict(batch_size=100, modalities=["fou"])
    lengths = {}
    for clip in (None, 1e-3):
        model = networks()
        train(model, tiny, "unimodal", clip=clip, **(QUICK | options))
        pairs = zip(model.parameters(), networks().parameters())
        lengths[clip] = torch.cat([(a - b).flatten() for a, b in pairs]).norm().item()
    assert lengths[None] > 2e-3
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-4)


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize("method", ["joint", "alternating", "igm"])
def test_accumulation_does_not_change_the_run_without_sam(networks, tiny, method):
    whole = train(networks(), tiny, method, rho=0.0, **QUICK)
    parts = train(networks(), tiny, method, rho=0.0, accumulation=3, **QUICK)
    for a, b in zip(whole.history, parts.history):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    pairs = zip(whole.model.parameters(), parts.model.parameters())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def test_with_sam_each_part_perturbs_by_its_own_gradient(networks, tiny):
    options = dict(batch_size=100, epochs=1, momentum=0.0, weight_decay=0.0, lr=0.1)
    options |= dict(rho=0.3, accumulation=2, modalities=["fou"], schedule="constant", rounds=1)
    model = networks()
    train(model, tiny, "alternating", **(QUICK | options))

    network = networks()["fou"]
    (whole,) = batches(tiny["train"], 100, derive_seed(0, "fou", 0))
    expected = [torch.zeros_like(p) for p in network.parameters()]
    for rows in (slice(0, 50), slice(50, 100)):
        parameters = list(network.parameters())
        start = [p.detach().clone() for p in parameters]

        def gradient(parameters=parameters, rows=rows):
            loss = F.cross_entropy(network(whole["fou"][rows]), whole["label"][rows])
            return torch.autograd.grad(loss, parameters)

        g = gradient()
        norm = torch.cat([x.flatten() for x in g]).norm()
        with torch.no_grad():
            for p, x in zip(parameters, g):
                p.add_(0.3 * x / norm)
        for total, x in zip(expected, gradient()):
            total += x / 2
        with torch.no_grad():
            for p, x in zip(parameters, start):
                p.copy_(x)
    for p, start, g in zip(model["fou"].parameters(), network.parameters(), expected):
        assert torch.allclose(p, start - 0.1 * g, atol=1e-6)


# ---------------------------------------------------------------- whole batches


@pytest.mark.parametrize("drop_last", [True, False])
def test_what_training_leaves_out_is_left_out_of_the_matrices(networks, tiny, drop_last):
    """100 samples in batches of 16: the authors' loader drops the last 4 for T, too."""
    options = dict(statistic="batch-mean", stage_epochs=[2, 2], drop_last=drop_last)
    run = train(networks(), tiny, **(QUICK | options))
    for name, found in run.method.covariances.items():
        layer, z = "head.fc1", None
        network = run.model[name].eval()
        with torch.no_grad():
            z = network.encoder(tiny["train"].inputs[name]).double().numpy()
        means = [z[i : i + 16].mean(0) for i in range(0, 96 if drop_last else 100, 16)]
        expected = sum(np.outer(r, r) for r in means)
        assert np.allclose(found.matrices[layer].numpy(), expected, rtol=1e-4)


def test_each_process_leaves_the_small_batch_out(tiny):
    def sizes(**options):
        return [
            [len(b["label"]) for b in batches(tiny["train"], 16, None, part=(r, 2), **options)]
            for r in range(2)
        ]

    assert sizes() == [[16, 16, 16, 4], [16, 16, 16]]
    assert sizes(drop_last=True) == [[16, 16, 16], [16, 16, 16]]
    few = {"dataset": tiny["train"], "batch_size": 128, "seed": None}
    assert [len(b["label"]) for b in batches(**few, drop_last=True)] == [100]  # the only one stays


# ---------------------------------------------------------------- mixed precision


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("variant", ["igm", "released"])
def test_mixed_precision_follows_the_float32_run(networks, tiny, precision, variant):
    options = dict(variant=variant, rounds=1, **(QUICK | {"select": "best"}))
    exact = train(networks(), tiny, **options)
    mixed = train(networks(), tiny, precision=precision, **options)
    assert mixed.settings.precision == precision
    assert all(p.dtype == torch.float32 for p in mixed.model.parameters())
    for a, b in zip(exact.history, mixed.history):
        assert b["loss"] == pytest.approx(a["loss"], rel=0.02)
    assert mixed.history != exact.history  # it did compute in another precision


def test_float16_skips_a_step_that_overflowed(networks, tiny, monkeypatch):
    run_model = networks()
    devices = Devices("cpu", "fp16")
    method = make(run_model, "alternating", devices=devices)
    (batch,) = batches(tiny["train"], 100, None)
    optimizer = SAM(torch.optim.SGD(run_model["fou"].parameters(), lr=0.1), rho=0.05)
    stage = Stage(("fou",), 1)
    step_gradient(method, stage, 100, [batch], optimizer, devices)
    devices.step(optimizer.base_optimizer)
    assert not equal(run_model, networks())
    before, scale = copy.deepcopy(run_model), devices.scaler.get_scale()
    monkeypatch.setattr(
        devices, "backward", lambda loss: devices.scaler.scale(loss * 1e38).backward()
    )
    step_gradient(method, stage, 100, [batch], optimizer, devices)
    devices.step(optimizer.base_optimizer, clip=1.0)
    assert equal(run_model, before)
    assert devices.scaler.get_scale() < scale


def test_float16_clips_the_gradient_and_not_its_scaled_copy(networks, tiny):
    model, devices = networks(), Devices("cpu", "fp16")
    method = make(model, "alternating", devices=devices)
    (batch,) = batches(tiny["train"], 100, None)
    base = torch.optim.SGD(model["fou"].parameters(), lr=1.0)
    step_gradient(method, Stage(("fou",), 1), 100, [batch], SAM(base, rho=0.0), devices)
    devices.step(base, clip=1e-3)
    pairs = zip(model["fou"].parameters(), networks()["fou"].parameters())
    moved = torch.cat([(a - b).flatten() for a, b in pairs]).norm().item()
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_an_unknown_precision_in_the_environment_is_named(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="unknown precision 'fp8'"):
        Devices("cpu")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert Devices("cpu").precision == "bf16"
    assert Devices("cpu", "no").precision == "no"


# ---------------------------------------------------------------- every ablation is an option


@pytest.mark.parametrize(
    ("gm", "rho", "scope", "statistic", "center"),
    list(itertools.product([None, []], [0.0, 0.02], ["head", "encoder"], ["sample"], [True])),
)
def test_every_ablation_trains(networks, tiny, gm, rho, scope, statistic, center):
    options = dict(gm=gm, rho=rho, scope=scope, statistic=statistic, center=center)
    run = train(networks(shared_head=True), tiny, **options, **(QUICK | {"epochs": 2}))
    assert all(np.isfinite(row["loss"]) for row in run.history)
    assert run.settings.scope == scope
