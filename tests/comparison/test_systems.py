"""Runs and systems: scores of tracks, pooled seeds, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_modules.comparison.systems import (
    Run,
    System,
    at_constant_gains,
    drop_near_silent,
    keep_tracks,
    mixture_of,
    notes_of,
    pool,
)
from lightning_modules.evaluation.scores import NEAR_SILENT
from tests.helpers.comparison import track


def run(name: str, levels: dict[str, float], seed: int | None = None, **model: object) -> Run:
    config = {} if seed is None else {"seed_everything": seed, "model": dict(model)}
    return Run(name, name, [track(each, level) for each, level in levels.items()], config=config)


def test_scores_of_tracks() -> None:
    one = run("one", {"a": 1.0, "b": 5.0})
    one.mixture = [track("a", -2.0), track("c", 0.0)]
    assert one.values("SDR", "vocals") == {"a": 1.0, "b": 5.0}
    assert one.values("SIR", "bass") == {"a": 13.0, "b": 17.0}  # two sources and two metrics later
    assert one.values("uSDR", "other") == {"a": 0.0, "b": 4.0}
    assert one.values("nSDR", "drums") == {"a": 3.0}, "only if the mixture has a score"
    assert one.values("SDR", "piano") == {}
    one.tracks[0].frames["vocals"]["SDR"][:] = math.nan
    one.tracks[0].usdr["vocals"] = math.nan
    assert one.values("SDR", "vocals") == {"b": 5.0}
    assert one.values("uSDR", "vocals") == {"b": 4.0}
    assert one.spread("SDR", "vocals").tracks == 1


def test_runs_without_tracks_have_totals() -> None:
    one = Run("online", "wandb:", totals={"vocals": {"SDR": 3.0}})
    assert one.spread("SDR", "vocals").median == 3
    assert one.spread("SDR", "vocals").tracks == 0
    assert math.isnan(one.spread("SIR", "vocals").median)
    assert one.sources == ["vocals"]
    assert System("online", [one]).track_names == set()


def test_runs_that_differ_by_seed_are_pooled() -> None:
    runs = [
        run("unet-seed0", {"a": 1.0, "b": 3.0, "c": 5.0}, 0, lr=1),
        run("other", {"a": 0.0}, 0, lr=2),
        run("unet-seed1", {"a": 2.0, "b": 5.0, "c": 8.0}, 1, lr=1),
        run("folder", {"a": 0.0}),
        run("folder2", {"a": 0.0}),
    ]
    systems = pool(runs)
    assert [system.name for system in systems] == ["unet x2", "other", "folder", "folder2"]
    both = systems[0]
    assert both.values("SDR", "vocals") == {"a": 1.5, "b": 4.0, "c": 6.5}
    found = both.spread("SDR", "vocals")
    assert (found.median, found.mean, found.lower, found.tracks) == (4.0, 4.0, 2.75, 3)
    assert both.seed_deviation("SDR", "vocals") == pytest.approx(np.std([3, 5], ddof=1))
    assert math.isnan(systems[1].seed_deviation("SDR", "vocals"))
    assert both.frames("vocals") == (6, 18)
    assert all(map(math.isnan, both.interval("SDR", "vocals"))), "three tracks"
    runs[2].tracks.pop()
    assert both.track_names == {"a", "b"}
    assert both.values("SDR", "vocals").keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (("unet-seed0", "unet-seed1"), "unet x2"),
        (("unet", "unet-2", "unet-3"), "unet x3"),
        (("seed-0", "seed-1"), "seed x2"),
        (("1", "2"), "1 x2"),
        (("it/unet_0", "it/unet_1"), "it/unet x2"),
    ],
)
def test_names_of_pooled_runs(names: tuple[str, ...], common: str) -> None:
    (system,) = pool([run(name, {}, seed) for seed, name in enumerate(names)])
    assert system.name == common


def test_interval_of_pooled_runs() -> None:
    levels = [{str(n): n + 0.1 * seed * n for n in range(9)} for seed in (0, 1)]
    runs = [run(str(seed), each, seed) for seed, each in enumerate(levels)]
    both, first = System("both", runs), System("first", runs[:1])
    low, high = first.interval("SDR", "vocals")
    assert 0 <= low < 4 < high <= 8
    # The runs rank the tracks equally, so their medians are of the same track in every resample.
    assert both.interval("SDR", "vocals") == pytest.approx((1.05 * low, 1.05 * high))
    runs[0].tracks = []
    assert all(map(math.isnan, both.interval("SDR", "vocals")))


def test_mixture_with_most_sources_is_used() -> None:
    one, two = run("one", {"a": 1.0}), run("two", {"a": 1.0, "b": 1.0})
    assert mixture_of([System("one", [one])]) is None
    one.mixture = [track("a", -2.0, ("vocals",))]
    two.mixture = [track("a", -3.0), track("b", -4.0)]
    mixture = mixture_of([System("one", [one]), System("two", [two])])
    assert mixture is not None
    assert mixture.bound
    # Track a is in both runs; the one with more sources counts.
    assert mixture.values("SDR", "vocals") == {"a": -3.0, "b": -4.0}


def test_keep_tracks_and_notes() -> None:
    one = run("one", {"a": 1.0, "b": 1.0})
    one.tracks[0].notes = ["bass: the reference is silent"]
    one.notes = ["scores of its last validation"]
    system = System("one", [one])
    assert notes_of(system) == [
        "one: scores of its last validation",
        "one: bass: the reference is silent (a)",
    ]
    keep_tracks([system], {"b", "c"})
    assert system.track_names == {"b"}


def test_mixture_at_constant_gains() -> None:
    tracks = [track(name, -5.0) for name in ("a", "b")]
    for scores, names in zip(tracks, (["best gain", "mixture/4"], ["mixture/4"]), strict=True):
        scores.constant_gains = {name: track("written differently", 1.0) for name in names}
    found = at_constant_gains(System("mixture", [Run("mixture", "", tracks)], bound=True))
    assert [(system.name, system.bound) for system in found] == [
        *(("mixture/4", True), ("best gain", True)),
    ]
    assert [system.track_names for system in found] == [{"a", "b"}, {"a"}]
    assert found[0].values("SDR", "vocals") == {"a": 1.0, "b": 1.0}


def test_sources_that_are_nearly_silent_are_dropped() -> None:
    own, mixture = track("a", 1.0), track("a", -5.0)
    mixture.near_silent = ["vocals"]
    mixture.constant_gains = {"best gain": track("a", 1.0)}
    own.notes = ["other", f"vocals: {NEAR_SILENT}"]
    scored = Run("run", "", [own, track("b", 2.0)], [mixture])
    drop_near_silent([scored])
    assert scored.values("SDR", "vocals") == {"b": 2.0}
    assert scored.values("uSDR", "vocals") == {"b": 1.0}
    assert scored.values("SDR", "drums") == {"a": 2.0, "b": 3.0}
    assert "vocals" not in mixture.constant_gains["best gain"].frames
    assert own.notes == ["other"]
