"""igm.IGM, the optimiser, against Eqs. 7 to 9 written out, and the rates of its schedules."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from igm import IGM, SAM, FeatureCovariance, modification_matrix
from igm.optimizer import base_optimizer, learning_rate_schedule
from igm.settings import Settings


@pytest.fixture
def problem():
    """A network of two layers, a batch, and the features of another modality for both layers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    other = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, y = torch.randn(12, 5).double(), torch.randint(3, (12,))
    return network, other, x, y


def layers(network):
    return {"first": network[0], "last": network[2]}


def closure_of(network, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        return loss

    return closure


def collected(network, x) -> FeatureCovariance:
    with FeatureCovariance(layers(network), "sample") as covariance, torch.no_grad():
        network(x)
    return covariance


def loss_gradient(theta, x, y):
    """The loss of the network and its gradient by parameter, in NumPy, by the chain rule."""
    W1, b1, W2, b2 = theta
    h = np.tanh(x @ W1.T + b1)
    z = h @ W2.T + b2
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    d = (p - np.eye(3)[y]) / len(y)
    back = (d @ W2) * (1 - h**2)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    return loss, [back.T @ x, back.sum(0), d.T @ h, d.sum(0)]


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_a_step_is_equation_9(problem, rho):
    network, other, x, y = problem
    lr, tau = 0.1, 3.0
    before = [p.detach().numpy().copy() for p in network.parameters()]
    optimizer = IGM(torch.optim.SGD(network.parameters(), lr), layers(network), rho, tau)
    covariance = collected(other, x)
    optimizer.protect(covariance)
    loss = optimizer.step(closure_of(network, optimizer, x, y))

    expected_loss, g = loss_gradient(before, x.numpy(), y.numpy())
    norm = np.sqrt(sum((part**2).sum() for part in g))
    moved = [p + rho * part / norm for p, part in zip(before, g)]  # Eq. 7
    g = loss_gradient(moved, x.numpy(), y.numpy())[1]  # Eq. 8
    for i, name in ((0, "first"), (2, "last")):
        values, V = np.linalg.eigh(covariance.matrices[name].numpy())
        sigma = np.exp(-tau * (values - values[0]) / (values[-1] - values[0]))
        g[i] = g[i] @ (V @ np.diag(sigma) @ V.T)  # Eq. 4; torch stores out x in
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    for p, start, part in zip(network.parameters(), before, g):
        assert np.allclose(p.detach().numpy(), start - lr * part, atol=1e-12)  # Eq. 9


def test_without_matrices_it_is_sam(problem):
    network, _, x, y = problem
    twin = copy.deepcopy(network)
    for net, kind in ((network, IGM), (twin, SAM)):
        base = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
        optimizer = IGM(base, layers(net), rho=0.2) if kind is IGM else SAM(base, rho=0.2)
        for _ in range(3):
            optimizer.step(closure_of(net, optimizer, x, y))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters()))


def test_protect_takes_moments_where_names_and_sizes_agree(problem):
    network, other, x, _ = problem
    optimizer = IGM(torch.optim.SGD(network.parameters(), 0.1), layers(network), tau=2.0)
    assert optimizer.matrices == {}
    moments = collected(other, x).matrices
    optimizer.protect(moments)
    for name, moment in moments.items():
        assert torch.allclose(optimizer.matrices[name], modification_matrix(moment, 2.0))
    optimizer.protect({"first": torch.eye(7), "elsewhere": torch.eye(5), "last": moments["last"]})
    assert list(optimizer.matrices) == ["last"]
    optimizer.protect({})  # of nobody yet: no reason to warn
    assert optimizer.matrices == {}


def test_moments_that_fit_no_layer_are_not_passed_over_in_silence(problem):
    network, other, x, _ = problem
    optimizer = IGM(torch.optim.SGD(network.parameters(), 0.1), layers(network))
    moments = collected(other, x).matrices
    with pytest.warns(UserWarning, match="none of the layers first, last has a moment") as seen:
        optimizer.protect({f"head.{name}": moment for name, moment in moments.items()})
    assert seen[0].filename == __file__ and "of head.first, head.last: T is" in str(seen[0].message)
    with pytest.warns(UserWarning, match="T is the identity"):
        optimizer.protect({"first": torch.eye(7)})
    with pytest.warns(UserWarning, match="no input passed the layers first, last"):
        optimizer.protect(collected(other, x[:0]))


def test_layers_that_the_optimiser_does_not_train_are_refused(problem):
    network, other, *_ = problem
    base = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match="the optimiser has no weight of the layers first, last"):
        IGM(base, layers(other))
    IGM(base, {"first": network[0], "elsewhere": other[2]})
    network[2].weight = nn.Parameter(network[2].weight[:, :1].detach().repeat(1, 4))
    tied = nn.Linear(4, 3)
    tied.weight = network[2].weight
    base = torch.optim.SGD(network.parameters(), 0.1)
    with pytest.raises(ValueError, match="the layers 'last' and 'tied' share one weight"):
        IGM(base, layers(network) | {"tied": tied})
    nn.utils.parametrizations.weight_norm(network[0])
    with pytest.raises(TypeError, match="layer 'first' computes its weight"):
        IGM(base, layers(network))
    with pytest.raises(TypeError, match="'norm' is a BatchNorm1d"):
        IGM(base, {"norm": nn.BatchNorm1d(3)})


def test_a_control_can_take_the_place_of_equation_4(problem):
    network, other, x, _ = problem
    base = torch.optim.SGD(network.parameters(), 0.1)

    def halves(moment, tau):
        return tau * torch.eye(len(moment), dtype=moment.dtype)

    optimizer = IGM(base, layers(network), tau=0.5, modification=halves)
    optimizer.protect(collected(other, x))
    assert torch.equal(optimizer.matrices["last"], 0.5 * torch.eye(4, dtype=torch.float64))


def test_the_state_has_the_matrices_and_the_momentum(problem):
    network, other, x, y = problem
    twin = copy.deepcopy(network)

    def optimizer_of(net):
        return IGM(torch.optim.SGD(net.parameters(), 0.1, momentum=0.9), layers(net), rho=0.1)

    first = optimizer_of(network)
    first.protect(collected(other, x))
    first.step(closure_of(network, first, x, y))
    state = copy.deepcopy(first.state_dict())
    twin.load_state_dict(network.state_dict())
    second = optimizer_of(twin)
    second.load_state_dict(state)
    assert second.matrices.keys() == {"first", "last"} and second.tau == 20.0
    assert second.matrices["last"].data_ptr() != state["matrices"]["last"].data_ptr()
    for optimizer, net in ((first, network), (second, twin)):
        optimizer.step(closure_of(net, optimizer, x, y))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters()))


def test_a_copy_and_the_states_of_other_optimisers(problem):
    network, other, x, y = problem
    optimizer = IGM(torch.optim.SGD(network.parameters(), 0.1), layers(network), tau=3.0)
    optimizer.protect(collected(other, x))
    twin, copied = copy.deepcopy((network, optimizer))
    for net, each in ((network, optimizer), (twin, copied)):
        each.step(closure_of(net, each, x, y))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters()))
    state = copied.state_dict()
    for plain in (copied.base_optimizer.state_dict(), SAM(copied.base_optimizer, 0.3).state_dict()):
        copied.load_state_dict(plain)
    assert (copied.rho, copied.tau) == (0.3, 3.0)  # SAM's own, and what only IGM has
    assert copied.matrices.keys() == {"first", "last"}
    renamed = IGM(copied.base_optimizer, {"head": twin[0]})
    with pytest.raises(ValueError, match="matrices of first, last, the optimiser has the layers"):
        renamed.load_state_dict(state)


def test_a_scheduler_moves_its_rate(problem):
    network, _, x, y = problem
    optimizer = IGM(torch.optim.SGD(network.parameters(), 0.4), layers(network))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step(closure_of(network, optimizer, x, y))
    schedule.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_a_bad_tau_is_refused(problem, tau):
    base = torch.optim.SGD(problem[0].parameters(), 0.1)
    with pytest.raises(ValueError, match="tau must be above 0"):
        IGM(base, {}, tau=tau)


def rates(epochs: int, **settings) -> list[float]:
    """The rate of each epoch, from one of 0.3."""
    return rates_of(Settings(**{"lr": 0.3} | settings), epochs)


def rates_of(settings: Settings, epochs: int) -> list[float]:
    """The rate of each epoch of a stage."""
    optimizer = base_optimizer([nn.Parameter(torch.zeros(1))], settings)
    schedule = learning_rate_schedule(optimizer, settings, epochs)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [0, 1, 2, 5])
@pytest.mark.parametrize("milestones", [[3, 6], [0, 1], [4]], ids=str)
def test_the_rates_of_a_warmup_are_those_of_the_authors_formula(warmup, milestones):
    """(1/3)(1 - e/w) + e/w in epoch e = 1, 2, ..., times 0.1 for each milestone that was passed."""
    found = rates(9, schedule="step", milestones=milestones, lr_factor=0.1, warmup=warmup)
    expected = [
        0.3
        * ((1 - e / warmup) / 3 + e / warmup if e < warmup else 1)
        * 0.1 ** sum(e > milestone for milestone in milestones)
        for e in range(1, 10)
    ]
    assert found == pytest.approx(expected, rel=1e-12)


def test_two_epochs_of_warmup_are_two_thirds_and_all_of_the_rate():
    assert rates(4, schedule="constant", warmup=2) == pytest.approx([0.2, 0.3, 0.3, 0.3])
    assert rates(4, schedule="constant", warmup=3) == pytest.approx([0.5 / 3, 0.7 / 3, 0.3, 0.3])
