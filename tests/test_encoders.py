"""encoders/: the networks of the five data sets, against torchvision, transformers and convolutions by hand."""

import itertools
import json
import math
import socket
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18, resnet50

from igm import train
from igm.analysis.landscape import hessian_eigenvalues
from igm.datasets.memory import MemorySet
from igm.encoders.i3d import I3D, SOURCE, SameConv, SameMaxPool, load_i3d
from igm.encoders.networks import _late_fusion, audio_video, gestures, text_image
from igm.encoders.resnet import FrameResNet
from igm.methods import IGMSettings, Interactive, Stage

CLASSES = 3
IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 0, 0]])  # [CLS] ... [SEP], padded with 0
CLIP_IDS = torch.tensor(
    [[30, 4, 5, 31, 31, 31], [30, 4, 5, 6, 7, 31]]
)  # begin ... end, padded with the end


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Every attempt to reach the network fails, and so does the test that made it."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert not attempts


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine without network and with empty caches."""
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def urlopen(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", urlopen)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A tiny BERT in a folder, as save_pretrained leaves it."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(
        vocab_size=20,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP in a folder."""
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("clip")
    size = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    text = size | {
        "hidden_size": 24,
        "vocab_size": 32,
        "max_position_embeddings": 10,
        "bos_token_id": 30,
        "eos_token_id": 31,
    }
    vision = size | {"hidden_size": 20, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def resnet50_file(tmp_path_factory):
    """torchvision's ResNet-50 with random weights, saved as its public file is."""
    torch.manual_seed(1)
    network = resnet50(weights=None)
    path = tmp_path_factory.mktemp("resnet") / "resnet50-0676ba61.pth"
    torch.save(network.state_dict(), path)
    return path


def small(kind: str, **options):
    """A small model of one of the builders, and a batch for it."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(4, *shape, generator=generator)

    if kind == "audio_video":
        inputs = {"audio": draw(1, 33, 40), "video": draw(2, 3, 32, 32)}
        model = audio_video(CLASSES, size="tiny", **options)
    elif kind == "gestures":
        channels = {"depth": 1, "rgb": 3, "flow": 2}
        inputs = {name: draw(c, 8, 32, 32) for name, c in channels.items()}
        model = gestures(CLASSES, size="tiny", **options)
    else:
        ids = CLIP_IDS if "clip" in options else IDS
        inputs = {"text": ids.repeat(2, 1), "image": draw(3, 32, 32)}
        model = text_image(CLASSES, image_encoder="tiny", **options)
    return model, inputs | {"label": torch.tensor([0, 1, 2, 0])}


@pytest.fixture(params=["audio_video", "gestures", "released", "paper", "clip"])
def build(request, bert, clip):
    """build(**options): small models of all kinds in turn, with a batch."""
    options = {
        "released": {"text_encoder": bert, "feature": "released"},
        "paper": {"text_encoder": bert, "feature": "paper"},
        "clip": {"clip": clip},
    }.get(request.param, {})
    return lambda **more: small(request.param, **options, **more)


def equal(a: nn.Module, b: nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------- all builders


def test_every_modality_has_features_and_logits(build):
    model, batch = build()
    model.eval()
    logits = model(batch)
    assert list(logits) == [name for name in batch if name != "label"]
    for name, z in logits.items():
        assert z.shape == (4, CLASSES)
        feature = model[name].encoder(batch[name])
        assert feature.shape == (4, model[name].head.fc1.in_features)
        assert torch.equal(model[name].head(feature), z)
        assert not torch.allclose(feature[0], feature[1])


def test_every_parameter_gets_a_gradient(build):
    model, batch = build()
    assert all(module.training for module in model.modules())
    sum(z.logsumexp(1).sum() for z in model(batch).values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.dtype == torch.float32 and p.requires_grad for p in model.parameters())


def test_a_modality_starts_the_same_whatever_else_is_in_the_model(build):
    whole, batch = build(seed=3)
    names = [name for name in batch if name != "label"]
    for name in names:
        alone, _ = build(seed=3, modalities=[name])
        assert list(alone.modalities) == [name]
        assert equal(alone[name], whole[name])
    backwards, _ = build(seed=3, modalities=names[::-1])
    assert list(backwards.modalities) == names[::-1]
    assert all(equal(backwards[name], whole[name]) for name in names)
    shared, _ = build(seed=3, shared_head=True)
    assert all(equal(shared[name].encoder, whole[name].encoder) for name in names)
    assert len({id(shared[name].head) for name in names}) == 1
    other, _ = build(seed=4)
    assert not any(equal(other[name].head, whole[name].head) for name in names)


def test_networks_of_one_model_start_from_different_weights(build):
    model, _ = build()
    first, *others = model.modalities.values()
    for other in others:
        pairs = list(zip(first.encoder.parameters(), other.encoder.parameters()))
        same = [p for p, q in pairs if p.dim() > 1 and p.shape == q.shape and torch.equal(p, q)]
        assert same == []
        assert not equal(first.head, other.head)


def test_the_global_random_state_is_neither_used_nor_changed(build):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, _ = build()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert equal(first, build()[0])


def test_matrices_pass_between_the_heads_of_all_modalities(build):
    model, batch = build()
    names = [name for name in batch if name != "label"]
    method = Interactive(model, names, IGMSettings.make(rho=0.0))
    for j in names:
        stage = Stage((j,), 1)
        base = torch.optim.SGD(method.parameters(stage), lr=0.01)
        optimizer = method.optimizer(stage, base)
        method.begin_stage(stage, optimizer)
        T = dict(optimizer.matrices)
        torch.manual_seed(0)
        method.gradient(stage, batch, optimizer)
        modified = [layer.weight.grad.clone() for layer in model[j].head_layers().values()]
        if j != names[0]:
            assert list(T) == ["head.fc1", "head.fc2", "head.fc3"]
            optimizer.protect({})  # no moments, no matrix
            torch.manual_seed(0)
            method.gradient(stage, batch, optimizer)
            layers = model[j].head_layers().values()
            for layer, matrix, gradient in zip(layers, T.values(), modified):
                assert torch.allclose(layer.weight.grad @ matrix, gradient, atol=1e-6)
                assert not torch.allclose(layer.weight.grad, gradient, rtol=1e-2, atol=1e-9)
        method.end_stage(stage, [batch])
        assert list(method.covariances[j].matrices) == ["head.fc1", "head.fc2", "head.fc3"]


def test_a_model_is_trained_by_igm(build):
    model, batch = build()
    names = [name for name in batch if name != "label"]
    inputs = {name: batch[name] for name in names}
    data = MemorySet(inputs, batch["label"], [str(k) for k in range(CLASSES)])
    before = {name: p.clone() for name, p in model.named_parameters()}
    settings = {"epochs": 1, "rounds": 1, "batch_size": 4, "device": "cpu", "select": "last"}
    run = train(model, {"train": data, "valid": data}, progress=False, lr=1e-3, **settings)
    assert run.status == "complete" and len(run.history) == len(names)
    unmoved = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
    assert all(name.endswith("bias") for name in unmoved)  # e.g. of keys, which attention ignores


def test_without_pretrained_weights_the_names_and_shapes_are_the_same(bert, clip, tmp_path):
    def shapes(model):
        return {name: w.shape for name, w in model.state_dict().items()}

    for options in ({"text_encoder": bert}, {"text_encoder": bert, "feature": "paper"}):
        whole, batch = small("text_image", **options)
        random, _ = small("text_image", **options, pretrained=False)
        assert shapes(random) == shapes(whole)
        assert not equal(random["text"].encoder.bert, whole["text"].encoder.bert)
        if "feature" in options:  # what is random anyway does not depend on it
            assert equal(random["text"].encoder.projection, whole["text"].encoder.projection)
        assert equal(random["text"].head, whole["text"].head)
        random.load_state_dict(whole.state_dict())
        assert torch.equal(random.eval()(batch)["text"], whole.eval()(batch)["text"])
    whole, random = (small("text_image", clip=clip, pretrained=p)[0] for p in (True, False))
    assert shapes(random) == shapes(whole) and not equal(random, whole)
    torch.save(I3D(3, width=1 / 8).state_dict(), tmp_path / "rgb.pt")
    whole, _ = small("gestures", rgb_weights=tmp_path / "rgb.pt", depth_init="rgb-mean")
    assert shapes(small("gestures", depth_init="rgb-mean")[0]) == shapes(whole)


@pytest.mark.parametrize(
    "builder, options, message",
    [
        (audio_video, {"modalities": ["smell"]}, "modality 'smell': use one of audio, video"),
        (audio_video, {"size": "huge"}, "network.size 'huge': use one of resnet18, tiny"),
        (audio_video, {"modalities": ["audio", "audio"]}, "each of audio, video at most once"),
        (audio_video, {"modalities": []}, "at least one"),
        (gestures, {"modalities": ["video"]}, "modality 'video': use one of depth, rgb, flow"),
        (gestures, {"size": "resnet18"}, "network.size 'resnet18': use one of i3d, tiny"),
        (gestures, {"depth_init": "zero"}, "depth_init 'zero': use one of random, rgb-mean"),
        (text_image, {"modalities": ["audio"]}, "modality 'audio': use one of text, image"),
        (text_image, {"feature": "mean"}, "network.feature 'mean': use one of released, paper"),
        (
            text_image,
            {"modalities": ["image"], "image_encoder": "resnet51"},
            "network.image_encoder 'resnet51': use resnet50, tiny, or the path",
        ),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(builder, options, message):
    with pytest.raises(ValueError, match=message):
        builder(CLASSES, **options)


def test_one_head_needs_features_of_one_size():
    encoders = {"wide": lambda: I3D(1, width=1 / 4), "narrow": lambda: I3D(1, width=1 / 8)}
    assert list(_late_fusion(encoders, ["wide", "narrow"], 3, False, 0).modalities)
    with pytest.raises(ValueError, match="not wide 256, narrow 128: set network.shared_head"):
        _late_fusion(encoders, ["wide", "narrow"], 3, True, 0)


# ---------------------------------------------------------------- audio and video


def test_the_video_network_is_the_resnet_18_of_torchvision():
    torch.manual_seed(5)
    theirs = resnet18(weights=None).eval()
    torch.manual_seed(5)
    ours = FrameResNet(3).eval()
    assert {n: w.shape for n, w in ours.state_dict().items()} == {
        n: w.shape for n, w in theirs.state_dict().items() if not n.startswith("fc.")
    }
    theirs.fc = nn.Identity()
    assert equal(ours, theirs)
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(ours(x), theirs(x))


def test_the_audio_network_sees_one_channel():
    model = audio_video(6).eval()
    audio, video = model["audio"].encoder, model["video"].encoder
    assert audio.conv1.weight.shape == (64, 1, 7, 7)
    assert count(audio) == count(video) - 2 * 64 * 49
    assert audio(torch.randn(1, 1, 257, 188)).shape == (1, 512)
    assert [tuple(layer.weight.shape) for layer in model["audio"].head_layers().values()] == [
        (256, 512), (64, 256), (6, 64)
    ]  # fmt: skip
    # He initialisation, fan-out: variance 2 / (64 * 49), as in torchvision
    assert audio.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 49)), rel=0.05)
    assert list(model["audio"].layers("encoder.layer4")) == list(
        model["video"].layers("encoder.layer4")
    )


def test_a_video_feature_is_the_mean_over_its_frames():
    encoder = audio_video(6, ["video"], size="tiny")["video"].encoder.eval()
    x = torch.randn(2, 3, 3, 32, 32)
    frames = torch.stack([encoder(x[:, i]) for i in range(3)])
    assert torch.allclose(encoder(x), frames.mean(0), atol=1e-6)
    assert torch.allclose(encoder(x[:, [2, 0, 1]]), encoder(x), atol=1e-6)
    assert torch.allclose(encoder(x[:, :1]), encoder(x[:, 0]), atol=1e-6)


# ---------------------------------------------------------------- BERT and ResNet-50


def test_a_text_feature_is_the_cls_state_of_transformers(bert):
    from transformers import BertModel

    theirs = BertModel.from_pretrained(bert).eval()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    expected = theirs(input_ids=IDS, attention_mask=mask).last_hidden_state[:, 0]
    encoder = text_image(3, ["text"], text_encoder=bert)["text"].encoder.eval()
    assert encoder.d == 24
    assert torch.allclose(encoder(IDS), expected, atol=1e-6)
    unmasked = theirs(input_ids=IDS).last_hidden_state[:, 0]
    assert not torch.allclose(unmasked[1], expected[1], atol=1e-3)  # the mask is not idle
    paper = text_image(3, ["text"], text_encoder=bert, feature="paper")["text"].encoder.eval()
    weight, bias = paper.projection.weight, paper.projection.bias
    assert weight.shape == (1024, 24)
    assert torch.allclose(paper(IDS), expected @ weight.T + bias, atol=1e-5)


def test_padding_does_not_change_a_text_feature(bert):
    encoder = text_image(3, ["text"], text_encoder=bert)["text"].encoder.eval()
    padded = F.pad(IDS, (0, 6))
    assert torch.allclose(encoder(padded), encoder(IDS), atol=1e-6)
    assert torch.allclose(encoder(IDS[1:, :3]), encoder(IDS)[1:], atol=1e-6)
    with pytest.raises(ValueError, match="13 tokens, the encoder takes 12: cut them shorter"):
        encoder(F.pad(IDS, (0, 8)))


def test_a_bert_folder_may_be_a_whole_masked_language_model_with_old_names(bert, tmp_path):
    """As bert-base-uncased has it: the prefix bert., the names gamma and beta, and a head for words."""
    new = load_file(bert / "model.safetensors")
    old = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): w
        for name, w in new.items()
    }
    old["cls.predictions.bias"] = torch.zeros(20)
    assert any(name.endswith("LayerNorm.gamma") for name in old)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((bert / "config.json").read_bytes())
    ours, theirs = (text_image(3, ["text"], text_encoder=f) for f in (tmp_path, bert))
    assert equal(ours, theirs)


def test_half_precision_weights_are_trained_in_float32(bert, tmp_path):
    from transformers import BertModel

    BertModel.from_pretrained(bert).half().save_pretrained(tmp_path)
    model = text_image(3, ["text"], text_encoder=tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["bert", "clip"])
def test_a_text_network_has_second_derivatives(kind, bert, clip):
    """The landscape's Hessian needs them; the fused attention kernels have none."""
    options = {"text_encoder": bert} if kind == "bert" else {"clip": clip}
    network = text_image(2, ["text"], **options)["text"].eval()
    ids = IDS if kind == "bert" else CLIP_IDS
    (largest,) = hessian_eigenvalues(network, [(ids, torch.tensor([0, 1]))])
    assert largest.isfinite() and largest > 0


def test_the_image_feature_has_the_size_of_the_text_feature(bert):
    released, _ = small("text_image", text_encoder=bert)
    assert released["image"].encoder.projection.weight.shape == (24, 1000)
    assert released["image"].head.fc1.in_features == released["text"].head.fc1.in_features == 24
    paper, _ = small("text_image", text_encoder=bert, feature="paper")
    assert paper["image"].encoder.projection.weight.shape == (1024, 2048)
    assert paper["image"].head.fc1.in_features == paper["text"].head.fc1.in_features == 1024


def test_at_full_size_random_networks_need_no_file_at_all(offline):
    with torch.device("meta"):  # shapes only
        model = text_image(3, pretrained=False)
        image = text_image(3, ["image"], pretrained=False, feature="paper")["image"]
        clip = text_image(3, clip="openai/clip-vit-base-patch32", pretrained=False)
    text = model["text"].encoder
    assert count(text) == 109_482_240 - 768 * 769  # BERT-base, without its pooler
    assert model["image"].encoder.projection.weight.shape == (768, 1000)
    assert count(model["image"].encoder.resnet) == 25_557_032  # ResNet-50
    assert count(image.encoder.resnet) == 25_557_032 - 2049 * 1000
    assert model["text"].head.fc1.in_features == 768
    assert clip["text"].head.fc1.in_features == 512
    assert count(clip["text"].encoder) + count(clip["image"].encoder) == 151_277_313 - 1


def test_a_local_resnet_50_is_loaded(resnet50_file):
    theirs = resnet50(weights=None).eval()
    theirs.load_state_dict(torch.load(resnet50_file, weights_only=True))
    options = {"modalities": ["image"], "image_encoder": resnet50_file}
    released = text_image(3, **options)["image"].encoder.eval()
    paper = text_image(3, **options, feature="paper")["image"].encoder.eval()
    x = torch.randn(1, 3, 64, 64)
    logits = theirs(x)
    assert torch.allclose(released(x), released.projection(logits), atol=1e-5)
    theirs.fc = nn.Identity()
    assert torch.allclose(paper(x), paper.projection(theirs(x)), atol=1e-5)


def test_resnet_weights_that_do_not_fit_are_refused(resnet50_file, tmp_path):
    weights = torch.load(resnet50_file, weights_only=True)
    save_file(resnet18(weights=None).state_dict(), tmp_path / "other.safetensors")
    torch.save(weights | {"fc.weight": torch.zeros(10, 2048)}, tmp_path / "ten.pth")
    (tmp_path / "damaged.pth").write_bytes(resnet50_file.read_bytes()[:5000])
    (tmp_path / "damaged.safetensors").write_bytes(b"<html>404</html>")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in {
        "other.safetensors": r"layer1.0.conv3.weight is missing.* and \d+ more: download",
        "ten.pth": r"fc.weight is \(10, 2048\) in place of \(1000, 2048\): download",
        "damaged.pth": "damaged.pth cannot be read as weights",
        "damaged.safetensors": "damaged.safetensors cannot be read as weights",
        "list.pth": "something else than a state dict",
    }.items():
        with pytest.raises(ValueError, match=message):
            text_image(3, ["image"], image_encoder=tmp_path / name)
    with pytest.raises(FileNotFoundError, match="resnet50-0676ba61.pth and give its path as net"):
        text_image(3, ["image"], image_encoder=tmp_path / "none.pth")


# ---------------------------------------------------------------- without network, with wrong folders


def one_line(error: BaseException, *parts: str) -> None:
    message = str(error)
    assert "\n" not in message and len(message) < 700
    for part in parts:
        assert part in message


def test_without_network_an_error_names_the_option_and_the_files(offline):
    remedy = ("config.json", "model.safetensors", "https://huggingface.co/", "network.pretrained")
    for options in (
        {"text_encoder": "igm-book/there-is-no-such-bert"},
        {"text_encoder": "igm-book/there-is-no-such-bert", "pretrained": False},
        {"text_encoder": "a name that cannot be one"},
    ):
        with pytest.raises(OSError) as caught:
            text_image(3, ["text"], **options)
        one_line(caught.value, "network.text_encoder", "google-bert/bert-base-uncased", *remedy)
    with pytest.raises(OSError) as caught:
        text_image(3, ["image"], clip="igm-book/there-is-no-such-clip")
    one_line(caught.value, "network.clip", "openai/clip-vit-base-patch32", *remedy)
    with pytest.raises(OSError) as caught:
        text_image(3, ["image"])
    address = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
    one_line(caught.value, "network.image_encoder", address, "network.pretrained")


def test_the_default_bert_without_network_and_cache_is_one_clear_error(offline, monkeypatch):
    from transformers import BertModel

    def unreachable(*args, **kwargs):  # as transformers answers where the cache is empty
        raise OSError("We couldn't connect to 'https://huggingface.co'\nCheck your connection")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: None)
    monkeypatch.setattr(BertModel, "from_pretrained", unreachable)
    with pytest.raises(OSError) as caught:
        text_image(3, ["text"])
    one_line(caught.value, "network.text_encoder bert-base-uncased", "couldn't connect")


def test_folders_that_are_wrong_are_refused_in_a_line(bert, clip, tmp_path):
    def folder(name, config=True, weights=None):
        made = tmp_path / name
        made.mkdir()
        if config:
            content = config if isinstance(config, bytes) else (bert / "config.json").read_bytes()
            (made / "config.json").write_bytes(content)
        if weights is not None:
            (made / "model.safetensors").write_bytes(weights)
        return str(made)

    good = (bert / "model.safetensors").read_bytes()
    narrow = json.loads((bert / "config.json").read_text()) | {"intermediate_size": 30}
    shallow = load_file(bert / "model.safetensors")
    shallow = {name: w for name, w in shallow.items() if "layer.1." not in name}
    save_file(shallow, tmp_path / "shallow.safetensors", metadata={"format": "pt"})
    for name, kind, message in [
        (str(tmp_path / "none"), FileNotFoundError, "there is no folder"),
        ("./none", FileNotFoundError, "there is no folder"),
        (folder("empty", config=False), FileNotFoundError, "config.json is not there"),
        (folder("bare"), FileNotFoundError, "model.safetensors is not there"),
        (folder("half", weights=good[: len(good) // 2]), ValueError, "cannot be loaded"),
        (folder("html", weights=b"<html>404</html>"), ValueError, "cannot be loaded"),
        (folder("json", config=b"{", weights=good), ValueError, "cannot be loaded"),
        (folder("narrow", json.dumps(narrow).encode(), good), ValueError, "cannot be loaded"),
        (
            folder("shallow", weights=(tmp_path / "shallow.safetensors").read_bytes()),
            ValueError,
            "lacks the weights encoder.layer.1.attention",
        ),
        (clip, ValueError, "is of the kind clip, not bert"),
    ]:
        with pytest.raises(kind) as caught:
            text_image(3, ["text"], text_encoder=name)
        assert type(caught.value) is kind
        one_line(caught.value, "network.text_encoder", message, "download config.json")
    with pytest.raises(ValueError, match="network.clip .* is of the kind bert, not clip"):
        text_image(3, ["image"], clip=bert)


# ---------------------------------------------------------------- CLIP


def test_clip_features_are_the_embeddings_of_transformers(clip):
    from transformers import CLIPModel

    theirs = CLIPModel.from_pretrained(clip).eval()
    model, batch = small("text_image", clip=clip)
    text, image = model["text"].encoder.eval(), model["image"].encoder.eval()
    assert text.d == image.d == model["text"].head.fc1.in_features == 16
    pixels = batch["image"]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    out = theirs(input_ids=CLIP_IDS, attention_mask=mask, pixel_values=pixels)
    for feature, expected in (
        (text(CLIP_IDS), out.text_embeds),
        (image(pixels), out.image_embeds),
    ):
        assert torch.allclose(F.normalize(feature), expected, atol=1e-5)  # they give unit vectors
        assert not torch.allclose(feature.norm(dim=1), torch.ones(len(feature)), atol=0.05)


def test_clip_reads_a_text_up_to_its_first_end(clip, tmp_path):
    encoder = text_image(3, ["text"], clip=clip)["text"].encoder.eval()
    short = torch.tensor([[30, 4, 5, 31]])
    expected = encoder(short)
    for rest in ([31, 31], [0, 0], [1, 9], [31, 9]):
        padded = torch.tensor([[30, 4, 5, 31, *rest]])
        assert torch.allclose(encoder(padded), expected, atol=1e-6)
    assert not torch.allclose(encoder(torch.tensor([[30, 4, 6, 31]])), expected, atol=1e-3)
    with pytest.raises(ValueError, match="11 tokens, the encoder takes 10"):
        encoder(torch.zeros(1, 11, dtype=torch.int64))


def test_clip_of_an_old_configuration_ends_at_the_largest_id(clip, tmp_path):
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    new, old = (text_image(3, ["text"], clip=f)["text"].encoder for f in (clip, tmp_path))
    ids = torch.tensor([[30, 4, 2, 31, 31, 31], [30, 2, 5, 6, 7, 31]])  # 2 is a word among others
    assert torch.allclose(old.eval()(ids), new.eval()(ids), atol=1e-6)


# ---------------------------------------------------------------- I3D

# GoogLeNet (Szegedy et al., CVPR 2015), Table 1: input; 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool proj; output.
GOOGLENET = {
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32, 256),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64, 480),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64, 512),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64, 512),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64, 512),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64, 528),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128, 832),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128, 832),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128, 1024),
}


def checkpoint_shapes(in_channels: int, classes: int = 400) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a public checkpoint, from the table above."""
    convolutions = {
        "Conv3d_1a_7x7": (64, in_channels, 7),
        "Conv3d_2b_1x1": (64, 64, 1),
        "Conv3d_2c_3x3": (192, 64, 3),
    }
    for name, (inputs, one, red3, three, red5, five, pool, output) in GOOGLENET.items():
        assert one + three + five + pool == output
        convolutions |= {
            f"{name}.b0": (one, inputs, 1),
            f"{name}.b1a": (red3, inputs, 1),
            f"{name}.b1b": (three, red3, 3),
            f"{name}.b2a": (red5, inputs, 1),
            f"{name}.b2b": (five, red5, 3),
            f"{name}.b3b": (pool, inputs, 1),
        }
    shapes = {}
    for name, (outputs, inputs, k) in convolutions.items():
        shapes[f"{name}.conv3d.weight"] = (outputs, inputs, k, k, k)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (outputs,)
        shapes[f"{name}.bn.num_batches_tracked"] = ()
    shapes["logits.conv3d.weight"] = (classes, 1024, 1, 1, 1)
    shapes["logits.conv3d.bias"] = (classes,)
    return shapes


def checkpoint(in_channels: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(in_channels)
    weights = {
        name: torch.rand(shape, generator=generator)
        for name, shape in checkpoint_shapes(in_channels).items()
    }
    for name in weights:
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
    return weights


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    """A synthetic rgb_imagenet.pt, in the old format of the public one."""
    weights, path = checkpoint(3), tmp_path_factory.mktemp("i3d") / "rgb_imagenet.pt"
    torch.save(weights, path, _use_new_zipfile_serialization=False)
    return weights, path


def test_i3d_has_the_size_of_inception_v1_inflated():
    network = I3D(3)
    assert count(network) == 12_287_264
    assert round(count(network) / 1e6, 2) == 12.29
    assert count(I3D(3, classes=400)) == 12_287_264 + 1024 * 400 + 400
    assert network.d == 1024
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert (module.eps, module.momentum) == (0.001, 0.01)


@pytest.mark.parametrize("in_channels", [3, 2])
def test_a_public_checkpoint_has_the_names_and_shapes_of_i3d(in_channels):
    network = I3D(in_channels, classes=400)
    assert {name: tuple(w.shape) for name, w in network.state_dict().items()} == (
        checkpoint_shapes(in_channels)
    )
    assert len(network.state_dict()) == 344


def test_a_checkpoint_is_loaded_with_and_without_its_classifier(rgb, tmp_path):
    weights, path = rgb
    whole, feature = load_i3d(path, 3, classes=400), load_i3d(path, 3)
    for network, names in ((whole, 344), (feature, 342)):
        loaded = network.state_dict()
        assert len(loaded) == names
        assert all(torch.equal(loaded[name], weights[name]) for name in loaded)
    older = {n: w for n, w in weights.items() if not n.endswith("num_batches_tracked")}
    torch.save(older, tmp_path / "older.pt")
    loaded = load_i3d(tmp_path / "older.pt", 3).state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in older.items() if not n.startswith("logits"))


def test_a_checkpoint_that_does_not_fit_is_refused(rgb, tmp_path):
    weights, path = rgb

    def refused(content, message, channels=3, **options):
        torch.save(content, tmp_path / "wrong.pt")
        with pytest.raises(ValueError, match=message) as caught:
            load_i3d(tmp_path / "wrong.pt", channels, **options)
        one_line(caught.value, "wrong.pt", SOURCE, "network.rgb_weights")

    name = "Mixed_4e.b2b.conv3d.weight"
    refused({n: w for n, w in weights.items() if n != name}, f"{name} is missing")
    refused(weights | {"Mixed_6a.bn.bias": torch.zeros(3)}, "Mixed_6a.bn.bias is not one of its")
    refused(
        weights | {name: torch.zeros(64, 32, 5, 5, 5)}, r"\(64, 32, 5, 5, 5\) in place of \(64, 3"
    )
    refused(weights, r"Conv3d_1a_7x7.conv3d.weight is \(64, 3, 7", channels=2)
    refused(weights, r"logits.conv3d.weight is \(400, ", classes=25)
    refused({"state_dict": weights}, "something else than a state dict")
    (tmp_path / "page.pt").write_bytes(b"\n\n<!DOCTYPE html>")
    with pytest.raises(ValueError, match="page.pt cannot be read as weights.*flow_weights"):
        gestures(25, ["flow"], flow_weights=tmp_path / "page.pt")
    with pytest.raises(FileNotFoundError, match="none.pt is not there.*rgb_weights.*piergiaj"):
        gestures(25, ["depth"], rgb_weights=tmp_path / "none.pt")


def test_depth_begins_with_the_rgb_weights_but_for_its_first_unit(rgb):
    """At random its first convolution and the batch normalisation behind it are fresh, six entries in all."""
    weights, path = rgb
    first, unit = "Conv3d_1a_7x7.conv3d.weight", "Conv3d_1a_7x7."
    mean, random = (
        gestures(25, ["depth"], rgb_weights=path, depth_init=init)["depth"].encoder.state_dict()
        for init in ("rgb-mean", "random")
    )
    expected = weights[first].numpy().astype(np.float64).sum(1) / 3
    assert mean[first].shape == random[first].shape == (64, 1, 7, 7, 7)
    assert np.allclose(mean[first][:, 0].numpy(), expected, atol=1e-6)
    untrained = gestures(25, ["depth"])["depth"].encoder.state_dict()
    fresh = [name for name in random if not torch.equal(random[name], weights[name])]
    assert fresh == [name for name in random if name.startswith(unit)] and len(fresh) == 6
    for name in mean:
        assert name == first or torch.equal(mean[name], weights[name])
        assert torch.equal(random[name], (untrained if name in fresh else weights)[name])


def test_each_stream_has_its_own_weights(rgb, tmp_path):
    weights, path = rgb
    torch.save(checkpoint(2), tmp_path / "flow.pt")
    model = gestures(25, rgb_weights=path, flow_weights=tmp_path / "flow.pt")
    first = {name: model[name].encoder.Conv3d_1a_7x7.conv3d.weight for name in model.modalities}
    assert list(first) == ["depth", "rgb", "flow"]
    assert [w.shape[1] for w in first.values()] == [1, 3, 2]
    assert torch.equal(first["rgb"], weights["Conv3d_1a_7x7.conv3d.weight"])
    assert torch.equal(first["flow"], checkpoint(2)["Conv3d_1a_7x7.conv3d.weight"])
    assert [model[name].head.fc1.in_features for name in first] == 3 * [1024]


def naive_same(x: np.ndarray, kernel, stride, window, fill: float) -> np.ndarray:
    """``window(patch)`` over a volume, where TensorFlow's SAME padding holds ``fill``, place by place."""
    sizes = [math.ceil(n / s) for n, s in zip(x.shape, stride)]
    out = np.empty(sizes)
    starts = [
        -(max((m - 1) * s + k - n, 0) // 2) for m, n, k, s in zip(sizes, x.shape, kernel, stride)
    ]
    for place in itertools.product(*map(range, sizes)):
        patch = np.full(kernel, fill)
        for offset in itertools.product(*map(range, kernel)):
            at = [a + p * s + o for a, p, s, o in zip(starts, place, stride, offset)]
            if all(0 <= i < n for i, n in zip(at, x.shape)):
                patch[offset] = x[tuple(at)]
        out[place] = window(patch)
    return out


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (7, 2), (1, 1), (2, 2)])
@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 2, 3)])
def test_same_padding_is_that_of_tensorflow(kernel, stride, shape):
    x = torch.randn(shape, dtype=torch.float64) - 3  # mostly negative: a zero would be the largest
    convolution = SameConv(1, 1, kernel, stride, bias=False).double()
    weight = convolution.weight.detach()[0, 0].numpy()
    k, s = 3 * (kernel,), 3 * (stride,)
    expected = naive_same(x.numpy(), k, s, lambda patch: (patch * weight).sum(), 0.0)
    assert np.allclose(convolution(x[None, None]).detach()[0, 0].numpy(), expected)
    expected = naive_same(x.numpy(), k, s, np.max, -np.inf)
    pooled = SameMaxPool(k, s)(x[None, None])[0, 0]
    assert np.array_equal(pooled.numpy(), expected)


def test_an_odd_place_of_padding_goes_to_the_end():
    convolution = SameConv(1, 1, 3, 2, bias=False)
    nn.init.ones_(convolution.weight)
    x = torch.zeros(1, 1, 4, 4, 4)
    x[0, 0, 0, 0, 0] = 1  # seen once: nothing is padded before it
    x[0, 0, 3, 3, 3] = 8
    assert convolution(x).flatten().tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0, 8])


def test_each_stage_of_i3d_has_the_size_ceil_of_n_over_stride():
    network, sizes = I3D(2, width=1 / 8).eval(), {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda layer, x, y, name=name: sizes.update({name: tuple(y.shape[1:])})
        )
    z = network(torch.randn(1, 2, 9, 37, 64))
    assert z.shape == (1, 128)
    for name, channels, time, space in [
        ("Conv3d_1a_7x7", 64, 2, 2),
        ("MaxPool3d_2a_3x3", 64, 2, 4),
        ("Conv3d_2c_3x3", 192, 2, 4),
        ("Mixed_3c", 480, 2, 8),
        ("Mixed_4b", 512, 4, 16),
        ("Mixed_4f", 832, 4, 16),
        ("Mixed_5b", 832, 8, 32),
        ("Mixed_5c", 1024, 8, 32),
    ]:
        expected = math.ceil(9 / time), math.ceil(37 / space), math.ceil(64 / space)
        assert sizes[name] == (channels // 8, *expected)


def i3d_by_hand(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The feature of I3D in evaluation, written out from its names alone."""

    def pad(x, kernel, stride):
        places = []
        for n, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1]):
            total = max(k - s, 0) if n % s == 0 else max(k - n % s, 0)
            places += [total // 2, total - total // 2]
        return F.pad(x, places)  # zeros, also for max-pooling: what comes there is not negative

    def unit(name, x, stride=1):
        w = weights[f"{name}.conv3d.weight"]
        x = F.conv3d(pad(x, w.shape[2:], 3 * (stride,)), w, stride=stride)
        mean, var, gamma, beta = (
            weights[f"{name}.bn.{part}"].view(-1, 1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (var + 0.001).sqrt() * gamma + beta).clamp(min=0)

    def pool(x, kernel, stride):
        return F.max_pool3d(pad(x, kernel, stride), kernel, stride)

    def mixed(name, x):
        return torch.cat(
            [
                unit(f"{name}.b0", x),
                unit(f"{name}.b1b", unit(f"{name}.b1a", x)),
                unit(f"{name}.b2b", unit(f"{name}.b2a", x)),
                unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            1,
        )

    x = pool(unit("Conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    x = pool(mixed("Mixed_3c", mixed("Mixed_3b", x)), (3, 3, 3), (2, 2, 2))
    for block in "bcdef":
        x = mixed(f"Mixed_4{block}", x)
    x = pool(x, (2, 2, 2), (2, 2, 2))
    x = mixed("Mixed_5c", mixed("Mixed_5b", x))
    return x.flatten(2).mean(2)


def test_i3d_computes_what_its_description_says():
    torch.manual_seed(0)
    network = I3D(3, classes=7, width=1 / 8).double().eval()
    for name, w in network.state_dict().items():  # statistics that are not 0 and 1
        if "bn" in name and w.is_floating_point():
            w.copy_(torch.rand_like(w) + 0.5)
    weights = network.state_dict()
    x = torch.randn(2, 3, 20, 40, 33, dtype=torch.float64)
    z = i3d_by_hand(weights, x)  # two steps in time, two in space are left
    assert z.std() > 0
    feature = I3D(3, width=1 / 8).double().eval()
    feature.load_state_dict({n: w for n, w in weights.items() if not n.startswith("logits")})
    assert torch.allclose(feature(x), z)
    logits = z @ weights["logits.conv3d.weight"].flatten(1).T + weights["logits.conv3d.bias"]
    assert torch.allclose(network(x), logits)


@pytest.mark.parametrize(("frames", "steps"), [(64, 8), (80, 10), (24, 3)])
def test_of_80_frames_the_feature_is_that_of_8_steps_as_in_the_authors_code(frames, steps):
    """AvgPool3d((8, 7, 7)) with stride 8 leaves out what does not fill a window; without it all steps count."""
    model, whole = (
        gestures(5, ["depth"], size="tiny", **options)["depth"].encoder.eval()
        for options in ({}, {"time_steps": None})
    )
    maps = []
    model.Mixed_5c.register_forward_hook(lambda layer, x, y: maps.append(y))
    x = torch.randn(1, 1, frames, 32, 32)
    with torch.no_grad():
        z, every = model(x), whole(x)
    assert maps[0].shape[2:] == (steps, 1, 1)
    kept = F.avg_pool3d(maps[0], (min(8, steps), 1, 1)).flatten(1)

    def apart(a, b):
        return ((a - b).norm() / b.norm()).item()

    assert apart(z, kept) < 1e-5 and apart(every, maps[0].mean((2, 3, 4))) < 1e-5
    assert (apart(z, every) > 1e-3) == (steps > 8)


def test_the_time_steps_are_refused_below_one():
    with pytest.raises(ValueError, match="network.time_steps must be 1 or above, or null for all"):
        gestures(5, time_steps=0, size="tiny")


def test_the_feature_counts_all_steps_alike():
    """The original counts the first and the last half: its windows of two steps are averaged."""
    network = I3D(1, width=1 / 8).eval()
    kept = []
    network.Mixed_5c.register_forward_hook(lambda layer, x, y: kept.append(y))
    z = network(torch.randn(1, 1, 24, 32, 32))
    steps = kept[0].mean((3, 4))  # (1, 128, 3)
    assert steps.shape[2] == 3
    assert torch.allclose(z, steps.sum(2) / 3, atol=1e-6)
    original = F.avg_pool1d(steps, 2, stride=1).mean(2)
    assert torch.allclose(
        original, (steps[..., 0] + 2 * steps[..., 1] + steps[..., 2]) / 4, atol=1e-6
    )
