r"""Sharpness-aware minimisation around any torch optimiser (Eqs. 6-8; Foret et al., ICLR 2021).

SAM looks for weights whose whole neighbourhood has a low loss,

    min_theta max_{||eps||_2 <= rho} L(theta + eps)                                      (Eq. 6)

and approximates the inner maximum by one step along the gradient,

    eps* = rho grad L(theta) / ||grad L(theta)||_2                                       (Eq. 7)
    grad L_SAM(theta) = grad L(theta + eps*)                                             (Eq. 8)

so each step costs two forward and backward passes. The norm runs over all parameters of the optimiser at once.
Read ``rho`` against the weights: in float32 a perturbation below about 1e-7 of a weight rounds away.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from igm.flat import uncompiled

NORMS = ("all", "tensor")
RADIUS = ("rho", "adaptive", "norm")  # what says how far the perturbation goes

# What torch says of every hook on all modules, such as that of ``frozen_batchnorm_statistics``: it is meant.
warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global hooks")


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
    the scale. Autocast may be around the closure's computation or around the whole step. Networks may be under
    torch.compile; the step in which a parameter first has a gradient runs uncompiled.

    Args:
        base_optimizer: any torch optimiser; it makes the step.
        rho: the radius of Eq. 6, >= 0, in units of the weights; 0 is the base optimiser in one pass.
        adaptive: scale the perturbation by the weights (ASAM, Kwon et al., ICML 2021).
        norm: ``"all"``, the norm of Eq. 7 over all parameters; or ``"tensor"``, each tensor by its own norm, so
            that every tensor moves by rho, as the authors' code of IGM does.

    Raises:
        TypeError: the base is no optimiser, or one that evaluates the loss itself, as LBFGS does.
        ValueError: rho is negative or not a number, or an unknown norm.
    """

    # What a copy takes along, beside what torch's optimisers do.
    own: ClassVar[tuple[str, ...]] = ("base_optimizer", *RADIUS)

    def __init__(
        self, base_optimizer: Optimizer, rho: float, adaptive: bool = False, norm: str = "all"
    ):
        kind = type(base_optimizer).__name__
        if not isinstance(base_optimizer, Optimizer):
            raise TypeError(
                f"give an optimiser, such as torch.optim.SGD(model.parameters(), 0.1), and not a {kind}"
            )
        if isinstance(base_optimizer, LBFGS | SAM):
            raise TypeError(f"{kind} evaluates the loss itself: give SGD, Adam or another one")
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
        # What earlier steps met: parameters that had a gradient, and all modules of the networks that ran.
        self._met: set[Tensor] = set()
        self._modules: set[nn.Module] = set()

    def __getstate__(self) -> dict:
        return super().__getstate__() | {name: getattr(self, name) for name in self.own}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._share()

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:
        """One step. ``closure`` clears the gradients, computes the loss, calls backward and returns the loss.

        Returns the loss at the unperturbed weights.

        Raises:
            TypeError: there is no closure.
        """
        if closure is None:
            raise TypeError(
                "this optimiser computes the loss twice: give step a closure, or call gradient(closure) "
                "and let a GradScaler step base_optimizer"
            )
        loss = self.gradient(closure)
        self.base_optimizer.step()
        return loss

    def gradient(self, closure: Callable[[], Tensor]) -> Tensor:
        """Leaves the gradient of Eq. 8 in the parameters' ``.grad`` and does not step; returns the loss at theta.

        It is what IGM needs: the flat directions modify this gradient before the base optimiser uses it (Eq. 9).
        """
        self._opt_called = True  # for a scheduler of this optimiser: the base one steps next
        # With rho = 0 the random numbers are drawn once and nothing is to be replayed.
        replayed = _replayed_generators(self.parameters) if self.rho else nullcontext()
        with replayed, _one_pass(compiled=bool(self._met) or not self.rho):
            loss = closure()
        if isinstance(loss, Tensor):  # it may be a number
            loss = loss.detach()
        moved = [p for p in self.parameters if p.grad is not None]
        if self.rho == 0 or not moved:
            return loss
        weights, gradients = [p.data for p in moved], [p.grad for p in moved]
        elsewhere = perturbation(weights, gradients, self.rho, self.adaptive, self.norm)
        torch._foreach_add_(elsewhere, weights)  # theta + eps*; theta itself is only put aside
        # A network that is new here runs uncompiled once, and shows its BatchNorm layers.
        known = self._met.issuperset(moved)
        try:
            _hold(moved, elsewhere)
            with frozen_batchnorm_statistics(self._modules), _one_pass(compiled=known):
                closure()  # grad L(theta + eps*), Eq. 8
        finally:
            _hold(moved, weights)
        self._met.update(moved)
        return loss

    def state_dict(self) -> dict:
        """The base optimiser's state, with rho, adaptive and norm."""
        own = {name: getattr(self, name) for name in RADIUS}
        return {"base": self.base_optimizer.state_dict()} | own

    def load_state_dict(self, state_dict: dict) -> None:
        """Goes on from a state; that of a plain optimiser leaves rho, adaptive and norm as they are."""
        self.base_optimizer.load_state_dict(state_dict.get("base", state_dict))
        for name in RADIUS:
            setattr(self, name, state_dict.get(name, getattr(self, name)))
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
    directions = [g if g.layout == torch.strided else g.to_dense() for g in gradients]
    sizes = torch._foreach_abs(weights) if adaptive else None
    directions = torch._foreach_mul(directions, sizes) if adaptive else directions
    directions, norms = _measured(directions, norm)
    scale = torch.where(norms == 0, 0, rho / norms)  # no `if`: a GPU would have to wait for it
    if adaptive:
        directions = torch._foreach_mul(directions, sizes)
    return list(torch._foreach_mul(directions, scale if norm == "all" else list(scale.unbind())))


def _measured(directions: Sequence[Tensor], norm: str) -> tuple[Sequence[Tensor], Tensor]:
    """Vectors and their norms, (), or (tensors,) for ``norm="tensor"``.

    Where sums of squares could over- or underflow, the vectors are first divided by their largest entry.
    """

    def norms(of: Sequence[Tensor], order: float = 2.0) -> Tensor:
        each = torch.stack(torch._foreach_norm(of, order))
        return torch.linalg.vector_norm(each, order) if norm == "all" else each

    kind = directions[0].dtype
    least = {torch.float64: 1e-150, torch.float16: 1e-3}.get(kind, 1e-15)
    if directions[0].is_cpu:  # a GPU would have to wait for the answer, and is not asked
        found = norms(directions)
        if all(least < x < 1 / least for x in found.flatten().tolist()):
            return directions, found
    largest = norms(directions, math.inf)
    usual = (largest > least) & (largest < 1 / least)
    divisor = torch.where(usual, 1, largest.clamp(min=torch.finfo(kind).tiny))
    directions = torch._foreach_div(
        directions, divisor if norm == "all" else list(divisor.unbind())
    )
    return directions, norms(directions)


@contextmanager
def frozen_batchnorm_statistics(known: set[nn.Module] | None = None) -> Iterator[None]:
    """Inside, BatchNorm layers in training mode use the batch's statistics but do not record them.

    Args:
        known: modules of networks that may run under torch.compile, where nobody sees them run: BatchNorm layers among
            them are frozen from the beginning. All modules of networks that run uncompiled are added.
    """
    known = set() if known is None else known
    frozen = []

    def freeze(module: nn.Module) -> None:
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and module.training and module.track_running_stats:
            module.track_running_stats = False
            frozen.append(module)

    def look(module: nn.Module, inputs: tuple) -> None:
        if torch.compiler.is_compiling():  # the compiler looks at this, too
            return
        freeze(module)
        if module not in known:
            known.update(module.modules())
            for part in module.modules():
                freeze(part)

    for module in known:
        freeze(module)
    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
        for module in frozen:
            module.track_running_stats = True


@contextmanager
def _one_pass(compiled: bool) -> Iterator[None]:
    """For a forward and backward pass. Where autocast is around a whole step, it would keep its copies of the weights
    in low precision from one pass to the next, and these have moved in between.
    """
    torch.clear_autocast_cache()
    try:
        with torch.enable_grad(), nullcontext() if compiled else uncompiled():
            yield
    finally:
        torch.clear_autocast_cache()


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
