"""Oracles: their definitions, sums of estimates, and their order on real music."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.signal import istft, stft
from torch import Tensor

from lightning_modules.evaluation import frames
from lightning_modules.evaluation.oracles import ORACLES, ideal_binary_mask, nmf
from lightning_modules.evaluation.scores import score_track, usdr

Spectra = NDArray[np.complex128]
Magnitudes = NDArray[np.float64]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) / 8


def song(channels: int = 2, samples: int = 20_123) -> tuple[Tensor, Tensor]:
    """A mixture and three sources with different spectra and correlated channels."""
    sources = noise(3, channels, samples)
    sources[0] = sources[0].cumsum(-1) / 20
    sources[1] += 0.7 * sources[1].roll(1, 0)
    sources[2, :, 5000:9000] = 0
    return sources.sum(0), sources


def scipy_spectra(signals: Tensor) -> Spectra:
    """Spectra on the scale of ours, shape (..., F, N)."""
    found: Spectra = stft(signals.numpy(), nperseg=2048)[-1] * 1024
    return found


def scipy_waveforms(spectra: Spectra, samples: int) -> Tensor:
    return torch.from_numpy(istft(spectra / 1024)[1][..., :samples])


def test_masks_equal_their_definitions() -> None:
    mixture, sources = song()
    mixed, true = scipy_spectra(mixture), scipy_spectra(sources)
    magnitudes = np.abs(true)
    expected = {
        "ibm1": mixed * (magnitudes >= 0.5 * np.abs(mixed)),
        "ibm2": mixed * (magnitudes**2 >= 0.5 * np.abs(mixed) ** 2),
        "irm1": mixed * magnitudes / magnitudes.sum(0),
        "irm2": mixed * magnitudes**2 / (magnitudes**2).sum(0),
    }
    for name, spectra in expected.items():
        found = ORACLES[name](mixture, sources)
        torch.testing.assert_close(found, scipy_waveforms(spectra, mixture.shape[-1]), msg=name)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_multichannel_wiener_filter_equals_its_formula(channels: int) -> None:
    mixture, sources = song(channels)
    mixed, true = (
        scipy_spectra(signals).transpose(*axes)
        for signals, axes in ((mixture, (1, 2, 0)), (sources, (0, 2, 3, 1)))
    )  # (F, N, C) and (S, F, N, C)
    observed = true[..., :, None] * true[..., None, :].conj()
    power = np.trace(observed, axis1=-2, axis2=-1).real[..., None, None] / channels
    spatial = np.divide(observed, power, out=np.zeros_like(observed), where=power > 0).mean(2)
    spatial *= channels / np.trace(spatial, axis1=-2, axis2=-1)[..., None, None]
    spatial += 2**-26 * np.eye(channels)
    inverse = np.linalg.inv(spatial)[:, :, None]
    powers = np.trace(inverse @ observed, axis1=-2, axis2=-1).real / channels
    models = powers[..., None, None] * spatial[:, :, None]
    filters = models @ np.linalg.inv(models.sum(0))
    separated = (filters @ mixed[..., None])[..., 0].transpose(0, 3, 1, 2)
    expected = scipy_waveforms(separated, mixture.shape[-1])
    torch.testing.assert_close(ORACLES["mwf"](mixture, sources), expected, rtol=1e-6, atol=1e-9)


def test_factorisation_equals_its_formula() -> None:
    mixture, sources = song(samples=30_000)
    mixed, true = (
        stft(signals.numpy(), nperseg=4096, noverlap=3072, padded=False)[-1] * 2048
        for signals in (mixture, sources)
    )
    start = torch.rand(2049, 2, 1, generator=torch.Generator().manual_seed(0))[..., 0].double()

    def updated(v: Magnitudes, w: Magnitudes, learn: bool) -> tuple[Magnitudes, Magnitudes]:
        h: Magnitudes = np.ones((w.shape[1], v.shape[1]))
        for _ in range(30):
            if learn:
                w = w * ((v / (w @ h)) @ h.T) / h.sum(1)
            h = h * (w.T @ (v / (w @ h))) / w.sum(0)[:, None]
        return w, h

    templates = []
    for spectra in np.abs(true):
        both = spectra.swapaxes(0, 1).reshape(2049, -1)  # channels one after the other
        learned, _ = updated(both, start.numpy(), True)
        templates.append(learned / learned.sum(0))
    estimates = []
    for spectrum in mixed:
        _, h = updated(np.abs(spectrum), np.hstack(templates), False)
        explained = np.stack([w @ part for w, part in zip(templates, np.split(h, 3), strict=True)])
        estimates.append(spectrum * explained / explained.sum(0))
    waveforms = istft(np.stack(estimates, 1) / 2048, nperseg=4096, noverlap=3072)[1]
    expected = torch.from_numpy(waveforms[..., :30_000].copy())
    found = nmf(mixture, sources, rank=2)
    known = expected.shape[-1]  # without padding, the last samples are in no whole frame
    torch.testing.assert_close(found[..., :known], expected, rtol=1e-6, atol=1e-9)


def test_components_are_assigned_to_maximise_mean_sdr() -> None:
    mixture, sources = song()
    estimates = ORACLES["blind_nmfd"](mixture, sources)
    found = np.mean(usdr(sources.numpy(), estimates.numpy()))
    for order in itertools.permutations(range(3)):
        shuffled = estimates[list(order)]
        assert np.mean(usdr(sources.numpy(), shuffled.numpy())) <= found + 1e-9
        # The order of the sources changes nothing else.
        again = ORACLES["blind_nmfd"](mixture, sources[list(order)])
        torch.testing.assert_close(again, shuffled)


@pytest.mark.parametrize("name", ["nmf", "blind_nmfd"])
@pytest.mark.parametrize("samples", [1, 1023, 1024, 4097])
def test_songs_shorter_than_templates(name: str, samples: int) -> None:
    mixture, sources = song(samples=12_000)
    mixture, sources = mixture[:, :samples], sources[..., :samples]
    estimates = ORACLES[name](mixture, sources)
    torch.testing.assert_close(estimates.sum(0), mixture, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["irm1", "irm2", "mwf", "nmf", "blind_nmfd"])
def test_estimates_add_up_to_the_mixture(name: str, dtype: torch.dtype) -> None:
    sources = noise(3, 2, 30_000).to(dtype)
    sources[0, 1] = sources[0, 0]  # a centred source
    sources[1] = 0
    sources[:, :, 10_000:20_000] = 0
    mixture = sources.sum(0)
    estimates = ORACLES[name](mixture, sources)
    assert estimates.dtype == dtype
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-9}[dtype]
    torch.testing.assert_close(estimates.sum(0), mixture, rtol=0, atol=tolerance)


def test_ratio_mask_divides_bins_without_sources_equally() -> None:
    mixture = noise(2, 9000)
    estimates = ORACLES["irm2"](mixture, torch.zeros(4, 2, 9000, dtype=torch.float64))
    torch.testing.assert_close(estimates, (mixture / 4).expand(4, 2, 9000))


@pytest.mark.parametrize("name", ORACLES)
def test_single_source_and_silence_are_unchanged(name: str) -> None:
    _, sources = song()
    found = ORACLES[name](sources[0], sources[:1])
    torch.testing.assert_close(found, sources[:1], rtol=1e-6, atol=1e-9)
    silence = torch.zeros(2, 3, 5000)
    assert torch.equal(ORACLES[name](silence[0], silence), silence)


def test_binary_mask_threshold() -> None:
    mixture = noise(1, 8000)
    sources = torch.stack([0.8 * mixture, 0.2 * mixture])
    for theta, share in ((0.79, [1, 0]), (0.81, [0, 0]), (0.19, [1, 1])):
        for alpha in (1, 2):
            found = ideal_binary_mask(mixture, sources, alpha, theta**alpha)
            torch.testing.assert_close(found, torch.stack([part * mixture for part in share]))


@pytest.mark.parametrize("samples", [1, 1000, 1024, 2048, 10_000])
@pytest.mark.parametrize("name", ["irm2", "mwf"])
def test_block_size_does_not_change_estimates(
    name: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture, sources = song(samples=samples)
    expected = ORACLES[name](mixture, sources)
    assert expected.shape == (3, 2, samples)
    for block_frames in (1, 3):
        monkeypatch.setattr(frames, "_BLOCK_SAMPLES", 8 * 2048 * block_frames)
        torch.testing.assert_close(ORACLES[name](mixture, sources), expected)


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("shapes", [((2, 90), (3, 1, 90)), ((90,), (3, 90)), ((2, 0), (3, 2, 0))])
def test_shapes_that_do_not_match_are_refused(
    name: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    with pytest.raises(ValueError, match=r"the mixture has shape .* expected \(channels"):
        ORACLES[name](torch.ones(shapes[0]), torch.ones(shapes[1]))


# ----------------------------------------------------------------- real music


def assert_order(mixture: Tensor, sources: Tensor, sample_rate: int) -> None:
    stems = ["vocals", "drums", "bass", "other"]
    sdr, whole = {}, {}
    for name, oracle in ORACLES.items():
        estimates = oracle(mixture, sources).numpy()
        scores = score_track("", sources.numpy(), estimates, sample_rate, stems)
        sdr[name] = np.nanmean([medians["SDR"] for medians in scores.medians.values()])
        whole[name] = np.nanmean(list(scores.usdr.values()))
    # The mixture is worst; factorisations with few templates are coarser than masks.
    assert sdr["mixture"] < sdr["blind_nmfd"] < sdr["nmf"] < min(sdr["ibm1"], sdr["ibm2"])
    # The soft mask of powers is better than binary masks and than that of magnitudes.
    assert max(sdr["ibm1"], sdr["ibm2"]) < sdr["irm2"]
    assert whole["mixture"] + 5 < min(whole["ibm1"], whole["ibm2"])
    assert max(whole["ibm1"], whole["ibm2"]) < whole["irm2"]
    assert whole["irm1"] < whole["irm2"]
    # Joint filtering of the channels differs by less than a quarter decibel.
    assert abs(whole["mwf"] - whole["irm2"]) < 0.25


@pytest.mark.slow
def test_order_on_musdb18_excerpt() -> None:
    import stempeg

    stems, rate = stempeg.read_stems(stempeg.example_stem_path(), duration=3, dtype=np.float32)
    streams = torch.from_numpy(stems.transpose(0, 2, 1).copy())
    assert_order(streams[0], streams[[4, 1, 2, 3]], int(rate))


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_order_on_real_songs() -> None:
    """Five songs, two of them with a silent source."""
    from datamodules.tracks.index import index_tracks

    root = Path(os.environ["STEMLAB_TEST_DATA"]) / "music"
    for track in (*index_tracks(root, "train"), *index_tracks(root, "test")):
        part = (20 * track.sample_rate, 3 * track.sample_rate)
        sources = torch.from_numpy(track.read_stems(("vocals", "drums", "bass", "other"), *part))
        mixture = torch.from_numpy(track.read_mixture(*part))
        assert_order(mixture, sources, track.sample_rate)
