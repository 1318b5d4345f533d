"""ResNets (He et al., CVPR 2016), by torchvision: one for spectrograms and video frames, one for photographs."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet, ResNet50_Weights
from torchvision.models.resnet import BasicBlock, Bottleneck

from igm.encoders.weights import load_weights

LAYERS = {"resnet18": (2, 2, 2, 2), "tiny": (1, 1, 1, 1)}


class FrameResNet(ResNet):
    """A ResNet of basic blocks without its classifier: (n, channels, h, w) -> (n, 512).

    Several frames, (n, frames, channels, h, w), are encoded as one batch and their features averaged. Audio and
    video networks have the same names, so the gradient modification can pass below the heads, too.

    Args:
        channels: of the input: 1 for a spectrogram, 3 for colour.
        size: ``"resnet18"`` or ``"tiny"``, one block a layer.
    """

    d = 512

    def __init__(self, channels: int = 3, size: str = "resnet18"):
        super().__init__(BasicBlock, list(LAYERS[size]))
        self.fc = nn.Identity()
        if channels != 3:
            self.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            return super().forward(x)
        n, frames = x.shape[:2]
        z = super().forward(x.flatten(0, 1))  # (n * frames, 512)
        return z.unflatten(0, (n, frames)).mean(1)


class ImageEncoder(nn.Module):
    """A ResNet and a linear layer behind it: (n, 3, h, w) -> (n, d).

    Args:
        resnet: gives 1000 logits or, with ``fc`` an identity, 2048 features.
        projection: the linear layer to d.
    """

    def __init__(self, resnet: ResNet, projection: nn.Linear):
        super().__init__()
        self.resnet = resnet
        self.projection = projection
        self.d = projection.out_features

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(self.resnet(x))


def image_resnet(name: str | Path = "resnet50", pretrained: bool = True) -> ResNet:
    """ResNet-50 with its 1000-way classifier.

    Args:
        name: ``"resnet50"`` for torchvision's ImageNet weights (IMAGENET1K_V1, downloaded once), the path of such a
            file (.pth, .pt or .safetensors), or ``"tiny"`` for one block a layer, always random.
        pretrained: False for the same network with random weights; a file is then not looked at.

    Raises:
        ValueError: an unknown name, or a file that is damaged or does not fit.
        FileNotFoundError: there is no such file.
        OSError: the weights are not on this machine and cannot be downloaded.
    """
    if name == "tiny":
        return ResNet(Bottleneck, [1, 1, 1, 1])
    if name != "resnet50" and Path(name).suffix not in (".pth", ".pt", ".safetensors"):
        raise ValueError(
            f"unknown network.image_encoder {str(name)!r}: use resnet50, tiny, or the path of ResNet-50 "
            "weights (.pth, .pt or .safetensors)"
        )
    resnet = ResNet(Bottleneck, [3, 4, 6, 3])
    if pretrained:
        path = _imagenet_weights() if name == "resnet50" else name
        load_weights(resnet, path, _REMEDY)
    return resnet


_URL = ResNet50_Weights.IMAGENET1K_V1.url
_REMEDY = (
    f"download {_URL} and give its path as network.image_encoder, or set network.pretrained to "
    "false to begin at random"
)


def _imagenet_weights() -> Path:
    """torchvision's file in the cache of torch.hub, downloaded if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(_URL).name
    if not path.is_file():
        digest = path.stem.rpartition("-")[2]  # the file's name has the beginning of its SHA-256
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(_URL, str(path), hash_prefix=digest)
        except (OSError, RuntimeError, HTTPException) as error:
            raise OSError(
                f"network.image_encoder resnet50 cannot be downloaded ({error}): {_REMEDY}"
            ) from error
    return path
