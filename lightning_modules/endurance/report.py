"""Tables of trials."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from datamodules.markdown import markdown
from lightning_modules.endurance.markers import PHASES
from lightning_modules.endurance.trials import Trial
from lightning_modules.endurance.variants import OPTIONS

_KILL = "SIGKILL"


def report(trials: Sequence[Trial], failed: Path, command: str) -> str:
    """Format the figures of trials, and each failure with the command that repeats it.

    Args:
        trials: The trials.
        failed: Folder that keeps the failed runs.
        command: The command without its options.
    """
    lines = [*markdown(_by_phase(trials)), "", *markdown(_by_setting(trials)), ""]
    for trial in trials:
        if trial.fault:
            hits = ", ".join(f"{hit.number} in {hit.phase}" for hit in trial.hits) or "none"
            lines += [
                f"FAILED seed {trial.seed}: {trial.fault}",
                f"  settings: {trial.variant.name}",
                f"  signals: {hits}",
                f"  kept in: {failed / f'seed-{trial.seed}'}",
                f"  repeat with: {command} --seed {trial.seed} --runs 1",
                "",
            ]
    hits, signals = _runs(trials)[-1], sum(len(trial.hits) for trial in trials)
    return "\n".join(
        [*lines, f"{hits} runs equal their undisturbed runs, after {signals} signals."]
    )


def _by_phase(trials: Sequence[Trial]) -> list[list[str]]:
    rows = [["hit in", _KILL, "other signals", "survived"]]
    rows += [[phase, *_hits(trials, [phase])] for phase in PHASES]
    return [*rows, ["total", *_hits(trials, PHASES)]]


def _by_setting(trials: Sequence[Trial]) -> list[list[str]]:
    rows = [["setting", "runs", "signals", "equal to the undisturbed run"]]
    for name, values in OPTIONS.items():
        for value in values:
            chosen = [trial for trial in trials if asdict(trial.variant)[name] == value]
            rows.append([f"{name}: {value}", *_runs(chosen)])
    return [*rows, ["total", *_runs(trials)]]


def _hits(trials: Sequence[Trial], phases: Iterable[str]) -> list[str]:
    """Numbers of kills, of other signals, and of those of both that the run survived."""
    hits = [(hit, not trial.fault) for trial in trials for hit in trial.hits if hit.phase in phases]
    kills = sum(hit.number == _KILL for hit, _ in hits)
    survived = sum(survives for _, survives in hits)
    return [str(kills), str(len(hits) - kills), f"{survived} of {len(hits)}"]


def _runs(trials: Sequence[Trial]) -> list[str]:
    equal = sum(not trial.fault for trial in trials)
    hits = sum(len(trial.hits) for trial in trials)
    return [str(len(trials)), str(hits), f"{equal} of {len(trials)}"]
