"""BSS Eval of whole tracks at every validation epoch, and of the test tracks."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.audio import Audio
from datamodules.datasets import TrackBatch
from lightning_modules import plots
from lightning_modules.base import SourceSeparator
from lightning_modules.callbacks.moment import moment, run_folder
from lightning_modules.evaluation.pool import ScoringPool, available_cores
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scores import TrackScores, aggregate, merge, score_track
from lightning_modules.evaluation.table import score_table

_MOST_PROCESSES = 4


class BSSEval(Callback):
    """Score separated tracks in a pool of processes.

    Logs ``val/sdr/vocals`` and its like (median over tracks of the median over
    one-second frames, dB), ``val/sdr`` and its like (mean over sources), and
    ``val/usdr``; ``test/...`` in a test. Writes a museval JSON file per track to
    ``scores/`` in the run's directory, and prints a table beside the figures of
    the mixture taken as the estimate of every source.

    Args:
        processes: Scoring processes on each rank; by default its share of the cores, but
            no more than four, as whole tracks wait in memory for each.
    """

    def __init__(self, processes: int | None = None) -> None:
        self.processes = processes
        self._pool: ScoringPool | None = None
        self._pending: deque[tuple[str, Future[TrackScores]]] = deque()
        self._done: dict[str, list[TrackScores]] = {"estimate": [], "mixture": []}
        self._baselines: dict[tuple[str, str], TrackScores] = {}
        self._seconds = 0.0
        self._epoch_began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch, of which scoring takes its share."""
        self._epoch_began = time.perf_counter()

    on_train_start = on_train_epoch_start  # an epoch that is resumed in its middle has no start

    # --------------------------------------------------------------- a track

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no scores."""
        self._pending.clear()
        self._done = {"estimate": [], "mixture": []}
        self._seconds = 0.0

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Hand a separated track to the pool."""
        if not isinstance(batch, TrackBatch) or trainer.sanity_checking:
            return
        assert isinstance(pl_module, SourceSeparator)
        started = time.perf_counter()
        references = _numpy(batch.targets)
        self._submit(trainer, pl_module, "estimate", batch.name, references, outputs["estimates"])
        # The mixture's figures do not change: once in a process is enough.
        if (self._split(trainer), batch.name) not in self._baselines:
            repeated = batch.mixture.expand_as(batch.targets)
            self._submit(trainer, pl_module, "mixture", batch.name, references, repeated)
        self._seconds += time.perf_counter() - started

    on_test_batch_end = on_validation_batch_end

    def _submit(
        self,
        trainer: Trainer,
        model: SourceSeparator,
        kind: str,
        name: str,
        references: Audio,
        estimates: Tensor,
    ) -> None:
        cores = max(1, available_cores() // max(1, _local_ranks(trainer)))
        workers = self.processes or min(_MOST_PROCESSES, cores)
        if self._pool is None:
            self._pool = ScoringPool(workers, threads=max(1, cores // workers))
        # Whole tracks are large: no more of them wait in memory than are worked on next.
        while len(self._pending) > workers:
            self._collect()
        future = self._pool.submit(
            score_track,
            name,
            references,
            _numpy(estimates),
            model.sample_rate,
            model.sources,
        )
        self._pending.append((kind, future))

    def _collect(self) -> None:
        kind, future = self._pending.popleft()
        self._done[kind].append(future.result())

    # -------------------------------------------------------------- an epoch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather all ranks' scores; log, write and show them."""
        if trainer.sanity_checking:
            return
        started = time.perf_counter()
        while self._pending:
            self._collect()
        split = self._split(trainer)
        self._baselines |= {(split, track.name): track for track in self._done["mixture"]}
        mine = [self._baselines[split, track.name] for track in self._done["estimate"]]
        scores, baselines = _gather(self._done["estimate"]), _gather(mine)
        self._seconds += time.perf_counter() - started
        if not scores:
            return
        summary, baseline = aggregate(scores), aggregate(baselines)
        metrics = {f"{split}/{name}": value for name, value in summary.as_metrics().items()}
        metrics[f"{split}/skipped_frames"] = float(sum(summary.skipped_frames.values()))
        metrics[f"{split}/scoring_seconds"] = self._seconds
        if trainer.state.fn == "fit":
            # Of the training so far and the validation at hand.
            epoch_seconds = time.perf_counter() - self._epoch_began
            metrics[f"{split}/scoring_share"] = self._seconds / epoch_seconds
        # Each rank has all scores, so nothing is left to synchronise.
        pl_module.log_dict(metrics, rank_zero_only=False, sync_dist=False)
        if trainer.is_global_zero:
            folder = self._folder(trainer, "estimate")
            for track in scores:
                write_scores(track, folder / f"{track.name}.json")
            for track in baselines:
                write_scores(track, self._folder(trainer, "mixture") / f"{track.name}.json")
            trainer.print(score_table(summary, baseline, _title(trainer)))
            if trainer.testing:
                figure = plots.score_boxplot(scores, baselines, "Test tracks")
                plots.save(figure, run_folder(trainer, "pictures") / "test_scores.png")

    on_test_epoch_end = on_validation_epoch_end

    @staticmethod
    def _split(trainer: Trainer) -> str:
        return "test" if trainer.testing else "val"

    def _folder(self, trainer: Trainer, kind: str) -> Path:
        """Where JSON files belong: ``scores/<kind>/<split>``, as museval's stores read them."""
        if kind == "estimate" and trainer.state.fn == "fit":
            kind = moment(trainer)
        return run_folder(trainer, "scores", kind, self._split(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the pool at once, whatever it is working on."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


def _numpy(waveform: Tensor) -> Audio:
    audio: Audio = waveform.detach().float().cpu().numpy()
    return audio


def _local_ranks(trainer: Trainer) -> int:
    return trainer.world_size // max(1, trainer.num_nodes)


def _gather(scores: list[TrackScores]) -> list[TrackScores]:
    """All ranks' scores, each track once, by name."""
    gathered = [scores]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(gathered, scores)
    return merge(gathered)


def _title(trainer: Trainer) -> str:
    if trainer.testing:
        return "Test"
    return (
        f"Validation, epoch {trainer.current_epoch}" if trainer.state.fn == "fit" else "Validation"
    )
