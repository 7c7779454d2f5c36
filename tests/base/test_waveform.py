"""Waveform separators: configurable loss, and checkpoints without it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser

from datamodules.batches import Batch
from lightning_modules.base.description import check_same_model, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.base.waveform import WaveformSeparator
from lightning_modules.losses import L1, MSE, AlphaWeighted, LogWMSE
from tests.helpers.separators import TWO, Gains


def built(*words: str) -> WaveformSeparator:
    """Build a model from command-line arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SourceSeparator, "model", required=True)
    settings = parser.parse_args(
        [f"--model={__name__}.Gains", "--model.init_args.sources=[vocals, rest]", *words]
    )
    model = parser.instantiate_classes(settings).model
    assert isinstance(model, WaveformSeparator)
    return model


def test_loss_is_configured_by_class_path() -> None:
    assert isinstance(built().loss_function, MSE)
    name = "--model.init_args.loss_function=lightning_modules.losses."
    assert isinstance(built(name + "L1").loss_function, L1)
    weighted = built(
        name + "AlphaWeighted",
        "--model.init_args.loss_function.init_args.alphas={vocals: 0.25, rest: 0.75}",
        "--model.init_args.loss_function.init_args.loss_function=lightning_modules.losses.LogWMSE",
        "--model.init_args.sample_rate=22050",
    ).loss_function
    assert isinstance(weighted, AlphaWeighted)
    assert isinstance(weighted.loss_function, LogWMSE)
    assert weighted.loss_function.sample_rate == weighted.sample_rate == 22050
    with pytest.raises(ArgumentError, match="Nothing"):
        built(name + "Nothing")


def test_loss_returns_the_total_and_a_value_per_source() -> None:
    loss_function = AlphaWeighted(L1(), {"vocals": 0.25, "rest": 0.75})
    model = Gains(TWO, loss_function=loss_function)
    mixture = torch.ones(2, 1, 10)
    targets = torch.stack([mixture * 0.1, mixture * 0.7], 1)
    found = model.loss(Batch(mixture, targets))
    assert {name: round(value.item(), 6) for name, value in found.items()} == {
        "loss": 0.25,
        "loss/vocals": 0.4,
        "loss/rest": 0.2,
    }


def test_loss_with_names_of_other_sources_raises() -> None:
    with pytest.raises(ValueError, match=re.escape("alphas has vocals, bass")):
        Gains(TWO, loss_function=AlphaWeighted(L1(), {"vocals": 0.5, "bass": 0.5}))


def test_checkpoint_does_not_contain_the_loss() -> None:
    chosen = built("--model.init_args.loss_function=lightning_modules.losses.SpectralRMSE")
    described = describe(chosen)
    assert "loss_function" not in described["init_args"]
    assert list(chosen.state_dict()) == ["gains"]
    plain = Gains(**described["init_args"])
    plain.load_state_dict(chosen.state_dict())
    checkpoint: dict[str, Any] = {}
    chosen.on_save_checkpoint(checkpoint)
    check_same_model(checkpoint, plain)
    by_hand = Gains(TWO, loss_function=LogWMSE())
    assert "loss_function" not in describe(by_hand)["init_args"]
