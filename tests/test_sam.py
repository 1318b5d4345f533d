"""sam.py against gradients computed by hand (Eqs. 6-8)."""

import copy

import pytest
import torch
from torch import nn

from igm import SAM


def quadratic(w: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    return 0.5 * w @ A @ w


@pytest.fixture
def bowl():
    """A quadratic with known gradient A w, and its parameter."""
    A = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    return w, A


def closure_for(optimizer, loss_function):
    def closure():
        optimizer.zero_grad()
        loss = loss_function()
        loss.backward()
        return loss

    return closure


def test_gradient_is_the_one_at_the_perturbed_weights(bowl):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.3)
    start = w.detach().clone()
    loss = optimizer.gradient(closure_for(optimizer, lambda: quadratic(w, A)))
    g = A @ start
    by_hand = A @ (start + 0.3 * g / g.norm())
    assert torch.allclose(w.grad, by_hand, atol=1e-14)
    assert loss.item() == pytest.approx(quadratic(start, A).item())
    assert torch.equal(w.detach(), start)  # exactly


def test_norm_runs_over_all_parameters():
    a = nn.Parameter(torch.tensor([3.0]))
    b = nn.Parameter(torch.tensor([4.0]))
    optimizer = SAM(torch.optim.SGD([a, b], lr=0.1), rho=1.0)
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append((a.item(), b.item()))
        loss = (a.square() + b.square()).sum() / 2
        loss.backward()
        return loss

    optimizer.gradient(closure)
    assert seen[1] == pytest.approx((3.6, 4.8))  # each moves by rho g / |g| with |g| = 5


def test_adaptive_perturbation_is_scaled_by_the_weights():
    w = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    c = torch.tensor([1.0, 1.0], dtype=torch.float64)
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5, adaptive=True)
    seen = []

    def loss():
        seen.append(w.detach().clone())
        return c @ w

    optimizer.gradient(closure_for(optimizer, loss))
    step = torch.tensor([1.0, 4.0], dtype=torch.float64) * 0.5 / 5**0.5  # rho w^2 g / |w g|
    assert torch.allclose(seen[1], seen[0] + step)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_step_is_the_base_step_along_that_gradient(bowl, base):
    w, A = bowl
    twin = nn.Parameter(w.detach().clone())
    optimizer, plain = SAM(base([w], lr=0.1), rho=0.2), base([twin], lr=0.1)
    for _ in range(3):
        g = A @ twin.detach()
        twin.grad = A @ (twin.detach() + 0.2 * g / g.norm())
        plain.step()
        optimizer.step(closure_for(optimizer, lambda: quadratic(w, A)))
    assert torch.allclose(w, twin, atol=1e-12)


def test_rho_zero_is_the_base_optimiser_in_one_pass(bowl):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.0)
    calls = []

    def loss():
        calls.append(1)
        return quadratic(w, A)

    start = w.detach().clone()
    optimizer.step(closure_for(optimizer, loss))
    assert len(calls) == 1
    assert torch.allclose(w, start - 0.1 * A @ start)


def test_weights_come_back_exactly_in_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 3))
    before = copy.deepcopy(model.state_dict())
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.7)
    x, y = torch.randn(8, 20), torch.randint(3, (8,))
    optimizer.gradient(closure_for(optimizer, lambda: nn.functional.cross_entropy(model(x), y)))
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())


def test_weights_come_back_when_the_second_pass_fails(bowl):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.3)
    start = w.detach().clone()
    passes = []

    def loss():
        passes.append(1)
        if len(passes) == 2:
            raise RuntimeError("out of memory")
        return quadratic(w, A)

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(closure_for(optimizer, loss))
    assert torch.equal(w.detach(), start)


def test_a_parameter_without_gradient_in_the_second_pass_is_restored():
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = SAM(torch.optim.SGD([a, b], lr=0.1), rho=0.5)
    passes = []

    def loss():
        passes.append(1)
        return (a.square().sum() + b.square().sum()) if len(passes) == 1 else a.square().sum()

    optimizer.gradient(closure_for(optimizer, loss))
    assert torch.equal(a.detach(), torch.ones(2))
    assert torch.equal(b.detach(), torch.ones(2))


@pytest.mark.parametrize("adaptive", [False, True])
def test_zero_gradient_gives_no_nan(adaptive):
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5, adaptive=adaptive)
    optimizer.step(closure_for(optimizer, lambda: (0.0 * w).sum()))
    assert torch.equal(w.detach(), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batchnorm_records_its_statistics_once_a_step(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=momentum))
    twin = copy.deepcopy(model)
    x = torch.randn(16, 4)
    twin(x)  # one ordinary pass in training mode
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.0), rho=0.5)
    optimizer.step(closure_for(optimizer, lambda: model(x).square().sum()))
    assert torch.equal(model[1].running_mean, twin[1].running_mean)
    assert torch.equal(model[1].running_var, twin[1].running_var)
    assert model[1].num_batches_tracked == 1
    assert model[1].track_running_stats
    model(x)
    assert model[1].num_batches_tracked == 2  # it records again afterwards


def test_both_passes_draw_the_same_dropout_masks():
    drop, masks = nn.Dropout(0.5), []
    w = nn.Parameter(torch.ones(64))
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.1)

    def loss():
        masks.append(drop(torch.ones(64)))
        return (masks[-1] * w).sum()

    for _ in range(2):
        optimizer.step(closure_for(optimizer, loss))
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[2], masks[3])
    assert not torch.equal(masks[1], masks[2])  # the next step draws new ones


@pytest.mark.parametrize("rho", [-0.1, float("nan")])
def test_rho_must_not_be_negative(rho):
    with pytest.raises(ValueError, match="rho must be 0"):
        SAM(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), rho=rho)


def test_state_dict_covers_the_base_optimiser(bowl):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1, momentum=0.9), rho=0.2, adaptive=True)
    closure = closure_for(optimizer, lambda: quadratic(w, A))
    optimizer.step(closure)
    saved_weight, saved = w.detach().clone(), copy.deepcopy(optimizer.state_dict())
    optimizer.step(closure)
    expected = w.detach().clone()

    with torch.no_grad():
        w.copy_(saved_weight)
    other = SAM(torch.optim.SGD([w], lr=0.5, momentum=0.9), rho=0.0)
    other.load_state_dict(saved)
    assert (other.rho, other.adaptive) == (0.2, True)
    other.step(closure_for(other, lambda: quadratic(w, A)))
    assert torch.equal(w.detach(), expected)


def test_a_scheduler_changes_the_learning_rate_of_both(bowl):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.step(closure_for(optimizer, lambda: quadratic(w, A)))
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def test_per_tensor_norms_move_every_tensor_by_rho():
    a = nn.Parameter(torch.tensor([3.0, 4.0]))
    b = nn.Parameter(torch.tensor([100.0]))
    c = nn.Parameter(torch.tensor([1.0]))
    optimizer = SAM(torch.optim.SGD([a, b, c], lr=0.1), rho=0.5, norm="tensor")
    seen = []

    def closure():
        optimizer.zero_grad()
        seen.append([p.detach().clone() for p in (a, b, c)])
        loss = (a.square().sum() + b.square().sum()) / 2 + 0.0 * c.sum()
        loss.backward()
        return loss

    optimizer.gradient(closure)
    moved = [after - before for before, after in zip(*seen)]
    assert torch.allclose(moved[0], torch.tensor([0.3, 0.4]))
    assert moved[1].item() == pytest.approx(0.5)
    assert moved[2].item() == 0.0  # its gradient is zero
    assert torch.equal(a.detach(), torch.tensor([3.0, 4.0]))


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="unknown norm 'layer': use one of all, tensor"):
        SAM(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), rho=0.1, norm="layer")


@pytest.mark.parametrize(("rho", "share"), [(1e-15, 0.0), (1e-10, 1e-3), (1e-2, 0.5)])
def test_in_float32_the_papers_radius_moves_next_to_nothing(rho, share):
    """The share of the weights of a paper head that differ at theta + eps*."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 64), nn.Linear(64, 6))
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=rho)
    x, y, seen = torch.rand(12, 512), torch.randint(6, (12,)), []

    def loss():
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return nn.functional.cross_entropy(model(x), y)

    optimizer.gradient(closure_for(optimizer, loss))
    changed = (seen[1] != start).float().mean().item()
    assert changed > share if rho == 1e-2 else changed <= share
