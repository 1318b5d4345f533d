r"""The optimiser of IGM: sharpness-aware minimisation whose gradient keeps to flat directions (Eq. 9).

    theta <- theta - eta T grad L(theta + eps*),       eps* = rho grad L / ||grad L||       (Eqs. 7 to 9)

In one step it climbs to theta + eps*, takes the gradient there, comes back, multiplies the weight gradients of some
layers by their matrices T, and lets the base optimiser step along the result. The matrices come from what *another*
modality's features are, see ``igm.flat``; where there is none yet, T = I. Below it, what else settings ask for: the
base optimiser and the schedule of its learning rate.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from igm.flat import FeatureCovariance, check_weights, modification_matrix, modify_gradients
from igm.sam import SAM
from igm.settings import Settings


class IGM(SAM):
    """An optimiser that steps ``base_optimizer`` along T times the gradient of SAM (Eq. 9).

        optimizer = IGM(torch.optim.SGD(image.parameters(), lr=0.1), layers)
        with FeatureCovariance(audio_layers, "sample") as covariance, torch.no_grad():
            for x, _ in audio_batches:
                audio(x)
        optimizer.protect(covariance)  # from now on steps keep to audio's flat directions
        optimizer.step(closure)

    Args:
        base_optimizer: any torch optimiser; it makes the step.
        layers: name -> ``nn.Linear`` or ``nn.Conv2d``: those whose weight gradients T multiplies. A layer and the
            matrix of the same name belong together.
        rho: radius of SAM, >= 0; 0 for none.
        tau: how strongly sharp directions are damped, > 0 (Eq. 4).
        adaptive, norm: see ``SAM``.
        modification: (moment (d, d), tau) -> T (d, d); Eq. 4, or a control in its place.

    ``matrices`` holds T by layer, (d, d), in the layer's precision; a layer without one is left alone. They are part
    of ``state_dict``.

    Raises:
        ValueError: rho or tau is out of its range, an unknown norm, two layers share a weight, or the optimiser has no
            layer's weight.
        TypeError: the base is no optimiser for SAM, or a layer has no weight that T could act on.
    """

    own = (*SAM.own, "layers", "tau", "modification", "matrices")

    def __init__(
        self,
        base_optimizer: Optimizer,
        layers: Mapping[str, nn.Module],
        rho: float = 0.02,
        tau: float = 20.0,
        adaptive: bool = False,
        norm: str = "all",
        modification: Callable[[Tensor, float], Tensor] = modification_matrix,
    ):
        if not tau > 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        super().__init__(base_optimizer, rho, adaptive, norm)
        check_weights(layers)
        if layers and {layer.weight for layer in layers.values()}.isdisjoint(self.parameters):
            raise ValueError(
                f"the optimiser has no weight of the layers {', '.join(layers)}, so T would act on nothing: give "
                "it their parameters"
            )
        self.layers = dict(layers)
        self.tau = tau
        self.modification = modification
        self.matrices: dict[str, Tensor] = {}

    @torch.no_grad()
    def protect(self, covariance: FeatureCovariance | Mapping[str, Tensor]) -> None:
        """Makes the matrices T anew, from the moments of the features that are to be protected (Eq. 4).

        Args:
            covariance: what has collected the moments, or layer -> moment (d, d). One whose layer is not here, or has
                another number of inputs, is passed over: between different networks T is the identity. Warns where
                moments are given and none fits. An empty mapping is for a stage that has nobody to protect yet.
        """
        moments = getattr(covariance, "matrices", covariance)
        self.matrices = {
            name: self.modification(moments[name], self.tau).to(layer.weight)
            for name, layer in self.layers.items()
            if name in moments and layer.weight[0].numel() == len(moments[name])
        }
        if moments and self.layers and not self.matrices:
            warnings.warn(
                f"none of the layers {', '.join(self.layers)} has a moment of its name and size, those given are of "
                f"{', '.join(moments)}: T is the identity, and leaves all gradients as they are",
                stacklevel=3,  # above no_grad
            )

    def gradient(self, closure: Callable[[], Tensor]) -> Tensor:
        """T grad L(theta + eps*) into ``.grad``; returns the loss at theta."""
        loss = super().gradient(closure)  # Eqs. 7 and 8
        self.modify()
        return loss

    def modify(self) -> None:
        """grad_W <- T grad_W, layer by layer (Eqs. 5 and 9)."""
        modify_gradients(self.layers, self.matrices)

    def state_dict(self) -> dict:
        """SAM's state, with tau and the matrices."""
        return super().state_dict() | {"tau": self.tau, "matrices": dict(self.matrices)}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.tau = state_dict.get("tau", self.tau)
        matrices = state_dict.get("matrices", self.matrices)
        if strange := matrices.keys() - self.layers.keys():
            raise ValueError(
                f"the state has matrices of {', '.join(sorted(strange))}, the optimiser has the layers "
                f"{', '.join(self.layers)}: load what was saved with the same layers"
            )
        self.matrices = {
            name: T.to(self.layers[name].weight, copy=True) for name, T in matrices.items()
        }


def base_optimizer(parameters: Iterable[nn.Parameter], s: Settings) -> Optimizer:
    if s.optimizer == "adam":
        return Adam(parameters, s.lr, (0.9, s.beta2), weight_decay=s.weight_decay)
    return SGD(parameters, s.lr, s.momentum, weight_decay=s.weight_decay)


def learning_rate_schedule(optimizer: Optimizer, s: Settings, epochs: int) -> LRScheduler:
    """The learning rate over some epochs.

    A warm-up of w epochs multiplies the rate of the e-th, from 1, by (1/3) (1 - e/w) + e/w: by 2/3 and 1 for w = 2. The
    w-th has all of it, so w = 1 is none. It is the authors' (utils/lr_scheduler.py in njustkmg/IJCAI25-IGM, commit
    19aa8e5, stepped before each epoch: train_sarcasm.py).
    """
    if s.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, mode="max", factor=s.lr_factor, patience=5)
    if s.schedule == "cosine":
        schedule = lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    elif s.schedule == "step":
        schedule = lr_scheduler.MultiStepLR(optimizer, s.milestones, s.lr_factor)
    else:
        schedule = lr_scheduler.ConstantLR(optimizer, factor=1)
    if s.warmup < 2:
        return schedule
    # From its value in the first epoch the formula is a line, to 1 in the w-th.
    first = 1 / 3 + 2 / (3 * s.warmup)
    rise = lr_scheduler.LinearLR(optimizer, first, 1.0, total_iters=s.warmup - 1)
    return lr_scheduler.ChainedScheduler([schedule, rise])
