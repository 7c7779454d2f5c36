"""Post-processing: exact gains, independent of the division into blocks; no change when off."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from torch import Tensor

from lightning_modules.architectures.unet import UNet
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration.build import build_model
from lightning_modules.inference import postprocessing
from lightning_modules.inference.postprocessing import PostProcessing, PostProcessor, envelope
from lightning_modules.inference.separation import SeparationSettings as Settings
from lightning_modules.inference.separation import separate, separate_stream
from lightning_modules.inference.streams import RunningMean, RunningMedian, blocks_with_margins
from lightning_modules.tools import separate as tool
from tests.helpers.checkpoints import save
from tests.helpers.separators import Half, Identity

RATE = 1000
# Windows of 200 samples with a hop of 50.
GATE: PostProcessing = {"softness": 2.0, "window_seconds": 0.2, "hop_seconds": 0.05}


def processed(settings: PostProcessing, *parts: Tensor, rate: int = RATE) -> Tensor:
    sources = [f"s{number}" for number in range(len(parts[0]))]
    return torch.cat(list(PostProcessor(settings, sources, rate)(parts)), -1)


def tones(*levels: float, samples: int = 1000, channels: int = 1) -> Tensor:
    """One source: a tone at a quarter of the sample rate, ``samples`` at each level."""
    time = torch.arange(samples * len(levels))
    tone = torch.sin(math.pi / 2 * time + 0.4) * torch.tensor(levels).repeat_interleave(samples)
    return tone.expand(1, channels, -1).clone()


def dipped(rate: int, quiet: float = 0.1) -> Tensor:
    """Six seconds of stereo, quiet from 2.05 to 3.95 s; shape (2, T)."""
    estimate = tones(1, samples=6 * rate, channels=2)[0]
    estimate[:, round(2.05 * rate) : round(3.95 * rate)] *= quiet
    return estimate


# By default windows begin every 1/8 s; those from 1.875 to 4.125 s are mostly quiet.
MUTED_SECONDS = 2.375, 3.625


# ------------------------------------------------------------------- muting


def test_quiet_passage_is_muted_and_its_neighbours_fade() -> None:
    """Threshold 1 / 2; windows at 0, 50, ...; quiet from 1020 to 1980.

    The first window with both neighbours below the threshold begins at 1150: the window before it
    is 950 to 1150, mostly quiet. The last begins at 1650: the window after it ends at 2050. All
    between is muted, and 200 samples on each side fade.
    """
    estimate = tones(1, samples=4000)
    estimate[..., 1020:1980] *= 0.1
    gain = (processed(GATE, estimate) / estimate)[0, 0]
    expected = torch.ones(4000)
    expected[950:1150] = torch.arange(200, 0, -1) / 200
    expected[1150:1850] = 0
    expected[1850:2050] = torch.arange(1, 201) / 200
    assert (gain - expected).abs().max() < 1e-6


def test_without_fades_the_neighbours_are_unchanged() -> None:
    estimate = tones(1, samples=4000)
    estimate[..., 1020:1980] *= 0.1
    expected = estimate.clone()
    expected[..., 1150:1850] = 0
    assert torch.equal(processed({**GATE, "fades": False}, estimate), expected)


@pytest.mark.parametrize(
    ("statistic", "level", "muted"),
    [
        # Median 1, mean (3 x 1 + level) / 4; threshold half of it.
        ("median", 0.45, True),
        ("median", 0.55, False),
        ("mean", 0.40, True),
        ("mean", 0.46, False),
    ],
)
def test_threshold_is_the_statistic_divided_by_the_softness(
    statistic: Any, level: float, muted: bool
) -> None:
    estimate = tones(1, level, 1, 1)
    changed = processed({**GATE, "statistic": statistic}, estimate) != estimate
    assert bool(changed.any()) == muted


def test_sound_shorter_than_a_window_between_silences_is_muted() -> None:
    """As in the report, only the neighbours are tested."""
    estimate = tones(1, 0.1, 1, 1)
    estimate[..., 1500:1550] *= 10
    assert processed(GATE, estimate)[..., 1500:1550].abs().max() == 0


def test_windows_at_the_ends_replace_their_missing_neighbour() -> None:
    muted = processed(GATE, tones(0.1, 1, 1, 0.1))
    assert muted[..., :200].abs().max() == 0
    assert muted[..., -200:].abs().max() == 0
    assert muted[..., 1200:2800].abs().amin(-1) > 0


def test_short_and_silent_estimates_are_unchanged() -> None:
    for samples in (1, 49, 51, 199, 201, 399):
        estimate = tones(1, samples=samples)
        assert torch.equal(processed(GATE, estimate), estimate)
    silence = torch.zeros(2, 2, 3000)
    assert torch.equal(processed(GATE, silence), silence)


def windows_of(samples: int, window: int, hop: int) -> list[slice]:
    count = max(1, math.ceil((samples - window) / hop) + 1)
    return [slice(k * hop, min(k * hop + window, samples)) for k in range(count)]


@pytest.mark.parametrize("samples", [3000, 3037])
@pytest.mark.parametrize("hop_seconds", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("statistic", ["median", "mean"])
def test_gains_equal_those_of_a_loop_over_windows(
    samples: int, hop_seconds: float, statistic: Any
) -> None:
    """The report's loop over windows and their neighbours."""
    random = np.random.default_rng(0)
    levels = np.repeat(random.choice([0.1, 1, 1], 40), 200)[:samples]
    estimate = torch.from_numpy(random.normal(0, levels, (1, 2, samples))).float()
    settings: PostProcessing = {**GATE, "hop_seconds": hop_seconds, "statistic": statistic}

    ((block, _),) = blocks_with_margins(
        [estimate], postprocessing.ENVELOPE_BLOCK, postprocessing.ENVELOPE_MARGIN
    )
    found = envelope(block)[0, :samples].numpy()
    compute = np.mean if statistic == "mean" else lambda x: np.quantile(x, 0.5, method="lower")
    threshold = compute(found) / 2
    hop, window = round(hop_seconds * RATE), 200
    below = [compute(found[w]) < threshold for w in windows_of(samples, window, hop)]
    apart = window // hop
    expected = np.ones(samples)
    for k, current in enumerate(windows_of(samples, window, hop)):
        before = below[k - apart] if k >= apart else below[k]
        after = below[k + apart] if k + apart < len(below) else below[k]
        if before and after:
            expected[current] = 0
            for step in range(window):
                ramp = (step + 1) / window
                for place in (current.start - 1 - step, current.start + window + step):
                    if 0 <= place < samples:
                        expected[place] = min(expected[place], ramp)
    assert 0.05 < (expected == 0).mean() < 0.95
    gains = processed(settings, estimate) / estimate
    assert np.abs(gains[0].numpy() - expected).max() < 1e-6


def test_channels_share_their_gain() -> None:
    estimate = torch.cat([tones(1, 0.1, 1, 1), tones(1, 0.01, 1, 1)], 1)
    gain = processed(GATE, estimate) / estimate
    assert torch.equal(gain[:, 0] == 0, gain[:, 1] == 0)
    assert (gain[:, 0] - gain[:, 1]).abs().max() < 1e-6


def test_settings_per_source() -> None:
    estimate = tones(1, 0.1, 1, 1).expand(3, -1, -1)
    result = processed({**GATE, "softness": {"s0": 2.0, "s2": 20.0}}, estimate)
    assert result[0, :, 1200:1800].abs().max() == 0
    assert torch.equal(result[1:], estimate[1:])  # s1 is not muted, s2 has a threshold of 0.05


def test_nan_and_infinity_do_not_change_other_samples() -> None:
    estimate = tones(1, 0.1, 1, 1, channels=2)
    corrupted = estimate.clone()
    corrupted[0, 0, 300], corrupted[0, 1, 301] = torch.nan, torch.inf
    result, expected = processed(GATE, corrupted), processed(GATE, estimate)
    assert not result[0, 0, 300].isfinite()
    assert not result[0, 1, 301].isfinite()
    result[0, 0, 300], result[0, 1, 301] = expected[0, 0, 300], expected[0, 1, 301]
    assert torch.equal(result, expected)


# ----------------------------------------------------------------- envelope


def test_envelope_equals_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    signal = scipy.signal.lfilter([1], [1, -0.9], random.normal(0, 1, (1, 2, 150_000)))
    expected = np.abs(scipy.signal.hilbert(signal)).mean(1)[0]
    blocks = blocks_with_margins(
        [torch.from_numpy(signal).float()],
        postprocessing.ENVELOPE_BLOCK,
        postprocessing.ENVELOPE_MARGIN,
    )
    found = torch.cat([envelope(block)[:, :n] for block, n in blocks], 1)[0].numpy()
    # scipy assumes a periodic signal, which differs at the ends.
    inside = slice(2000, -2000)
    assert np.abs(found - expected)[inside].max() < 0.1 * expected.mean()
    assert np.median(found) == pytest.approx(np.median(expected), rel=1e-3)


def test_envelope_of_a_tone_is_constant() -> None:
    time = torch.arange(postprocessing.ENVELOPE_BLOCK + 2 * postprocessing.ENVELOPE_MARGIN)
    tone = 0.3 * torch.sin(2 * math.pi * 0.01 * time)
    assert (envelope(tone[None, None]) - 0.3).abs().max() < 1e-4


@pytest.mark.parametrize("count", [1, 2, 9, 1000, 1001])
def test_running_mean_and_median(count: int) -> None:
    numbers = torch.rand(3, count) ** 8
    numbers[1] = 0
    mean, median = RunningMean(), RunningMedian()
    for piece in numbers.split(7, 1):
        mean.add(piece)
        median.add(piece)
    assert torch.allclose(mean.value(), numbers.mean(1))
    expected = numbers.median(1).values
    assert (median.value() <= expected).all()
    assert (median.value() >= expected * (1 - 2**-12)).all()


# ------------------------------------------------------------------ filters


def tone(bin_number: int, samples: int = 100_000) -> Tensor:
    """A tone in the middle of a bin of the filters' spectrogram."""
    phase = 2 * math.pi * bin_number / 4096 * torch.arange(samples, dtype=torch.float64)
    return torch.sin(phase).float().expand(1, 1, -1)


def test_filters_pass_or_remove_whole_bins() -> None:
    """At 4096 Hz bins are 1 Hz apart, and a tone fills three of them."""
    for settings, low, high in [
        ({"low_pass_hz": 500.0}, 1, 499),
        ({"high_pass_hz": 500.0}, 501, 2000),
        ({"high_pass_hz": 300.0, "low_pass_hz": 500.0}, 301, 499),
    ]:
        inside = slice(5000, -5000)
        for kept in (low, high):
            difference = processed(settings, tone(kept), rate=4096) - tone(kept)  # type: ignore[arg-type]
            assert difference[..., inside].abs().max() < 1e-5
        for removed in (low - 3, high + 3):
            if 2 < removed < 2000:
                result = processed(settings, tone(removed), rate=4096)  # type: ignore[arg-type]
                assert result[..., inside].abs().max() < 1e-5


def test_filters_that_keep_all_bins_change_nothing() -> None:
    estimate = torch.randn(2, 2, 5000)
    assert torch.equal(processed({"low_pass_hz": 500.0}, estimate), estimate)
    result = processed({"low_pass_hz": {"s1": 100.0}}, estimate)
    assert torch.equal(result[0], estimate[0])
    assert not torch.allclose(result[1], estimate[1])


def test_filters_come_before_muting() -> None:
    """Noise outside the band does not prevent muting."""
    estimate = tones(1, 0, 1, 1, samples=8000) + 2 * tone(30, 32_000)
    settings: PostProcessing = {**GATE, "high_pass_hz": 100.0}
    assert processed(GATE, estimate)[..., 10_000:14_000].abs().max() > 1
    assert processed(settings, estimate)[..., 10_000:14_000].abs().max() == 0


# ---------------------------------------------------------------- streaming

BOTH: PostProcessing = {**GATE, "low_pass_hz": {"s0": 300.0}, "high_pass_hz": 20.0}


@pytest.mark.parametrize("block", [999, 70_000, 140_001])
@pytest.mark.parametrize("settings", [GATE, BOTH, {**GATE, "statistic": "mean"}])
def test_result_does_not_depend_on_the_division_into_blocks(
    settings: PostProcessing, block: int
) -> None:
    random = torch.Generator().manual_seed(0)
    levels = 10 ** -torch.rand(300, generator=random).mul(2).repeat_interleave(500)
    estimate = torch.randn(2, 2, 150_000, generator=random) * levels
    whole = processed(settings, estimate)
    assert whole.shape == estimate.shape
    assert 0.05 < (whole == 0).float().mean() < 0.95
    assert torch.equal(processed(settings, *estimate.split(block, -1)), whole)


def test_empty_parts_and_empty_streams() -> None:
    estimate = tones(1, 0.1, 1, 1)
    nothing = estimate[..., :0]
    for settings in (GATE, BOTH):
        whole = processed(settings, estimate)
        assert torch.equal(processed(settings, nothing, estimate, nothing), whole)
        assert list(PostProcessor(settings, ["s0"], RATE)([])) == []
        assert list(PostProcessor(settings, ["s0"], RATE)([nothing])) == []


def test_long_estimates_are_stored_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = tones(1, 0.1, 1, 1)
    expected = processed(GATE, estimate)
    monkeypatch.setattr(postprocessing, "_BYTES_IN_MEMORY", 100)
    opened: list[Any] = []
    spool = tempfile.SpooledTemporaryFile

    def spooled(*arguments: Any) -> Any:
        opened.append(spool(*arguments))
        return opened[-1]

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", spooled)
    assert torch.equal(processed(GATE, *estimate.split(300, -1)), expected)
    (file,) = opened
    assert file._rolled, "it was not moved to the disk"
    assert file.closed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    estimate = tones(1, 0.1, 1, 1).to(dtype)
    result = processed(BOTH, estimate)
    assert result.dtype == dtype
    assert result[..., 1200:1800].abs().max() == 0
    assert torch.equal(processed(GATE, estimate)[..., 2500:], estimate[..., 2500:])


# --------------------------------------------------------------- separation


@pytest.mark.slow
def test_separation_with_and_without_postprocessing() -> None:
    mixture = dipped(44_100)
    settings: PostProcessing = {"softness": {"other": 2.0}}
    plain, muted = (
        separate(Half(), mixture),
        separate(Half(), mixture, settings=Settings(postprocessing=settings)),
    )
    assert torch.equal(separate(Half(), mixture, settings=Settings(postprocessing={})), plain)
    assert torch.equal(muted[0], plain[0])
    start, end = (round(44_100 * seconds) for seconds in MUTED_SECONDS)
    assert muted[1, :, start : end - 20].abs().max() == 0  # hops are whole samples
    assert torch.equal(muted[1, :, : start - 22_100], plain[1, :, : start - 22_100])
    for block in (4000, 100_000):
        pieces = list(
            separate_stream(
                Half(),
                mixture.split(block, -1),
                settings=Settings(postprocessing=settings),
            )
        )
        assert torch.equal(torch.cat(pieces, -1), muted)


def test_settings_in_seconds_apply_at_any_rate() -> None:
    """They do not depend on the model's rate."""
    model = Identity()
    model.segment_seconds = 2
    for rate in (22_050, 48_000):
        result = separate(
            model, dipped(rate), rate, settings=Settings(postprocessing={"softness": 2.0})
        )
        silent = (result[0, 0] == 0).nonzero()
        assert int(silent.min()) / rate == pytest.approx(MUTED_SECONDS[0], abs=0.001)
        assert int(silent.max()) / rate == pytest.approx(MUTED_SECONDS[1], abs=0.001)


def test_progress_counts_separated_samples() -> None:
    done: list[int] = []
    parts: Iterator[Tensor] = separate_stream(
        Half(),
        torch.randn(2, 9000).split(1000, -1),
        progress=done.append,
        settings=Settings(postprocessing={"softness": 2.0}),
    )
    next(parts)
    assert sum(done) == 9000, "the threshold needs the complete track"


@pytest.mark.slow
def test_settings_from_config_command_line_and_checkpoint(tmp_path: Path) -> None:
    config = tmp_path / "muted.yaml"
    settings = {"softness": 8.0, "statistic": "mean", "low_pass_hz": {"bass": 500.0}}
    config.write_text(f"model: {{init_args: {{postprocessing: {settings}}}}}\n")
    small = ["--model.init_args.channels=[4,8]", "--data.init_args.segment_seconds=0.5"]
    model = build_model("unet", ["--config", str(config), *small]).model
    assert isinstance(model, UNet)
    assert model.separation_settings.postprocessing == settings
    path = save(model, tmp_path / "model.ckpt")
    assert load_separator(path).separation_settings.postprocessing == settings
    inline = "--model.init_args.postprocessing={softness: 4, fades: false}"
    assert build_model("unet", [*small, inline]).model.separation_settings.postprocessing == {
        "softness": 4.0,
        "fades": False,
    }
    assert build_model("unet", small).model.separation_settings.postprocessing is None


@pytest.mark.slow
def test_separate_tool_uses_the_settings_of_the_model_or_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    audio = dipped(44_100, 0.001).T.numpy() / 2
    soundfile.write("song.wav", audio, 44_100, subtype="FLOAT")
    torch.manual_seed(6)  # with this seed the final ReLU has no dead output
    model = UNet(
        ["vocals", "other"],
        channels=[4, 8],
        segment_seconds=0.5,
        mask="ratio",
        postprocessing={"softness": 4.0},
    )
    save(model, tmp_path / "model.ckpt")

    def silent(*words: str) -> float:
        arguments = ["song.wav", "--checkpoint", "model.ckpt", "--force", *words]
        assert tool.main(arguments) == 0
        return float((soundfile.read("separated/song/vocals.wav")[0] == 0).mean())

    assert silent() > 0.05
    assert silent("--postprocessing", "{}") == 0
    assert silent("--postprocessing", "{softness: {other: 4}}") == 0
    assert capsys.readouterr().err.count("1 song, 6 s of audio") == 3
    for text, words in [
        (
            "{softnes: 4}",
            "postprocessing is {'softnes': 4}: must be a mapping with some of the keys softness",
        ),
        ("loud", "postprocessing is 'loud': must be a mapping with some of the keys softness"),
        ("{softness", "--postprocessing is '{softness', which is not YAML"),
        ("{softness: loud}", "postprocessing.softness is 'loud': must be a number above 0"),
        (
            "{softness: {guitar: 3}}",
            "softness has unknown sources guitar: the sources",
        ),
    ]:
        wrong = ["song.wav", "--checkpoint", "model.ckpt", "-o", "no", "--postprocessing", text]
        assert tool.main(wrong) == 2
        assert words in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.unfinished"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"softness": 0}, r"softness is 0: must be a number above 0"),
        ({"softness": float("nan")}, r"softness is nan"),
        ({"softness": {"s0": -1}}, r"softness\.s0 is -1"),
        ({"statistic": "mode"}, r"statistic is 'mode': must be median or mean"),
        ({"window_seconds": 0.1, "hop_seconds": 0.1}, r"two or more hops"),
        ({"window_seconds": 0.25, "hop_seconds": 0.1}, r"window_seconds is 0\.25.*whole number"),
        ({"hop_seconds": 1e-6}, r"hop_seconds 1e-06 at 1000 Hz"),
        ({"hop_seconds": 0}, r"hop_seconds is 0"),
        ({"low_pass_hz": 100, "high_pass_hz": 200}, r"of s0: high_pass_hz is 200.*100.*nothing"),
        (
            {"low_pass_hz": {"s3": 100}},
            r"low_pass_hz has unknown sources s3: .* are s0, s1",
        ),
    ],
)
def test_invalid_settings_raise(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PostProcessor(settings, ["s0", "s1"], RATE)
    with pytest.raises(ValueError, match="postprocessing"):
        UNet(["s0", "s1"], channels=[4], postprocessing=settings, sample_rate=RATE)
