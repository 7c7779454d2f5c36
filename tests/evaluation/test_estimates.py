"""Estimates as files and from oracles: museval's rules, metrics, and errors of faulty files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import musdb
import museval
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from datamodules.errors import DataError
from datamodules.tracks.index import Track
from datamodules.tracks.layouts import find_entries
from lightning_modules.evaluation import scores as scoring
from lightning_modules.evaluation.bss_eval.engine import Evaluation
from lightning_modules.evaluation.estimates import (
    Settings,
    origin,
    score_estimates,
    score_oracle,
)
from lightning_modules.evaluation.oracles import ORACLES
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scorer import Scorer
from lightning_modules.evaluation.scores import METRICS, TrackScores
from tests.helpers.estimates import RATE, make_estimates, make_track, write

PAIR = Settings(stems=("vocals", "drums"))


def track_of(root: Path, settings: Settings = PAIR) -> Track:
    return Scorer(settings).load(find_entries(root, "test", settings.stems))[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of one track of two stems, and estimates of it."""
    (tmp_path / "data/train").mkdir(parents=True)
    audio = make_track(tmp_path / "data", "A. B - C")
    make_estimates(tmp_path / "estimates/test/A. B - C", audio)
    return tmp_path / "data"


def frames(scores: TrackScores, *targets: str) -> NDArray[np.float64]:
    return np.stack([[scores.frames[name][metric] for name in targets] for metric in METRICS])


# --------------------------------------------------------------- like museval


@pytest.mark.slow
@pytest.mark.parametrize("accompaniment", [False, True])
def test_files_equal_musevals(root: Path, tmp_path: Path, accompaniment: bool) -> None:
    folder = tmp_path / "estimates/test/A. B - C"
    if accompaniment:
        drums, _ = soundfile.read(folder / "drums.wav")
        write(folder / "accompaniment.wav", drums[::-1] * 0.1 + drums)
    # Files that are not targets are ignored.
    shutil.copy(folder / "vocals.wav", folder / "piano.wav")
    for path in folder.iterdir():  # half a second longer: cut
        estimate, _ = soundfile.read(path)
        write(path, np.concatenate([estimate, estimate[: RATE // 2]]))
    tracks = musdb.DB(root, subsets="test", is_wav=True)
    # museval expects the folders of both subsets.
    (tmp_path / "estimates/train").mkdir()
    museval.eval_mus_dir(tracks, tmp_path / "estimates", tmp_path / "theirs")

    scores = score_estimates(track_of(root), folder, PAIR)
    write_scores(scores, tmp_path / "ours/test/A. B - C.json")
    theirs, ours = (
        json.loads((tmp_path / who / "test/A. B - C.json").read_text())["targets"]
        for who in ("theirs", "ours")
    )
    names = ["drums", "vocals", "accompaniment"] if accompaniment else ["vocals", "drums"]
    assert [target["name"] for target in theirs] == names
    assert [target["name"] for target in ours] == names
    for target, expected in zip(ours, theirs, strict=True):
        assert len(target["frames"]) == len(expected["frames"]) == 3
        for frame, expected_frame in zip(target["frames"], expected["frames"], strict=True):
            # The last of five decimals may be rounded differently.
            metrics = pytest.approx(expected_frame.pop("metrics"), abs=1.1e-5)
            assert frame.pop("metrics") == metrics
            assert frame == expected_frame
    targets = ["vocals", "drums", "accompaniment"][: 2 + accompaniment]
    assert scores.notes == [
        f"{target}: the estimate is too long by less than 1 s and was cut" for target in targets
    ]


def test_accompaniment_is_summed_from_other_stems(tmp_path: Path) -> None:
    settings = Settings(("vocals", "drums", "bass"), accompaniment=True)
    audio = make_track(tmp_path / "data", "three", settings.stems, seconds=1.0, channels=1)
    make_estimates(tmp_path / "estimates", audio)
    track = track_of(tmp_path / "data", settings)
    summed = score_estimates(track, tmp_path / "estimates", settings)
    assert list(summed.frames) == ["drums", "bass", "vocals", "accompaniment"]
    without = score_estimates(track, tmp_path / "estimates", Settings(settings.stems))
    assert list(without.frames) == list(settings.stems)
    np.testing.assert_allclose(frames(summed, "drums", "bass"), frames(without, "drums", "bass"))
    # museval on the pair alone
    references = np.stack([audio["vocals"], audio["drums"] + audio["bass"]])
    vocals, drums, bass = (
        soundfile.read(tmp_path / f"estimates/{stem}.wav", always_2d=True)[0]
        for stem in settings.stems
    )
    estimates = np.stack([vocals, drums + bass])
    expected = np.stack(museval.evaluate(references, estimates, win=RATE, hop=RATE))
    found = frames(summed, "vocals", "accompaniment")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert abs(found - frames(without, "vocals")).max() > 0.01

    write(tmp_path / "estimates/accompaniment.wav", estimates[1])
    never = Settings(settings.stems, accompaniment=False)
    assert list(score_estimates(track, tmp_path / "estimates", never).frames) == [*never.stems]
    (tmp_path / "estimates/bass.wav").unlink()
    (tmp_path / "estimates/accompaniment.wav").unlink()
    fewer = score_estimates(track, tmp_path / "estimates", settings)
    assert list(fewer.frames) == ["vocals", "drums"]
    assert fewer.notes == ["bass: no estimate"]


def test_targets_of_other_stems() -> None:
    assert Settings().targets == ("vocals", "drums", "bass", "other", "accompaniment")
    assert Settings(("piano", "rest")).targets == ("piano", "rest")
    own = ("vocals", "accompaniment")
    assert Settings(own).targets == own
    assert Settings(own, accompaniment=False).targets == ("vocals",)


@pytest.mark.slow
def test_window_and_hop(root: Path, tmp_path: Path) -> None:
    settings = Settings(PAIR.stems, window_seconds=2.0, hop_seconds=0.5)
    scores = score_estimates(track_of(root), tmp_path / "estimates/test/A. B - C", settings)
    references, estimates = (
        np.stack([soundfile.read(place / f"{stem}.wav")[0] for stem in PAIR.stems])
        for place in (root / "test/A. B - C", tmp_path / "estimates/test/A. B - C")
    )
    expected = museval.evaluate(references, estimates, win=2 * RATE, hop=RATE // 2)
    assert scores.frame_count == 3
    np.testing.assert_allclose(frames(scores, *PAIR.stems), np.stack(expected), atol=1e-6)
    assert (scores.window_seconds, scores.hop_seconds) == (2.0, 0.5)


def test_mixture_as_estimate_scores_zero(root: Path) -> None:
    targets = ("vocals", "drums", "accompaniment")
    scores = score_oracle(track_of(root), "mixture", targets, PAIR)
    assert not scores.notes
    assert list(scores.frames) == ["drums", "vocals", "accompaniment"]
    # The noises are equally loud, so the error of each equals its energy.
    for target in targets:
        assert scores.medians[target]["SDR"] == pytest.approx(0, abs=0.2)
        assert scores.usdr[target] == pytest.approx(0, abs=0.2)


@pytest.mark.slow
def test_oracle_scores_equal_musevals(tmp_path: Path) -> None:
    stems = ("vocals", "drums", "bass")
    make_track(tmp_path, "one", stems, seconds=1.0, channels=1)
    track, settings = track_of(tmp_path, Settings(stems)), Settings(stems)
    scores = score_oracle(track, "irm2", settings.targets, settings)
    assert scores.notes[0] == "oracle irm2: the estimates are made with the true sources"
    signals = [soundfile.read(tmp_path / f"test/one/{name}.wav")[0] for name in (*stems, "mixture")]
    *sources, mixture = (torch.from_numpy(signal).float()[None] for signal in signals)
    made = ORACLES["irm2"](mixture, torch.stack(sources)).double().numpy().transpose(0, 2, 1)
    references = np.stack(signals[:3])[..., None]
    expected = np.stack(museval.evaluate(references, made, win=RATE, hop=RATE))
    np.testing.assert_allclose(frames(scores, "drums", "bass"), expected[:, 1:], atol=1e-3)
    pair = np.stack([signals[0], signals[1] + signals[2]])[..., None]
    summed = np.stack([made[0], made[1] + made[2]])
    expected = np.stack(museval.evaluate(pair, summed, win=RATE, hop=RATE))
    np.testing.assert_allclose(frames(scores, "vocals", "accompaniment"), expected, atol=1e-3)


@pytest.mark.parametrize("oracle", [False, True])
def test_metrics_are_added_to_known_scores(root: Path, tmp_path: Path, oracle: bool) -> None:
    track, folder = track_of(root), tmp_path / "estimates/test/A. B - C"

    def score(**more: Any) -> TrackScores:
        if oracle:
            return score_oracle(track, "mixture", PAIR.stems, PAIR, ("snr", "l1"), **more)
        return score_estimates(track, folder, PAIR, ("snr", "l1"), **more)

    known = TrackScores("A. B - C", {stem: {} for stem in PAIR.stems}, {}, metrics={"lsd": {}})
    scores = score(known=known)
    assert scores is known, "BSS Eval is not computed again"
    assert list(scores.metrics) == ["lsd", "snr", "l1"]
    for number, stem in enumerate(PAIR.stems):
        reference = track.read(stem)
        file = root / "test/A. B - C/mixture.wav" if oracle else folder / f"{stem}.wav"
        estimate = soundfile.read(file)[0].T
        noise = ((reference - estimate) ** 2).sum()
        expected = 10 * np.log10((reference.astype(float) ** 2).sum() / noise)
        assert scores.metrics["snr"][stem] == pytest.approx(expected, abs=1e-4), number


# ----------------------------------------------------------------- faulty files


@pytest.fixture
def _no_bss_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the computation of BSS Eval."""

    def nothing(references: NDArray[np.float64], estimates: object, **frame: int) -> Evaluation:
        figures = np.zeros((4, len(references), references.shape[1] // frame["window"]))
        sdr, isr, sir, sar = figures
        return Evaluation(sdr, isr, sir, sar, np.zeros((len(references), 1), np.int64))

    monkeypatch.setattr(scoring, "evaluate", nothing)


@pytest.mark.usefixtures("_no_bss_eval")
def test_errors_name_faulty_estimates(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "estimates/test/A. B - C"
    good, _ = soundfile.read(folder / "drums.wav")
    bad = good.copy()
    bad[RATE + RATE // 4, 1] = np.nan
    cases = [
        (good, {"rate": 48000}, ["48000 Hz", "44100 Hz", "resample"]),
        (good[:, :1], {}, ["1 channel", "2 channel"]),
        (bad, {"subtype": "FLOAT"}, ["NaN", "1.250 s"]),
        (good[:0], {}, ["holds no samples"]),
    ]
    for audio, kind, words in cases:
        write(folder / "drums.wav", audio, **kind)  # type: ignore[arg-type]
        with pytest.raises(DataError) as error:
            score_estimates(track_of(root), folder, PAIR)
        assert all(word in str(error.value) for word in [str(folder / "drums.wav"), *words])
    (folder / "drums.wav").rename(folder / "drum.wav")
    with pytest.raises(DataError, match=r"at least two of vocals, drums.*drum\.wav, vocals\.wav"):
        score_estimates(track_of(root), folder, PAIR)


@pytest.mark.usefixtures("_no_bss_eval")
def test_error_names_faulty_reference(root: Path, tmp_path: Path) -> None:
    folder, reference = tmp_path / "estimates/test/A. B - C", root / "test/A. B - C/drums.wav"
    audio, _ = soundfile.read(reference)
    audio[2 * RATE, 0] = np.inf
    write(reference, audio, subtype="FLOAT")
    with pytest.raises(DataError, match=r"A\. B - C/drums\.wav: .*2\.000 s"):
        score_estimates(track_of(root), folder, PAIR)


@pytest.mark.usefixtures("_no_bss_eval")
def test_short_and_silent_estimates_are_noted(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "estimates/test/A. B - C"
    audio, _ = soundfile.read(folder / "vocals.wav")
    write(folder / "vocals.wav", audio[: RATE + 1])
    write(folder / "drums.wav", 0 * audio)
    scores = score_estimates(track_of(root), folder, PAIR)
    assert scores.notes == [
        "vocals: the estimate is too short by up to 2 s and was padded with zeros",
        "drums: the estimate is silent over the whole track",
    ]
    assert np.isnan(scores.medians["drums"]["SDR"])


def test_origin_changes_with_files_and_settings(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "estimates/test/A. B - C"
    track = track_of(root)
    first = origin(track, PAIR, folder)
    assert json.loads(json.dumps(first)) == first
    assert origin(track, PAIR, folder) == first
    assert origin(track, Settings(PAIR.stems, hop_seconds=0.5), folder) != first
    assert origin(track, PAIR, oracle="irm2", targets=PAIR.stems) != first
    audio, _ = soundfile.read(folder / "vocals.wav")
    write(folder / "vocals.wav", 0.5 * audio)  # as large as before
    assert origin(track, PAIR, folder)["estimates"] != first["estimates"]
    assert origin(track, PAIR, folder)["references"] == first["references"]
