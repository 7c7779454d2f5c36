"""The line about a model."""

from __future__ import annotations

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelSummary, RichModelSummary

from lightning_modules.callbacks.summary import Summary, replace_default_summary
from lightning_modules.version import version
from tests.helpers.checkpoints import model


def test_line_has_parameters_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    network = model()
    trainer = Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    total = sum(each.numel() for each in network.parameters())
    Summary().on_fit_start(trainer, network)
    first = next(iter(network.parameters())).requires_grad_(False)
    Summary().on_fit_start(trainer, network)
    trained = f"{total - first.numel():,} of them trained"
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"UNet: {total:,} parameters; stemlab {version()}",
        f"UNet: {total:,} parameters, {trained}; stemlab {version()}",
    ]


def test_only_the_default_is_replaced() -> None:
    callbacks: list[ModelSummary] = [RichModelSummary(), ModelSummary(max_depth=2), Summary()]
    kept = callbacks[1:]
    replace_default_summary(callbacks)
    assert type(callbacks[0]) is Summary
    assert callbacks[1:] == kept
