"""The paper's Table 1, to stand beside runs of one's own. The numbers are the paper's, none was computed here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from igm.runs import read_record

SCORES = {  # what the paper reports of each data set
    "cremad": ("accuracy", "map"),
    "kinetics_sounds": ("accuracy", "map"),
    "twitter2015": ("accuracy", "macro_f1"),
    "sarcasm": ("accuracy", "macro_f1"),
    "nvgesture": ("accuracy", "macro_f1"),
}
SINGLE = {  # its "Unimodal-1", "-2" and "-3"
    "cremad": ("video", "audio"),
    "kinetics_sounds": ("video", "audio"),
    "twitter2015": ("text", "image"),
    "sarcasm": ("text", "image"),
    "nvgesture": ("rgb", "flow", "depth"),
}
TABLE_1 = """
Unimodal-1      .6317/.6861  .5312/.5669  .7367/.6849  .8136/.8065  .7822/.7833
Unimodal-2      .4583/.5879  .5462/.5837  .5863/.4333  .7181/.7073  .7863/.7865
Unimodal-3      -            -            -            -            .8154/.8183
OGR-GB          .6465/.6854  .6710/.7139  .7435/.6869  .8335/.8271  .8299/.8305
OGM             .6694/.7173  .6606/.7144  .7492/.6874  .8323/.8266  -
DOMFN           .6734/.7372  .6625/.7244  .7445/.6857  .8356/.8262  -
MSES            .6156/.6683  .6471/.7063  .7184/.6655  .8418/.8360  .8112/.8147
PMR             .6659/.7030  .6656/.7193  .7425/.6860  .8360/.8249  -
AGM             .6707/.7358  .6602/.7252  .7483/.6911  .8402/.8344  .8278/.8282
MSLR            .6546/.7138  .6591/.7196  .7252/.6439  .8423/.8369  .8286/.8292
ReconBoost      .7484/.8124  .7085/.7424  .7442/.6834  .8437/.8317  .8413/.8632
SMV             .7872/.8417  .6900/.7426  .7428/.6817  .8418/.8368  .8352/.8341
MMPareto        .7487/.8535  .7000/.7850  .7358/.6729  .8348/.8284  .8382/.8424
MLA (rerun)     .7943/.8572  .7004/.7413  .7352/.6713  .8426/.8348  .8373/.8387
IGM (no SAM)    .8026/.8830  .7159/.7623  .7395/.6912  .8455/.8390  .8487/.8634
IGM             .8105/.8948  .7403/.7855  .7489/.6917  .8468/.8392  .8693/.8703
"""


def table_1(data: str) -> dict[str, tuple[float, float]]:
    """The paper's two scores of a data set by method, where it has them.

    Raises:
        ValueError: a data set that is not in the paper.
    """
    if data not in SCORES:
        raise ValueError(f"{data!r} is not in the paper: use one of {', '.join(SCORES)}")
    column, found = list(SCORES).index(data), {}
    names = {f"Unimodal-{i}": f"{modality} alone" for i, modality in enumerate(SINGLE[data], 1)}
    for line in TABLE_1.strip().splitlines():
        name, values = line[:16].strip(), line[16:].split()
        if values[column] != "-":
            first, second = values[column].split("/")
            found[names.get(name, name)] = float(first), float(second)
    return found


def beside(data: str, runs: Iterable[str | Path] = ()) -> str:
    """The paper's scores and, below them, the test scores of finished runs on the same data set, as a table.

    Args:
        runs: folders of ``igm train``; those of other data sets and those that are not complete are left out.
    """
    first, second = SCORES.get(data, ("", ""))
    rows = [(f"paper: {name}", *scores) for name, scores in table_1(data).items()]
    for folder in runs:
        record = read_record(folder)
        if record.get("data") != data or record["status"] != "complete":
            continue
        samples = record["sizes"]["train"]
        for name, scores in record["results"]["test"].items():
            label = f"{Path(folder).name}: {name}, {samples:,} training samples"
            rows.append((label, scores[first], scores[second]))
    width = max(len(label) for label, *_ in rows) + 2
    titles = {"accuracy": "accuracy", "map": "mAP", "macro_f1": "macro-F1"}
    lines = [f"{'':{width}}{titles[first]:>9}{titles[second]:>10}"]
    lines += [f"{label:{width}}{a:9.4f}{b:10.4f}" for label, a, b in rows]
    return "\n".join(lines)
