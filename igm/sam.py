r"""Sharpness-aware minimisation around any torch optimiser (Eqs. 6-8; Foret et al., ICLR 2021).

SAM looks for weights whose whole neighbourhood has a low loss,

    min_theta max_{||eps||_2 <= rho} L(theta + eps)                                      (Eq. 6)

and approximates the inner maximum by one step along the gradient,

    eps* = rho grad L(theta) / ||grad L(theta)||_2                                       (Eq. 7)
    grad L_SAM(theta) = grad L(theta + eps*)                                             (Eq. 8)

so each step costs two forward and backward passes. The norm runs over all parameters of the optimiser at once.
Read ``rho`` against the weights: in float32 a perturbation below about 1e-7 of a weight rounds away.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

NORMS = ("all", "tensor")


class SAM(Optimizer):
    """An optimiser that steps ``base_optimizer`` along the gradient of Eq. 8.

        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)

        def closure():
            optimizer.zero_grad()
            loss = loss_function(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    Both passes see the same dropout masks (the random state of the first is replayed), BatchNorm updates its
    running statistics in the first pass only, and the weights come back exactly before the base optimiser moves
    them. Learning-rate schedulers can be given this optimiser or the base one: they share their groups and state.
    A closure that scales its loss, as mixed precision with float16 does, perturbs alike: Eq. 7 does not depend on
    the scale.

    Args:
        base_optimizer: any torch optimiser; it makes the step.
        rho: the radius of Eq. 6, >= 0, in units of the weights; 0 is the base optimiser in one pass.
        adaptive: scale the perturbation by the weights (ASAM, Kwon et al., ICML 2021).
        norm: ``"all"``, the norm of Eq. 7 over all parameters; or ``"tensor"``, each tensor by its own norm, so
            that every tensor moves by rho, as the authors' code of IGM does.

    Raises:
        ValueError: rho is negative or not a number, or an unknown norm.
    """

    def __init__(
        self, base_optimizer: Optimizer, rho: float, adaptive: bool = False, norm: str = "all"
    ):
        if not rho >= 0:
            raise ValueError(f"rho must be 0 (no SAM) or above, got {rho}: try 0.05")
        if norm not in NORMS:
            raise ValueError(f"unknown norm {norm!r}: use one of {', '.join(NORMS)}")
        super().__init__(base_optimizer.param_groups, base_optimizer.defaults)
        self.base_optimizer = base_optimizer
        self.rho = rho
        self.adaptive = adaptive
        self.norm = norm
        self._share()

    def _share(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step. ``closure`` clears the gradients, computes the loss, calls backward and returns the loss.

        Returns the loss at the unperturbed weights.
        """
        loss = self.gradient(closure)
        self.base_optimizer.step()
        return loss

    def gradient(self, closure: Callable[[], Tensor]) -> Tensor:
        """Leaves the gradient of Eq. 8 in the parameters' ``.grad`` and does not step; returns the loss at theta.

        It is what IGM needs: the flat directions modify this gradient before the base optimiser uses it (Eq. 9).
        """
        closure = torch.enable_grad()(closure)
        if self.rho == 0:
            return closure()
        with _replayed_generators(
            self.parameters
        ):  # afterwards the second pass draws the same masks
            loss = closure().detach()
        moved = [p for p in self.parameters if p.grad is not None]
        if not moved:
            return loss
        weights, gradients = [p.data for p in moved], [p.grad for p in moved]
        elsewhere = perturbation(weights, gradients, self.rho, self.adaptive, self.norm)
        torch._foreach_add_(elsewhere, weights)  # theta + eps*; theta itself is only put aside
        try:
            _hold(moved, elsewhere)
            with frozen_batchnorm_statistics():
                closure()  # grad L(theta + eps*), Eq. 8
        finally:
            _hold(moved, weights)
        return loss

    def state_dict(self) -> dict:
        """The base optimiser's state, with rho, adaptive and norm."""
        own = {name: getattr(self, name) for name in ("rho", "adaptive", "norm")}
        return {"base": self.base_optimizer.state_dict()} | own

    def load_state_dict(self, state_dict: dict) -> None:
        self.base_optimizer.load_state_dict(state_dict["base"])
        for name in ("rho", "adaptive", "norm"):
            setattr(self, name, state_dict[name])
        self._share()


@torch.no_grad()
def perturbation(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    rho: float,
    adaptive: bool = False,
    norm: str = "all",
) -> list[Tensor]:
    """eps* of Eq. 7, a new tensor for each weight. Where the gradient is zero there is no direction: eps* = 0."""
    sizes = torch._foreach_abs(weights) if adaptive else None
    directions = torch._foreach_mul(gradients, sizes) if adaptive else gradients
    norms = torch.stack(torch._foreach_norm(directions))  # (tensors,)
    if norm == "all":
        norms = torch.linalg.vector_norm(norms)  # ()
    scale = torch.where(norms == 0, 0, rho / norms)  # no `if`: a GPU would have to wait for it
    if adaptive:
        directions = torch._foreach_mul(directions, sizes)
    return list(torch._foreach_mul(directions, scale if norm == "all" else list(scale.unbind())))


@contextmanager
def frozen_batchnorm_statistics() -> Iterator[None]:
    """Inside, BatchNorm layers in training mode use the batch's statistics but do not record them."""
    frozen = []

    def freeze(module: nn.Module, inputs: tuple) -> None:
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and module.training and module.track_running_stats:
            module.track_running_stats = False
            frozen.append(module)

    handle = nn.modules.module.register_module_forward_pre_hook(freeze)
    try:
        yield
    finally:
        handle.remove()
        for module in frozen:
            module.track_running_stats = True


def _hold(parameters: Sequence[nn.Parameter], tensors: Sequence[Tensor]) -> None:
    for p, tensor in zip(parameters, tensors, strict=True):
        p.data = tensor


@contextmanager
def _replayed_generators(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Afterwards torch's generators stand where they stood before, on the CPU and on the parameters' devices."""
    kinds = {p.device.type for p in parameters}
    mps = torch.mps.get_rng_state() if "mps" in kinds else None  # fork_rng leaves MPS out
    with torch.random.fork_rng(devices={p.device for p in parameters if p.device.type == "cuda"}):
        yield
    if mps is not None:
        torch.mps.set_rng_state(mps)
