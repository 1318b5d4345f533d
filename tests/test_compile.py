"""Networks under torch.compile are trained as others: their features are seen, BatchNorm records once a step.

The backend "eager" traces and guards as the default one does, and compiles nothing, so that this is fast.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from igm import IGM, SAM, FeatureCovariance, Unimodal, paper_head, train
from igm.analysis.imbalance import head_gradients
from igm.flat import uncompiled
from igm.sam import frozen_batchnorm_statistics

QUICK = dict(
    epochs=1,
    rounds=1,
    batch_size=50,
    eval_batch_size=50,
    select="last",
    progress=False,
    device="cpu",
)
WAYS = {
    "wrapped": lambda net: torch.compile(net, backend="eager"),
    "in place": lambda net: net.compile(backend="eager") or net,
    "function": lambda net: torch.compile(lambda x: net(x), backend="eager"),
}


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3)
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_features_of_a_network_that_has_run_compiled_are_seen(way):
    net, x = small().eval(), torch.randn(8, 5)
    layers = {"first": net[0], "last": net[4]}
    with FeatureCovariance(layers, "sample") as expected:
        net(x)
    compiled = WAYS[way](net)
    with torch.no_grad():
        compiled(x)
        with FeatureCovariance(layers, "sample") as found:
            compiled(x)
        compiled(x)  # and nothing of it stays behind
    for name, moment in expected.matrices.items():
        assert torch.allclose(found.matrices[name], moment)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [SAM, IGM])
def test_a_compiled_network_takes_the_steps_of_an_uncompiled_one(way, kind):
    net = small()
    twin, x, y = copy.deepcopy(net), torch.randn(16, 5), torch.randint(3, (16,))

    def steps(model, forward):
        base = torch.optim.SGD(model.parameters(), 0.1)
        optimizer = IGM(base, {"last": model[4]}, 0.3) if kind is IGM else SAM(base, 0.3)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(x), y)
            loss.backward()
            return loss

        torch.manual_seed(1)  # both passes of a step draw the same masks
        for _ in range(3):
            optimizer.step(closure)

    forward = WAYS[way](twin)
    with torch.no_grad():
        forward(x)
    twin[1].reset_running_stats()
    steps(net, net)
    steps(twin, forward)
    assert twin[1].num_batches_tracked == 3
    for (name, a), b in zip(net.state_dict().items(), twin.state_dict().values()):
        assert torch.allclose(a, b, atol=1e-6), name


def test_a_network_that_joins_later_has_its_statistics_frozen_too():
    nets = [small(), small()]
    optimizer = SAM(torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1), 0.3)
    x = torch.randn(16, 5)
    for net in nets:
        forward = WAYS["function"](net)
        for _ in range(2):

            def closure(forward=forward):
                optimizer.zero_grad()
                loss = forward(x).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
        assert net[1].num_batches_tracked == 2 and net[1].track_running_stats


def test_known_modules_are_frozen_where_no_hook_is_called():
    net, x = small(), torch.randn(8, 5)
    net.compile(backend="eager")
    for _ in range(2):
        net(x)
    with frozen_batchnorm_statistics(set(net.modules())):
        net(x)
    assert net[1].num_batches_tracked == 2
    network = Unimodal(net, paper_head(3, 4))
    network.compile(backend="eager")
    network(x)
    head_gradients(network, x, torch.randint(4, (8,)))
    assert net[1].num_batches_tracked == 3


@pytest.mark.parametrize("what", ["networks", "heads"])
def test_igm_train_makes_its_matrices_of_compiled_networks(networks, tiny, what):
    expected = train(networks(), tiny, scope="encoder", **QUICK)
    model = networks()
    if what == "networks":
        for network in model.modalities.values():
            network.compile(backend="eager")
    else:  # of one: its layers have the names of the other's
        model["kar"].head = torch.compile(model["kar"].head, backend="eager")
    run = train(model, tiny, scope="encoder", **QUICK)
    for j, covariance in expected.method.covariances.items():
        found = run.method.covariances[j].matrices
        assert found.keys() == covariance.matrices.keys()
        assert all(torch.allclose(found[name], Y) for name, Y in covariance.matrices.items())
    for a, b in zip(run.model.parameters(), expected.model.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_mla_takes_the_features_of_compiled_networks_out(networks, tiny):
    expected, model = train(networks(), tiny, "mla", **QUICK | {"rho": 0.0}), networks()
    for network in model.modalities.values():
        network.compile(backend="eager")
    run = train(model, tiny, "mla", **QUICK | {"rho": 0.0})
    assert expected.method.projections
    for layer, P in expected.method.projections.items():
        assert torch.allclose(run.method.projections[layer], P, atol=1e-6)
    for a, b in zip(run.model.parameters(), expected.model.parameters()):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_model_compiled_as_a_whole_is_refused(networks, tiny):
    with pytest.raises(
        ValueError, match=r"compile its networks in place, such as model\['audio'\]"
    ):
        train(torch.compile(networks(), backend="eager"), tiny, **QUICK)


def test_uncompiled_leaves_things_as_they_were():
    net = small()
    net.compile(backend="eager")
    seen = []
    with uncompiled():
        net.register_forward_pre_hook(
            lambda module, inputs: seen.append(torch.compiler.is_compiling())
        )
        net(torch.randn(4, 5))
    assert seen == [False]
