"""Where a run computes: one CPU or GPU, or several processes started by ``accelerate launch`` or ``torchrun``.

Several processes share the samples of each step. Their gradients are summed once a step, after SAM's second pass:
the first pass, which only looks for the direction of the perturbation, does not synchronise, so each process
perturbs by the gradient of its own samples (as in Foret et al., section 4.1). Accelerate finds the processes and
their devices, and passes tensors between them. Its Accelerator is one for the whole process and refuses a second
precision or device, which a notebook may ask for; so autocast and the gradient scaler are torch's own.
"""

import os
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Devices:
    """The device of this process, its place among the others, and the precision of the computation.

    Args:
        name: cpu, cuda, cuda:1, mps, ..., or auto: with several processes what accelerate gives this one, else the
            GPU where there is one.
        precision: no, bf16 or fp16; None takes what ``accelerate launch --mixed_precision`` says.

    Raises:
        ValueError: the device cannot be used, or not with this precision, or the other processes not be found.
    """

    def __init__(self, name: str = "auto", precision: str | None = None):
        self.state, self.rank, self.processes = None, 0, 1
        if (size := os.environ.get("WORLD_SIZE", "1")) != "1":
            from accelerate import PartialState  # takes a second to load

            try:
                self.state = PartialState(cpu=name == "cpu" or not torch.cuda.is_available())
            except (ValueError, KeyError) as error:
                PartialState._reset_state()  # else its next one would be half of this one
                raise ValueError(
                    f"WORLD_SIZE is {size}, as a launcher of several processes sets it, but it did not "
                    f"set all that they need ({error}): start with torchrun, or unset WORLD_SIZE"
                ) from error
            self.rank, self.processes = self.state.process_index, self.state.num_processes
        self.device = self._device(name)
        # Where this process's batches go, and which part of the data it takes.
        self.share = {"device": self.device, "part": (self.rank, self.processes)}
        self.main = self.rank == 0  # the process that writes files and shows progress
        self.precision = precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.precision not in ("no", *AUTOCAST):
            raise ValueError(f"unknown precision {self.precision!r}: use no, bf16 or fp16")
        try:
            scales = self.precision == "fp16"
            self.scaler = torch.amp.GradScaler(self.device.type, enabled=scales)
            with self.autocast():
                pass
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ValueError(
                f"precision {self.precision} does not work on {self.device}: give no"
            ) from error

    def __str__(self) -> str:
        kind = f"{platform.machine()}, {torch.get_num_threads()} threads"
        if self.device.type == "cuda":
            kind = torch.cuda.get_device_name(self.device)
        return f"{self.processes} x {self.device.type} ({kind})"

    # ---------------------------------------------------------------- precision

    def autocast(self) -> AbstractContextManager:
        """Around a computation of the loss; weights and gradients stay float32."""
        if self.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.precision])

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def step(self, optimizer: Optimizer, clip: float | None = None) -> None:
        """One step along ``.grad``, whose scale is taken off first. Skipped where float16 has overflowed."""
        if clip is not None:
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()

    # ---------------------------------------------------------------- processes

    def total(self, sums: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.state is None:
            return sums
        from accelerate.utils import reduce

        return reduce(sums, "sum")

    @torch.no_grad()
    def total_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replaces each ``.grad`` by its sum over the processes, in one message. None counts as 0."""
        if self.state is None:
            return
        given = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
        message = self.total(torch.cat([given, *(g.flatten() for g in grads)]))
        given, *parts = message.split([len(grads), *(g.numel() for g in grads)])
        for p, part, anywhere in zip(parameters, parts, given.tolist()):
            p.grad = part.view_as(p).clone() if anywhere else None

    @torch.no_grad()
    def same_weights(self, model: nn.Module) -> None:
        """Gives all processes the first one's parameters and buffers."""
        if self.state is not None:
            from accelerate.utils import broadcast

            for tensor in (*model.parameters(), *model.buffers()):
                tensor.copy_(broadcast(tensor))

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Gives all processes the mean of their floating buffers, such as BatchNorm's running statistics."""
        for buffer in model.buffers() if self.state else ():
            if buffer.is_floating_point():
                buffer.copy_(self.total(buffer) / self.processes)

    def gather(self, items: list) -> list:
        """The items of all processes, in the order of the processes."""
        if self.state is None:
            return items
        from accelerate.utils import gather_object

        return gather_object(items)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    def _device(self, name: str) -> torch.device:
        if self.state is not None and name in ("auto", "cuda"):
            return self.state.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
            name = "mps" if torch.backends.mps.is_available() else name
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"the device {name!r} cannot be used: give cpu, or auto") from error
