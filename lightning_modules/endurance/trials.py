"""Trials: a run that is interrupted several times, and the comparison of its end."""

from __future__ import annotations

import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from datamodules.errors import counted
from lightning_modules.endurance.equality import batches_lost, run_difference
from lightning_modules.endurance.interruptions import Hit, Interruption, plan
from lightning_modules.endurance.markers import ENDING, FOLDER, START_UP, read_marker
from lightning_modules.endurance.processes import RunProcesses
from lightning_modules.endurance.variants import (
    BY_TORCHRUN,
    Variant,
    draw,
    write_config,
    write_corpus,
)
from lightning_modules.runtime import signals

# Seconds after which a run counts as hanging; one takes about ten on a free core.
_PATIENCE = 600.0
# How long the processes of a stopped run may take to end after the first one, seconds.
_LINGER = 30.0
RUN = "run"
"""Directory of the run in the folder of a trial."""


@dataclass
class Trial:
    """Result of a trial.

    Attributes:
        seed: Its seed.
        variant: Its settings.
        hits: The signals sent to the run.
        fault: What differs from the undisturbed run or went wrong; empty if the run survived.
    """

    seed: int
    variant: Variant
    hits: list[Hit] = field(default_factory=list)
    fault: str = ""


class TrialError(Exception):
    """A run that did not behave as promised; the message says how."""


class Trials:
    """Runs trials in a folder.

    Args:
        work: Folder of the data set and of all runs, which are removed when they have ended.
        failed: Folder for the runs that fail.
    """

    def __init__(self, work: Path, failed: Path) -> None:
        self._work, self._failed = work, failed
        self._root = write_corpus(work / "data")
        self._locks: dict[Variant, threading.Lock] = {}
        self._lock = threading.Lock()
        self._starts: set[RunProcesses] = set()
        self._is_stopped = False

    def run(self, seed: int, goes_on: Callable[[], bool]) -> Trial:
        """Interrupt a run at the moments that the seed gives, let it end, and compare it.

        Args:
            seed: Seed of the settings and the interruptions.
            goes_on: Whether the run is still to be interrupted; else it goes on to its end.
        """
        drawn = random.Random(seed)
        trial = Trial(seed, draw(drawn))
        planned = plan(drawn)
        folder = self._work / f"seed-{seed}"
        undisturbed, lock = self._undisturbed_of(trial.variant)
        try:
            with lock:
                if not undisturbed.exists():
                    self._finish(trial.variant, undisturbed)
            for interruption in planned:
                if not goes_on():
                    break
                hit = self._interrupt(trial.variant, folder, interruption)
                if hit is None:  # the run had ended before
                    break
                trial.hits.append(hit)
            self._finish(trial.variant, folder)
            ranks = int(trial.variant.ranks[0])
            trial.fault = run_difference(folder / RUN, undisturbed / RUN, ranks) or ""
        except (TrialError, OSError, ValueError, KeyError) as error:
            # A file that is missing or cannot be read is a failure of the run.
            trial.fault = str(error)
        if trial.fault:
            self._keep(folder, undisturbed, seed)
        shutil.rmtree(folder, ignore_errors=True)
        return trial

    def run_all(self, seeds: Iterator[int], jobs: int, minutes: float) -> Iterator[Trial]:
        """Run trials until the time is over or no seeds are left, and show a progress bar.

        Args:
            seeds: Seeds of the trials.
            jobs: Number of trials at the same time.
            minutes: Time to begin trials and to interrupt runs; those that run then go on to
                their ends.
        """
        began, seconds = time.monotonic(), 60 * minutes
        counted: Counter[str] = Counter(runs=0, signals=0, failures=0)

        def passed() -> float:
            return min(time.monotonic() - began, seconds)

        pending: set[Future[Trial]] = set()
        with (
            ThreadPoolExecutor(jobs) as pool,
            tqdm(total=round(seconds), unit="s", disable=None) as bar,
        ):
            try:
                while True:
                    if passed() < seconds:
                        for seed in islice(seeds, jobs - len(pending)):
                            pending.add(pool.submit(self.run, seed, lambda: passed() < seconds))
                    if not pending:
                        return
                    done, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                    for trial in (each.result() for each in done):
                        counted.update(
                            runs=1, signals=len(trial.hits), failures=int(bool(trial.fault))
                        )
                        yield trial
                    bar.set_postfix(counted, refresh=False)
                    bar.update(round(passed()) - bar.n)
            finally:
                self._stop_all()

    def _stop_all(self) -> None:
        """Kill all runs and start no others."""
        self._is_stopped = True
        for start in list(self._starts):
            start.kill()

    def _undisturbed_of(self, variant: Variant) -> tuple[Path, threading.Lock]:
        """Folder of the undisturbed run of a variant, and a lock of this folder."""
        with self._lock:
            lock = self._locks.setdefault(variant, threading.Lock())
            return self._work / f"undisturbed-{list(self._locks).index(variant)}", lock

    def _keep(self, folder: Path, undisturbed: Path, seed: int) -> None:
        """Keep the files of a failed run and of the undisturbed one."""
        kept = self._failed / f"seed-{seed}"
        shutil.rmtree(kept, ignore_errors=True)
        for source, name in ((folder, "killed"), (undisturbed, "undisturbed")):
            if source.exists():
                shutil.copytree(source, kept / name, symlinks=True)

    # ------------------------------------------------------------ one start

    def _start(self, variant: Variant, folder: Path) -> RunProcesses:
        if self._is_stopped:
            raise TrialError("stopped")
        folder.mkdir(exist_ok=True)
        for marker in (folder / RUN / FOLDER).glob("marker-*"):
            marker.unlink()
        config = write_config(variant, self._root, folder / "config.yaml")
        start = RunProcesses(variant.command(config, folder / RUN), folder / "output")
        self._starts.add(start)
        return start

    def _finish(self, variant: Variant, folder: Path) -> None:
        """Start or resume a run and let it end."""
        start = self._start(variant, folder)
        try:
            if not start.wait(lambda: False, _PATIENCE):
                raise TrialError(f"a start that nobody disturbed took over {_PATIENCE:.0f} s")
            if status := start.first.returncode:
                raise TrialError(f"a start that nobody disturbed ended with status {status}")
        finally:
            start.kill()
            self._starts.discard(start)

    def _interrupt(self, variant: Variant, folder: Path, planned: Interruption) -> Hit | None:
        """Start or resume a run and interrupt it; None if it ended before."""
        start = self._start(variant, folder)

        def is_reached() -> bool:
            marker = read_marker(folder / RUN)
            return marker.phase == planned.phase and marker.visits >= planned.visit

        try:
            if not start.wait(is_reached, _PATIENCE):
                raise TrialError(f"a start came to no {planned.phase} in {_PATIENCE:.0f} s")
            start.wait(lambda: False, planned.delay)
            if start.first.poll() is not None:
                if status := start.first.returncode:
                    raise TrialError(f"a start ended with status {status} before any signal")
                return None
            hit = Hit(planned.number.name, read_marker(folder / RUN).phase)
            only = (
                read_marker(folder / RUN, planned.rank).process if planned.rank is not None else 0
            )
            if planned.number != signal.SIGKILL:
                start.send(planned.number, only, everywhere=planned.rank is None)
                self._check_stop(start, variant, folder / RUN, planned.number, hit)
            elif only:
                start.send(signal.SIGKILL, only)
                time.sleep(planned.pause)
            return hit
        finally:
            start.kill()
            self._starts.discard(start)

    def _check_stop(
        self, start: RunProcesses, variant: Variant, run_dir: Path, number: int, hit: Hit
    ) -> None:
        """Wait for the end of a run after a signal, and check that it saved its state."""
        sent = f"{hit.number} in {hit.phase}"
        if not start.wait(lambda: False, _PATIENCE):
            raise TrialError(f"{sent} did not end the run")
        status = start.first.returncode
        # Without a handler, as in the first moments, the other processes stay.
        if status != -number and not start.wait_for_all(_LINGER):
            raise TrialError(f"{sent} left processes behind")
        # Before and after the training, there is nothing to save. torchrun does not pass on every
        # signal, and kills workers that take long.
        phases = {hit.phase, read_marker(run_dir).phase}
        if variant.ranks == BY_TORCHRUN or not phases.isdisjoint((START_UP, ENDING)):
            return
        # A first rank that did not receive the signal itself reports SIGTERM.
        if status not in (128 + number, 128 + signals.TERMINATE):
            raise TrialError(f"{sent}: status {status}, expected {128 + number}")
        if lost := batches_lost(run_dir):
            raise TrialError(f"{sent} lost {counted(lost, 'batch', 'batches')}")
