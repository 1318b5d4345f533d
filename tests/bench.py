"""What the library costs, as ratios to the same work written out in plain torch.

    make bench                            all of it, into tests/bench.json
    python tests/bench.py step matrices   only the groups with one of these words in their name

The two sides of a ratio run in turn, A B A B ..., after a warm-up, so that a slow moment of the machine meets both.
An entry has the median, the smallest and the largest over the repeats, rounded to four places.

The network of step, matrices, bf16 and memory is the paper's for CREMA-D: ResNet-18, 512-d features, its head. Its
input is 1 x 128 x 94, a quarter of CREMA-D's spectrogram of 1 x 257 x 188, to save time. That makes the shares of GM,
of SAM's perturbation and of the optimiser larger than in the paper's setting, not smaller. The digits have the book's
small networks, where Python's share is largest, and run on one thread: on two they are no faster.

    step_NAME               a training step of a method / a bare step: forward, backward, SGD
    digits_step_NAME        the same with the small networks
    import_igm              `import igm` / `import torch`, each in a fresh process
    matrices_over_pass      the matrices T of a stage / one inference pass over the same data
    matrices_extra_seconds  the difference of the two, in seconds
    eigh_over_svd           the decomposition that ``modification_matrix`` uses / an SVD, of the same matrix, d = 512
    surface_speedup         25 x 25 losses of 256 digits: a loop over points and a DataLoader / ``loss_surface``
    surface_speedup_memory  the same with the loop's one batch held in memory
    digits_epoch            an epoch of ``train`` with its validation and scores / a loop of the training steps alone
    digits_epoch_saved      the same with a checkpoint after each epoch
    modalities_r2           R^2 of the line through the costs of a round of 1 to 5 modalities
    modalities_cost_M       a round of M modalities / M rounds of one
    samples_r2              R^2 of the line through the costs of an epoch of 1, 2, 4 and 8 times the samples
    samples_cost_8          an epoch of 8 times the samples / 8 epochs
    memory_samples          the peak of the matrices' memory at 8 times the samples / at once
    memory_step             the peak of two steps of IGM / of two bare steps, networks and batch included
    bf16_cpu                a bare step in bfloat16 autocast / in float32, on the CPU
    seconds_DATA_MODALITY   a step of the paper's setting (variant paper, SAM's two passes), in seconds; the
                            paper's batch, 12, but for nvgesture, which has 1 here and 6 there
    gigabytes_DATA_MODALITY the peak memory of two such steps; on the CPU with the code and the batch in it
    gpu_share               on a GPU, in bfloat16: the rate of the pair's steps / that of a large matrix product

    reader_first_epoch      reading 96 clips: by librosa and Pillow, clip by clip / by our reader with an empty cache
    reader_later_epochs     the same / by our reader from its cache
    reader_first_nocache    the same / by our reader without a cache
    reader_one_thread       the same as reader_first_nocache, with one thread on our side, too

The clips have the form of CREMA-D: 2.5 s of sound at 16 kHz, a frame of 480 x 360, augmented as in training. Both
sides read in one process; ours takes as many threads as there are cores, as it does in ``train`` without workers.
On ext4 making a file takes up to a millisecond in the minute after many files were deleted, e.g. by the tests:
``reader_first_epoch``, which makes one for each entry of the cache, then falls below 1.

Peak memory is what a fresh process adds to what it held before it built the networks: on a GPU what torch allocates,
else the resident set (Linux only), which counts the pages of torch's own code, too. On a GPU all but bf16_cpu is
measured there.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import librosa
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet18

from igm import LateFusion, Unimodal, build_model, load_dataset, paper_head, train
from igm.analysis.landscape import loss_surface, random_direction
from igm.datasets import LAYOUTS, synthetic
from igm.datasets.cache import Cache
from igm.datasets.reading import Item, MediaSet, Pictures, Spectrogram
from igm.devices import Devices
from igm.encoders.build import build_network
from igm.loading import batches
from igm.methods import Method, Stage, find_method
from igm.sam import SAM
from igm.train import step_gradient

RECORD = Path(__file__).with_suffix(".json")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CORES = os.cpu_count()
REPEATS = 7
SGD = {"lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4}
TARGETS = {  # at most, or where the name says speed or reader at least
    "import_igm": 1.5,
    "step_gm": 1.03,
    "step_sam": 2.05,
    "step_released": 1.10,
    "matrices_extra_seconds": 0.1,
    "reader_first_epoch": 1.0,
    "reader_later_epochs": 4.0,
}
STEPS = {
    "gm": ("igm", {"rho": 0.0}),
    "sam": ("alternating", {"rho": 0.02}),
    "released": ("igm", {"variant": "released"}),
    "released_exact": ("igm", {"variant": "released", "fast": False}),
    "igm": ("igm", {"variant": "igm"}),
    "paper": ("igm", {"variant": "paper"}),
}
Work = Callable[[], object]
Entries = Iterator[tuple[str, dict[str, float]]]
clock = time.perf_counter

# ---------------------------------------------------------------- measuring


def in_turn(works: Sequence[Work], repeats: int = REPEATS) -> list[list[float]]:
    """The seconds of each work, a row a repeat."""
    for work in works:
        work()
    return [[_seconds(work) for work in works] for _ in range(repeats)]


def ratio(ours: Work, bare: Work, repeats: int = REPEATS) -> dict[str, float]:
    """The time of ``ours`` over that of ``bare``."""
    return spread(a / b for a, b in in_turn([ours, bare], repeats))


def spread(values: Iterable[float]) -> dict[str, float]:
    values = list(values)
    return {"median": float(np.median(values)), "min": min(values), "max": max(values)}


def r2(x: Sequence[float], y: Sequence[float]) -> float:
    """The share of y's variance that the line of least squares through (x, y) explains."""
    residuals = y - np.polyval(np.polyfit(x, y, 1), x)
    return float(1 - residuals.var() / np.var(y))


def times(n: int, *works: Work) -> Work:
    """n times the works, one after the other: one alone may be too short for a clock."""

    def repeated() -> None:
        for _ in range(n):
            for work in works:
                work()

    return repeated


def _seconds(work: Work) -> float:
    _synchronise()
    start = clock()
    work()
    _synchronise()
    return clock() - start


def _synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


# ---------------------------------------------------------------- networks, data and steps


def paper_pair() -> LateFusion:
    """The paper's networks for CREMA-D, both with one input channel."""

    def network() -> Unimodal:
        encoder = resnet18()
        encoder.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        encoder.fc = nn.Identity()
        return Unimodal(encoder, paper_head(512, 6))

    return LateFusion({"audio": network(), "image": network()}).to(DEVICE)


def random_batch(names: Iterable[str], n: int = 12, shape=(1, 128, 94), classes: int = 6) -> dict:
    batch = {name: torch.randn(n, *shape, device=DEVICE) for name in names}
    return batch | {"label": torch.randint(classes, (n,), device=DEVICE)}


def digits() -> tuple[LateFusion, dict]:
    """The book's networks, and the splits that training reads."""
    data = {split: load_dataset("digits", split=split) for split in ("train", "valid")}
    return build_model(data["train"].shapes, 10).to(DEVICE), data


def set_up(method: str, model: LateFusion, batches: Iterable[dict], **settings) -> Method:
    """The method as ``train`` makes it, after a stage of every modality: its moments are there."""
    names, kind = list(model.modalities), find_method(method)
    devices = Devices(str(DEVICE), "no")
    trainer = kind(model, names, kind.Settings.make(method=method, **settings), devices)
    for name in names:
        trainer.end_stage(Stage((name,), 1), batches)
    return trainer


def optimizer_of(trainer: Method, stage: Stage) -> SAM:
    """The optimiser of a stage, with its matrices."""
    base = torch.optim.SGD(trainer.parameters(stage), **SGD)
    optimizer = trainer.optimizer(stage, base)
    trainer.begin_stage(stage, optimizer)
    return optimizer


def method_step(trainer: Method, name: str, batch: dict) -> Work:
    """A step of one modality as ``train`` takes it."""
    stage, devices = Stage((name,), 1), trainer.devices
    optimizer = optimizer_of(trainer, stage)

    def step() -> None:
        step_gradient(trainer, stage, len(batch["label"]), [batch], optimizer, devices)
        devices.step(optimizer.base_optimizer, trainer.settings.clip)

    return step


def bare_step(network: nn.Module, x: Tensor, y: Tensor, precision=None) -> Work:
    """Forward, backward and SGD in plain torch."""
    optimizer = torch.optim.SGD(network.parameters(), **SGD)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, precision, enabled=precision is not None):
            loss = F.cross_entropy(network(x), y)
        loss.backward()
        optimizer.step()

    return step


# ---------------------------------------------------------------- the groups


def step() -> Entries:
    model = paper_pair()
    yield from _steps("step", model, random_batch(model.modalities), 3)


def digits_step() -> Entries:
    model, data = digits()
    batch = {name: x.to(DEVICE) for name, x in data["train"].fetch(range(32)).items()}
    yield from _steps("digits_step", model, batch, 20)


def _steps(group: str, model: LateFusion, batch: dict, n: int) -> Entries:
    bare = times(n, bare_step(model["audio"], batch["audio"], batch["label"]))
    for name, (method, settings) in STEPS.items():
        trainer = set_up(method, model, [batch], **settings)
        yield f"{group}_{name}", ratio(times(n, method_step(trainer, "audio", batch)), bare)


def matrices() -> Entries:
    model = paper_pair()
    batches = [random_batch(["audio", "image"]) for _ in range(20)]
    trainer, stage, network = set_up("igm", model, batches), Stage(("audio",), 1), model["audio"]

    @torch.no_grad()
    def one_pass() -> None:
        network.eval()  # end_stage leaves it in training mode
        for batch in batches:
            network(batch["audio"])

    after = Stage(("image",), 1)  # the stage whose gradients the matrices modify
    optimizer = optimizer_of(trainer, after)

    def ours() -> None:
        trainer.end_stage(stage, batches)
        trainer.begin_stage(after, optimizer)

    rows = in_turn([ours, one_pass])
    yield "matrices_over_pass", spread(a / b for a, b in rows)
    yield "matrices_extra_seconds", spread(a - b for a, b in rows)


def imports() -> Entries:
    def fresh(words: str) -> Work:
        return lambda: subprocess.run([sys.executable, "-c", words], check=True)

    yield "import_igm", ratio(fresh("import igm"), fresh("import torch"))


def eigh() -> Entries:
    z = torch.randn(2000, 512, dtype=torch.float64, device=DEVICE).relu()
    moment = z.T @ z
    ours, svd = lambda: torch.linalg.eigh(moment), lambda: torch.linalg.svd(moment)
    yield "eigh_over_svd", ratio(ours, svd)


def surface() -> Entries:
    network, data = digits()[0]["image"], load_dataset("digits", split="valid", samples=256)
    in_memory = {name: x.to(DEVICE) for name, x in data.fetch(range(256)).items()}
    pairs = [(in_memory["image"], in_memory["label"])]
    delta, eta = (random_direction(network, seed) for seed in (0, 1))
    axis = torch.linspace(-1, 1, 25).tolist()

    @torch.no_grad()
    def loop(batches: Iterable[dict]) -> None:
        network.eval()
        theta = {name: p.clone() for name, p in network.named_parameters()}
        for alpha, beta in itertools.product(axis, axis):
            for name, p in network.named_parameters():
                p.copy_(theta[name] + alpha * delta[name] + beta * eta[name])
            for batch in batches:
                x, y = batch["image"].to(DEVICE), batch["label"].to(DEVICE)
                F.cross_entropy(network(x), y).item()
        network.load_state_dict(theta)

    def ours() -> None:
        loss_surface(network, pairs, [delta, eta], axis, axis, progress=False)

    loader = DataLoader(data, batch_size=256)
    rows = in_turn([ours, lambda: loop(loader), lambda: loop([in_memory])])
    yield "surface_speedup", spread(loading / ours for ours, loading, _ in rows)
    yield "surface_speedup_memory", spread(memory / ours for ours, _, memory in rows)


def digits_epoch() -> Entries:
    (model, data), epochs = digits(), 3
    y = data["train"].labels

    def ours(out: Path | None = None) -> None:
        settings = {"epochs": epochs, "device": str(DEVICE), "progress": False}
        train(model, data, "unimodal", out, **SGD, **settings)

    def bare() -> None:
        for name, x in data["train"].inputs.items():
            network = model[name].train()
            optimizer = torch.optim.SGD(network.parameters(), **SGD)
            for _ in range(epochs):
                for rows in torch.randperm(len(y)).split(32):
                    optimizer.zero_grad()
                    logits = network(x[rows].to(DEVICE))
                    F.cross_entropy(logits, y[rows].to(DEVICE)).backward()
                    optimizer.step()

    yield "digits_epoch", ratio(ours, bare)
    with tempfile.TemporaryDirectory() as folder:
        outs = (Path(folder) / str(i) for i in itertools.count())
        yield "digits_epoch_saved", ratio(lambda: ours(next(outs)), bare)


def modalities() -> Entries:
    shape, counts, rounds = (1, 24, 24), [1, 2, 3, 4, 5], []
    for m in counts:
        model = build_model({f"m{i}": shape for i in range(m)}, 10).to(DEVICE)
        batch = random_batch(model.modalities, 32, shape, 10)
        trainer = set_up("igm", model, [batch])
        rounds.append(times(20, *(method_step(trainer, name, batch) for name in model.modalities)))
    rows = in_turn(rounds)
    yield "modalities_r2", spread(r2(counts, row) for row in rows)
    for i, m in enumerate(counts[1:], start=1):
        yield f"modalities_cost_{m}", spread(row[i] / (m * row[0]) for row in rows)


def samples() -> Entries:
    (model, data), sizes = digits(), [375, 750, 1500, 3000]

    def epoch(n: int) -> Work:
        part = {"train": data["train"].subset(range(n)), "valid": data["valid"].subset(range(100))}
        settings = {"epochs": 1, "rounds": 1, "device": str(DEVICE), "progress": False}
        return lambda: train(model, part, **SGD, **settings)

    rows = in_turn([epoch(n) for n in sizes])
    yield "samples_r2", spread(r2(sizes, row) for row in rows)
    yield "samples_cost_8", spread(row[-1] / (8 * row[0]) for row in rows)


def memory() -> Entries:
    if DEVICE.type != "cuda" and platform.system() != "Linux":
        return
    for name, ours, bare in (
        ("memory_samples", ("matrices", 32), ("matrices", 4)),
        ("memory_step", ("igm", 2), ("bare", 2)),
    ):
        yield name, spread(_peak(*ours) / _peak(*bare) for _ in range(3))


def paper_steps() -> Entries:
    for data, (shapes, classes, size) in PAPER.items():
        for name in shapes:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                seconds, peak = fresh.submit(_paper_step, data, name, classes, size).result()
            yield f"seconds_{data}_{name}", spread(seconds)
            yield f"gigabytes_{data}_{name}", spread([peak / 1e9])


def _paper_step(data: str, name: str, classes: int, size: int) -> tuple[list[float], int]:
    """The seconds of some steps of the paper's network for one modality, and their peak memory."""
    torch.set_num_threads(CORES)
    shape, network = PAPER[data][0][name], LAYOUTS[data].network
    model = build_network(network, classes, [name], pretrained=False).to(DEVICE)
    batch = random_batch([name], size, shape, classes)
    if len(shape) == 1:
        batch[name] = torch.randint(1, 30000, (size, *shape), device=DEVICE)
    trainer = set_up("igm", model, [], variant="paper")
    (seconds,) = zip(*in_turn([method_step(trainer, name, batch)], 3))
    return list(seconds), _memory()[1]


def _peak(work: str, batches: int) -> int:
    """The peak memory of a work on some batches, in bytes."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_peak_here, work, batches).result()


def _peak_here(work: str, batches: int) -> int:
    torch.set_num_threads(CORES)
    before, _ = _memory()
    model = paper_pair()
    if work == "matrices":
        trainer = set_up("igm", model, [])
        stream = (random_batch(["audio"]) for _ in range(batches))
        trainer.end_stage(Stage(("audio",), 1), stream)
    else:
        batch = random_batch(model.modalities)
        step = bare_step(model["audio"], batch["audio"], batch["label"])
        if work == "igm":
            step = method_step(set_up("igm", model, [batch]), "audio", batch)
        times(batches, step)()
    return _memory()[1] - before


def _memory() -> tuple[int, int]:
    """The bytes in use and their peak. Not by getrusage: its peak has that of the parent process in it."""
    if DEVICE.type == "cuda":
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text().split()
    now, peak = (int(status[status.index(f"{name}:") + 1]) for name in ("VmRSS", "VmHWM"))
    return 1024 * now, 1024 * peak


def reader() -> Entries:
    with tempfile.TemporaryDirectory() as folder:
        items = clips(Path(folder))
        readers = {"audio": Spectrogram(22050, 3.0), "video": Pictures("video", count=1)}
        caches = itertools.count()

        def ours(cache: Cache | None = None) -> None:
            dataset = MediaSet(items, ["a"], readers, train=True, cache=cache)
            for _ in batches(dataset, 12, seed=1):
                pass

        def plain() -> None:
            for _ in DataLoader(PlainClips(items), 12, shuffle=True):
                pass

        kept = Cache(Path(folder) / "kept")
        works = [plain, lambda: ours(Cache(Path(folder) / f"cache {next(caches)}"))]
        rows = in_turn([*works, lambda: ours(kept), ours])
        yield "reader_first_epoch", spread(row[0] / row[1] for row in rows)
        yield "reader_later_epochs", spread(row[0] / row[2] for row in rows)
        yield "reader_first_nocache", spread(row[0] / row[3] for row in rows)
        with mock.patch("os.cpu_count", return_value=1):
            yield "reader_one_thread", ratio(plain, ours)


def clips(folder: Path, n: int = 96) -> list[Item]:
    """Files in the form of CREMA-D: the sound of a voice-like buzz, and a frame with some detail."""
    rng, items = np.random.default_rng(0), []
    for i in range(n):
        sound = synthetic.tones(i % 6, 6, 2.5, 16000, rng, noise=0.3)
        synthetic.write_wav(folder / f"{i}.wav", sound, 16000)
        image = synthetic.picture(i % 6, 6, 480, rng, noise=0.0)[:360]
        synthetic.write_jpeg(folder / f"{i}" / "00001.jpg", image, 90)
        items.append(Item(str(i), 0, 0, {"audio": folder / f"{i}.wav", "video": folder / f"{i}"}))
    return items


class PlainClips(Dataset):
    """A clip as most published code reads it: librosa for the sound, Pillow and torchvision for the frame."""

    def __init__(self, items: Sequence[Item]):
        self.items = items
        mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
        augment = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        end = [transforms.ToTensor(), transforms.Normalize(mean, std)]
        self.transform = transforms.Compose([*augment, *end])

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> dict:
        item = self.items[i]
        samples, rate = librosa.load(item.files["audio"], sr=22050)
        samples = np.clip(np.tile(samples, 3)[: 3 * rate], -1, 1)
        spectrum = np.abs(librosa.stft(samples, n_fft=512, hop_length=353))
        path = sorted(item.files["video"].iterdir())[0]
        image = self.transform(Image.open(path).convert("RGB"))
        audio = torch.from_numpy(np.log(spectrum + 1e-7).astype(np.float32))
        return {"audio": audio[None], "video": image[None], "label": item.label, "index": i}


def bf16() -> Entries:
    network, batch = paper_pair()["audio"].cpu(), random_batch(["audio"])
    x, y = batch["audio"].cpu(), batch["label"].cpu()
    yield "bf16_cpu", ratio(bare_step(network, x, y, torch.bfloat16), bare_step(network, x, y))


def gpu() -> Entries:
    if DEVICE.type != "cuda":
        return
    from torch.utils.flop_counter import FlopCounterMode

    model, kind = paper_pair(), torch.bfloat16
    batch = random_batch(model.modalities, 64, (1, 257, 188))
    y = batch["label"]
    pair = times(1, *(bare_step(model[name], batch[name], y, kind) for name in model.modalities))
    with FlopCounterMode(display=False) as counter:
        pair()
    a = torch.randn(8192, 8192, device=DEVICE, dtype=kind)
    share = counter.get_total_flops() / (2 * len(a) ** 3)
    rows = in_turn([times(20, pair), times(20, lambda: a @ a)])
    yield "gpu_share", spread(share * product / steps for steps, product in rows)


PAPER = {  # the shape of a sample by modality, classes, batch size
    "cremad": ({"audio": (1, 257, 188), "video": (1, 3, 224, 224)}, 6, 12),
    "kinetics_sounds": ({"audio": (1, 257, 1003), "video": (3, 3, 224, 224)}, 31, 12),
    "twitter2015": ({"text": (50,), "image": (3, 224, 224)}, 3, 12),
    "sarcasm": ({"text": (50,), "image": (3, 224, 224)}, 2, 12),
    "nvgesture": (
        {"depth": (1, 64, 224, 224), "rgb": (3, 64, 224, 224), "flow": (2, 64, 224, 224)},
        25,
        1,  # a sixth of a step: six clips take a minute and 10 GB
    ),
}
SMALL = (digits_step, surface, digits_epoch, modalities, samples, reader)  # on one thread
GROUPS = (imports, step, matrices, eigh, *SMALL, memory, bf16, paper_steps, gpu)


def about() -> dict:
    """The versions, and the machine in words."""
    device = f"{platform.machine()}, {CORES} cores, {CORES} threads, 1 for the digits"
    if DEVICE.type == "cuda":
        device += f", {torch.cuda.get_device_name()}"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return versions | {"device": device, "repeats": REPEATS}


def main(words: Sequence[str] = ()) -> None:
    groups = [g for g in GROUPS if not words or any(word in g.__name__ for word in words)]
    if not groups:
        sys.exit(
            f"no group {' '.join(words)}: use words of {', '.join(g.__name__ for g in GROUPS)}"
        )
    record = {"_about": about()}
    if words and RECORD.exists():
        kept = json.loads(RECORD.read_text())
        if kept["_about"] != record["_about"]:
            sys.exit(f"{RECORD} is of another machine or version: run all groups, without a name")
        record = kept
    print(record["_about"], f"{'':27}{'median':>8}{'min':>8}{'max':>8}{'target':>9}", sep="\n")
    torch.manual_seed(0)
    for group in groups:
        torch.set_num_threads(1 if group in SMALL else CORES)
        for name, entry in group():
            record[name] = {key: round(value, 4) for key, value in entry.items()}
            target = f"{TARGETS[name]:9.2f}" if name in TARGETS else ""
            print(f"{name:27}", *(f"{v:8.3f}" for v in entry.values()), target, sep="", flush=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
