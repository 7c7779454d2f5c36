"""Callback that scores complete validation and test tracks with BSS Eval."""

from __future__ import annotations

import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from datamodules.batches import TrackBatch
from datamodules.files.audio import Audio
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.callbacks.background_scoring import (
    Position,
    ScoringError,
    ScoringPass,
    check_monitors,
    is_validation_score,
    monitors_score,
    temporary_state,
)
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.lightning_internals import validation_tracks
from lightning_modules.callbacks.optional_files import OptionalFiles
from lightning_modules.callbacks.run_files import run_folder
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.evaluation.baselines import constant_gain_summaries, score_mixture
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scores import TrackScores, aggregate, merge, score_track
from lightning_modules.evaluation.table import score_table
from lightning_modules.plots import scores as score_plots
from lightning_modules.plots import style
from lightning_modules.runtime.launch import here
from lightning_modules.runtime.process_pool import PoolTask, ScoringPool, available_cores

_MAX_PROCESSES = 4

Item = TypeVar("Item")


class BSSEval(Callback):
    """Score separated tracks in a pool of processes.

    Logs SDR, ISR, SIR, SAR and uSDR per source, such as ``val/sdr/vocals``, and their means over
    the sources, such as ``val/sdr``. In a test, the names begin with ``test/``. The scores of a
    source, except uSDR, are the median over tracks of the median over one-second frames, dB.
    Writes a museval JSON file per track to ``scores/`` in the run's directory. Prints a table,
    which also has the scores of the mixture as the estimate of every source, and at constant gains.

    With ``blocking=False``, training continues while the tracks of a validation are scored. The
    scores are collected at the next validation or at the end of training, and logged with the
    epoch and the step of their own validation. ``Checkpoints`` then keeps the checkpoint of that
    validation as one of the best, or removes it. If the run stops before the scores are collected,
    the resumed run separates the tracks with the weights of that checkpoint and scores them.

    Args:
        processes: Number of scoring processes per rank; by default the rank's share of the CPU
            cores, at most four, because each process keeps complete tracks in memory.
        blocking: Whether a validation waits for its scores. If not, schedulers and early stopping
            must monitor ``val/loss``.
        waiting_gb: Maximum memory per rank for tracks that wait to be scored while training
            continues, GB. When it is full, the validation waits. A song of four minutes with four
            sources takes 0.7 GB.
    """

    def __init__(
        self, processes: int | None = None, blocking: bool = True, waiting_gb: float = 8.0
    ) -> None:
        self.processes, self.blocking, self.waiting_gb = processes, blocking, waiting_gb
        self._pool: ScoringPool | None = None
        self._pass: ScoringPass | None = None
        # Position of the validation whose scores were missing when the checkpoint was saved.
        self._unscored: dict[str, int] | None = None
        # Scores of the mixture by split and track, computed once per run.
        self._baselines: dict[tuple[str, str], TrackScores] = {}
        self._epoch_began = 0.0
        self._optional = OptionalFiles("score files")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise if a scheduler or early stopping monitors a score that is logged late."""
        if not self.blocking:
            check_monitors(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the timer of the epoch."""
        self._epoch_began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score the validation whose scores were missing when the run stopped."""
        if self._unscored is not None:
            assert isinstance(pl_module, SourceSeparator)
            position, self._unscored = Position(**self._unscored), None
            self._score_again(trainer, pl_module, position)
        # on_train_epoch_start is not called if a run resumes within an epoch.
        self._epoch_began = time.perf_counter()

    # --------------------------------------------------------------- tracks

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect late scores of the previous validation, and start a new scoring pass."""
        if trainer.sanity_checking:
            return
        self._collect_late(trainer)
        fitting, position = trainer.state.fn == "fit", Position.current(trainer)
        self._pass = ScoringPass(
            split="test" if trainer.testing else "val",
            late=fitting and not self.blocking,
            method=position.name if fitting else "estimate",
            position=position,
        )

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
        """Submit a separated track to the pool."""
        if isinstance(batch, TrackBatch) and self._pass is not None:
            assert isinstance(pl_module, SourceSeparator)
            with self._pass.timed():
                self._score(pl_module, self._pass, batch, outputs["estimates"])

    on_test_batch_end = on_validation_batch_end

    def _score(
        self, model: SourceSeparator, scored: ScoringPass, track: TrackBatch, estimates: Tensor
    ) -> None:
        references = _numpy(track.targets)
        to_score = {"estimate": estimates}
        if (scored.split, track.name) not in self._baselines:
            to_score["mixture"] = track.mixture.expand_as(track.targets)
        pool = self._open_pool(model.trainer, scored.late)
        for kind, waveforms in to_score.items():
            # The references are counted once, with the estimates. The expanded mixture takes the
            # memory of one waveform.
            size = waveforms.untyped_storage().nbytes() + references.nbytes * (kind == "estimate")
            if scored.late:
                scored.make_room(size, round(self.waiting_gb * 1e9))
            else:
                # To limit memory, wait until at most one task per process is pending.
                scored.collect(leave=pool.processes)
            audio = (references, _numpy(waveforms))
            work = score_mixture if kind == "mixture" else score_track
            task = PoolTask(pool, work, track.name, *audio, track.sample_rate, model.sources)
            scored.pending.append((kind, track.name, size, task))

    def _open_pool(self, trainer: Trainer, background: bool) -> ScoringPool:
        self._drop_broken_pool()
        if self._pool is None:
            local_ranks = max(1, trainer.world_size // max(1, trainer.num_nodes))
            cores = max(1, available_cores() // local_ranks)
            processes = self.processes or min(_MAX_PROCESSES, cores)
            threads = max(1, cores // processes)
            self._pool = ScoringPool(processes, threads, background=background)
        return self._pool

    def _drop_broken_pool(self) -> None:
        """After a scoring process was killed, score with one process, which needs least memory."""
        if self._pool is None or not self._pool.is_broken:
            return
        self._pool.shutdown()
        self._pool, self.processes = None, 1
        warnings.warn(
            f"A scoring process{here()} was killed, perhaps because memory ran out: its tracks are "
            "scored again, from now on one at a time. Give BSSEval fewer processes (or less "
            "waiting_gb), or the job more memory",
            stacklevel=1,
        )

    # -------------------------------------------------------------- results

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, write and print the scores, or with ``blocking=False`` leave them for later."""
        if self._pass is None:
            return
        if trainer.state.fn == "fit":
            # Duration of the epoch so far, including this validation.
            self._pass.epoch_seconds = time.perf_counter() - self._epoch_began
        if self._pass.late:
            for checkpoints in _score_monitoring_checkpoints(trainer):
                checkpoints.awaits_scores = True
            return
        metrics = self._results(trainer, self._pass)
        self._pass = None
        # All ranks have gathered all scores, so nothing is left to synchronise.
        pl_module.log_dict(metrics, rank_zero_only=False, sync_dist=False)

    on_test_epoch_end = on_validation_epoch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Collect the last scores."""
        self._collect_late(trainer)

    def _collect_late(self, trainer: Trainer) -> None:
        """Wait for late scores, log them with their validation's step, and choose checkpoints."""
        if self._pass is None:
            return
        position = self._pass.position
        metrics = self._results(trainer, self._pass)
        self._pass = None
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics({**metrics, "epoch": position.epoch}, step=position.logged_step)
            logger.save()
        for checkpoints in _score_monitoring_checkpoints(trainer):
            checkpoints.choose(trainer, metrics, position.epoch, position.step)

    def _results(self, trainer: Trainer, scored: ScoringPass) -> dict[str, float]:
        """Gather the scores of all ranks, report them; return the metrics to log.

        Raises:
            ScoringError: Scores that the run needs could not be computed.
        """
        split = scored.split
        with scored.timed():
            scored.collect()
            self._drop_broken_pool()
            self._baselines |= {(split, track.name): track for track in scored.done["mixture"]}
            mine = [
                self._baselines[split, track.name]
                for track in scored.done["estimate"]
                if (split, track.name) in self._baselines
            ]
            scores, baselines = merge(_gather(scored.done["estimate"])), merge(_gather(mine))
            faults = sorted({fault for rank in _gather(scored.faults) for fault in rank})
        metrics = self._report(trainer, scored, scores, baselines) if scores else {}
        self._check(trainer, faults)
        return metrics

    def _check(self, trainer: Trainer, faults: list[tuple[str, str]]) -> None:
        """Raise, on all ranks, if scores are missing that the run needs; else warn."""
        if not faults:
            return
        text = "; ".join(fault for _, fault in faults)
        fitting = trainer.state.fn == "fit"
        estimates = any(kind == "estimate" for kind, _ in faults)
        if not fitting or (estimates and monitors_score(trainer)):
            resume = ". Resume from last.ckpt with --ckpt_path auto" if fitting else ""
            raise ScoringError(f"could not score {text}{resume}")
        rank_zero_warn(f"Could not score {text}. The training continues without these scores")

    def _report(
        self,
        trainer: Trainer,
        scored: ScoringPass,
        scores: list[TrackScores],
        baselines: list[TrackScores],
    ) -> dict[str, float]:
        """Write and print the scores of all ranks; return the metrics to log."""
        split = scored.split
        summary, baseline = aggregate(scores), aggregate(baselines)
        metrics = {f"{split}/{name}": value for name, value in summary.as_metrics().items()}
        metrics[f"{split}/skipped_frames"] = float(sum(summary.skipped_frames.values()))
        metrics[f"{split}/scoring_seconds"] = scored.seconds
        if scored.epoch_seconds is not None:
            metrics[f"{split}/scoring_share"] = scored.seconds / scored.epoch_seconds
        if trainer.is_global_zero:
            # A training goes on, and logs the scores; in a test they are what is asked for.
            with self._optional if trainer.state.fn == "fit" else nullcontext():
                for method, tracks in ((scored.method, scores), ("mixture", baselines)):
                    folder = Path(trainer.default_root_dir, "scores", method, split)
                    for track in tracks:
                        write_scores(track, folder / f"{track.name}.json")
            epoch = "" if scored.method == "estimate" else f", epoch {scored.position.epoch}"
            title = "Test" if split == "test" else f"Validation{epoch}"
            gains = constant_gain_summaries(baselines)
            trainer.print(score_table(summary, baseline, title, gains))
            if split == "test":
                with OptionalFiles("the plot of the test scores"):
                    figure = score_plots.score_boxplot(scores, baselines, "Test tracks")
                    style.save(figure, run_folder(trainer, "pictures") / "test_scores.png")
        return metrics

    # ---------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the validation whose scores are pending."""
        position = self._unscored or (self._pass and asdict(self._pass.position))
        return {"owed": position} if position else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position of an unscored validation."""
        self._unscored = state_dict["owed"]

    def _score_again(self, trainer: Trainer, model: SourceSeparator, position: Position) -> None:
        """Separate the validation tracks with a saved state and submit them to the pool."""
        try:
            file = Path(trainer.default_root_dir, "checkpoints", f"{position.name}.ckpt")
            weights, fault = read_checkpoint(file)["state_dict"], ""
        except CheckpointError as error:
            weights, fault = {}, str(error)
        if not trainer.strategy.reduce_boolean_decision(not fault):
            rank_zero_warn(
                f"The scores of epoch {position.epoch} are lost: they were not computed before "
                "the run stopped, and its checkpoint cannot be read: "
                f"{fault or 'another rank reports an error'}"
            )
            return
        trainer.print(f"Scoring epoch {position.epoch} again: its scores were incomplete")
        scored = self._pass = ScoringPass("val", not self.blocking, position.name, position)
        precision = trainer.precision_plugin.val_step_context()
        with scored.timed(), temporary_state(model, weights), torch.no_grad(), precision:
            for track in validation_tracks(trainer):
                self._score(model, scored, track, model.separate_track(track))

    # -------------------------------------------------------------- the end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of scores that are still missing because the run had no training step left."""
        if self._unscored is not None:
            position = Position(**self._unscored)
            rank_zero_warn(
                f"The scores of epoch {position.epoch} were not computed before the run stopped, "
                "and no steps are left to train: run validate with --ckpt_path "
                f"{trainer.default_root_dir}/checkpoints/{position.name}.ckpt, or resume with "
                "a larger max_epochs or max_steps"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shut the pool down."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._pass = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the pool at once, even while it is scoring."""
        if self._pool is not None:
            self._pool.terminate()
        self._pool = self._pass = None


def _score_monitoring_checkpoints(trainer: Trainer) -> list[Checkpoints]:
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, Checkpoints) and is_validation_score(callback.monitor)
    ]


def _numpy(waveform: Tensor) -> Audio:
    audio: Audio = waveform.detach().float().cpu().numpy()
    return audio


def _gather(mine: list[Item]) -> list[list[Item]]:
    """Gather a list of each rank."""
    gathered = [mine]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gathered = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(gathered, mine)
    return gathered
