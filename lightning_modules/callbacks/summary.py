"""The line about a model at the start of a training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelSummary

from lightning_modules.callbacks.lightning_internals import is_default_summary
from lightning_modules.version import version


class Summary(ModelSummary):
    """Print the model's size and the version of the program on one line."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        numbers = [(each.numel(), each.requires_grad) for each in pl_module.parameters()]
        total = sum(number for number, _ in numbers)
        trained = sum(number for number, is_trained in numbers if is_trained)
        part = "" if trained == total else f", {trained:,} of them trained"
        trainer.print(
            f"{type(pl_module).__name__}: {total:,} parameters{part}; stemlab {version()}"
        )


def replace_default_summary(callbacks: list[Any]) -> None:
    """Replace Lightning's table, which counts no operations without an example of the input."""
    for number, callback in enumerate(callbacks):
        if is_default_summary(callback):
            callbacks[number] = Summary()
