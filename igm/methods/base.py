"""What the training loop asks of a method: its stages, a gradient for a batch, and what to do when a stage ends."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from igm.devices import Devices
from igm.sam import SAM
from igm.settings import Settings

Batch = Mapping[str, Tensor]  # modality -> (n, ...), "label" -> (n,), "index" -> (n,)


@dataclass(frozen=True)
class Stage:
    """Some epochs in which the same modalities are trained; the next round comes back to them."""

    modalities: tuple[str, ...]
    epochs: int
    round: int = 0

    @property
    def name(self) -> str:
        return "+".join(self.modalities)


class Method:
    """Base of the training methods.

    A method of your own says in ``Settings`` what can be set, and defines ``stages``, ``parameters`` and ``loss``;
    the rest has defaults. ``igm.train`` takes the class.

    Args:
        model: a LateFusion, or for joint training also a Concatenation.
        modalities: those to train, in order.
        settings: of the type ``Settings`` of this class.
        devices: where it computes; by default this process's own.

    Raises:
        ValueError: the model as a whole is what torch.compile returns.
    """

    Settings: ClassVar[type[Settings]] = Settings

    def __init__(
        self,
        model: nn.Module,
        modalities: list[str],
        settings: Settings,
        devices: Devices | None = None,
    ):
        if hasattr(model, "_orig_mod"):
            raise ValueError(
                "give the model itself, and compile its networks in place, such as model['audio'].compile(): the "
                "methods call them one by one"
            )
        self.model = model
        self.modalities = modalities
        self.settings = settings
        self.devices = devices or Devices("cpu", "no")

    # ---------------------------------------------------------------- what is trained

    def stages(self) -> list[Stage]:
        """The stages of the whole run, in their order; each trains some modalities for some epochs.

        Raises:
            ValueError: the settings do not make a plan, e.g. more rounds than epochs.
        """
        raise NotImplementedError

    def turns(self, stage: Stage) -> list[Stage]:
        """The steps that each batch gives, one after the other: by default one, for all modalities of the stage."""
        return [stage]

    def parameters(self, stage: Stage) -> list[nn.Parameter]:
        """The parameters that a stage trains, each once."""
        raise NotImplementedError

    def optimizer(self, stage: Stage, base: Optimizer) -> SAM:
        """The optimiser of a stage, around torch's. It is kept from round to round, unless ``restart`` is set."""
        return SAM(base, self.settings.rho, norm=self.settings.rho_norm)

    def loss(self, stage: Stage, batch: Batch) -> Tensor:
        """The mean loss of a batch of n samples, (), e.g. the cross-entropy in nats (Eq. 1).

        Args:
            stage: the turn that is trained; ``stage.modalities`` says whose loss it is.
            batch: modality -> inputs (n, ...), "label" -> (n,), int64, "index" -> (n,).
        """
        raise NotImplementedError

    def gradient(self, stage: Stage, batch: Batch, optimizer: SAM) -> Tensor:
        """Leaves in ``.grad`` what the optimiser is to step along; returns the loss, ()."""

        def closure() -> Tensor:
            optimizer.zero_grad()
            with self.devices.autocast():
                loss = self.loss(stage, batch)
            self.devices.backward(loss)
            return loss

        return optimizer.gradient(closure)

    # ---------------------------------------------------------------- what comes between

    def begin_stage(self, stage: Stage, optimizer: SAM) -> None:  # noqa: B027
        """Called before the first epoch of a stage, with its optimiser."""

    def end_turn(self, turn: Stage) -> None:  # noqa: B027
        """Called after each step."""

    def end_stage(self, stage: Stage, batches: Iterable[Batch]) -> None:  # noqa: B027
        """Called once after the last epoch of a stage, with the training batches (a process's share of them)."""

    # ---------------------------------------------------------------- what is evaluated and kept

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Logits (n, c) of each trained modality."""
        return {name: self.model[name](batch[name]) for name in self.modalities}

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """What is evaluated: ``predict`` in the run's precision, its result in float32."""
        with self.devices.autocast():
            return {name: z.float() for name, z in self.predict(batch).items()}

    def state_dict(self) -> dict:
        """What a checkpoint must keep of the method beside the model: tensors, numbers, strings, dicts and lists."""
        return {}

    def load_state_dict(self, state_dict: Mapping) -> None:  # noqa: B027
        """Goes on from ``state_dict``."""
