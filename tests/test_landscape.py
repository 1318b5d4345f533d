"""landscape.py against plain loops, dense Hessians by finite differences, and quadratics in closed form."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from igm import Concatenation, LateFusion, Unimodal, fuse
from igm.analysis.landscape import (
    cross_entropy,
    hessian_eigenvalues,
    hessian_trace,
    loss_surface,
    random_direction,
    worst_case_loss,
)

ALPHAS, BETAS = torch.linspace(-1, 1, 5), torch.linspace(-0.5, 0.5, 4)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Point(nn.Module):
    """Weights in the plane or in space; their output is themselves, a row a sample: the loss is a function of them."""

    def __init__(self, *at: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), -1)


def quadratic(A, b):
    """(loss, batches): 1/2 w^T A w + b^T w of a Point, whatever the batch."""
    A, b = torch.as_tensor(A, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)

    def loss(w, labels):
        return (0.5 * torch.einsum("ni,ij,nj->n", w, A, w) + w @ b).mean()

    return loss, [(torch.zeros(2, 1), torch.zeros(2)), (torch.zeros(1, 1), torch.zeros(1))]


@pytest.fixture
def cnn():
    """A small network with BatchNorm and Dropout that has seen some data, and two batches for it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(54, 3),
        ).double()
        for _ in range(5):
            model(3 * torch.randn(8, 1, 8, 8, dtype=torch.float64) + 1)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 2])
    return model, [(draw(5, 1, 8, 8), y[:5]), (draw(2, 1, 8, 8, seed=1), y[5:])]


def plain_loop(model, batches, directions, axes, loss=F.cross_entropy):
    """The surface as one would first write it: move a copy's weights, sum the loss over all samples."""
    moved = copy.deepcopy(model).eval()
    surface = []
    for point in np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)):
        with torch.no_grad():
            for (name, p), q in zip(model.named_parameters(), moved.parameters()):
                q.copy_(p + sum(float(c) * d[name] for c, d in zip(point, directions)))
            total = sum(loss(moved(x), y).item() * len(y) for x, y in batches)
        surface.append(total / sum(len(y) for _, y in batches))
    return np.reshape(surface, [len(axis) for axis in axes])


def everything(model):
    """What must not change: weights and buffers, the parameters as objects, each module's mode, the random state."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    return state, list(model.parameters()), modes, torch.get_rng_state()


def assert_untouched(model, before):
    state, parameters, modes, rng = before
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in model.parameters())


# ---------------------------------------------------------------- directions


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights(cnn):
    model, _ = cnn
    direction = random_direction(model)
    assert list(direction) == [name for name, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        d, w = direction[name].numpy(), parameter.detach().numpy()
        assert d.shape == w.shape
        if w.ndim == 1:  # biases and BatchNorm
            assert not d.any()
        else:
            of = [np.sqrt((a.reshape(len(a), -1) ** 2).sum(1)) for a in (d, w)]  # (filters,)
            assert np.allclose(*of, rtol=1e-12)


def test_a_direction_is_gaussian_before_it_is_scaled():
    # A long row keeps its distribution when it is divided by its norm.
    layer = nn.Linear(20_000, 2)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    d = random_direction(layer)["weight"].double()  # rows of norm sqrt(20000), so standard normal
    assert d.mean().abs() < 0.03
    assert (d**4).mean() == pytest.approx(3, abs=0.3)
    assert (d[0] @ d[1]).abs() / 20_000 < 0.03


def test_directions_are_a_function_of_the_seed(cnn):
    model, _ = cnn
    before = everything(model)
    first, again, other = (random_direction(model, seed) for seed in (3, 3, 4))
    assert_untouched(model, before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.allclose(first["7.weight"], other["7.weight"])


def test_parameters_of_one_shape_get_different_noise():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        model[1].weight.copy_(model[0].weight)
    direction = random_direction(model)
    assert not torch.allclose(direction["0.weight"], direction["1.weight"])


def test_a_filter_of_zeros_stays():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert torch.equal(random_direction(layer)["weight"], torch.zeros(2, 3))


# ---------------------------------------------------------------- surfaces


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_surface_of_least_squares_in_closed_form(chunk):
    # ||X (W + a D + b E)^T - Y||^2 is a quadratic in a and b, expanded here with NumPy.
    X, Y = draw(12, 3), draw(12, 2, seed=1)
    layer = nn.Linear(3, 2, bias=False).double()
    D, E = draw(2, 3, seed=2), draw(2, 3, seed=3)
    batches = [(X[:7], Y[:7]), (X[7:], Y[7:])]  # of unequal size
    surface = loss_surface(
        layer,
        batches,
        [{"weight": D}, {"weight": E}],
        ALPHAS,
        BETAS,
        loss=lambda out, y: (out - y).square().sum(1).mean(),
        chunk=chunk,
        progress=False,
    )
    R = (X @ layer.weight.detach().T - Y).numpy()  # residuals at theta
    U, V = (X @ D.T).numpy(), (X @ E.T).numpy()
    a, b = ALPHAS.double().numpy()[:, None], BETAS.double().numpy()[None, :]
    expected = (R * R).sum() + a * a * (U * U).sum() + b * b * (V * V).sum()
    expected = expected + 2 * a * (R * U).sum() + 2 * b * (R * V).sum() + 2 * a * b * (U * V).sum()
    assert surface.shape == (5, 4)
    assert surface.dtype == torch.float64
    assert np.allclose(surface.numpy(), expected / 12, rtol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_surface_of_a_network_is_that_of_the_plain_loop(cnn, chunk):
    model, batches = cnn
    model[1].train(False)  # a layer that was frozen while the rest is in training mode
    directions = [random_direction(model, seed) for seed in (0, 1)]
    before = everything(model)
    surface = loss_surface(model, batches, directions, ALPHAS, BETAS, chunk=chunk, progress=False)
    assert_untouched(model, before)
    expected = plain_loop(model, batches, directions, [ALPHAS, BETAS])
    assert np.allclose(surface.numpy(), expected, rtol=1e-6)
    assert np.ptp(expected) > 0.1


def test_surface_in_float32_is_that_of_the_plain_loop(cnn):
    model, batches = cnn
    model, batches = model.float(), [(x.float(), y) for x, y in batches]
    directions = [random_direction(model, seed) for seed in (0, 1)]
    expected = plain_loop(model, batches, directions, [ALPHAS, BETAS])
    for chunk in (1, 8):
        surface = loss_surface(
            model, batches, directions, ALPHAS, BETAS, chunk=chunk, progress=False
        )
        assert np.allclose(surface.numpy(), expected, rtol=1e-5)


def test_a_line_and_its_centre(cnn):
    model, batches = cnn
    line = loss_surface(model, batches, [random_direction(model)], ALPHAS, progress=False)
    assert line.shape == (5,)
    x, y = (torch.cat(part) for part in zip(*batches))
    with torch.no_grad():
        centre = F.cross_entropy(model.eval()(x), y).item()
    assert line[2].item() == pytest.approx(centre, rel=1e-12)
    assert line[0].item() != pytest.approx(centre, rel=1e-3)


def test_the_difference_of_two_models_is_a_direction(cnn):
    model, batches = cnn
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other[7].parameters():
            p.add_(draw(*p.shape, seed=5))
    difference = {
        name: q - dict(model.named_parameters())[name]
        for name, q in other.named_parameters()
        if name[0] == "7"
    }
    ends = loss_surface(model, batches, [difference], [0.0, 1.0], progress=False)
    x, y = (torch.cat(part) for part in zip(*batches))
    with torch.no_grad():
        expected = [F.cross_entropy(m.eval()(x), y).item() for m in (model, other)]
    assert ends.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_a_fused_model_has_a_surface_too(shared):
    heads = [nn.Linear(4, 3).double() for _ in range(2)]
    model = LateFusion(
        {
            "a": Unimodal(nn.Linear(5, 4).double(), heads[0]),
            "b": Unimodal(nn.Linear(6, 4).double(), heads[0 if shared else 1]),
        }
    )
    y = torch.tensor([0, 1, 2, 2])
    batches = [({"a": draw(4, 5), "b": draw(4, 6, seed=1), "label": y}, y)]
    direction = random_direction(model)
    assert len(direction) == (6 if shared else 8)
    before = everything(model)
    for chunk in (1, 4):
        surface = loss_surface(model, batches, [direction], ALPHAS, chunk=chunk, progress=False)
        expected = plain_loop(
            model,
            batches,
            [direction],
            [ALPHAS],
            loss=lambda out, y: F.nll_loss(fuse(out).log(), y),
        )
        assert np.allclose(surface.numpy(), expected, rtol=1e-10)
        assert_untouched(model, before)


def test_cross_entropy_of_one_and_of_several_modalities():
    z, y = {"a": draw(6, 4), "b": draw(6, 4, seed=1)}, torch.tensor([0, 1, 2, 3, 0, 1])
    p = np.mean(
        [np.exp(v) / np.exp(v).sum(1, keepdims=True) for v in (z["a"].numpy(), z["b"].numpy())],
        axis=0,
    )
    expected = -np.log(p[np.arange(6), y.numpy()]).mean()
    assert cross_entropy(z, y).item() == pytest.approx(expected, rel=1e-12)
    one = cross_entropy(z["a"], y).item()
    assert one == pytest.approx(F.cross_entropy(z["a"], y).item())
    assert cross_entropy({"fused": z["a"]}, y).item() == pytest.approx(one)
    far = {
        name: 1000 * v.float() for name, v in z.items()
    }  # where the probabilities are 0 in float32
    assert torch.isfinite(cross_entropy(far, y))


def test_a_concatenation_has_a_surface_too():
    model = Concatenation({"a": nn.Linear(5, 4), "b": nn.Linear(6, 4)}, nn.Linear(8, 3)).double()
    y = torch.tensor([0, 1, 2, 2])
    batch = {"a": draw(4, 5), "b": draw(4, 6, seed=1)}
    (loss,) = loss_surface(model, [(batch, y)], [random_direction(model)], [0.0], progress=False)
    with torch.no_grad():
        assert loss.item() == pytest.approx(F.cross_entropy(model(batch)["fused"], y).item())


def test_batches_are_read_once(cnn):
    model, batches = cnn
    directions, read = [random_direction(model)], []

    def once():
        for batch in batches:
            read.append(batch)
            yield batch

    surface = loss_surface(model, once(), directions, ALPHAS, progress=False)
    assert len(read) == 2
    assert torch.equal(surface, loss_surface(model, batches, directions, ALPHAS, progress=False))


def test_the_bar_counts_points(cnn, capsys):
    model, batches = cnn
    loss_surface(model, batches, [random_direction(model)], ALPHAS, chunk=2)
    assert "10/10" in capsys.readouterr().err  # 2 batches of 5 points
    loss_surface(model, batches, [random_direction(model)], ALPHAS, progress=False)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- Hessian


@pytest.fixture
def tiny():
    """A network with few weights in float64, two batches of unequal size, and its dense Hessian."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])
    batches = [(draw(5, 3), y[:5]), (draw(3, 3, seed=1), y[5:])]
    return model, batches, dense_hessian(model, batches)


def dense_hessian(model, batches, h: float = 1e-5) -> np.ndarray:
    """Central differences of the gradient, one weight at a time."""
    model = copy.deepcopy(model).eval()
    x, y = (torch.cat(part) for part in zip(*batches))
    parameters = list(model.parameters())
    theta = nn.utils.parameters_to_vector(parameters).detach()

    def gradient(at):
        nn.utils.vector_to_parameters(at, parameters)
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        return torch.cat([g.flatten() for g in grads])

    columns = [
        (gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h)
        for e in torch.eye(len(theta), dtype=torch.float64)
    ]
    return torch.stack(columns).numpy()


def test_hessian_eigenvalues_are_those_of_the_dense_hessian(tiny):
    model, batches, H = tiny
    before = everything(model)
    top = hessian_eigenvalues(model, batches, k=4)
    assert_untouched(model, before)
    assert top.shape == (4,) and top.dtype == torch.float64
    assert np.allclose(top.numpy(), np.linalg.eigvalsh(H)[::-1][:4], atol=1e-7)


def test_hessian_of_the_head_is_a_block(tiny):
    model, batches, H = tiny
    head = H[16:, 16:]
    top = hessian_eigenvalues(model, batches, 2, model[3].parameters())
    assert np.allclose(top.numpy(), np.linalg.eigvalsh(head)[::-1][:2], atol=1e-7)
    trace = hessian_trace(model, batches, 12, model[3].parameters())
    assert trace != pytest.approx(np.trace(H), rel=0.1)
    assert trace == pytest.approx(np.trace(head), rel=0.2)


def test_hessian_trace_estimates_that_of_the_dense_hessian(tiny):
    model, batches, H = tiny
    before = everything(model)
    estimates = [hessian_trace(model, batches, 30, seed=s) for s in range(20)]
    assert_untouched(model, before)
    assert hessian_trace(model, batches, 30, seed=0) == estimates[0]
    assert len(set(estimates)) == 20
    error = np.std(estimates, ddof=1) / 20**0.5
    assert error < 0.05 * np.trace(H)
    assert abs(np.mean(estimates) - np.trace(H)) < 4 * error


def test_spectrum_of_a_quadratic():
    Q = torch.linalg.qr(draw(8, 8)).Q
    eigenvalues = torch.tensor([7.0, 5.0, 2.0, 0.0, 0.0, 0.0, 0.0, -9.0], dtype=torch.float64)
    loss, batches = quadratic(Q * eigenvalues @ Q.T, np.ones(8))
    model = Point(*range(8))
    top = hessian_eigenvalues(model, batches, 3, loss=loss)  # the largest, not the largest in size
    assert top.tolist() == pytest.approx([7, 5, 2], abs=1e-8)
    eigenvalues[-1] = 0  # rank 3: two sketch vectors of six products do not hold it, rank 2 they do
    eigenvalues[2] = 0
    loss, batches = quadratic(Q * eigenvalues @ Q.T, np.ones(8))
    assert hessian_trace(model, batches, 6, loss=loss) == pytest.approx(12, rel=1e-8)


def test_sharpness_of_a_fused_model_with_a_shared_head():
    head = nn.Linear(2, 3).double()
    model = LateFusion({"a": Unimodal(nn.Tanh(), head), "b": Unimodal(nn.Sigmoid(), head)})
    y = torch.tensor([0, 1, 2, 2])
    batch = {"a": draw(4, 2), "b": draw(4, 2, seed=1), "label": y}

    def of_weights(w):
        W, b = w[:6].reshape(3, 2), w[6:]
        outputs = [F.linear(z, W, b) for z in (batch["a"].tanh(), batch["b"].sigmoid())]
        return F.nll_loss(torch.stack([z.softmax(-1) for z in outputs]).mean(0).log(), y)

    w = nn.utils.parameters_to_vector(head.parameters()).detach()
    H = torch.autograd.functional.hessian(of_weights, w)
    g = torch.autograd.functional.jacobian(of_weights, w)
    before = everything(model)
    top = hessian_eigenvalues(model, [(batch, y)], 3)
    assert_untouched(model, before)
    assert torch.allclose(top, torch.linalg.eigvalsh(H).flip(0)[:3], atol=1e-8)
    (worst,) = worst_case_loss(model, [(batch, y)], [0.2])
    assert_untouched(model, before)
    assert worst.item() == pytest.approx(of_weights(w + 0.2 * g / g.norm()).item(), rel=1e-10)


def test_the_first_hessian_of_a_session_does_not_warn():
    code = """
import torch
from igm.analysis.landscape import hessian_eigenvalues
hessian_eigenvalues(torch.nn.Linear(3, 2), [(torch.ones(2, 3), torch.tensor([0, 1]))])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


# ---------------------------------------------------------------- the worst case


def test_one_step_is_equation_7_on_a_quadratic():
    A, b, w = np.array([[3.0, 1.0], [1.0, 2.0]]), np.array([0.5, -1.0]), np.array([1.0, -2.0])
    loss, batches = quadratic(A, b)
    g = A @ w + b
    expected = []
    for rho in (0.0, 0.1, 2.0):
        moved = w + rho * g / np.linalg.norm(g)
        expected.append(0.5 * moved @ A @ moved + b @ moved)
    worst = worst_case_loss(Point(*w), batches, [0.0, 0.1, 2.0], loss=loss)
    assert worst.dtype == torch.float64
    assert worst.tolist() == pytest.approx(expected, rel=1e-12)


def test_one_step_counts_even_where_it_leads_down():
    loss, batches = quadratic(
        [[-10.0]], [0.0]
    )  # -5 w^2: at w = 1 the gradient points at 0, and beyond
    worst = worst_case_loss(Point(-1.0), batches, [3.0], loss=loss)
    assert worst.item() == pytest.approx(-5 * 2**2)
    for steps in (2, 3):  # the next one leads back to w = -1, and the third to 2 again
        worst = worst_case_loss(Point(-1.0), batches, [3.0], steps, loss)
        assert worst.item() == pytest.approx(-5)


@pytest.mark.parametrize("rho", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("eigenvalues", [(1.0, 5.0), (-3.0, 2.0)])
def test_more_steps_approach_the_maximum_in_the_ball(eigenvalues, rho):
    Q = torch.linalg.qr(draw(2, 2)).Q
    A = (Q * torch.tensor(eigenvalues, dtype=torch.float64) @ Q.T).numpy()
    b, w = np.array([0.5, -1.0]), np.array([0.3, 0.2])
    angles, radii = np.linspace(0, 2 * np.pi, 20_001), np.linspace(0, rho, 30)
    ball = w[:, None, None] + np.stack([np.cos(angles), np.sin(angles)])[:, None] * radii[:, None]
    losses = 0.5 * np.einsum("ira,ij,jra->ra", ball, A, ball) + np.einsum("i,ira->ra", b, ball)
    loss, batches = quadratic(A, b)
    by_steps = [
        worst_case_loss(Point(*w), batches, [rho], steps, loss).item()
        for steps in (1, 2, 4, 8, 100)
    ]
    assert all(first <= second for first, second in zip(by_steps, by_steps[1:]))
    assert by_steps[-1] <= losses.max() * (1 + 1e-6) + 1e-6
    assert by_steps[-1] == pytest.approx(losses.max(), rel=1e-5)
    assert by_steps[0] < by_steps[-1]


def test_worst_case_of_a_network_is_over_all_samples_and_weights(tiny):
    model, batches, _ = tiny
    before = everything(model)
    rhos = [0.0, 0.05, 0.5]
    worst = worst_case_loss(model, batches, rhos).numpy()
    more = worst_case_loss(model, batches, rhos, steps=4).numpy()
    assert_untouched(model, before)
    x, y = (torch.cat(part) for part in zip(*batches))
    moved = copy.deepcopy(model).eval()
    parameters = list(moved.parameters())
    start = F.cross_entropy(moved(x), y)
    g = torch.cat([p.flatten() for p in torch.autograd.grad(start, parameters)])
    theta = nn.utils.parameters_to_vector(parameters).detach()
    for rho, loss in zip(rhos, worst):
        nn.utils.vector_to_parameters(theta + rho * g / g.norm(), parameters)
        assert loss == pytest.approx(F.cross_entropy(moved(x), y).item(), rel=1e-10)
    assert worst[0] == pytest.approx(start.item(), rel=1e-12)
    assert more[0] == pytest.approx(start.item(), rel=1e-12)
    assert (more[1:] > worst[1:]).all()


def test_worst_case_where_the_gradient_is_zero():
    loss, batches = quadratic([[2.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    assert worst_case_loss(Point(0.0, 0.0), batches, [1.0], steps=3, loss=loss).tolist() == [0.0]


# ---------------------------------------------------------------- bad input


def test_bad_directions_are_refused(cnn):
    model, batches = cnn
    d = random_direction(model)

    def surface(directions, *axes, **options):
        return loss_surface(model, batches, directions, *axes, progress=False, **options)

    one = {"7.weight": d["7.weight"]}
    for directions, axes in (([d], (ALPHAS, BETAS)), ([d, d], (ALPHAS,)), (one, (ALPHAS,))):
        with pytest.raises(ValueError, match="directions must be a list of"):
            surface(directions, *axes)
    with pytest.raises(ValueError, match="names 'head'"):
        surface([{"head": torch.zeros(1)}], ALPHAS)
    with pytest.raises(ValueError, match=r"'7.weight' is \(3,\)"):
        surface([{"7.weight": torch.zeros(3)}], ALPHAS)
    with pytest.raises(ValueError, match="chunk must be 1"):
        surface([d], ALPHAS, chunk=0)


@pytest.mark.parametrize("function", [hessian_eigenvalues, hessian_trace])
def test_batches_must_be_pairs_and_there_must_be_some(tiny, function):
    model, batches, _ = tiny
    before = everything(model)
    line = [random_direction(model)], ALPHAS
    for call in (
        lambda b: loss_surface(model, b, *line, progress=False),
        lambda b: function(model, b),
        lambda b: worst_case_loss(model, b, [0.1]),
    ):
        with pytest.raises(ValueError, match="there is no batch"):
            call(iter([]))
        with pytest.raises(TypeError, match="pairs"):
            call([{"a": 1, "label": 2}])
    assert_untouched(model, before)


def test_bad_hessian_arguments_are_refused(tiny):
    model, batches, _ = tiny
    for k in (0, 31, 32):
        with pytest.raises(ValueError, match="k must be from 1 to 30"):
            hessian_eigenvalues(model, batches, k)
    for matvecs in (0, 4, 33):
        with pytest.raises(ValueError, match="matvecs must be a multiple of 3 from 3 to 30"):
            hessian_trace(model, batches, matvecs)
    for parameters in ([], nn.Linear(3, 4).double().parameters()):
        with pytest.raises(ValueError, match="parameters must be some of"):
            hessian_eigenvalues(model, batches, 1, parameters)


def test_bad_radii_are_refused(tiny):
    model, batches, _ = tiny
    for rho in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="rhos must be 0 or above"):
            worst_case_loss(model, batches, [0.1, rho])
    with pytest.raises(ValueError, match="steps must be 1"):
        worst_case_loss(model, batches, [0.1], steps=0)
    loss, batches = quadratic([[1.0]], [0.0])
    with pytest.raises(FloatingPointError, match="the loss became inf at rho = 1e"):
        worst_case_loss(Point(1.0), batches, [1e300], loss=loss)


def test_modes_come_back_when_the_loss_fails(cnn):
    model, batches = cnn
    before = everything(model)

    def broken(output, labels):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        loss_surface(model, batches, [random_direction(model)], ALPHAS, loss=broken, progress=False)
    with pytest.raises(RuntimeError, match="broken"):
        worst_case_loss(model, batches, [0.1], loss=broken)
    assert_untouched(model, before)
