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
        generator: of the random directions, on the CPU.

    Returns:
        (d, d), symmetric, with the eigenvalues of T, in its dtype.

    Raises:
        ValueError: ``first`` has another length, or no direction: it is zero, or not finite.
    """
    # There is no decomposition in half precision.
    dtype = torch.promote_types(T.dtype, torch.float32)
    # Drawn on the CPU: the same directions on all devices.
    columns = torch.randn(T.shape, dtype=dtype, generator=generator)  # (d, d)
    if first is not None:
        if first.shape != T.shape[:1]:
            raise ValueError(
                f"first must be of shape {tuple(T.shape[:1])}, got {tuple(first.shape)}"
            )
        columns[:, 0] = first.to(columns)
        if not columns[:, 0].isfinite().all() or not columns[:, 0].any():
            raise ValueError("first has no direction: it is zero, or holds NaN or infinity")
    Q = torch.linalg.qr(columns).Q.to(T.device)  # orthogonal, its first column along ``first``
    weights = torch.linalg.eigvalsh(T.to(dtype))  # (d,), ascending: the sharpest comes first
    control = (Q * weights) @ Q.T
    return ((control + control.T) / 2).to(T.dtype)
