"""Scores of tracks: NaN rules, uSDR, aggregates, tables."""

import math
from pathlib import Path

import museval
import numpy as np
import pytest
import stempeg
from numpy.typing import NDArray

from lightning_modules.evaluation.scores import (
    aggregate,
    ordered_sources,
    score_track,
    usdr,
)
from lightning_modules.evaluation.table import metric_table, score_table
from tests.helpers.scores import RATE, SOURCES, constant_scores, frame_scores, signals

Signals = NDArray[np.float64]


def museval_scores(references: Signals, estimates: Signals, rate: int = RATE) -> Signals:
    """SDR, ISR, SIR and SAR from museval, shape (metrics, sources, frames)."""
    swapped = references.transpose(0, 2, 1), estimates.transpose(0, 2, 1)
    return np.stack(museval.evaluate(*swapped, win=rate, hop=rate))


# --- one track


@pytest.mark.slow
def test_real_music_scores_equal_musevals() -> None:
    stems, rate = stempeg.read_stems(stempeg.example_stem_path(), duration=1.5)
    names = ("vocals", "drums", "bass", "other")
    # One channel, because museval takes seconds for four stereo sources; 16 bits, because its
    # scores of unquantised audio are not stable.
    stems = np.round(stems[:, :, :1].transpose(0, 2, 1) * 32768) / 32768
    references = stems[[4, 1, 2, 3]]
    estimates = np.round((0.9 * references + 0.1 * stems[0]) * 32768) / 32768
    expected = museval_scores(references, estimates, rate)
    scores = score_track("Falcon 69", references, estimates, rate, names)
    assert scores.notes == []
    assert scores.frame_count == 1
    np.testing.assert_allclose(frame_scores(scores, *names), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_silent_reference_does_not_change_other_scores() -> None:
    references, estimates = signals(channels=2)
    references[1, 0] = -references[1, 1]  # silent by museval's rule: the channels cancel
    scores = score_track("x", references, estimates, RATE, SOURCES)
    expected = museval_scores(references[[0, 2]], estimates[[0, 2]])
    np.testing.assert_allclose(frame_scores(scores, "vocals", "bass"), expected, rtol=0, atol=1e-6)
    assert np.isnan(frame_scores(scores, "drums")).all()
    assert scores.skipped_frames == {"vocals": 0, "drums": 3, "bass": 0}
    assert scores.notes == ["drums: the reference is silent over the whole track"]


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (0.0, "vocals: the estimate is silent over the whole track"),
        (np.nan, "vocals: the estimate has NaN or infinite samples, first at 0.000 s"),
        (np.inf, "vocals: the estimate has NaN or infinite samples, first at 0.000 s"),
    ],
)
def test_unusable_estimate_does_not_change_other_scores(value: float, note: str) -> None:
    references, estimates = signals()
    whole = score_track("x", references, estimates, RATE, SOURCES)
    estimates[0] = value
    scores = score_track("x", references, estimates, RATE, SOURCES)
    assert scores.notes == [note]
    assert np.isnan(frame_scores(scores, "vocals")).all()
    others = frame_scores(whole, "drums", "bass")
    np.testing.assert_allclose(frame_scores(scores, "drums", "bass"), others, rtol=0, atol=1e-6)
    assert scores.usdr["drums"] == whole.usdr["drums"]
    assert scores.usdr["vocals"] == (0.0 if value == 0 else pytest.approx(math.nan, nan_ok=True))


def test_all_estimates_silent() -> None:
    references, estimates = signals()
    scores = score_track("x", references, 0 * estimates, RATE, SOURCES)
    assert len(scores.notes) == 3
    assert np.isnan(frame_scores(scores, *SOURCES)).all()
    assert scores.frame_count == 3


def test_half_silent_frames_are_skipped_and_counted() -> None:
    references, estimates = signals(seconds=4)
    references[0, :, :RATE] = 0
    estimates[2, :, -RATE:] = 0
    scores = score_track("x", references, estimates, RATE, SOURCES)
    np.testing.assert_allclose(
        frame_scores(scores, *SOURCES), museval_scores(references, estimates), rtol=0, atol=1e-6
    )
    assert scores.skipped_frames == dict.fromkeys(SOURCES, 2)
    assert scores.medians["drums"]["SDR"] == pytest.approx(
        scores.frames["drums"]["SDR"][1:3].mean()
    )
    assert scores.notes == []


@pytest.mark.parametrize(("seconds", "frames"), [(0.4, 1), (1.0, 1), (1.9, 1), (2.0, 2)])
def test_short_tracks(seconds: float, frames: int) -> None:
    references, estimates = signals(seconds)
    scores = score_track("x", references, estimates, RATE, SOURCES)
    assert scores.frame_count == frames
    expected = museval_scores(references, estimates)
    # The shortest has fewer samples than taps: its SAR is rounding error.
    found, expected = np.minimum(frame_scores(scores, *SOURCES), 150), np.minimum(expected, 150)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    silent = score_track("x", 0 * references, estimates, RATE, SOURCES)
    assert silent.frame_count == frames


def test_single_source_has_no_sir() -> None:
    references, estimates = signals()
    scores = score_track("x", references[:1], estimates[:1], RATE, ["vocals"])
    assert np.isposinf(scores.frames["vocals"]["SIR"]).all()
    assert math.isnan(scores.medians["vocals"]["SIR"])
    assert math.isfinite(scores.medians["vocals"]["SDR"])


def test_error_names_track_and_shapes() -> None:
    references, estimates = signals()
    with pytest.raises(ValueError, match=r"My Song: .*\(3, 1, 6000\).*\(3, 1, 5999\)"):
        score_track("My Song", references, estimates[..., :-1], RATE, SOURCES)
    with pytest.raises(ValueError, match=r"My Song: 3 references for 2 sources \(vocals, drums\)"):
        score_track("My Song", references, estimates, RATE, SOURCES[:2])


@pytest.mark.slow
def test_unreliable_scores_are_noted() -> None:
    references, estimates = signals(channels=2)
    references[1, 1] = references[1, 0] + 1e-9 * references[0, 0]
    scores = score_track("x", references, estimates, RATE, SOURCES)
    (note,) = scores.notes
    assert note.startswith("drums: its channels are nearly the same")
    assert np.isfinite(frame_scores(scores, *SOURCES)).all()
    references[1] = references[0]
    scores = score_track("x", references, estimates, RATE, SOURCES)
    assert [note.split(":")[0] for note in scores.notes] == ["all sources"]
    assert "all sources" in score_table(aggregate([scores]))


def test_scoring_without_ffmpeg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    references, estimates = signals()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert np.isfinite(
        frame_scores(score_track("x", references, estimates, RATE, SOURCES), *SOURCES)
    ).all()


# --- whole-track SDR


def test_usdr_equals_formula_of_mdx_challenge() -> None:
    references, estimates = signals(channels=2)
    for source in range(3):
        energy = (references[source] ** 2).sum() + 1e-7
        error = ((references[source] - estimates[source]) ** 2).sum() + 1e-7
        expected = 10 * math.log10(energy / error)
        assert usdr(references, estimates)[source] == pytest.approx(expected, abs=1e-9)


def test_usdr_of_silence() -> None:
    references, estimates = signals()
    assert usdr(references, 0 * estimates).tolist() == [0, 0, 0]
    exact = usdr(references[:1], references[:1])
    assert exact == pytest.approx(10 * math.log10((references[0] ** 2).sum() / 1e-7 + 1))
    references[1] = 0
    assert np.isnan(usdr(references, estimates)).tolist() == [False, True, False]
    assert np.isnan(usdr(references, 0 * estimates)).tolist() == [False, True, False]


# --- aggregates and the table


def test_aggregate_takes_median_of_medians() -> None:
    nan = math.nan
    tracks = [
        constant_scores("a", other=[0.0], drums=[1.0, 2.0, 30.0], vocals=[nan, nan]),
        constant_scores("b", other=[nan], drums=[nan, 4.0, nan], vocals=[nan, 7.0]),
        constant_scores("c", other=[5.0], drums=[6.0, 8.0], piano=[1.0]),
        constant_scores("b", other=[nan], drums=[nan, 4.0, nan], vocals=[nan, 7.0]),
    ]
    tracks[0].usdr = {"drums": 2.0, "vocals": nan}
    summary = aggregate(tracks)
    assert summary.tracks == 3
    assert list(summary.scores) == ["vocals", "drums", "other", "piano"]
    assert summary.scores["drums"]["SDR"] == 4.0
    assert summary.scores["vocals"]["ISR"] == 7.0
    assert summary.scores["other"]["SAR"] == 2.5
    assert summary.mean("SDR") == pytest.approx((7 + 4 + 2.5 + 1) / 4)
    assert summary.scores["drums"]["uSDR"] == pytest.approx(4 / 3)
    assert summary.scores["vocals"]["uSDR"] == 1.0
    assert summary.skipped_frames == {"vocals": 3, "drums": 2, "other": 1, "piano": 0}
    assert summary.frames == 3 + 3 + 2


def test_names_for_logging() -> None:
    logged = aggregate([constant_scores("a", vocals=[3.0], bass=[math.nan])]).as_metrics()
    assert logged["sdr/vocals"] == logged["sdr"] == 3.0
    assert math.isnan(logged["sir/bass"])
    assert {"isr", "sir/vocals", "sar", "usdr", "usdr/bass"} <= set(logged)
    assert len(logged) == 5 * 3


def test_table_with_baseline_and_notes() -> None:
    nan = math.nan
    tracks = [constant_scores(f"track {i}", vocals=[5.0, nan], drums=[nan, nan]) for i in range(5)]
    for track in tracks:
        track.notes = ["drums: the reference is silent over the whole track"]
    baseline = aggregate([constant_scores("track 0", vocals=[1.25], drums=[1.0])])
    table = score_table(aggregate(tracks), baseline, "Validation, epoch 3")
    lines = table.splitlines()
    assert lines[0] == "Validation, epoch 3"
    assert lines[2].split()[-1] == "+uSDR"
    vocals, drums, mean = (
        next(x for x in lines if x.startswith(n)) for n in ("vocals", "drums", "mean")
    )
    assert vocals.split() == ["vocals", *["5.00"] * 4, "1.25", "+3.75", "1.00", "1.00", "+0.00"]
    assert drums.split() == ["drums", *"----", "1.00", "-", "1.00", "1.00", "+0.00"]
    assert mean.split()[1] == "5.00"
    assert len({len(line) for line in (lines[2], vocals, drums, mean)}) == 1
    assert max(map(len, lines)) <= 100
    assert "5 tracks" in table
    assert "skipped, of 10 frames" in table
    assert "vocals 5, drums 10" in table
    assert "(track 0, track 1, track 2 and 2 more)" in table


def test_mean_excludes_accompaniment_besides_stems() -> None:
    stems = {"vocals": [1.0], "drums": [2.0], "bass": [3.0], "accompaniment": [60.0]}
    summary = aggregate([constant_scores("a", **stems)])
    assert summary.mean("SDR") == 2.0
    assert score_table(summary).splitlines()[-3].split()[:2] == ["mean", "2.00"]
    pair = aggregate([constant_scores("a", vocals=[1.0], accompaniment=[3.0])])
    assert pair.mean("SDR") == 2.0


def test_table_without_tracks_or_baseline() -> None:
    assert "0 tracks" in score_table(aggregate([]))
    table = score_table(aggregate([constant_scores("a", vocals=[1.0])]))
    assert "mix" not in table
    assert "skipped" not in table


def test_metric_table() -> None:
    tracks = [
        constant_scores("a", vocals=[1.0], drums=[1.0]),
        constant_scores("b", vocals=[1.0], drums=[1.0]),
    ]
    mixture = [constant_scores("a", vocals=[1.0], drums=[1.0])]
    tracks[0].metrics = {"snr": {"vocals": 1.0, "drums": math.inf}, "l1": {"vocals": 0.5}}
    tracks[1].metrics = {"snr": {"vocals": 2.0, "drums": 4.0}, "l1": {"vocals": 0.25}}
    mixture[0].metrics = {"snr": {"vocals": -1.0, "drums": 5.0}, "l1": {}}
    lines = metric_table(tracks, ["snr", "l1"], mixture).splitlines()
    assert lines[2].split() == ["vocals", "drums", "mean"]
    assert lines[4].split() == ["snr", "1.5000", "4.0000", "2.7500"]
    assert lines[5].split() == ["less", "mixture", "+2.5000", "-1.0000", "+0.7500"]
    assert lines[6].split() == ["l1", "0.3750", "-", "0.3750"]
    assert lines[-1] == "mean over 2 tracks"
    without = metric_table(tracks, ["snr"])
    assert "mixture" not in without


def test_order_of_sources() -> None:
    given = ["accompaniment", "bass", "vocals", "bass", "piano"]
    assert ordered_sources(given) == ["vocals", "bass", "accompaniment", "piano"]


@pytest.mark.parametrize(
    ("gains", "near_silent"),
    [
        ((0.5, 0.1), []),
        ((0.5, 0.5 * 1.1e-3), []),
        ((0.5, 0.5 * 0.9e-3), ["drums"]),
        ((0.5, 0.0), []),  # completely silent, which has a note of its own
        ((2e-3, 1e-3), []),
        ((0.9e-4, 1e-3), ["vocals"]),  # below -80 dB full scale
    ],
)
def test_nearly_silent_references_are_noted(
    gains: tuple[float, float], near_silent: list[str]
) -> None:
    rng = np.random.default_rng(0)
    references = rng.choice([-1.0, 1.0], size=(2, 2, 3 * 800)) * np.array(gains)[:, None, None]
    references[:, :, :800] = 0  # the loudest second counts
    estimates = references + 0.01 * rng.normal(size=references.shape)
    scores = score_track("a", references, estimates, 800, ("vocals", "drums"))
    assert scores.near_silent == near_silent
    noted = [note for note in scores.notes if "nearly silent" in note]
    assert [note.partition(":")[0] for note in noted] == near_silent
    # museval's figures are kept.
    assert all(np.isfinite(scores.medians[source]["SDR"]) for source in near_silent)
