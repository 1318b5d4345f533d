"""``Layout``, the description of a data set of media files; its loading, preparing and checking, the same for all.

A layout is the arrangement of folders and files in which people have a data set. The docstring of each data set's
module shows its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from igm.datasets.cache import Cache
from igm.datasets.files import Unreadable, is_there
from igm.datasets.memory import SPLITS
from igm.datasets.preparing import MANIFEST, Preparation
from igm.datasets.reading import Item, MediaSet, Reader
from igm.datasets.tables import Faults
from igm.loading import held_out as draw_held_out
from igm.runs import progress_bar
from igm.seeds import derive_seed
from igm.settings import check_options


@dataclass(frozen=True)
class Layout:
    """One data set.

    Args:
        name: as in ``igm.load_dataset``.
        folder: the name of its folder, e.g. CREMAD.
        classes: a label is an index into them.
        published: split -> class -> samples, as its authors or the paper count them.
        rows: (root, split, faults) -> the samples of a split, or None where it has no annotation file. Wrong lines
            are added to the faults.
        readers: reading options -> the reader of each modality. Its defaults are those of the authors' code.
        network: the function of ``igm.encoders.networks`` that builds its model; None for ``igm.build_model``.
        prepare: (preparation, options) -> None, see ``igm.datasets.preparing``.
        sample: writes a small synthetic raw download into a folder.
    """

    name: str
    folder: str
    classes: Sequence[str]
    published: Mapping[str, Mapping[str, int]]
    rows: Callable[[Path, str, Faults], list[Item] | None]
    readers: Callable[..., dict[str, Reader]]
    network: str | None
    prepare: Callable
    sample: Callable[[Path, int], None]

    def root(self, given: str | Path) -> Path:
        """The folder of the data set, which may be given itself or by the folder that it is in."""
        given = Path(given)
        inside = given / self.folder
        return inside if inside.is_dir() and not (given / "annotations").is_dir() else given

    def load(
        self,
        root: str | Path,
        split: str = "train",
        samples: int | None = None,
        seed: int = 0,
        held_out: float = 0.1,
        cache: bool = True,
        cache_gb: float = 20.0,
        **reading,
    ) -> MediaSet:
        """One split.

        Where the data set has no validation split, a share of train is held out for it: the same share for both
        splits, as a function of ``seed``, stratified by class.

        Args:
            root: the data set's folder, or the folder in which that is.
            split: train, valid or test.
            samples: keep this many, drawn at random.
            seed: of all that is drawn: samples, what is held out, augmentation.
            held_out: the share of train that is the validation split where there is no other, between 0 and 1.
            cache: keep decoded files on the disk, see ``igm.datasets.cache``. They are in the folder .igm-cache
                of the data set, or in the user's cache folder where that cannot be written to. IGM_CACHE names another.
            cache_gb: gigabytes that it may take.
            reading: the options of the data set's readers.

        Raises:
            FileNotFoundError: the data or the annotations are not there.
            ValueError: a line of the annotations is wrong, or an option.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: use one of {', '.join(SPLITS)}")
        if not 0 < held_out < 1:
            raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
        root = self.root(root)
        readers = self.make_readers(reading)
        faults, notes = Faults(), {}
        # All of them for any one: what was trained on is no test.
        splits = {name: self.rows(root, name, faults) for name in SPLITS}
        faults.stop()
        if shared := _shared(splits):
            raise ValueError(f"{root}: {shared[0]}: leave them out of one of the two")
        split_of = "train" if split == "valid" and splits["valid"] is None else split
        items = splits[split_of]
        if items is None:
            raise FileNotFoundError(
                f"{root} has no annotations of the {split} split: `igm prepare {self.name}` makes them, "
                f"`igm check {self.name} {root}` says what is missing"
            )
        if not items:
            raise ValueError(
                f"the {split_of} split of {root} is empty: igm check {self.name} {root}"
            )
        if split != "test" and splits["valid"] is None:
            kept = draw_held_out([item.label for item in items], held_out, seed)
            items = [item for item, k in zip(items, kept) if k == (split == "valid")]
            if not items:
                raise ValueError(f"{root}: {_empty_part(kept, held_out)}")
            notes = {"held_out": held_out, "held_out_samples": int(kept.sum())}
        if samples is not None:
            if not 0 < samples <= len(items):
                raise ValueError(
                    f"samples must be from 1 to {len(items)} in the {split} split, got {samples}"
                )
            rng = np.random.default_rng(derive_seed(seed, "samples", split))
            items = [items[i] for i in sorted(rng.permutation(len(items))[:samples])]
        store = Cache(_cache_folder(self.name, root), cache_gb) if cache else None
        return MediaSet(items, self.classes, readers, split == "train", seed, store, notes)

    def make_readers(self, reading: Mapping) -> dict[str, Reader]:
        """The readers with these options, each of which must be known."""
        check_options("reading", self.name, reading, self.readers)
        return self.readers(**reading)


def _shared(splits: Mapping[str, Sequence[Item] | None]) -> list[str]:
    """What is wrong where a sample is in two splits, which makes scores too good."""
    names = {split: {item.name for item in items or ()} for split, items in splits.items()}
    return [
        f"{len(both)} samples are in {a} and in {b}, e.g. {min(both)}"
        for a, b in combinations(names, 2)
        if (both := names[a] & names[b])
    ]


def _empty_part(kept: np.ndarray, share: float) -> str:
    """What is wrong where holding out leaves nothing on one side: (n,) of bool, which samples of train are kept back."""
    if kept.any() and not kept.all():
        return ""
    return (
        f"of the {len(kept)} training samples {kept.sum()} are held out for the valid split, which is not there "
        f"(a share of {share:g} of each class with two samples or more): add a valid split or samples, or "
        "take another --reading.held_out"
    )


def _cache_folder(name: str, root: Path) -> Path:
    if given := os.environ.get("IGM_CACHE"):
        return Path(given) / name
    if os.access(root, os.W_OK):
        return root / ".igm-cache"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    mark = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return Path(home) / "igm" / f"{name}-{mark}"


# ---------------------------------------------------------------- igm prepare and igm sample


def prepare(
    layout: Layout, raw: str | Path, out: str | Path, options: Mapping | None = None, **running
) -> dict:
    """Brings a raw download into the layout; returns the report.

    Args:
        raw: the folder of the download.
        out: a new folder, or one that an earlier run has begun.
        options: those of the data set, see the function ``prepare`` of its module.
        running: workers, strict, follow_links and progress, see ``Preparation``, which also says what is raised.
    """
    options = dict(options or {})
    with Preparation(layout.name, raw, out, options, **running) as job:
        layout.prepare(job, **options)
        return job.finish()


def make_sample(layout: Layout, out: str | Path, seed: int = 0) -> None:
    """A small synthetic data set: its raw form in OUT/raw, and what ``igm prepare`` makes of that beside it.

    Raises:
        FileExistsError: the folder is there already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already: give a new folder")
    layout.sample(out / "raw", seed)
    prepare(layout, out / "raw", out / layout.folder, workers=1, progress=False)


def data_or_sample(layout: Layout, folder: str | Path) -> tuple[Path, bool]:
    """Where the data set is: below IGM_DATA if it is there, else in ``folder/sample``, which is then made.

    Returns:
        the folder that holds ``layout.folder``, and whether it is the synthetic sample.
    """
    given = os.environ.get("IGM_DATA")
    if given and (Path(given) / layout.folder).is_dir():
        return Path(given), False
    sample = Path(folder) / "sample"
    if not (sample / layout.folder / MANIFEST).is_file():
        make_sample(layout, sample)
    return sample, True


# ---------------------------------------------------------------- igm check


@dataclass(frozen=True)
class Check:
    """What ``check`` found."""

    counts: Mapping[str, Counter]  # split -> class -> samples
    faults: Sequence[str]  # what must be mended
    remarks: Sequence[str]  # what is good to know
    decoded: int  # files that were read whole

    @property
    def usable(self) -> bool:
        return not self.faults


def check(
    layout: Layout,
    given: str | Path,
    full: bool = False,
    sample: int = 100,
    progress: bool = True,
    reading: Mapping | None = None,
) -> Check:
    """Reads every annotation, looks for every file, and decodes a sample of the files, or all, as training would.

    Args:
        given: the data set's folder, or the folder in which that is.
        full: decode all, and compare the checksums with those of ``igm prepare``.
        sample: samples of a split that are decoded otherwise.
        reading: the options of ``Layout.load`` and the readers with which the data will be read.

    Raises:
        FileNotFoundError: there is no such folder. All else that is wrong is in what is returned.
    """
    root = layout.root(given)
    if not root.is_dir():
        raise FileNotFoundError(f"the folder {root} is not there: give that of {layout.name}")
    reading = dict(reading or {})
    share = reading.pop("held_out", 0.1)
    reading.pop("cache_gb", None)
    readers = layout.make_readers(reading)
    counts, faults, remarks, decoded, splits = {}, Faults(), [], 0, {}
    for split in SPLITS:
        try:
            items = layout.rows(root, split, faults)
        except (ValueError, FileNotFoundError) as error:
            faults.append(str(error))
            continue
        if items is None:
            if split == "valid":
                labels = [item.label for item in splits.get("train", ())]
                remarks.append("no valid split: a share of train will be held out for it")
                if labels and (why := _empty_part(draw_held_out(labels, share, 0), share)):
                    faults.append(f"{root}: {why}")
            else:
                faults.append(f"{root}: no annotations of the {split} split")
            continue
        counts[split] = Counter(layout.classes[item.label] for item in items)
        splits[split] = items
        if not items:
            faults.append(f"{root}: the {split} split is empty")
    faults += _shared(splits)
    _compare_classes(splits, remarks)
    _compare_counts(layout, counts, remarks)
    for split, items in splits.items():
        missing = _missing(items, faults)
        rng = np.random.default_rng(derive_seed(0, "check", split))
        rows = range(len(items)) if full else sorted(rng.permutation(len(items))[:sample])
        chosen = [items[i] for i in rows if items[i].name not in missing]
        decoded += sum(name in item.files for item in chosen for name in readers)
        bar = progress_bar(progress, total=len(chosen), desc=f"check {split}", unit="sample")
        verify = partial(_verify, readers=readers, train=split == "train")
        notes: dict[str, list[str]] = {}  # -> the samples
        with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for item, (errors, said) in zip(chosen, pool.map(verify, chosen)):
                faults.extend(errors)
                for note in said:
                    notes.setdefault(note, []).append(item.name)
                bar.update()
        for note, names in notes.items():
            remarks.append(
                f"{split}: {len(names):,} of {len(chosen):,} samples looked at, e.g. {names[0]}, have {note}"
            )
    if full:
        folders = {p for items in splits.values() for item in items for p in item.files.values()}
        _compare_manifest(root, folders, faults, remarks)
    return Check(counts, faults, remarks, decoded)


def check_report(layout: Layout, found: Check, limit: int = 50) -> str:
    """The result of a check in words."""
    lines = [f"{'split':8}{'samples':>9}{'published':>11}  classes"]
    for split, counts in found.counts.items():
        published = sum(layout.published.get(split, {}).values())
        published = f"{published:,}" if published else "-"
        classes = f"{sum(n > 0 for n in counts.values())} of {len(layout.classes)}"
        lines.append(f"{split:8}{sum(counts.values()):>9,}{published:>11}  {classes}")
    lines += [f"note: {remark}" for remark in found.remarks]
    lines += [f"fault: {fault}" for fault in found.faults[:limit]]
    if len(found.faults) > limit:
        lines.append(f"fault: ... and {len(found.faults) - limit:,} more")
    verdict = "usable" if found.usable else f"not usable: {len(found.faults):,} faults"
    lines.append(f"{verdict} ({found.decoded:,} files decoded)")
    return "\n".join(lines)


def _where(item: Item) -> str:
    return f" (line {item.line} of the annotations)" if item.line else ""


def _missing(items: Sequence[Item], faults: Faults) -> set[str]:
    """The samples of which a file is not there or empty; each is a fault."""
    missing = set()
    for item in items:
        for path in dict.fromkeys(item.files.values()):
            if not is_there(path):
                state = "empty" if path.exists() else "missing"
                faults.append(f"{path} is {state}{_where(item)}")
                missing.add(item.name)
    return missing


def _verify(item: Item, readers: Mapping[str, Reader], train: bool) -> tuple[list[str], list[str]]:
    """What is wrong with the files of a sample, and what is good to know of them."""
    errors, notes = [], []
    for name, reader in readers.items():
        if name not in item.files:
            continue  # text, which stands in the annotations
        try:
            notes.append(reader.verify(item, train))
        except (Unreadable, FileNotFoundError) as error:
            errors.append(f"{error}{_where(item)}")
    return errors, [note for note in notes if note]


def _compare_classes(splits: Mapping[str, Sequence[Item]], remarks: list[str]) -> None:
    """Classes that only test has are a remark."""
    labels = {split: {item.label for item in items} for split, items in splits.items()}
    if new := labels.get("test", set()) - labels.get("train", set()):
        remarks.append(f"{len(new)} classes of test have no training sample")


def _compare_counts(layout: Layout, counts: Mapping[str, Counter], remarks: list[str]) -> None:
    for split, published in layout.published.items():
        here = counts.get(split)
        if here is None or here == Counter(published):
            continue
        if not set(published) <= set(layout.classes):  # only the total is published
            if sum(here.values()) != sum(published.values()):
                remarks.append(
                    f"{split}: {sum(here.values()):,} samples, published {sum(published.values()):,}"
                )
            continue
        differ = [f"{c} {here[c]:,} ({n:,})" for c, n in published.items() if here[c] != n]
        remarks.append(f"{split}: other counts than published (in brackets): {', '.join(differ)}")


def _compare_manifest(
    root: Path, folders: Collection[Path], faults: Faults, remarks: list[str]
) -> None:
    """Files that ``igm prepare`` made and that are not as they were, and frames that are gone from a sample's folder."""
    if not (root / MANIFEST).is_file():
        remarks.append(
            "no manifest.json: the data were not made by igm prepare, no checksums to compare"
        )
        return
    try:
        files = json.loads((root / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError) as error:
        faults.append(f"{root / MANIFEST} is damaged: {error}")
        return
    for relative, entry in files.items():
        path = root / relative
        if path.parent in folders and path.parent.is_dir() and not path.exists():
            faults.append(f"{path} is missing, igm prepare made it")
        elif path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            faults.append(f"{path} has changed since igm prepare: its checksum differs")
