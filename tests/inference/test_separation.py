"""Separation of audio of any length, rate and number of channels; exact overlap-add."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_modules.inference.separation import SeparationSettings as Settings
from lightning_modules.inference.separation import separate, separate_stream
from tests.helpers.separators import Gains, Half, Identity


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("samples", [1, 2, 440, 441, 442, 552, 4567, 20011])
def test_identity_model_returns_its_input_bit_for_bit(
    samples: int, batch_size: int, overlap: float
) -> None:
    mixture = torch.randn(2, samples)
    estimates = separate(
        Identity(), mixture, settings=Settings(overlap=overlap, batch_size=batch_size)
    )
    assert estimates.shape == (2, 2, samples)
    assert torch.equal(estimates, mixture.expand(2, 2, samples))


def test_chunk_length_is_the_segment_length() -> None:
    model = Identity()
    separate(model, torch.randn(2, 10_000))
    assert model.lengths == {441}


@pytest.mark.parametrize("block", [1, 100, 441, 5000])
def test_result_does_not_depend_on_the_division_into_blocks(block: int) -> None:
    mixture = torch.randn(2, 4567)
    whole = separate(Half(), mixture)
    pieces = list(separate_stream(Half(), mixture.split(block, -1)))
    assert torch.equal(torch.cat(pieces, -1), whole)


def test_stream_buffers_only_a_few_chunks() -> None:
    """After each block, all but the incomplete chunks has been yielded."""
    received = emitted = worst = 0

    def blocks() -> object:
        nonlocal received, worst
        for _ in range(200):
            worst = max(worst, received - emitted)
            received += 1000
            yield torch.randn(2, 1000)

    for part in separate_stream(Identity(), blocks(), settings=Settings(batch_size=4)):  # type: ignore[arg-type]
        emitted += part.shape[-1]
    assert emitted == 200_000
    assert worst < 1000 + 5 * 441


def test_estimates_of_an_additive_model_add_up_to_the_mixture() -> None:
    mixture = torch.randn(2, 9999)
    assert torch.allclose(separate(Half(), mixture).sum(0), mixture, atol=1e-6)


@pytest.mark.parametrize("rate", [22050, 48000, 96000, 44056])
def test_estimates_have_the_rate_and_length_of_the_mixture(rate: int) -> None:
    samples = rate // 3 + 1
    time = torch.arange(samples) / rate
    mixture = torch.sin(2 * torch.pi * 440 * time).expand(2, -1)
    model = Identity()
    model.segment_seconds = 0.1
    estimates = separate(model, mixture, rate)
    assert estimates.shape == (2, 2, samples)
    inside = slice(rate // 100, -rate // 100)
    assert (estimates[0] - mixture)[:, inside].abs().max() < 0.02
    assert model.lengths <= {4410, 4411}


def test_mono_audio_with_a_stereo_model_and_vice_versa() -> None:
    mono = torch.randn(1, 3000)
    assert torch.equal(separate(Identity(), mono)[0], mono)
    model = Identity()
    model.audio_channels = 1
    stereo = torch.randn(2, 3000)
    assert torch.equal(separate(model, stereo)[1], stereo)


def test_invalid_arguments_raise() -> None:
    with pytest.raises(ValueError, match=r"1\.0.*from 0 to below 1"):
        separate(Identity(), torch.randn(2, 100), settings=Settings(overlap=1.0))
    with pytest.raises(ValueError, match=r"\(1, 2, 100\).*\(channels, samples\)"):
        separate(Identity(), torch.randn(1, 2, 100))
    with pytest.raises(ValueError, match=r"is a numpy\.ndarray: give a torch tensor \(channels"):
        separate(Identity(), np.zeros((2, 100)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"is a builtins\.list"):
        Gains(["vocals"], sample_rate=8000).separate([0.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="6 channels"):
        separate(Identity(), torch.randn(6, 100))


def test_empty_mixture() -> None:
    assert separate(Identity(), torch.zeros(2, 0)).shape == (2, 2, 0)


def test_chunk_seconds_replace_those_of_the_model() -> None:
    model = Identity()
    separate(model, torch.zeros(2, 5000), settings=Settings(chunk_seconds=0.02))
    assert model.lengths == {882}
    for length in (0, -1, 601, float("nan")):
        with pytest.raises(ValueError, match=r"chunk_seconds is .*: give a length"):
            Settings(chunk_seconds=length)
