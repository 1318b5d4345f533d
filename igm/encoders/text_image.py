"""Encoders of texts and images by transformers: BERT (Devlin et al., NAACL 2019) and CLIP (Radford et al., ICML 2021).

A text is a row of token ids, padded at its end. The attention mask is found from the ids alone, so that a batch needs
no second tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Models whose configuration is the default of transformers: it needs no file.
KNOWN = {
    "bert": ("bert-base-uncased", "google-bert/bert-base-uncased"),
    "clip": ("openai/clip-vit-base-patch32",),
}
# As fast as others for short texts, and the only one with the second derivatives that a Hessian needs.
ATTENTION = "eager"
OPTIONS = {"bert": "network.text_encoder", "clip": "network.clip"}


class Freezable(nn.Module):
    """An encoder whose pretrained part, the module of the name ``inner``, may stay as it is."""

    inner: str
    frozen = False

    def freeze(self, frozen: bool = True) -> Freezable:
        """The inner module is not trained, and drops nothing out; a layer behind it is trained as ever."""
        self.frozen = frozen
        self.get_submodule(self.inner).requires_grad_(not frozen)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Freezable:
        super().train(mode)
        if self.frozen:
            self.get_submodule(self.inner).eval()
        return self


class TextEncoder(Freezable):
    """BERT's last hidden state at [CLS], and a layer behind it: token ids, (n, L) int64 -> (n, d).

    Places with the padding id of BERT's configuration are not attended to.

    Args:
        bert: a ``BertModel`` of transformers.
        projection: the layer; None for none, d is then BERT's hidden size.
    """

    inner = "bert"

    def __init__(self, bert: nn.Module, projection: nn.Module | None = None):
        super().__init__()
        self.bert = bert
        self.projection = nn.Identity() if projection is None else projection
        self.d = getattr(projection, "out_features", bert.config.hidden_size)

    def forward(self, ids: Tensor) -> Tensor:
        _check_ids(ids, self.bert.config)
        mask = ids != self.bert.config.pad_token_id  # (n, L)
        longest = max(1, int(mask.any(0).sum()))  # what is padding in all texts only costs time
        ids, mask = ids[:, :longest], mask[:, :longest]
        states = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return self.projection(states[:, 0])


class ClipText(Freezable):
    """CLIP's text embedding: token ids, (n, L) int64 -> (n, projection_dim).

    It is taken at the first end-of-text id. CLIP's tokenizer pads with that very id, so a text ends where it first
    comes. Configurations made before mid 2023 have a wrong end-of-text id, 2; there it is a row's largest, as in
    transformers.

    Args:
        clip: a ``CLIPTextModelWithProjection`` of transformers.
    """

    inner = "clip"

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip
        self.d = clip.config.projection_dim

    def forward(self, ids: Tensor) -> Tensor:
        _check_ids(ids, self.clip.config)
        eos = self.clip.config.eos_token_id
        ends = ids == (ids.amax(1, keepdim=True) if eos == 2 else eos)  # (n, L)
        mask = ends.cumsum(1) - ends.long() == 0  # up to and including the first end
        return self.clip(input_ids=ids, attention_mask=mask.long()).text_embeds


class ClipImage(nn.Module):
    """CLIP's image embedding: (n, 3, h, w) -> (n, projection_dim).

    Args:
        clip: a ``CLIPVisionModelWithProjection`` of transformers.
    """

    def __init__(self, clip: nn.Module):
        super().__init__()
        self.clip = clip
        self.d = clip.config.projection_dim

    def forward(self, x: Tensor) -> Tensor:
        return self.clip(pixel_values=x).image_embeds


def bert_encoder(
    name: str | Path, d: int | None = None, pretrained: bool = True, frozen: bool = False
) -> TextEncoder:
    """A BERT by its folder or name, see ``load_bert``, which also says what is raised.

    Args:
        d: of the feature, by a linear layer behind [CLS]; None for [CLS] itself.
        frozen: BERT stays as it is, and only the linear layer is trained.
    """
    # The projection comes first: it is then the same with random and with pretrained weights.
    hidden = load_config("bert", name).hidden_size
    projection = None if d is None else nn.Linear(hidden, d)
    return TextEncoder(load_bert(name, pretrained), projection).freeze(frozen)


def load_config(kind: str, name: str | Path) -> Any:
    """The configuration of a ``"bert"`` or a ``"clip"``; that of a known model needs no network.

    Returns:
        a ``BertConfig`` or a ``CLIPConfig`` of transformers.

    Raises:
        FileNotFoundError: the folder or its config.json is not there.
        ValueError: the file is damaged, or of another kind of model.
        OSError: a name that is not on this machine and cannot be downloaded.
    """
    from transformers import BertConfig, CLIPConfig

    config = {"bert": BertConfig, "clip": CLIPConfig}[kind]
    folder = _folder(kind, name)
    if folder is None and str(name) in KNOWN[kind]:
        return config(attn_implementation=ATTENTION)
    if folder is not None and not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is not there: {_remedy(kind)}")
    try:
        content, _ = _local_first(config.get_config_dict, folder, name)
        found = content.get("model_type", kind)
        if found == kind:
            return config.from_dict(content, attn_implementation=ATTENTION)
    except Exception as error:  # whatever a damaged file or a missing network leads to
        raise _failure(kind, name, error) from error
    raise ValueError(f"{OPTIONS[kind]} {name} is of the kind {found}, not {kind}: {_remedy(kind)}")


def load_bert(name: str | Path, pretrained: bool = True) -> nn.Module:
    """A ``BertModel`` without its pooler, through which the [CLS] state does not go; raises as ``load_config`` does."""
    from transformers import BertModel

    config = load_config("bert", name)
    if not pretrained:
        return BertModel(config, add_pooling_layer=False)
    return _load("bert", name, BertModel, config, add_pooling_layer=False)


def load_clip_text(name: str | Path, pretrained: bool = True) -> nn.Module:
    """CLIP's text tower, a ``CLIPTextModelWithProjection``; raises as ``load_config`` does."""
    from transformers import CLIPTextModelWithProjection

    return _tower(name, CLIPTextModelWithProjection, "text_config", pretrained)


def load_clip_image(name: str | Path, pretrained: bool = True) -> nn.Module:
    """CLIP's image tower, a ``CLIPVisionModelWithProjection``; raises as ``load_config`` does."""
    from transformers import CLIPVisionModelWithProjection

    return _tower(name, CLIPVisionModelWithProjection, "vision_config", pretrained)


def _tower(name: str | Path, tower: type, part: str, pretrained: bool) -> nn.Module:
    whole = load_config("clip", name)
    config = getattr(whole, part)
    config.projection_dim = whole.projection_dim  # the parts' own may be left at their default
    return _load("clip", name, tower, config) if pretrained else tower(config)


def _load(kind: str, name: str | Path, model: type, config: Any, **options) -> nn.Module:
    """A pretrained model in float32, with no weight left at random."""
    from transformers import logging

    folder = _folder(kind, name)
    if folder is not None and not any(
        file.name.startswith(("model.safetensors", "pytorch_model.bin"))
        for file in folder.iterdir()
    ):
        raise FileNotFoundError(f"{folder / 'model.safetensors'} is not there: {_remedy(kind)}")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # else it lists the other weights of the file, e.g. those of the pooler
    try:
        loaded, report = _local_first(
            model.from_pretrained, folder, name, config=config, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged or misfit file, a missing network: many kinds
        raise _failure(kind, name, error) from error
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{OPTIONS[kind]} {name} lacks the weights {', '.join(missing[:3])}{more}: "
            f"{_remedy(kind)}"
        )
    return loaded.to(torch.float32).train()


def _local_first(load: Callable, folder: Path | None, name: str | Path, **options) -> Any:
    """``load`` from a folder; for a name from what was downloaded before, else from the hub.

    Without a network transformers asks for one file after the other, each again and again, for half a minute and more.
    So the hub is asked once before, whether it is there and has the model.
    """
    if folder is not None:
        return load(folder, local_files_only=True, **options)
    try:
        return load(name, local_files_only=True, **options)
    except Exception:  # not all of it is here
        from huggingface_hub import HfApi

        HfApi().model_info(str(name), timeout=10)
        return load(name, local_files_only=False, **options)


def _folder(kind: str, name: str | Path) -> Path | None:
    """The local folder that a name stands for; None where it is a name on the Hugging Face hub."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or str(name).startswith((".", "~")) or len(folder.parts) > 2:
        raise FileNotFoundError(f"{OPTIONS[kind]}: there is no folder {folder}: {_remedy(kind)}")
    return None


def _failure(kind: str, name: str | Path, error: Exception) -> Exception:
    lines = str(error).splitlines() or [type(error).__name__]
    local = _folder(kind, name) is not None
    problem = "cannot be loaded" if local else "is no local folder and cannot be loaded by name"
    message = f"{OPTIONS[kind]} {name} {problem} ({lines[0]}): {_remedy(kind)}"
    return (ValueError if local else OSError)(message)


def _remedy(kind: str) -> str:
    """What to do where a model is not there: files, their place, and how to do without them."""
    option, known = OPTIONS[kind], KNOWN[kind]
    return (
        "download config.json, model.safetensors (or pytorch_model.bin) and the tokenizer's files, e.g. "
        f"of https://huggingface.co/{known[-1]}, into a folder and give it as {option}; or, to begin at "
        f"random without any file, set network.pretrained to false and {option} to {known[0]}"
    )


def _check_ids(ids: Tensor, config: Any) -> None:
    if ids.is_floating_point():
        raise ValueError(
            f"a text encoder reads token ids, (n, L) int64, and got numbers of {ids.dtype}: give its "
            "folder as reading.tokenizer, too, where the data is loaded"
        )
    longest = config.max_position_embeddings
    if ids.shape[1] > longest:
        raise ValueError(
            f"the texts have {ids.shape[1]} tokens, the encoder takes {longest}: cut them shorter"
        )
