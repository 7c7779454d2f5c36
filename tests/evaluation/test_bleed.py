"""Bleedless and fullness, against their definition written out, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torchaudio
from torch import Tensor

from lightning_modules.evaluation import frames
from lightning_modules.evaluation.bleed import bleedless_fullness

RATE = 16000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 8


def definition(reference: Tensor, estimate: Tensor, rate: int) -> tuple[float, float]:
    """As the community's code puts it, from torchaudio's own parts, for one source (C, T)."""
    mel = torchaudio.transforms.MelSpectrogram(
        rate, 4096, hop_length=1024, n_mels=512, power=1, pad_mode="constant",
        norm="slaney", mel_scale="slaney",
    )  # fmt: skip
    decibels = torchaudio.transforms.AmplitudeToDB(stype="magnitude", top_db=80)
    excess = decibels(mel(estimate)) - decibels(mel(reference))
    above, below = excess[excess > 0], excess[excess < 0]
    return 100 / (1 + float(above.mean())), 100 / (1 - float(below.mean()))


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_figures_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    references = noise(2, 3, 2, 20_001)
    references[0, 0] = torch.nn.functional.avg_pool1d(references[0, 0], 51, 1, 25)  # a low floor
    estimates = 0.8 * references + noise(2, 3, 2, 20_001, seed=1) / 20
    estimates[1, 2] = 0
    monkeypatch.setattr(frames, "_BLOCK_SAMPLES", 12 * 4096 * 3)
    bleedless, fullness = bleedless_fullness(references, estimates, RATE)
    assert bleedless.shape == (2, 3)
    for batch, source in ((0, 0), (0, 1), (1, 1)):
        expected = definition(references[batch, source], estimates[batch, source], RATE)
        found = (bleedless[batch, source].item(), fullness[batch, source].item())
        assert found == pytest.approx(expected, rel=1e-4)
    assert bleedless[1, 2] == 100  # nothing too much in silence
    assert fullness[1, 2] < 1


def test_a_gain_is_all_excess_or_all_lack() -> None:
    reference = noise(1, 30_000)
    for gain_db, expected in ((6.0, (100 / 7, 100)), (-6.0, (100, 100 / 7)), (0.0, (100, 100))):
        found = bleedless_fullness(reference, reference * 10 ** (gain_db / 20), RATE)
        assert [figure.item() for figure in found] == pytest.approx(expected, rel=1e-4)


def test_samples_that_are_not_finite() -> None:
    references = noise(2, 1, 9000)
    estimates = references / 2
    estimates[0, 0, 5000] = math.inf
    for figure in bleedless_fullness(references, estimates, RATE):
        assert figure[0].isnan()
        assert figure[1].isfinite()


def test_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"\(2, 100\), estimates \(1, 100\): expected both"):
        bleedless_fullness(torch.ones(2, 100), torch.ones(1, 100))
