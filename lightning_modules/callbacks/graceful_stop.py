"""Stop a training after a signal: at the same batch on all ranks, with its state saved."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Trainer

from lightning_modules.callbacks.lightning_internals import disable_signal_handlers
from lightning_modules.runtime import signals


class Interrupted(SystemExit):
    """The run was ended by a signal after its state was saved.

    Attributes:
        checkpoint: The checkpoint to resume from.
    """

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(signals.exit_status())
        self.checkpoint = checkpoint


class GracefulStop:
    """Stop requests by Ctrl-C, SIGTERM and SIGUSR1, agreed on by all ranks.

    Any rank may receive the signal, at any moment, and all ranks must stop at the same batch.
    ``SkipNonFinite`` sends the request along with its own all-reduce before each backward pass
    and hands in the result; without that callback, each batch costs an all-reduce here.
    """

    def __init__(self) -> None:
        self._agreed: bool | None = None

    def install(self, trainer: Trainer) -> None:
        """Note stop signals instead of being ended by them."""
        signals.install_handlers(*signals.STOP)
        disable_signal_handlers(trainer)

    def restore(self) -> None:
        """Restore the former signal handlers."""
        signals.restore_handlers()

    @property
    def requested(self) -> bool:
        """Whether this process received a signal."""
        return signals.received is not None

    def set_agreed(self, agreed: bool) -> None:
        """Hand in whether any rank had received a signal before this batch's backward pass."""
        self._agreed = agreed

    def agreed_after_batch(self, trainer: Trainer) -> bool:
        """Whether to stop after this batch; all ranks return the same."""
        agreed, self._agreed = self._agreed, None
        if agreed is None or trainer.world_size == 1:
            return self.agreed(trainer)
        return agreed

    def agreed(self, trainer: Trainer) -> bool:
        """Whether any rank has received a signal by now; all ranks must call it."""
        agreed: bool = trainer.strategy.reduce_boolean_decision(self.requested, all=False)
        return agreed
