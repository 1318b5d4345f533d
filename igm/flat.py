r"""Flat directions: from the features of one modality to a matrix that modifies gradients (Eqs. 2-5).

A linear layer that sees the input z changes its output by dW^T z when its weight changes by dW. A change along a
direction that the inputs hardly ever point in leaves the output alone: such a direction is *flat*. The moment matrix
of the inputs tells which directions those are,

    Ybar = sum_t  zbar_t zbar_t^T,                zbar_t = mean of batch t               (Eq. 2)
    Ybar = V Lambda V^T                                                                  (Eq. 3)

and the modification matrix keeps gradients along them while it damps the others,

    T = V Sigma V^T,   Sigma = exp(-tau (Lambda - lambda_min I) / (lambda_max - lambda_min))   (Eq. 4)
    grad_W  <-  T grad_W                                                                 (Eq. 5)

The paper writes a weight as d x c (input x output). torch.nn.Linear stores it as c x d, so here T multiplies
the gradient from the right.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STATISTICS = ("batch-mean", "sample")


class FeatureCovariance:
    """Collects the input moment of some layers while a model runs (Eq. 2).

    Use it as a context manager around forward passes, more than once to go on adding. Nothing is kept of the batches
    but one d x d sum a layer, in float64: 8 d^2 bytes. A batch costs 2 d^2 operations a layer, times its rows with
    ``statistic="sample"``, beside the forward pass. A network under torch.compile runs uncompiled inside.

        with FeatureCovariance({"fc1": model.head.fc1}) as covariance, torch.no_grad():
            for batch in batches:
                model(batch)
        covariance.matrices["fc1"]          # (d, d), float64

    Args:
        layers: name -> ``nn.Linear`` (d = in_features) or ``nn.Conv2d`` (d = in_channels * kh * kw, in the order of
            ``weight.view(out, -1)``; the input is unfolded into patches).
        statistic: ``"batch-mean"`` sums the outer product of each batch's mean input, as the paper does;
            ``"sample"`` sums those of the single inputs.
        center: subtract the mean of what is summed: the moment becomes a covariance, up to its scale, which Eq. 4
            does not depend on. A feature that is constant up to rounding gets zeros. The paper does not centre.

    Raises:
        ValueError: unknown statistic, or a grouped convolution.
        TypeError: a layer of another type.
    """

    def __init__(
        self, layers: Mapping[str, nn.Module], statistic: str = "batch-mean", center: bool = False
    ):
        if statistic not in STATISTICS:
            raise ValueError(f"unknown statistic {statistic!r}: use one of {', '.join(STATISTICS)}")
        for name, layer in layers.items():
            _check_layer(name, layer)
        self.layers = dict(layers)
        self.statistic = statistic
        self.center = center
        # layer -> the sums of z z^T, (d, d), of z, (d,), and of 1, (1,), in float64
        self._sums: dict[str, list[Tensor]] = {}
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._hooks.enter_context(watching(self.layers, self._add))
        return self

    def __exit__(self, *exception) -> None:
        self._hooks.close()

    @property
    def matrices(self) -> dict[str, Tensor]:
        """name -> (d, d) moment in float64; a layer that saw no input is left out, with a warning."""
        if unseen := self._unseen():
            warnings.warn(unseen, stacklevel=2)
        if self.center:
            return {name: _centred(*sums) for name, sums in self._sums.items()}
        return {name: outer for name, (outer, _, _) in self._sums.items()}

    def add(self, other: Self) -> None:
        """Adds the sums of another collection, as if its inputs had passed here (Algorithm 1, over rounds)."""
        for name, theirs in other._sums.items():
            for mine, more in zip(self._of(name), theirs):
                mine += more.to(mine)

    def reduce(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replaces every sum by ``total`` of it: the sum over the processes that saw parts of the data.

        Every process must call it, also one that saw no batch.

        Raises:
            ValueError: no layer saw an input in any process.
        """
        for name in self.layers:
            self._sums[name] = [total(x) for x in self._of(name)]
            if not self._sums[name][-1]:  # no process saw an input
                del self._sums[name]
        if self.layers and not self._sums:
            raise ValueError(self._unseen())

    def state_dict(self) -> dict[str, list[Tensor]]:
        """The sums by layer, to go on from another day."""
        return {name: list(sums) for name, sums in self._sums.items()}

    def load_state_dict(self, state_dict: Mapping[str, list[Tensor]]) -> None:
        """Takes a copy of the sums, to where the layers are."""
        self._sums.clear()
        for name, sums in state_dict.items():
            for mine, theirs in zip(self._of(name), sums, strict=True):
                mine.copy_(theirs)

    def _unseen(self) -> str:
        """Which layers saw no input, in a sentence; empty where all did."""
        names = ", ".join(name for name in self.layers if name not in self._sums)
        return names and (
            f"no input passed the layers {names}: there is no moment of them, and T is the identity: run the "
            "network inside the block, and let it call these layers"
        )

    def _of(self, name: str) -> list[Tensor]:
        """The sums of a layer, at first zero."""
        if name not in self._sums:
            if name not in self.layers:
                raise ValueError(
                    f"no layer {name!r} for these sums: the layers are {', '.join(self.layers)}"
                )
            layer = self.layers[name]
            d, place = layer.weight[0].numel(), float64_device(layer)
            zeros = [
                torch.zeros(*n, dtype=torch.float64, device=place) for n in ((d, d), (d,), (1,))
            ]
            self._sums[name] = zeros
        return self._sums[name]

    @torch.no_grad()
    def _add(self, name: str, layer: nn.Module, z: Tensor) -> None:
        if not z.numel():  # an empty batch has no mean
            return
        outer, total, count = self._of(name)
        z = z.detach().to(outer)  # float64, and the sums' device
        if isinstance(layer, nn.Linear):
            z = z.reshape(-1, z.shape[-1])
        elif z.ndim == 3:  # a single image
            z = z.unsqueeze(0)
        if self.statistic == "batch-mean":
            z = z.mean(0, keepdim=True)  # one row, (1, ...): the batch's mean input
        rows = _rows(layer, z)  # (rows, d)
        outer.addmm_(rows.T, rows)  # Eq. 2
        total += rows.sum(0)
        count += len(rows)


def modification_matrix(covariance: Tensor, tau: float = 0.4) -> Tensor:
    """The modification matrix T of a feature moment (Eq. 4).

    The weight of an eigendirection falls from 1 at the smallest eigenvalue to exp(-tau) at the largest. The matrix is
    symmetric positive semi-definite, so its SVD is its eigendecomposition, which ``eigh`` finds faster, in float64.

    Args:
        covariance: (d, d), symmetric; a moment or covariance as ``FeatureCovariance`` collects it.
        tau: how strongly sharp directions are damped, > 0.

    Returns:
        T, (d, d), symmetric, with eigenvalues in [exp(-tau), 1], in the dtype of ``covariance``. Where all
        eigenvalues are equal no direction is flatter than another and T is the identity. With tau = inf, T projects
        onto the directions of the smallest eigenvalue.

    Raises:
        ValueError: tau is not a positive number, or the matrix is not square, not of real numbers or not finite.
    """
    if not tau > 0:
        raise ValueError(
            f"tau must be above 0, got {tau}: a small tau such as 1e-3 damps almost nothing"
        )
    if covariance.ndim != 2 or covariance.shape[0] != covariance.shape[1] or not covariance.numel():
        raise ValueError(f"the covariance must be a square matrix, got {tuple(covariance.shape)}")
    if not covariance.is_floating_point():
        raise ValueError(f"the covariance must be of real numbers, got {covariance.dtype}")
    if not torch.isfinite(covariance).all():
        raise ValueError("the covariance holds NaN or infinity: look at the features it is made of")
    # What rounding alone spreads equal eigenvalues to. A half-precision moment is no exception: its sums were made
    # in float32 or better, and eps of its own dtype would call all of its spectrum rounding.
    eps = torch.finfo(torch.promote_types(covariance.dtype, torch.float32)).eps
    matrix = _ordinary(covariance.double())
    eigenvalues, V = torch.linalg.eigh((matrix + matrix.T) / 2)  # ascending (d,), (d, d)
    smallest, largest = eigenvalues[0], eigenvalues[-1]
    spread = largest - smallest
    rounding = 10 * len(matrix) * eps * largest.abs()
    if spread <= rounding:
        return torch.eye(len(matrix), dtype=covariance.dtype, device=covariance.device)
    above = eigenvalues - smallest
    steepness = tau / spread
    weights = torch.exp(-steepness * above)  # the diagonal of Sigma, (d,)
    if not steepness * rounding < 1:  # tau is so large that it would tell equal eigenvalues apart
        weights = torch.where(above <= rounding, 1.0, weights)
    T = (V * weights) @ V.T  # Eq. 4
    return ((T + T.T) / 2).to(covariance.dtype)


def _ordinary(matrix: Tensor) -> Tensor:
    """A matrix, or its multiple with the largest entry 1 where sums of its entries could over- or underflow.

    Eq. 4 does not depend on the scale.
    """
    size = matrix.abs().max()
    return matrix if 1e-100 < size < 1e100 or size == 0 else matrix / size


@torch.no_grad()
def modify_gradients(layers: Mapping[str, nn.Module], matrices: Mapping[str, Tensor]) -> None:
    """Multiplies the weight gradients of some layers by their modification matrices, in place (Eq. 5).

    A layer without a matrix or without a gradient is left alone (T = I); biases are never changed.

    Args:
        layers: name -> ``nn.Linear`` or ``nn.Conv2d``.
        matrices: name -> (d, d), with d as in ``FeatureCovariance``.

    Raises:
        ValueError: a matrix does not fit its layer, or two layers share a weight.
        TypeError: a layer of another type, or one whose weight is no parameter.
    """
    acting = {name: layer for name, layer in layers.items() if name in matrices}
    check_weights(acting)
    for name, layer in acting.items():
        if (grad := layer.weight.grad) is not None:
            grad.copy_(times_matrix(name, grad, matrices[name]))  # Eq. 5


def times_matrix(name: str, gradient: Tensor, T: Tensor) -> Tensor:
    """T applied to the weight gradient of a layer, which is stored out x in: (out, ...) -> (out, ...) (Eq. 5).

    Raises:
        ValueError: T, (d, d), does not fit the layer, which has that name.
    """
    flat = gradient.reshape(len(gradient), -1)  # (out, d)
    if T.shape != (flat.shape[1], flat.shape[1]):
        raise ValueError(
            f"layer {name!r} takes {flat.shape[1]} inputs, its matrix is {tuple(T.shape)}: "
            "collect the covariance from a layer of the same size"
        )
    return (flat @ T.to(flat)).reshape(gradient.shape)


def check_weights(layers: Mapping[str, nn.Module]) -> None:
    """Raises TypeError and ValueError where the weight gradients of these layers cannot be modified one by one."""
    names: dict[int, str] = {}
    for name, layer in layers.items():
        _check_layer(name, layer)
        if not isinstance(layer.weight, nn.Parameter):
            raise TypeError(
                f"layer {name!r} computes its weight, as weight_norm and pruning do, so T cannot act on its "
                "gradient: leave the layer out, or take that off"
            )
        other = names.setdefault(id(layer.weight), name)
        if other != name:
            raise ValueError(
                f"the layers {other!r} and {name!r} share one weight, and T would act on its gradient twice: "
                "leave one out"
            )


@contextmanager
def watching(
    layers: Mapping[str, nn.Module], see: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Inside, forward passes call ``see(name, layer, input)`` for each of the layers, compiled or not."""
    with uncompiled(), ExitStack() as hooks:
        for name, layer in layers.items():

            def look(layer, inputs, named, name=name):
                see(name, layer, inputs[0] if inputs else named["input"])

            hooks.enter_context(layer.register_forward_pre_hook(look, with_kwargs=True))
        yield


def uncompiled() -> AbstractContextManager:
    """Inside, what is under torch.compile runs as it is written, so that hooks on its modules are called."""
    if "torch._dynamo" not in sys.modules:  # slow to load, and without it nothing has been compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def float64_device(layer: nn.Module) -> torch.device:
    """Where sums over a layer's inputs are kept: on its device, but for Apple's MPS, which lacks float64."""
    device = layer.weight.device
    return torch.device("cpu") if device.type == "mps" else device


def _check_layer(name: str, layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise TypeError(
            f"layer {name!r} is a {type(layer).__name__}: only nn.Linear and nn.Conv2d are covered"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ValueError(f"layer {name!r} is a grouped convolution: its input has no single matrix")


def _centred(outer: Tensor, z: Tensor, count: Tensor) -> Tensor:
    """The sum of outer products about the mean, (d, d), from the sums of z z^T, (d, d), of z, (d,), and of 1, (1,)."""
    moment = outer - torch.outer(z, z) / count
    # A sum of n terms is wrong by up to n eps of itself: what is left of a feature below that is rounding.
    rounding = (count + 10) * torch.finfo(outer.dtype).eps * outer.diagonal()
    varies = moment.diagonal() > rounding
    return torch.where(varies[:, None] & varies, moment, 0)


def _rows(layer: nn.Module, z: Tensor) -> Tensor:
    """The inputs that meet the layer's weight, one a row: (rows, d)."""
    if isinstance(layer, nn.Linear):
        return z.reshape(-1, z.shape[-1])
    # Conv2d keeps its padding, "same" included, in the order that F.pad takes.
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    z = F.pad(z, layer._reversed_padding_repeated_twice, mode=mode)
    patches = F.unfold(z, layer.kernel_size, layer.dilation, stride=layer.stride)  # (n, d, places)
    return patches.transpose(1, 2).reshape(-1, patches.shape[1])
