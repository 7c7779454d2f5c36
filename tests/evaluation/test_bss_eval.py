"""bss_eval is museval's, needs ffmpeg, and says so in time."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import museval
import numpy as np
import pytest
import stempeg
from numpy.typing import NDArray

from lightning_modules.evaluation.bss_eval import (
    ScorerUnavailableError,
    bss_eval,
    scorer_unavailable_reason,
)

Signals = NDArray[np.float64]


def random_signals(sources: int, samples: int, channels: int) -> tuple[Signals, Signals]:
    """References, and estimates with leakage and noise, as 16-bit audio has it.

    On unquantised audio museval's own figures are not stable to 1e-6 dB.
    """
    generator = np.random.default_rng(sources * channels)
    references = generator.standard_normal((sources, samples, channels)) / 8
    noise = generator.standard_normal(references.shape) / 50
    estimates = 0.8 * references + 0.1 * references.sum(axis=0) + noise
    return np.round(references * 32768) / 32768, np.round(estimates * 32768) / 32768


def assert_equals_museval(references: Signals, estimates: Signals, **options: Any) -> None:
    expected = museval.metrics.bss_eval(references, estimates, **options)
    found = bss_eval(references, estimates, **options)
    assert len(found) == 5
    for name, ours, theirs in zip(("SDR", "ISR", "SIR", "SAR"), found, expected, strict=False):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(found[4], expected[4])


def test_signature_is_musevals() -> None:
    ours = inspect.signature(bss_eval).parameters
    theirs = inspect.signature(museval.metrics.bss_eval).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]


@pytest.mark.parametrize(("sources", "channels"), [(1, 1), (2, 2), (3, 1)])
@pytest.mark.parametrize(("window", "hop"), [(2000, 2000), (2000, 1500.5), (np.inf, np.inf)])
def test_random_signals(sources: int, channels: int, window: float, hop: float) -> None:
    references, estimates = random_signals(sources, 7001, channels)
    assert_equals_museval(references, estimates, window=window, hop=hop, filters_len=64)


def test_options_reach_the_engine() -> None:
    references, estimates = random_signals(2, 6000, 1)
    swapped = estimates[::-1].copy()
    frames: dict[str, Any] = {"window": 3000, "hop": 3000, "filters_len": 32}
    assert_equals_museval(references, swapped, compute_permutation=True, **frames)
    assert_equals_museval(references, estimates, framewise_filters=True, **frames)
    assert_equals_museval(references, estimates, bsseval_sources_version=True, **frames)
    assert bss_eval(references, swapped, compute_permutation=True, **frames)[4].tolist() == [
        [1],
        [0],
    ]


def test_real_music() -> None:
    stems, rate = stempeg.read_stems(stempeg.example_stem_path(), duration=2.0)
    stems = np.round(stems * 32768) / 32768
    references = stems[[4, 1]]
    estimates = references + np.round(0.2 * stems[0] * 32768) / 32768
    assert_equals_museval(references, estimates, window=rate, hop=rate)


def test_silent_frame_and_silent_track() -> None:
    references, estimates = random_signals(2, 6000, 2)
    estimates[1, :2000] = 0
    assert_equals_museval(references, estimates, window=2000, hop=2000, filters_len=32)
    sdr = bss_eval(references, estimates, window=2000, hop=2000, filters_len=32)[0]
    assert np.isnan(sdr).tolist() == [[True, False, False]] * 2
    estimates[1] = 0
    with pytest.raises(ValueError, match="estimated sources should be non-silent"):
        bss_eval(references, estimates)


def test_unlike_shapes() -> None:
    references, estimates = random_signals(2, 3000, 1)
    with pytest.raises(ValueError, match="should match"):
        bss_eval(references, estimates[:, :-1])


def test_ffmpeg_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert scorer_unavailable_reason() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = scorer_unavailable_reason()
    assert reason is not None
    assert "ffmpeg and ffprobe" in reason
    assert "install the package 'ffmpeg'" in reason
    assert "\n" not in reason
    with pytest.raises(ScorerUnavailableError, match="install the package 'ffmpeg'"):
        bss_eval(*random_signals(2, 3000, 1))


def test_museval_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ScorerUnavailableError, match="pip install museval"):
        bss_eval(*random_signals(2, 3000, 1))


def test_import_is_light() -> None:
    code = (
        "import sys, lightning_modules.evaluation.scores, lightning_modules.evaluation.bss_eval;"
        "heavy = {'torch', 'pytorch_lightning', 'museval', 'pandas', 'scipy', 'matplotlib'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
