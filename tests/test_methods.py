"""methods/: the stages, and IGM's gradient against an explicit, dense computation (Algorithm 1, Eqs. 2, 4, 7-9)."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from igm import LateFusion, Unimodal, modification_matrix, paper_head, train
from igm.loading import batches
from igm.methods import METHODS, Alternating, Interactive, Joint, Stage, find_method, method_names

ALTERNATING = ["alternating", "igm"]


def make(method: str, model: nn.Module, modalities=("fou", "kar"), **settings):
    kind = METHODS[method]
    return kind(model, list(modalities), kind.Settings.make(method=method, **settings))


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- stages


def test_unimodal_trains_one_modality_after_the_other(networks):
    assert make("unimodal", networks(), ("kar", "fou"), epochs=5).stages() == [
        Stage(("kar",), 5), Stage(("fou",), 5)
    ]  # fmt: skip


def test_joint_trains_all_in_one_stage(networks):
    for fusion in ("late", "concat"):
        method = make("joint", networks(fusion=fusion), epochs=5)
        (stage,) = method.stages()
        assert stage == Stage(("fou", "kar"), 5)
        assert set(method.parameters(stage)) == set(method.model.parameters())


@pytest.mark.parametrize("method", ALTERNATING)
def test_rounds_share_the_epochs(networks, method):
    stages = make(method, networks(), epochs=5, rounds=3).stages()
    assert [(s.modalities[0], s.epochs, s.round) for s in stages] == [
        ("fou", 2, 0), ("kar", 2, 0), ("fou", 2, 1), ("kar", 2, 1), ("fou", 1, 2), ("kar", 1, 2)
    ]  # fmt: skip


@pytest.mark.parametrize("method", ALTERNATING)
def test_more_rounds_than_epochs_are_refused(networks, method):
    with pytest.raises(ValueError, match="3 rounds need at least 3 epochs a modality, got 2"):
        make(method, networks(), epochs=2, rounds=3).stages()


@pytest.mark.parametrize("method", ["unimodal", *ALTERNATING])
def test_a_stage_trains_one_encoder_and_its_head(networks, method):
    model = networks()
    trainer = make(method, model)
    parameters = set(trainer.parameters(Stage(("kar",), 1)))
    assert parameters == set(model["kar"].parameters())


@pytest.mark.parametrize("method", ["unimodal", *ALTERNATING])
def test_a_concatenation_can_only_be_trained_jointly(networks, method):
    with pytest.raises(ValueError, match=f"{method} trains one network a modality"):
        make(method, networks(fusion="concat"))


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_joint_training_takes_all_modalities_of_the_model(networks, fusion):
    with pytest.raises(ValueError, match="takes all modalities of the model"):
        make("joint", networks(fusion=fusion), ("fou",)).stages()


def test_find_method():
    assert find_method("igm") is Interactive
    assert find_method(Alternating) is Alternating
    assert method_names() == ["unimodal", "joint", "alternating", "igm", "mla", "ogm"]
    with pytest.raises(ValueError, match="unknown method 'pmr': use one of unimodal, joint"):
        find_method("pmr")


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize("fusion", ["late", "concat"])
def test_joint_loss_is_the_cross_entropy_of_the_summed_logits(networks, tiny, fusion):
    method = make("joint", networks(fusion=fusion))
    (batch,) = batches(tiny["train"], 100, None)
    logits = sum(z.detach().double().numpy() for z in method.model(batch).values())
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_hand = -np.log(p[np.arange(100), batch["label"]]).mean()
    (stage,) = method.stages()
    assert method.loss(stage, batch).item() == pytest.approx(by_hand, rel=1e-5)


def test_unimodal_loss_is_equation_1(networks, tiny):
    method = make("unimodal", networks())
    (batch,) = batches(tiny["train"], 100, None)
    logits = method.model["kar"](batch["kar"]).detach().double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_hand = -np.log(p[np.arange(100), batch["label"]]).mean()
    assert method.loss(Stage(("kar",), 1), batch).item() == pytest.approx(by_hand, rel=1e-5)


# ---------------------------------------------------------------- IGM


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_previous_modality_is_the_one_before_in_the_cycle(m):
    names = [f"modality {j}" for j in range(1, m + 1)]
    model = LateFusion({name: Unimodal(nn.Linear(2, 2), nn.Linear(2, 2)) for name in names})
    method = make("igm", model, names)
    for j in range(1, m + 1):
        k = (j + m - 2) % m + 1  # Algorithm 1, which counts from 1
        assert method.previous(f"modality {j}") == f"modality {k}"


def dense_sam_gradient(network: nn.Module, batch, modality: str, rho: float) -> dict:
    """Eqs. 1, 7 and 8 by autograd on copies: parameter -> gradient at theta + eps*."""

    def gradient(theta):
        theta = {name: p.clone().requires_grad_() for name, p in theta.items()}
        logits = functional_call(network, theta, batch[modality])
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        loss = -p[torch.arange(len(p)), batch["label"]].log().mean()
        return dict(zip(theta, torch.autograd.grad(loss, list(theta.values()))))

    theta = {name: p.detach() for name, p in network.named_parameters()}
    g = gradient(theta)
    norm = torch.cat([x.flatten() for x in g.values()]).norm()
    return gradient({name: p + rho * g[name] / norm for name, p in theta.items()})


def random_matrices(network: Unimodal, seed: int) -> dict:
    """A full, symmetric T with eigenvalues in (0, 1] for each layer of the head."""
    matrices = {}
    for layer in network.layers():
        d = network.get_submodule(layer).in_features
        z = torch.randn(d, d, generator=torch.Generator().manual_seed(seed + d)).double()
        matrices[layer] = modification_matrix(z @ z.T, tau=3.0)
    return matrices


@pytest.mark.parametrize("rho", [0.0, 0.3])
@pytest.mark.parametrize("shared_head", [False, True])
def test_the_gradient_is_t_of_the_previous_modality_times_the_sam_gradient(
    networks, tiny, rho, shared_head
):
    model = networks(shared_head=shared_head).double()
    method = make("igm", model, rho=rho)
    matrices = random_matrices(model["fou"], 0)
    (batch,) = batches(tiny["train"], 100, None)
    batch = batch | {"kar": batch["kar"].double()}
    network, before = model["kar"], copy.deepcopy(model)
    expected = dense_sam_gradient(network, batch, "kar", rho)

    turn = Stage(("kar",), 1)
    optimizer = method.optimizer(turn, torch.optim.SGD(network.parameters(), lr=0.1))
    optimizer.matrices = matrices
    method.gradient(turn, batch, optimizer)
    modified = {f"head.{layer}.weight" for layer in ("fc1", "fc2", "fc3")}
    assert modified < expected.keys()
    for name, p in network.named_parameters():
        g = expected[name].numpy()
        if name in modified:  # Eq. 9, where W and its gradient are d x c
            T = matrices[name.removesuffix(".weight")].numpy()
            assert (
                np.abs(T @ g.T - g.T).max() > 1e-3 * np.abs(g).max()
            )  # T is not the identity here
            g = (T @ g.T).T
        assert np.allclose(p.grad.numpy(), g, atol=1e-12), name
    assert equal(model, before)  # no step yet


def test_the_first_stage_uses_the_identity(networks, tiny):
    model = networks().double()
    method = make("igm", model)
    (batch,) = batches(tiny["train"], 100, None)
    batch = batch | {"fou": batch["fou"].double()}
    assert method.settings.rho == 0.02
    expected = dense_sam_gradient(model["fou"], batch, "fou", rho=0.02)
    turn = Stage(("fou",), 1)
    optimizer = method.optimizer(turn, torch.optim.SGD(model["fou"].parameters(), lr=0.1))
    method.begin_stage(turn, optimizer)
    assert optimizer.matrices == {}
    method.gradient(turn, batch, optimizer)
    for name, p in model["fou"].named_parameters():
        assert torch.allclose(p.grad, expected[name], atol=1e-12)


@pytest.mark.parametrize("statistic", ["batch-mean", "sample"])
@pytest.mark.parametrize("center", [False, True])
def test_t_is_made_from_the_inputs_of_the_head(tiny, statistic, center):
    encoder = nn.Sequential(nn.Linear(76, 12), nn.BatchNorm1d(12), nn.Dropout(0.5), nn.ReLU())
    model = LateFusion({"fou": Unimodal(encoder, paper_head(12, 10))}).train()
    method = make("igm", model, ("fou",), tau=1.3, statistic=statistic, center=center)
    before = copy.deepcopy(model)
    parts = list(batches(tiny["train"], 32, None))
    stage = Stage(("fou",), 1)
    method.end_stage(stage, iter(parts))
    optimizer = method.optimizer(stage, torch.optim.SGD(model.parameters(), lr=0.1))
    method.begin_stage(stage, optimizer)  # alone, a modality is its own source
    assert equal(model, before)  # BatchNorm's statistics, too
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())

    twin = before["fou"].eval()
    inputs = {"head.fc1": [], "head.fc2": [], "head.fc3": []}  # layer -> its input in each batch
    with torch.no_grad():
        for batch in parts:
            z = twin.encoder(batch["fou"])
            hidden = twin.head.fc1(z).clamp(min=0)
            for layer, x in zip(inputs, (z, hidden, twin.head.fc2(hidden))):
                inputs[layer].append(x.double().numpy())
    for layer, zs in inputs.items():
        rows = np.concatenate(zs) if statistic == "sample" else np.stack([z.mean(0) for z in zs])
        rows = rows - rows.mean(0) if center else rows
        moment = sum(np.outer(row, row) for row in rows)  # Eq. 2
        expected = modification_matrix(torch.from_numpy(moment), tau=1.3).float()
        assert torch.allclose(optimizer.matrices[layer], expected, atol=1e-6)
    assert optimizer.matrices.keys() == inputs.keys()


def test_in_training_each_stage_uses_the_moments_of_the_one_before(networks, tiny):
    begins, ends = {}, []  # (round, modality) -> T at its first batch; T of each stage's end

    class Watched(Interactive):
        def gradient(self, stage, batch, optimizer):
            begins.setdefault((stage.round, stage.modalities[0]), optimizer.matrices)
            return super().gradient(stage, batch, optimizer)

        def end_stage(self, stage, batches):
            super().end_stage(stage, batches)
            moments = self.covariances[stage.modalities[0]].matrices
            ends.append({name: modification_matrix(Y, 20.0) for name, Y in moments.items()})

    train(networks(), tiny, Watched, epochs=2, rounds=2, progress=False, device="cpu")
    assert list(begins) == [(0, "fou"), (0, "kar"), (1, "fou"), (1, "kar")]
    first, *others = begins.values()
    assert first == {}  # T = I
    for begin, end in zip(others, ends):
        assert begin.keys() == end.keys()
        assert all(torch.equal(begin[name], end[name].float()) for name in begin)
    assert len(ends) == 4


# ---------------------------------------------------------------- what equals what


@pytest.fixture
def trained(networks, tiny):
    """trained(method, ...): the model after four epochs a modality, the last weights."""

    def run(method, shared_head=False, **settings):
        model = networks(shared_head=shared_head)
        options = dict(epochs=4, select="last", batch_size=16, progress=False, device="cpu")
        train(model, tiny, method, **(options | settings))
        return model

    return run


def close(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in pairs)


@pytest.mark.parametrize("shared_head", [False, True])
def test_igm_without_sam_and_with_tau_near_zero_is_alternating(trained, shared_head):
    alternating = trained("alternating", shared_head)
    assert close(trained("igm", shared_head, tau=1e-12, rho=0.0), alternating)
    assert not close(trained("igm", shared_head, tau=3.0, rho=0.0), alternating)
    assert not close(trained("igm", shared_head, tau=1e-12, rho=0.3), alternating)


@pytest.mark.parametrize("rounds", [1, 2])
def test_with_separate_heads_alternating_is_unimodal_bit_by_bit(trained, networks, rounds):
    alternating = trained("alternating", rounds=rounds)
    unimodal = trained("unimodal")
    assert equal(alternating, unimodal)
    assert not close(alternating, networks())  # it did train


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_modality_trained_alone_is_the_one_trained_beside_another(trained, networks, rounds):
    alternating = trained("alternating", rounds=rounds)
    for name in ("fou", "kar"):
        alone = trained("unimodal", modalities=[name])
        assert equal(alone[name], alternating[name])


def test_with_a_shared_head_alternating_is_not_unimodal(trained):
    alternating = trained("alternating", True, rounds=2)
    unimodal = trained("unimodal", True)
    assert not equal(alternating["fou"].encoder, unimodal["fou"].encoder)
    assert not equal(alternating["kar"].head, unimodal["kar"].head)


def test_joint_training_moves_both_networks(trained, networks):
    model, start = trained("joint"), networks()
    assert isinstance(make("joint", model), Joint)
    for name in ("fou", "kar"):
        assert not close(model[name].encoder, start[name].encoder)
        assert not close(model[name].head, start[name].head)


class Words(nn.Module):
    """The mean embedding of token ids, (n, L) -> (n, d)."""

    def __init__(self, d: int = 8):
        super().__init__()
        self.embedding = nn.Embedding(20, d)

    def forward(self, ids):
        return self.embedding(ids).mean(1)


@pytest.mark.parametrize(
    "settings", [{"flat_ratio": 0.3, "rho": 1e-10}, {"flat_ratio": 0.0, "rho": 0.0}]
)
def test_mixup_leaves_text_as_it_is(settings):
    """The gradient for token ids is that of the plain loss; for numbers it is not."""
    torch.manual_seed(0)
    head = paper_head(8, 3)
    model = LateFusion({"text": Unimodal(Words(), head), "x": Unimodal(nn.Linear(8, 8), head)})
    batch = {"text": torch.randint(20, (6, 5)), "x": torch.randn(6, 8)}
    batch["label"] = torch.randint(3, (6,))
    for name, mixed in (("text", False), ("x", True)):
        method = make("igm", model, ["text", "x"], mixup=1.0, tau=1e-9, **settings)
        optimizer = method.optimizer(
            Stage((name,), 1), torch.optim.SGD(model[name].parameters(), 0.1)
        )
        torch.manual_seed(1)
        method.gradient(Stage((name,), 1), batch, optimizer)
        got = torch.cat([p.grad.flatten() for p in model[name].parameters()])
        loss = nn.functional.cross_entropy(model[name](batch[name]), batch["label"])
        plain = torch.autograd.grad(loss, list(model[name].parameters()))
        distance = (got - torch.cat([g.flatten() for g in plain])).norm() / got.norm()
        assert (distance > 0.05) if mixed else (distance < 1e-5)
