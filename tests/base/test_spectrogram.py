"""Training of spectrogram models on a loss of waveforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from datamodules.batches import Batch
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.losses import L1

SOURCES = ["vocals", "rest"]


def model(**arguments: Any) -> OpenUnmix:
    return OpenUnmix(SOURCES, **{**OpenUnmix.tiny, "mask": "ratio", **arguments})


def a_batch() -> Batch:
    targets = torch.randn(2, 2, 2, 8000)
    return Batch(targets.sum(1), targets)


def test_waveforms_after_mask_and_inverse_transform_are_compared() -> None:
    separator, batch = model(loss_function=L1(), wiener_iterations=0).eval(), a_batch()
    expected = (separator(batch.mixture) - batch.targets).abs().mean((0, 2, 3))
    found = separator.loss(batch)
    torch.testing.assert_close(found["loss/vocals"], expected[0])
    torch.testing.assert_close(found["loss"], expected.mean())
    assert separator.paper_loss(batch)["loss"] != found["loss"]


def test_the_wiener_filter_is_not_trained_through() -> None:
    separator, batch = model(loss_function=L1(), wiener_iterations=1), a_batch()
    separator.loss(batch)["loss"].backward()
    gradients = [weights.grad for weights in separator.networks.parameters()]
    assert all(each is not None and bool(each.isfinite().all()) for each in gradients)


def test_without_a_loss_function_it_is_the_loss_of_the_paper() -> None:
    separator, batch = model().eval(), a_batch()
    assert separator.loss(batch)["loss"] == separator.paper_loss(batch)["loss"]


def test_a_binary_mask_cannot_be_trained_through() -> None:
    with pytest.raises(ValueError, match="no gradients for loss_function; use mask: ratio"):
        model(loss_function=L1(), mask="binary")
