"""The encoders of the paper's five data sets, each with the paper's head, as a model that `igm.train` takes.

`audio_video` is for CREMA-D and Kinetics-Sounds, `text_image` for Twitter2015 and Sarcasm, `gestures` for NVGesture.
Each part starts from its own random state, a function of (seed, modality), so a modality's weights are the same
whatever else is in the model. Where weights are pretrained, the network can also be built without them, with the same
names: a trained run is rebuilt from its own weights alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import nn

from igm.encoders.i3d import I3D, depth_i3d, load_i3d
from igm.encoders.resnet import LAYERS, FrameResNet, ImageEncoder, image_resnet
from igm.encoders.small import seeded_network
from igm.encoders.text_image import (
    ClipImage,
    ClipText,
    bert_encoder,
    load_clip_image,
    load_clip_text,
    load_config,
)
from igm.models import LateFusion

__all__ = ["audio_video", "gestures", "text_image"]

TEXT_D = {"released": None, "paper": 1024}  # by the kind of feature; None for BERT's own
DEPTH_INITS = ("random", "rgb-mean")
WIDTHS = {"i3d": 1.0, "tiny": 1 / 8}  # of the I3D


def audio_video(
    classes: int,
    modalities: Sequence[str] = ("audio", "video"),
    *,
    size: str = "resnet18",
    shared_head: bool = False,
    seed: int = 0,
) -> LateFusion:
    """A ResNet-18 for each modality, from scratch.

    Audio is a spectrogram, (n, 1, frequencies, times), video some frames, (n, frames, 3, h, w), whose features are
    averaged. Both give (n, 512).

    Args:
        size: ``"resnet18"``, or ``"tiny"`` with one block a layer, for tests and small machines.
        shared_head: one head for all modalities instead of one each.

    Raises:
        ValueError: an unknown modality or size.
    """
    _check("network.size", size, LAYERS)
    encoders = {
        "audio": partial(FrameResNet, 1, size),
        "video": partial(FrameResNet, 3, size),
    }
    return _late_fusion(encoders, modalities, classes, shared_head, seed)


def text_image(
    classes: int,
    modalities: Sequence[str] = ("text", "image"),
    *,
    feature: str = "released",
    text_encoder: str | Path = "bert-base-uncased",
    image_encoder: str | Path = "resnet50",
    clip: str | Path | None = None,
    pretrained: bool = True,
    frozen: bool = False,
    shared_head: bool = False,
    seed: int = 0,
) -> LateFusion:
    """BERT and ResNet-50, or the two towers of a CLIP (the paper's Figure 5 (b)).

    Text is token ids, (n, L) int64, padded with the encoder's padding id; images are (n, 3, h, w).

    Args:
        feature: ``"released"``, as in the authors' code: BERT's [CLS] state itself, d = 768, and the 1000 logits of
            the ResNet through a linear layer to d. ``"paper"``, by its text: d = 1024, a linear layer behind [CLS]
            and one behind the ResNet's 2048 pooled features.
        text_encoder: a folder with config.json and the weights of a BERT, or its name on the Hugging Face hub.
        image_encoder: ``"resnet50"`` for torchvision's ImageNet weights, the path of such a file, or ``"tiny"`` for
            a small random one.
        clip: a folder or name of a CLIP, in place of the three above; d is its projection's size.
        pretrained: False for random weights: of the encoders only the configuration is then needed, and not even
            that for bert-base-uncased, openai/clip-vit-base-patch32 and the ResNet.
        frozen: the text encoder stays as it is: of the text only the layers behind it are trained.
        shared_head: one head for all modalities instead of one each.

    Raises:
        ValueError: an unknown modality or feature, or weights that are damaged or do not fit.
        FileNotFoundError: a folder or file is not there.
        OSError: weights are neither on this machine nor can they be downloaded.
    """
    _check("network.feature", feature, TEXT_D)
    if clip is not None:
        encoders = {
            "text": lambda: ClipText(load_clip_text(clip, pretrained)),
            "image": lambda: ClipImage(load_clip_image(clip, pretrained)),
        }
    else:
        encoders = {
            "text": lambda: bert_encoder(text_encoder, TEXT_D[feature], pretrained),
            "image": lambda: _image(feature, text_encoder, image_encoder, pretrained),
        }
    model = _late_fusion(encoders, modalities, classes, shared_head, seed)
    if frozen and "text" in model.encoders:
        model.encoders["text"].freeze()
    return model


def gestures(
    classes: int,
    modalities: Sequence[str] = ("depth", "rgb", "flow"),
    *,
    rgb_weights: str | Path | None = None,
    flow_weights: str | Path | None = None,
    depth_init: str = "random",
    time_steps: int | None = 8,
    size: str = "i3d",
    shared_head: bool = False,
    seed: int = 0,
) -> LateFusion:
    """An I3D for each modality: depth (n, 1, T, h, w), rgb (n, 3, T, h, w), flow (n, 2, T, h, w) -> (n, 1024).

    Args:
        rgb_weights: the public rgb_imagenet.pt, also for depth; None to begin at random.
        flow_weights: flow_imagenet.pt; None to begin at random.
        depth_init: the first convolution of the depth network, which has no counterpart among the weights:
            ``"random"``, as in the authors' code, together with the batch normalisation behind it, or ``"rgb-mean"``,
            the mean of the RGB filters over their input channels. Without ``rgb_weights`` there is nothing to average,
            and it is random.
        time_steps: the steps in time, of eight frames each, over which the feature is averaged: the first ones; null
            for all. The authors' code has 8 (``AvgPool3d((8, 7, 7))``): all of the 64 frames of training, and not the
            last two of the ten steps that the 80 frames of the test give.
        size: ``"i3d"``, or ``"tiny"`` with an eighth of its filters and 128 features.
        shared_head: one head for all modalities instead of one each.

    Raises:
        ValueError: an unknown modality or option, or weights that are damaged or do not fit.
        FileNotFoundError: a file of weights is not there.
    """
    _check("network.size", size, WIDTHS)
    _check("network.depth_init", depth_init, DEPTH_INITS)
    if time_steps is not None and time_steps < 1:
        raise ValueError(
            f"network.time_steps must be 1 or above, or null for all, got {time_steps}"
        )
    width = WIDTHS[size]

    def i3d(channels: int, weights: str | Path | None, option: str) -> I3D:
        if weights is None:
            return I3D(channels, width=width)
        return load_i3d(weights, channels, width=width, option=option)

    encoders = {
        "depth": partial(depth_i3d, rgb_weights, depth_init, width),
        "rgb": partial(i3d, 3, rgb_weights, "network.rgb_weights"),
        "flow": partial(i3d, 2, flow_weights, "network.flow_weights"),
    }
    model = _late_fusion(encoders, modalities, classes, shared_head, seed)
    for encoder in model.encoders.values():
        encoder.time_steps = time_steps
    if size == "tiny":
        # It is trained for a few steps: statistics over a hundred would come too late.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.momentum = 0.1
    return model


def _image(
    feature: str, text_encoder: str | Path, name: str | Path, pretrained: bool
) -> ImageEncoder:
    if feature == "released":
        projection = nn.Linear(1000, load_config("bert", text_encoder).hidden_size)
        return ImageEncoder(image_resnet(name, pretrained), projection)
    projection = nn.Linear(2048, 1024)
    resnet = image_resnet(name, pretrained)
    resnet.fc = nn.Identity()
    return ImageEncoder(resnet, projection)


def _late_fusion(
    encoders: Mapping[str, Callable[[], nn.Module]],
    modalities: Sequence[str],
    classes: int,
    shared_head: bool,
    seed: int,
) -> LateFusion:
    """Builds the encoders of some modalities and their heads; an encoder's ``d`` is the size of its feature."""
    for name in modalities:
        _check("modality", name, encoders)
    if not modalities or len(set(modalities)) < len(modalities):
        raise ValueError(
            f"modalities are {list(modalities)}: give each of {', '.join(encoders)} at most once, "
            "and at least one"
        )
    chosen = {name: encoders[name] for name in modalities}
    return seeded_network(chosen, classes, shared_head=shared_head, seed=seed)


def _check(option: str, value: str, allowed: Sequence[str] | Mapping) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {option} {value!r}: use one of {', '.join(allowed)}")
