"""Controls: what T could be if its directions did not matter."""

from __future__ import annotations

import torch
from torch import Tensor


def with_directions(
    T: Tensor, first: Tensor | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """A control for a modification matrix: the same weights along other directions.

    Where T changes a training run, this matrix tells whether T's directions did it or its weights alone.

    Args:
        T: (d, d), symmetric, from ``modification_matrix``.
        first: (d,), the direction that gets T's smallest weight; it need not have norm 1. The other directions are
            random and orthogonal to it. Without it all directions are random.
        generator: of the random directions.

    Returns:
        (d, d), symmetric, with the eigenvalues of T.
    """
    # Drawn on the CPU: the same directions on all devices.
    columns = torch.randn(T.shape, dtype=T.dtype, generator=generator)  # (d, d)
    if first is not None:
        columns[:, 0] = first.to(columns)
    Q = torch.linalg.qr(columns).Q.to(T.device)  # orthogonal, its first column along ``first``
    weights = torch.linalg.eigvalsh(T)  # (d,), ascending: the sharpest direction's comes first
    control = (Q * weights) @ Q.T
    return (control + control.T) / 2
