"""Score files: museval's schema both ways, older files, published scores."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import get_args

import museval
import numpy as np
import pytest
from museval.aggregate import TrackStore

from lightning_modules.evaluation.score_files import read_folder, read_scores, write_scores
from lightning_modules.evaluation.scores import METRICS, Average, aggregate, merge, score_track
from tests.helpers.scores import RATE, SOURCES, constant_scores, frame_scores, signals


def test_targets_are_written_as_museval_writes_them(tmp_path: Path) -> None:
    scores = score_track("one", *signals(), RATE, SOURCES)
    scores.frames["drums"]["SIR"][1] = np.inf
    store = TrackStore("one", win=1.0, hop=1.0)
    for source in SOURCES:
        store.add_target(source, {m: v.tolist() for m, v in scores.frames[source].items()})
    write_scores(scores, tmp_path / "one.json")
    ours, theirs = (
        json.dumps(json.loads(text)["targets"], sort_keys=True)
        for text in ((tmp_path / "one.json").read_text(), store.json)
    )
    assert ours == theirs
    assert "NaN" in ours


def test_files_round_trip(tmp_path: Path) -> None:
    references, estimates = signals()
    references[1] = 0
    estimates[0] = references[0]  # perfect: museval's SDR is infinite
    scores = score_track("a. b", references, estimates, RATE, SOURCES)
    scores.metrics = {"snr": {"vocals": 3.5}}
    assert np.isposinf(scores.frames["vocals"]["SDR"]).any()
    path = tmp_path / "test" / "a. b.json"
    write_scores(scores, path)
    assert [file.name for file in path.parent.iterdir()] == ["a. b.json"]
    assert "Infinity" not in path.read_text()

    back = read_scores(path)
    assert (back.name, back.window_seconds, back.hop_seconds) == ("a. b", 1.0, 1.0)
    assert back.notes == scores.notes
    assert back.metrics == scores.metrics
    assert back.usdr == pytest.approx(scores.usdr, nan_ok=True)
    found = frame_scores(back, *SOURCES)
    expected = frame_scores(scores, *SOURCES)
    np.testing.assert_allclose(found, np.where(np.isinf(expected), np.nan, expected), atol=5.1e-6)
    # Averages exclude infinity in memory too, so a file has the same medians as its writer.
    for source in SOURCES:
        expected_medians = pytest.approx(scores.medians[source], abs=1e-5, nan_ok=True)
        assert back.medians[source] == expected_medians
    assert scores.skipped_frames == back.skipped_frames


def test_museval_reads_our_files_and_aggregates_the_same(tmp_path: Path) -> None:
    references, estimates = signals()
    perfect = estimates.copy()
    perfect[2] = references[2]
    not_run = constant_scores("not run", **dict.fromkeys(SOURCES, [np.nan] * 3))
    tracks = [
        score_track("one", references, estimates, RATE, SOURCES),
        score_track("two", *signals(seconds=4, seed=1), RATE, SOURCES),
        score_track("perfect bass", references, perfect, RATE, SOURCES),
        score_track("silent drums", references, estimates * [[[1]], [[0]], [[1]]], RATE, SOURCES),
        not_run,
    ]
    for track in tracks:
        path = tmp_path / "mine" / "test" / f"{track.name}.json"
        write_scores(track, path)
        store = TrackStore(track.name)
        store.scores = json.loads(path.read_text())
        store.validate()  # against museval's JSON schema

    evaluation = museval.EvalStore()
    evaluation.add_eval_dir(tmp_path / "mine")
    methods = museval.MethodStore()
    methods.add_eval_dir(tmp_path / "mine")
    for over_frames in get_args(Average):
        for over_tracks in get_args(Average):
            summary = aggregate(tracks, over_frames, over_tracks)
            assert summary.rule.startswith(
                f"{over_tracks} over tracks of the {over_frames} over 1 s"
            )
            for store in (evaluation, methods):
                store.frames_agg, store.tracks_agg = over_frames, over_tracks
            for source in SOURCES:
                for metric in METRICS:
                    ours = pytest.approx(summary.scores[source][metric], abs=1e-5)
                    assert evaluation.agg_frames_tracks_scores()[source, metric] == ours
                    assert methods.agg_frames_tracks_scores()["mine", source, metric] == ours


@pytest.mark.parametrize(
    "content",
    ['{"targets": [{"name": "voc', "[]", '{"other": 1}', '{"targets": [{"name": "vocals"}]}'],
)
def test_error_names_broken_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "half.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"half\.json: expected a museval score file"):
        read_scores(path)


def test_older_files_are_read(tmp_path: Path) -> None:
    """Null and infinity for missing scores, integers, keys in any order, unknown keys."""
    none = '{"metrics": {"SAR": 1, "SIR": null, "ISR": Infinity, "SDR": NaN}'
    some = '{"x": 0, "metrics": {"SDR": 3, "SIR": 4.5, "ISR": 5, "SAR": 6}'
    frames = f'[{none}, "time": 0, "duration": 2}}, {some}, "duration": 2, "time": 1}}]'
    path = tmp_path / "old.json"
    path.write_text(
        f'{{"museval_version": "0.2", "targets": [{{"frames": {frames}, "name": "v"}}]}}'
    )
    scores = read_scores(path)
    assert (scores.window_seconds, scores.hop_seconds) == (2.0, 1.0)
    assert scores.medians == {"v": {"SDR": 3.0, "ISR": 5.0, "SIR": 4.5, "SAR": 3.5}}
    assert scores.skipped_frames == {"v": 1}
    assert (scores.usdr, scores.notes, scores.origin) == ({}, [], {})


def test_failed_write_keeps_old_file_and_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_scores(constant_scores("one", vocals=[1.0]), path)
    unwritable = constant_scores("one", vocals=[2.0])
    unwritable.origin = {"a set": {1}}
    with pytest.raises(TypeError):
        write_scores(unwritable, path)
    assert os.listdir(tmp_path) == ["one.json"]
    assert read_folder(tmp_path)[0].medians["vocals"]["SDR"] == 1.0


def test_error_names_folder_without_scores(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: no score files"):
        read_folder(tmp_path)


def test_merge_keeps_each_track_once_sorted() -> None:
    first = [constant_scores("b", vocals=[1.0]), constant_scores("c", vocals=[2.0])]
    second = [constant_scores("a", vocals=[3.0]), constant_scores("b", vocals=[4.0])]
    merged = merge([first, second])
    assert [track.name for track in merged] == ["a", "b", "c"]
    assert merged[1] is second[1]


@pytest.mark.slow
@pytest.mark.skipif("STEMLAB_TEST_DATA" not in os.environ, reason="STEMLAB_TEST_DATA is not set")
def test_published_scores_of_sisec_2018(tmp_path: Path) -> None:
    """SiSEC 2018: published SDR of vocals, drums, bass, other; and museval's aggregates."""
    published = {"STL2": [3.25, 4.22, 3.21, 2.25], "RGT1": [3.85, 3.44, 2.70, 2.63]}
    for method in ("STL2", "RGT1", "MIX"):
        folder = Path(os.environ["STEMLAB_TEST_DATA"]) / "scores" / method
        tracks = read_folder(folder)
        if method == "MIX":
            shutil.copytree(folder, tmp_path / method / "test")
            theirs = museval.EvalStore()
            theirs.add_eval_dir(tmp_path / method)
            theirs.frames_agg = "mean"
            expected = theirs.agg_frames_tracks_scores()
            for source, metrics in aggregate(tracks, "mean", "median").scores.items():
                for metric in METRICS:
                    assert metrics[metric] == pytest.approx(expected[source, metric], abs=1e-12)
        summary = aggregate(tracks)
        found = [summary.scores[name]["SDR"] for name in ("vocals", "drums", "bass", "other")]
        if method in published:
            assert [round(value, 2) for value in found] == published[method]
            assert list(summary.scores) == ["vocals", "drums", "bass", "other"]
        skipped = {"STL2": 3912, "RGT1": 3918, "MIX": 3917}[method]
        assert summary.skipped_frames["drums"] == skipped
        assert summary.tracks == 50
