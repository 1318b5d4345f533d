"""igm.train never trains without GM in silence: a run whose T acts on nothing stops, or warns."""

import pytest
from torch import nn
from torch.nn import functional as F

from igm import LateFusion, Unimodal, train

QUICK = dict(epochs=1, rounds=1, batch_size=50, select="last", progress=False, device="cpu")


class Functional(nn.Module):
    """A head that uses its layer's weight and never calls the layer."""

    def __init__(self, d):
        super().__init__()
        self.fc = nn.Linear(d, 10)

    def forward(self, z):
        return F.linear(z, self.fc.weight, self.fc.bias)


def test_a_stage_whose_layers_saw_nothing_stops_the_run(networks, tiny):
    model = networks()
    for network in model.modalities.values():
        network.head = Functional(network.head.fc1.in_features)
    with pytest.raises(
        ValueError, match=r"no input passed the layers head\.fc: there is no moment"
    ):
        train(model, tiny, **QUICK)


def test_a_layer_of_the_scope_that_saw_nothing_is_named(networks, tiny):
    model = networks()
    for network in model.modalities.values():
        network.spare = nn.Linear(2, 2)
    with pytest.warns(UserWarning, match=r"no input passed the layers spare:"):
        train(model, tiny, **QUICK)


def pair_without_common_layers():
    model = {"fou": (76, 12), "kar": (64, 9)}
    return {
        name: Unimodal(nn.Linear(n, d), nn.Sequential(nn.ReLU(), nn.Linear(d, 10)))
        for name, (n, d) in model.items()
    }


def test_networks_without_common_layers_are_told_so(tiny):
    with pytest.warns(UserWarning, match=r"none of the layers head\.1 has a moment of its name"):
        train(LateFusion(pair_without_common_layers()), tiny, **QUICK)
    with pytest.raises(ValueError, match="gm has the pair 'fou>kar', but no layer of kar"):
        train(LateFusion(pair_without_common_layers()), tiny, gm=["fou>kar"], **QUICK)
