"""Compares finished runs: groups of seeds, their means, and their differences paired by seed.

Runs that differ in nothing but the seed form a group. The score of a group is its mean over the seeds, with
Student's 95 % interval. Two groups are compared on the seeds that both have: with delta_s the difference at seed s,

    mean of delta_s  ±  t_(0.975, n-1) std(delta_s) / sqrt(n)

where what the two runs of a seed share, such as their first weights, cancels. Each interval is one comparison at
95 %; among many comparisons, some intervals exclude 0 by chance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from igm.analysis.intervals import points
from igm.runs import FINDINGS, RECORD, read_record
from igm.settings import ON_A_MACHINE

# Notes about the networks; all other notes are about the data.
MODEL_NOTES = ("model", "network", "shared_head")
# Options that do not make two runs different. The precision does, since it changes the arithmetic.
ALIKE = ("seed", *(name for name in ON_A_MACHINE if name != "precision"))


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    ``groups`` is name -> seed -> score, in the order of the folders; the first group is the one that the others are
    compared with. ``data`` names the options by which the groups' data differ: a difference between such groups is
    not one of methods alone.
    """

    score: str
    output: str
    split: str
    groups: dict[str, dict[int, float]]
    data: list[str]

    @property
    def what(self) -> str:
        """E.g. "accuracy of fused on test"."""
        return f"{self.score} of {self.output} on {self.split}"

    @property
    def differences(self) -> dict[str, dict[int, float]]:
        """group -> seed -> its score minus the first group's, on the seeds that both have."""
        reference, *others = self.groups.values()
        names = list(self.groups)[1:]
        return {
            name: {seed: x - reference[seed] for seed, x in group.items() if seed in reference}
            for name, group in zip(names, others, strict=True)
        }


def compare(
    folders: Iterable[str | Path],
    score: str = "accuracy",
    output: str = "fused",
    split: str = "test",
) -> Comparison:
    """Reads run folders, groups them over the seeds and names each group by what sets it apart.

    A setting that a method does not have (tau of alternating training) does not name a group. A ``data_seed`` that
    follows the seed in every run of a group does not split it.

    Args:
        folders: of runs, as ``igm.train`` writes them with ``out``.
        score: accuracy, macro_f1 or map.
        output: a modality, or "fused".
        split: test or valid.

    Raises:
        FileNotFoundError: a folder is not there or has no run.json.
        ValueError: no folder, one given twice, two runs of one group with the same seed, or a record that is damaged,
            of an unfinished run, or without the score asked for.
    """
    runs = []
    for folder in map(Path, folders):
        if folder.resolve() in [run.folder.resolve() for run in runs]:
            raise ValueError(f"{folder} is given twice: give each run once")
        runs.append(_read(folder, score, output, split))
    if not runs:
        raise ValueError("no run to compare: give the folders of one or more")
    groups = _group(runs)
    notes = {name for run in runs for name in run.data}
    differing = _differing([group[0].options for group in groups], {*notes, *MODEL_NOTES})
    scores = {_name(group[0], differing): _by_seed(group) for group in groups}
    return Comparison(score, output, split, scores, [name for name in differing if name in notes])


def comparison_table(comparison: Comparison) -> str:
    """The comparison as text: a line a group in %, then a line a difference from the first group in points."""
    first, *others = comparison.groups
    width = max(len("group"), *map(len, comparison.groups))
    lines = [
        f"{comparison.what}, in %: mean over the seeds ± half-width of its 95 % interval",
        "",
        f"{'group':{width}}{'seeds':>7}  {'mean':14}lowest to highest",
    ]
    for name, by_seed in comparison.groups.items():
        x = list(by_seed.values())
        mean = points(x) if len(x) > 1 else f"{100 * x[0]:.1f}"
        lines.append(
            f"{name:{width}}{len(x):>7}  {mean:14}{100 * min(x):.1f} to {100 * max(x):.1f}"
        )
    if others:
        lines += ["", f"minus {first}, in points, paired by seed"]
    for name, by_seed in comparison.differences.items():
        delta = list(by_seed.values())
        if len(delta) > 1:
            found = points(delta, signed=True)
        elif delta:
            found = f"{100 * delta[0]:+.1f} (one seed in common: no interval)"
        else:
            found = "no seed in common: no difference"
        lines.append(f"{name:{width}}{len(delta):>7}  {found}")
    if comparison.data:
        lines += [
            "",
            f"The data of the groups differ ({', '.join(comparison.data)}): "
            "this does not compare methods alone.",
        ]
    return "\n".join(lines)


@dataclass
class _Run:
    folder: Path
    seed: int
    options: dict  # settings and notes, but for those of ALIKE
    data: list[str]  # which of them are notes on the data
    score: float


def _read(folder: Path, score: str, output: str, split: str) -> _Run:
    file = folder / RECORD
    record = read_record(folder)
    settings = record["settings"]
    status = record.get("status", "complete")
    if status != "complete":
        raise ValueError(
            f"{file}: this run is not complete ({status}): go on with --resume {folder}, or leave it out"
        )
    value = record.get("results")
    for kind, name in (("split", split), ("output", output), ("score", score)):
        there = list(value) if isinstance(value, dict) else []
        if name not in there:
            raise ValueError(
                f"{file} has no {kind} {name!r}: use one that all runs have, here {', '.join(there) or 'none'}"
            )
        value = value[name]
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(
            f"{file}: the {score} of {output} on {split} is {value}: leave this run out"
        )
    notes = {name: x for name, x in record.items() if name not in ("settings", *FINDINGS)}
    options = {name: x for name, x in (settings | notes).items() if name not in ALIKE}
    data = [name for name in notes if name not in MODEL_NOTES]
    return _Run(folder, settings["seed"], options, data, value)


def _group(runs: Sequence[_Run]) -> list[list[_Run]]:
    """The runs that differ in the seed only, group by group, in the order in which they came."""
    if len({run.options.get("data_seed") for run in runs}) > 1:
        for group in _equal(runs, but="data_seed"):
            if all(run.options.get("data_seed") == run.seed for run in group):
                for run in group:
                    run.options["data_seed"] = "as seed"
    return _equal(runs)


def _equal(runs: Sequence[_Run], but: str | None = None) -> list[list[_Run]]:
    """Runs whose options are equal, ``but`` for one."""
    groups: list[tuple[dict, list[_Run]]] = []
    for run in runs:
        # An option that is None counts as absent.
        own = {name: x for name, x in run.options.items() if name != but and x is not None}
        for options, members in groups:
            if options == own:  # 20 and 20.0 are one tau
                members.append(run)
                break
        else:
            groups.append((own, [run]))
    return [members for _, members in groups]


def _by_seed(group: Sequence[_Run]) -> dict[int, float]:
    """seed -> score, in the order of the seeds."""
    of_seed: dict[int, _Run] = {}
    for run in group:
        if run.seed in of_seed:
            raise ValueError(
                f"{of_seed[run.seed].folder} and {run.folder} have the same settings and the same seed, {run.seed}: "
                "leave one of them out"
            )
        of_seed[run.seed] = run
    return {seed: of_seed[seed].score for seed in sorted(of_seed)}


def _differing(groups: Sequence[Mapping], notes: Collection[str]) -> list[str]:
    """The options that have more than one value, over the groups that have them. A note is None where it is missing."""
    differing = []
    for name in dict.fromkeys(name for options in groups for name in options):
        having = [options for options in groups if name in options or name in notes]
        if any(options.get(name) != having[0].get(name) for options in having):
            differing.append(name)
    return differing


def _name(run: _Run, differing: Sequence[str]) -> str:
    """The method, and the options in which the groups differ, e.g. "igm, tau 20"."""
    shown = [n for n in differing if n != "method" and run.options.get(n) is not None]
    return ", ".join([run.options["method"], *(f"{n} {_shown(run.options[n])}" for n in shown)])


def _shown(value) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_shown(x)}" for name, x in value.items())
    if isinstance(value, list):
        return "+".join(map(_shown, value)) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0")
