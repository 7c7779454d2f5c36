"""Schedule-free optimisers: which of their two sets of weights the model has, and when."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.configuration.messages import SettingError


class ScheduleFree(Callback):
    """Train with a schedule-free optimiser; validate and save its average.

    Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024, "The road less scheduled". Such
    optimisers, those of the package ``schedulefree``, average their weights while they train, so
    that no schedule is needed. Gradients are computed at other weights than those of the result:
    ``train()`` and ``eval()`` of the optimiser exchange the two.

    A checkpoint holds the average as the model's ``state_dict`` and the trained weights beside it.
    """

    def __init__(self) -> None:
        # Copy of the trained weights while the model has the average. To compute them back would
        # round them.
        self._trained: list[Tensor] | None = None

    def _to_average(self, trainer: Trainer, module: LightningModule) -> None:
        self._trained = [parameter.detach().clone() for parameter in module.parameters()]
        for optimizer in trainer.optimizers:
            optimizer.eval()  # type: ignore[attr-defined]

    def _to_trained(self, trainer: Trainer, module: LightningModule) -> None:
        if self._trained is None:
            return
        for optimizer in trainer.optimizers:
            optimizer.train()  # type: ignore[attr-defined]
        with torch.no_grad():
            for parameter, trained in zip(module.parameters(), self._trained, strict=True):
                parameter.copy_(trained)
        self._trained = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the optimiser to training.

        Raises:
            SettingError: It is not schedule-free.
        """
        for optimizer in trainer.optimizers:
            if not (hasattr(optimizer, "train") and hasattr(optimizer, "eval")):
                raise SettingError(
                    f"trainer.callbacks: ScheduleFree needs a schedule-free optimiser, and "
                    f"model.init_args.optimizer is {type(optimizer).__name__}: give one such as "
                    "schedulefree.AdamWScheduleFree, or omit the callback"
                )
            optimizer.train()

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        if trainer.optimizers and not trainer.sanity_checking:  # only in a training
            self._to_average(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trained weights."""
        self._to_trained(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the model."""
        self._to_average(trainer, pl_module)
        self._trained = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the model's weights, and the trained weights beside it."""
        weights = checkpoint["state_dict"]
        self._to_average(trainer, pl_module)
        checkpoint["state_dict"] = {name: value.clone() for name, value in weights.items()}
        self._to_trained(trainer, pl_module)
        checkpoint["current_model_state"] = weights

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume from the trained weights; outside a training, the model has the average."""
        if trainer.state.fn == "fit" and "current_model_state" in checkpoint:
            pl_module.load_state_dict(checkpoint["current_model_state"])
