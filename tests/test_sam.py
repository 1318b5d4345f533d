"""sam.py against gradients computed by hand (Eqs. 6-8)."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from igm import SAM
from igm.sam import NORMS, perturbation


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


# ---------------------------------------------------------------- around any optimiser, in any loop


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e20, 1e-25, 1e-38, 1e37, 1.0])
def test_a_gradient_of_any_scale_moves_the_weights_by_rho(scale, dtype, norm):
    gradient = (scale * torch.tensor([3.0, 4.0], dtype=torch.float64)).to(dtype)
    tensors = [gradient, torch.zeros(3, dtype=dtype)]
    eps = perturbation(tensors, tensors, 0.5, norm=norm)
    assert torch.allclose(eps[0].double(), torch.tensor([0.3, 0.4]).double(), atol=5e-3)
    assert torch.equal(eps[1], torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_adaptive_perturbation_of_any_scale(scale):
    w, g = torch.tensor([[1.0, 2.0], [1.0, 1.0]], dtype=torch.float64)
    (eps,) = perturbation([w], [scale * g], 0.5, adaptive=True)
    assert torch.allclose(eps, w**2 * g * 0.5 / 5**0.5)


def test_sparse_gradients_are_those_of_the_dense_layer():
    torch.manual_seed(0)
    sparse, dense = nn.Embedding(9, 4, sparse=True), nn.Embedding(9, 4)
    dense.load_state_dict(sparse.state_dict())
    words = torch.tensor([1, 5, 5, 2])
    for layer in (sparse, dense):
        optimizer = SAM(torch.optim.SGD(layer.parameters(), lr=0.1), rho=0.3)
        optimizer.step(closure_for(optimizer, lambda: layer(words).square().sum()))  # noqa: B023
    assert sparse.weight.grad.is_sparse
    assert torch.allclose(sparse.weight, dense.weight, atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_a_closure_may_return_a_number_and_the_loss_has_no_graph(bowl, rho):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho)
    expected = quadratic(w, A).item()
    closure = closure_for(optimizer, lambda: quadratic(w, A))
    assert not optimizer.gradient(closure).requires_grad
    assert optimizer.step(lambda: closure().item()) == pytest.approx(expected)


def test_what_is_no_optimiser_for_sam_is_refused(bowl):
    w, _ = bowl
    with pytest.raises(TypeError, match="LBFGS evaluates the loss itself: give SGD"):
        SAM(torch.optim.LBFGS([w]), rho=0.1)
    with pytest.raises(TypeError, match="SAM evaluates the loss itself"):
        SAM(SAM(torch.optim.SGD([w], 0.1), rho=0.1), rho=0.1)
    with pytest.raises(TypeError, match=r"give an optimiser, such as .* and not a list"):
        SAM([w], rho=0.1)
    with pytest.raises(TypeError, match="give step a closure, or call gradient"):
        SAM(torch.optim.SGD([w], 0.1), rho=0.1).step()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_as_the_original(bowl, copied):
    w, A = bowl
    first = SAM(torch.optim.SGD([w], lr=0.1, momentum=0.9), rho=0.2, adaptive=True)
    first.step(closure_for(first, lambda: quadratic(w, A)))
    v, second = copied((w, first))
    assert second.base_optimizer.param_groups[0]["params"][0] is v
    for optimizer, p in ((first, w), (second, v)):
        optimizer.step(closure_for(optimizer, lambda: quadratic(p, A)))  # noqa: B023
    assert torch.equal(v, w)
    assert v is not w and second.state[v] is second.base_optimizer.state[v]


def test_the_state_of_a_plain_optimiser_is_taken_by_the_base(bowl):
    w, A = bowl
    plain = torch.optim.SGD([w], lr=0.05, momentum=0.9)
    closure_for(plain, lambda: quadratic(w, A))()
    plain.step()
    optimizer = SAM(torch.optim.SGD([w], lr=0.1, momentum=0.9), rho=0.2, norm="tensor")
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert optimizer.param_groups[0]["lr"] == 0.05
    assert torch.equal(optimizer.state[w]["momentum_buffer"], plain.state[w]["momentum_buffer"])
    assert (optimizer.rho, optimizer.norm) == (0.2, "tensor")


@pytest.mark.parametrize("own_step", [False, True])
@pytest.mark.parametrize("whose", ["SAM's", "the base's"])
def test_a_scheduler_does_not_warn_of_the_order(bowl, whose, own_step):
    w, A = bowl
    optimizer = SAM(torch.optim.SGD([w], lr=0.1), rho=0.2)
    followed = optimizer if whose == "SAM's" else optimizer.base_optimizer
    scheduler = torch.optim.lr_scheduler.StepLR(followed, 1, gamma=0.5)
    closure = closure_for(optimizer, lambda: quadratic(w, A))
    if own_step:
        optimizer.step(closure)
    else:  # as igm.train does, so that a GradScaler can step
        optimizer.gradient(closure)
        optimizer.base_optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_autocast_may_be_around_the_whole_loop(rho):
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    around = copy.deepcopy(inside)
    x, y = torch.randn(16, 6), torch.randint(3, (16,))

    def losses(model, within, about):
        optimizer, found = SAM(torch.optim.SGD(model.parameters(), lr=0.5), rho), []

        def closure():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=within or about):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            found.append(loss.item())
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=about):
            for _ in range(3):
                optimizer.step(closure)
        return found

    expected = losses(inside, True, False)
    assert losses(around, False, True) == pytest.approx(expected, rel=1e-3)
    assert expected[0] - min(expected) > 0.01  # the steps do move the weights
    for a, b in zip(around.parameters(), inside.parameters()):
        assert torch.allclose(a, b, atol=1e-3)
