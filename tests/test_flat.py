"""flat.py against NumPy and small closed forms (Eqs. 2-5)."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from igm import FeatureCovariance, modification_matrix, modify_gradients
from igm.analysis.controls import with_directions


def random_moment(d: int, seed: int = 0) -> torch.Tensor:
    z = torch.randn(3 * d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return z.T @ z


def numpy_matrix(moment: np.ndarray, tau: float) -> np.ndarray:
    """Eq. 4 as the paper states it, by SVD and a dense diagonal Sigma."""
    _, eigenvalues, Vt = np.linalg.svd(moment)
    low, high = eigenvalues.min(), eigenvalues.max()
    Sigma = np.diag(np.exp(-tau / (high - low) * (eigenvalues - low)))
    return Vt.T @ Sigma @ Vt


@pytest.mark.parametrize("tau", [1e-3, 0.4, 1.3, 20.0, 100.0])
@pytest.mark.parametrize("d", [2, 7, 64])
def test_modification_matrix_agrees_with_numpy_svd(d, tau):
    moment = random_moment(d)
    T = modification_matrix(moment, tau).numpy()
    assert np.abs(T - numpy_matrix(moment.numpy(), tau)).max() < 1e-10


@pytest.mark.parametrize("tau", [0.4, 20.0])
def test_modification_matrix_is_symmetric_bounded_and_commutes(tau):
    moment = random_moment(16)
    T = modification_matrix(moment, tau)
    assert torch.equal(T, T.T)
    eigenvalues = torch.linalg.eigvalsh(T)
    assert eigenvalues[0] == pytest.approx(math.exp(-tau), abs=1e-12)
    assert eigenvalues[-1] == pytest.approx(1.0, abs=1e-12)
    commutator = T @ moment - moment @ T
    assert commutator.abs().max() < 1e-10 * moment.abs().max()


def test_rank_one_moment_in_closed_form():
    # One direction u with eigenvalue |u|^2, all others 0: T = I - (1 - e^-tau) u u^T / |u|^2.
    u = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    T = modification_matrix(torch.outer(u, u), tau=0.4)
    expected = torch.eye(3, dtype=torch.float64) - (1 - math.exp(-0.4)) * torch.outer(u, u) / 25
    assert torch.allclose(T, expected, atol=1e-12)


def test_tau_to_zero_gives_the_identity():
    T = modification_matrix(random_moment(8), tau=1e-12)
    assert torch.allclose(T, torch.eye(8, dtype=torch.float64), atol=1e-11)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-30, 1e30])
def test_equal_eigenvalues_give_the_identity_and_no_nan(scale):
    T = modification_matrix(scale * torch.eye(5, dtype=torch.float64), tau=20.0)
    assert torch.equal(T, torch.eye(5, dtype=torch.float64))


def test_equal_eigenvalues_up_to_rounding_give_the_identity():
    rotation = torch.linalg.qr(random_moment(6)).Q
    T = modification_matrix(rotation @ rotation.T, tau=20.0)
    assert torch.equal(T, torch.eye(6, dtype=torch.float64))


def test_scale_of_the_moment_does_not_matter():
    moment = random_moment(6)
    assert torch.allclose(
        modification_matrix(moment, 1.3), modification_matrix(1e6 * moment, 1.3), atol=1e-12
    )


def test_modification_matrix_keeps_the_dtype():
    assert modification_matrix(random_moment(4).float()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("d", [5, 16, 128])
def test_a_moment_in_half_precision_gives_its_matrix_and_not_the_identity(d, dtype):
    moment = (random_moment(d) / (3 * d)).to(dtype)
    T = modification_matrix(moment, tau=3.0)
    assert T.dtype == dtype
    assert np.abs(T.double().numpy() - numpy_matrix(moment.double().numpy(), 3.0)).max() < 1e-2
    assert (T.double() - torch.eye(d)).abs().max() > 0.1
    assert torch.equal(modification_matrix(3 * torch.eye(d, dtype=dtype)), torch.eye(d).to(dtype))


@pytest.mark.parametrize("tau", [math.inf, 1e306, 1e20])
def test_an_infinite_tau_projects_onto_the_flattest_directions(tau):
    u = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
    T = modification_matrix(1e-3 * torch.outer(u, u), tau)  # two directions of eigenvalue 0
    assert torch.allclose(T, torch.eye(3).double() - torch.outer(u, u) / 25, atol=1e-12)
    moment = random_moment(7)
    v = np.linalg.eigh(moment.numpy())[1][:, 0]
    assert np.abs(modification_matrix(moment, tau).numpy() - np.outer(v, v)).max() < 1e-10


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1.7e308])
def test_a_moment_of_any_scale_has_the_same_matrix(scale):
    moment = random_moment(5)
    moment /= moment.abs().max()
    found = modification_matrix(scale * moment, tau=1.3).numpy()
    # The entries at 1e-320 have three digits.
    assert np.abs(found - numpy_matrix(moment.numpy(), 1.3)).max() < (
        1e-2 if scale < 1e-300 else 1e-10
    )


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan")])
def test_tau_must_be_positive(tau):
    with pytest.raises(ValueError, match="tau must be above 0"):
        modification_matrix(random_moment(3), tau)


def test_bad_covariances_are_refused():
    with pytest.raises(ValueError, match="square"):
        modification_matrix(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="NaN"):
        modification_matrix(torch.full((3, 3), float("nan")))
    with pytest.raises(ValueError, match="square"):
        modification_matrix(torch.zeros(0, 0))
    with pytest.raises(ValueError, match="real numbers, got torch.int64"):
        modification_matrix(torch.eye(3, dtype=torch.int64))


@pytest.fixture
def two_batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 5, generator=generator) + 1 for n in (8, 4)]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("statistic", ["batch-mean", "sample"])
def test_covariance_of_a_linear_layer(two_batches, statistic, center):
    layer = nn.Linear(5, 3)
    with FeatureCovariance({"fc": layer}, statistic, center) as covariance:
        for z in two_batches:
            layer(z)
    if statistic == "sample":
        rows = np.concatenate([z.numpy().astype(np.float64) for z in two_batches])
    else:
        rows = np.stack([z.numpy().astype(np.float64).mean(0) for z in two_batches])
    expected = rows.T @ rows
    if center:
        expected = np.cov(rows, rowvar=False, bias=True) * len(rows)
    assert np.allclose(covariance.matrices["fc"].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("statistic", ["batch-mean", "sample"])
def test_constant_features_have_no_spectrum_when_centred(statistic):
    layer = nn.Linear(6, 1).double()
    constant = 100 * torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with FeatureCovariance({"fc": layer}, statistic, center=True) as covariance:
        for n in (7, 30, 64, 1, 500):
            layer(constant.repeat(n, 1))
    assert torch.equal(covariance.matrices["fc"], torch.zeros(6, 6, dtype=torch.float64))
    assert torch.equal(modification_matrix(covariance.matrices["fc"], 20.0), torch.eye(6).double())


@pytest.mark.parametrize("noise", [1.0, 1e-4])
def test_a_constant_feature_beside_others_gets_zeros_and_leaves_them_alone(noise):
    layer = nn.Linear(3, 1).double()
    z = noise * torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = z + 1
    z[:, 1] = 1e6 / 3  # what rounding leaves of its moment is above those of the others
    with FeatureCovariance({"fc": layer}, "sample", center=True) as covariance:
        for part in z.split(32):
            layer(part)
    expected = np.cov(z.numpy(), rowvar=False, bias=True) * 400
    expected[1] = expected[:, 1] = 0
    assert np.allclose(covariance.matrices["fc"], expected, rtol=0, atol=0.04 * noise**2)


@pytest.mark.parametrize(
    "options", [dict(padding=1), dict(padding="same"), dict(stride=2), dict(padding=2, dilation=2)]
)
def test_covariance_of_a_convolution_matches_its_own_output(options):
    # The moment S of the patches must give sum |w^T patch|^2 = w^T S w, which the layer's output knows itself.
    layer = nn.Conv2d(2, 4, 3, bias=False, **options).double()
    x = torch.randn(3, 2, 7, 6, dtype=torch.float64)
    with FeatureCovariance({"conv": layer}, statistic="sample") as covariance:
        output = layer(x)
    w = layer.weight.detach().view(4, -1)
    power = torch.einsum("oi,ij,oj->o", w, covariance.matrices["conv"], w)
    assert torch.allclose(power, output.detach().square().sum((0, 2, 3)))


def test_batch_mean_of_a_convolution_is_the_moment_of_the_mean_image():
    layer = nn.Conv2d(2, 4, 3, bias=False).double()
    x = torch.randn(3, 2, 7, 6, dtype=torch.float64)
    with FeatureCovariance({"conv": layer}) as of_batch:
        layer(x)
    with FeatureCovariance({"conv": layer}, "sample") as of_mean:
        layer(x.mean(0, keepdim=True))
    assert torch.allclose(of_batch.matrices["conv"], of_mean.matrices["conv"])


def test_hooks_are_gone_after_the_block(two_batches):
    layer = nn.Linear(5, 3)
    with FeatureCovariance({"fc": layer}) as covariance:
        layer(two_batches[0])
    before = covariance.matrices["fc"].clone()
    layer(two_batches[1])
    assert torch.equal(covariance.matrices["fc"], before)
    assert not layer._forward_pre_hooks


LAYERS = {"linear": (nn.Linear(5, 3), (4, 5)), "conv": (nn.Conv2d(2, 3, 3), (4, 2, 6, 5))}


@pytest.mark.parametrize("statistic", ["batch-mean", "sample"])
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_by_keyword_without_a_batch_and_of_no_sample(kind, statistic):
    layer, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found, expected = (FeatureCovariance({"it": layer}, statistic) for _ in range(2))
    with found:
        layer(input=x)
        layer(x[:0])
        layer(x[1])
    with expected:
        layer(x)
        layer(x[1:2])
    assert torch.equal(found.matrices["it"], expected.matrices["it"])


def test_a_layer_that_saw_only_empty_batches_has_no_matrix():
    layer = nn.Linear(5, 3)
    with FeatureCovariance({"fc": layer}) as covariance:
        layer(torch.zeros(0, 5))
    with pytest.warns(UserWarning, match="no input passed the layers fc"):
        assert covariance.matrices == {}


def test_a_loaded_collection_shares_nothing_with_its_source(two_batches):
    layer = nn.Linear(5, 3)
    with FeatureCovariance({"fc": layer}) as source:
        layer(two_batches[0])
    before = source.matrices["fc"].clone()
    with FeatureCovariance({"fc": layer}) as loaded:
        loaded.load_state_dict(source.state_dict())
        layer(two_batches[1])
    with copy.deepcopy(loaded) as copied:
        copied.layers["fc"](two_batches[1])
    assert torch.equal(source.matrices["fc"], before)
    assert loaded.state_dict()["fc"][2] == 2 and copied.state_dict()["fc"][2] == 3
    with pytest.raises(ValueError, match="no layer 'fc' for these sums: the layers are other"):
        FeatureCovariance({"other": layer}).load_state_dict(source.state_dict())


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("statistic", ["batch-mean", "sample"])
def test_two_collections_add_up_to_one(two_batches, statistic, center):
    layer = nn.Linear(5, 3)
    whole, first, second = (FeatureCovariance({"fc": layer}, statistic, center) for _ in range(3))
    for covariance, parts in [
        (whole, two_batches),
        (first, two_batches[:1]),
        (second, two_batches[1:]),
    ]:
        with covariance:
            for z in parts:
                layer(z)
    restored = FeatureCovariance({"fc": layer}, statistic, center)
    restored.load_state_dict(first.state_dict())
    restored.add(second)
    assert torch.allclose(restored.matrices["fc"], whole.matrices["fc"], atol=1e-12)
    empty = FeatureCovariance({"fc": layer}, statistic, center)
    empty.add(whole)
    assert torch.equal(empty.matrices["fc"], whole.matrices["fc"])


def test_reduce_takes_the_sums_over_processes_and_leaves_out_what_nobody_saw(two_batches):
    # Another process that saw the same inputs twice: every sum is three times ours.
    layers = {"fc": nn.Linear(5, 3), "unused": nn.Linear(5, 3)}
    with FeatureCovariance(layers, "sample", center=True) as covariance:
        for z in two_batches:
            layers["fc"](z)
    before = covariance.state_dict()["fc"]
    asked = []

    def total(sums):
        asked.append(sums)
        return 3 * sums

    covariance.reduce(total)
    assert all(torch.equal(a, 3 * b) for a, b in zip(covariance.state_dict()["fc"], before))
    with pytest.warns(UserWarning, match="no input passed the layers unused: there is no moment"):
        assert covariance.matrices.keys() == {"fc"}
    assert len(asked) == 6  # three sums a layer, the unused one too: the others may have seen it


def test_the_memory_is_one_sum_a_layer_whatever_the_number_of_samples():
    layer = nn.Linear(5, 3)
    held = []
    for batches in (1, 50):
        with FeatureCovariance({"fc": layer}, "sample") as covariance:
            for _ in range(batches):
                layer(torch.randn(8, 5))
        held.append([x.shape for x in covariance.state_dict()["fc"]])
    assert held[0] == held[1] == [(5, 5), (5,), (1,)]


def test_a_layer_without_input_has_no_matrix():
    with FeatureCovariance({"fc": nn.Linear(2, 2)}) as covariance:
        pass
    with pytest.warns(UserWarning, match="no input passed the layers fc"):
        assert covariance.matrices == {}
    with pytest.raises(ValueError, match="no input passed the layers fc"):
        covariance.reduce(lambda sums: sums)  # what a stage of igm.train calls


def test_unusable_layers_are_refused():
    with pytest.raises(TypeError, match="'norm' is a BatchNorm1d"):
        FeatureCovariance({"norm": nn.BatchNorm1d(3)})
    with pytest.raises(ValueError, match="grouped"):
        FeatureCovariance({"conv": nn.Conv2d(4, 4, 3, groups=2)})
    with pytest.raises(ValueError, match="unknown statistic"):
        FeatureCovariance({}, statistic="median")


def test_modify_gradients_is_equation_5_for_a_linear_layer():
    layer = nn.Linear(6, 3).double()
    layer(torch.randn(4, 6, dtype=torch.float64)).square().sum().backward()
    grad, bias_grad = layer.weight.grad.clone(), layer.bias.grad.clone()
    T = modification_matrix(random_moment(6))
    modify_gradients({"fc": layer}, {"fc": T})
    in_the_papers_layout = T.numpy() @ grad.numpy().T  # W is d x c there: T grad
    assert np.allclose(layer.weight.grad.numpy(), in_the_papers_layout.T, atol=1e-12)
    assert torch.equal(layer.bias.grad, bias_grad)


def test_modify_gradients_of_a_convolution_acts_on_its_patches():
    layer = nn.Conv2d(2, 4, 3).double()
    layer.weight.grad = torch.randn_like(layer.weight)
    grad = layer.weight.grad.clone()
    T = modification_matrix(random_moment(18))
    modify_gradients({"conv": layer}, {"conv": T})
    assert torch.allclose(layer.weight.grad.view(4, 18), grad.view(4, 18) @ T)


def test_layers_without_matrix_or_gradient_are_left_alone():
    layer, other = nn.Linear(2, 2), nn.Linear(2, 2)
    layer.weight.grad = torch.ones(2, 2)
    modify_gradients({"a": layer, "b": other}, {"b": torch.eye(2)})
    assert torch.equal(layer.weight.grad, torch.ones(2, 2))
    assert other.weight.grad is None


def test_a_matrix_of_the_wrong_size_names_the_layer():
    layer = nn.Linear(3, 2)
    layer.weight.grad = torch.ones(2, 3)
    with pytest.raises(ValueError, match="layer 'fc2' takes 3 inputs"):
        modify_gradients({"fc2": layer}, {"fc2": torch.eye(4)})


def test_a_weight_that_T_cannot_act_on_is_refused():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    first.weight.grad = torch.ones(3, 3)
    T = 0.5 * torch.eye(3)
    with pytest.raises(ValueError, match="layers 'a' and 'b' share one weight"):
        modify_gradients({"a": first, "b": second}, {"a": T, "b": T})
    modify_gradients({"a": first, "b": second}, {"b": T})
    assert torch.allclose(first.weight.grad, 0.5 * torch.ones(3, 3))
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 3))
    with pytest.raises(TypeError, match="layer 'a' computes its weight, as weight_norm"):
        modify_gradients({"a": normed}, {"a": T})


def test_modified_update_leaves_the_sharp_direction_of_the_old_inputs_alone():
    # The purpose of it all: with a large tau, a step for new inputs keeps the outputs of the old ones, which
    # all lie along one direction; the plain step does not.
    old = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
    T = modification_matrix(old.T @ old, tau=30.0)
    layer = nn.Linear(3, 2, bias=False).double()
    before = layer(old).detach()
    layer(torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)).square().sum().backward()
    plain = old @ (layer.weight - layer.weight.grad).T
    modify_gradients({"fc": layer}, {"fc": T})
    flat = old @ (layer.weight - layer.weight.grad).T
    assert torch.allclose(flat, before, atol=1e-10)
    assert not torch.allclose(plain, before, atol=1e-2)


# Controls


@pytest.mark.parametrize("first", [None, torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0])])
def test_a_control_has_the_weights_of_T_along_other_directions(first):
    T = modification_matrix(random_moment(5), tau=1.3)
    control = with_directions(T, first, torch.Generator().manual_seed(0))
    assert torch.equal(control, control.T)
    assert torch.allclose(torch.linalg.eigvalsh(control), torch.linalg.eigvalsh(T), atol=1e-12)
    assert not torch.allclose(control, T, atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, -100.0])
def test_the_first_direction_of_a_control_gets_the_smallest_weight(scale):
    T = modification_matrix(random_moment(5), tau=1.3)
    u = torch.tensor([3.0, 0.0, -4.0, 0.0, 0.0], dtype=torch.float64)
    control = with_directions(T, scale * u, torch.Generator().manual_seed(0))
    assert torch.allclose(control @ u, math.exp(-1.3) * u, atol=1e-12)


def test_a_control_of_a_matrix_in_half_precision():
    T = modification_matrix(random_moment(5).bfloat16(), tau=1.3)
    control = with_directions(T, None, torch.Generator().manual_seed(0))
    assert control.dtype == T.dtype
    values = [torch.linalg.eigvalsh(x.double()) for x in (control, T)]
    assert torch.allclose(*values, atol=2e-2)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (torch.ones(1), r"of shape \(5,\), got \(1,\)"),
        (torch.zeros(5), "no direction"),
        (torch.full((5,), math.inf), "no direction"),
    ],
)
def test_a_first_direction_that_is_none_is_refused(first, message):
    with pytest.raises(ValueError, match=message):
        with_directions(torch.eye(5), first)


def test_a_control_repeats_with_its_generator_and_differs_without():
    T = modification_matrix(random_moment(5), tau=1.3)
    one, same, other = (
        with_directions(T, None, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
