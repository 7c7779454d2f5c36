"""BSS Eval of whole tracks at every validation epoch, and of the test tracks."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    Round,
    check_monitors,
    explained,
    is_score,
    state_of,
)
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.callbacks.lightning_internals import validation_tracks
from lightning_modules.callbacks.run_files import moment, moment_name, run_folder
from lightning_modules.checkpoints.loading import read_checkpoint
from lightning_modules.evaluation.score_files import write_scores
from lightning_modules.evaluation.scores import TrackScores, aggregate, merge, score_track
from lightning_modules.evaluation.table import score_table
from lightning_modules.plots import scores as score_plots
from lightning_modules.plots import style
from lightning_modules.runtime.process_pool import ScoringPool, available_cores

_MOST_PROCESSES = 4


class BSSEval(Callback):
    """Score separated tracks in a pool of processes.

    Logs ``val/sdr/vocals`` and its like (median over tracks of the median over
    one-second frames, dB), ``val/sdr`` and its like (mean over sources), and
    ``val/usdr``; ``test/...`` in a test. Writes a museval JSON file per track to
    ``scores/`` in the run's directory, and prints a table beside the figures of
    the mixture taken as the estimate of every source.

    Unless ``blocking``, the training goes on while the tracks of a validation are scored. Its
    scores are awaited at the next validation, or at the end, and logged with the epoch and the
    step that they are of; ``Checkpoints`` then takes the state that was validated for one of
    the best, or removes it. Of a run that is stopped before, the tracks are separated with that
    state and scored again when it goes on.

    Args:
        processes: Scoring processes on each rank; by default its share of the cores, but
            no more than four, as whole tracks wait in memory for each.
        blocking: Whether a validation waits for its scores. If not, schedulers and early stopping
            watch ``val/loss``.
        waiting_gb: Memory on each rank for tracks that wait to be scored while training goes on;
            when it is full a validation waits. A song of four minutes takes 0.7.
    """

    def __init__(
        self, processes: int | None = None, blocking: bool = True, waiting_gb: float = 8.0
    ) -> None:
        self.processes, self.blocking, self.waiting_gb = processes, blocking, waiting_gb
        self._pool: ScoringPool | None = None
        self._round: Round | None = None
        # The validation whose scores a checkpoint lacks.
        self._owed: dict[str, int] | None = None
        self._baselines: dict[tuple[str, str], TrackScores] = {}
        self._epoch_began = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See that nothing watches what comes too late.

        Raises:
            MonitorError: Something does.
        """
        if not self.blocking:
            check_monitors(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch, of which scoring takes its share."""
        self._epoch_began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have scored what was not scored before the run was stopped."""
        if self._owed is not None:
            assert isinstance(pl_module, SourceSeparator)
            position, self._owed = Position(**self._owed), None
            self._score_owed(trainer, pl_module, position)
        # An epoch that is resumed in its middle has no start.
        self._epoch_began = time.perf_counter()

    # --------------------------------------------------------------- a track

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Await the scores of the validation before, and begin with none."""
        if trainer.sanity_checking:
            return
        self._settle(trainer)
        fitting = trainer.state.fn == "fit"
        self._round = Round(
            split="test" if trainer.testing else "val",
            late=fitting and not self.blocking,
            method=moment(trainer) if fitting else "estimate",
            position=Position.of(trainer),
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
        """Hand a separated track to the pool."""
        if isinstance(batch, TrackBatch) and self._round is not None:
            assert isinstance(pl_module, SourceSeparator)
            with self._round.timed():
                self._take(trainer, pl_module, self._round, batch, outputs["estimates"])

    on_test_batch_end = on_validation_batch_end

    def _take(
        self,
        trainer: Trainer,
        model: SourceSeparator,
        scored: Round,
        track: TrackBatch,
        estimates: Tensor,
    ) -> None:
        references = _numpy(track.targets)
        self._submit(trainer, model, scored, "estimate", track.name, references, estimates)
        # The mixture's figures do not change: once in a process is enough.
        if (scored.split, track.name) not in self._baselines:
            repeated = track.mixture.expand_as(track.targets)
            self._submit(trainer, model, scored, "mixture", track.name, references, repeated)

    def _submit(
        self,
        trainer: Trainer,
        model: SourceSeparator,
        scored: Round,
        kind: str,
        name: str,
        references: Audio,
        estimates: Tensor,
    ) -> None:
        cores = max(1, available_cores() // max(1, _local_ranks(trainer)))
        workers = self.processes or min(_MOST_PROCESSES, cores)
        if self._pool is None:
            threads = max(1, cores // workers)
            self._pool = ScoringPool(workers, threads, background=scored.late)
        # Both kinds hold the same references, and an expanded mixture is stored once.
        size = estimates.untyped_storage().nbytes() + references.nbytes * (kind == "estimate")
        if scored.late:
            scored.make_room(size, round(self.waiting_gb * 1e9))
        else:
            # Whole tracks are large: no more of them wait in memory than are worked on next.
            scored.collect(all_but=workers)
        with explained():
            future = self._pool.submit(
                score_track,
                name,
                references,
                _numpy(estimates),
                model.sample_rate,
                model.sources,
            )
        scored.scoring.append((kind, size, future))

    # -------------------------------------------------------------- an epoch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log, write and show the scores, or let them come."""
        if self._round is None:
            return
        if trainer.state.fn == "fit":
            # Of the training so far and the validation at hand.
            self._round.epoch_seconds = time.perf_counter() - self._epoch_began
        if self._round.late:
            for checkpoints in _choosing(trainer):
                checkpoints.awaits_scores = True
            return
        metrics = self._results(trainer, self._round)
        self._round = None
        # Each rank has all scores, so nothing is left to synchronise.
        pl_module.log_dict(metrics, rank_zero_only=False, sync_dist=False)

    on_test_epoch_end = on_validation_epoch_end

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Await the last scores."""
        self._settle(trainer)

    def _settle(self, trainer: Trainer) -> None:
        """Await late scores, log them where they belong, and have checkpoints chosen by them."""
        if self._round is None:
            return
        position = self._round.position
        metrics = self._results(trainer, self._round)
        self._round = None
        for logger in trainer.loggers if metrics else []:
            logger.log_metrics({**metrics, "epoch": position.epoch}, step=position.logged_step)
            logger.save()
        for checkpoints in _choosing(trainer):
            checkpoints.choose(trainer, metrics, position.epoch, position.step)

    def _results(self, trainer: Trainer, scored: Round) -> dict[str, float]:
        """Gather all ranks' scores, write and show them; returns what there is to log."""
        split = scored.split
        with scored.timed():
            scored.collect()
            self._baselines |= {(split, track.name): track for track in scored.done["mixture"]}
            mine = [self._baselines[split, track.name] for track in scored.done["estimate"]]
            scores, baselines = _gather(scored.done["estimate"]), _gather(mine)
        if not scores:
            return {}
        summary, baseline = aggregate(scores), aggregate(baselines)
        metrics = {f"{split}/{name}": value for name, value in summary.as_metrics().items()}
        metrics[f"{split}/skipped_frames"] = float(sum(summary.skipped_frames.values()))
        metrics[f"{split}/scoring_seconds"] = scored.seconds
        if scored.epoch_seconds is not None:
            metrics[f"{split}/scoring_share"] = scored.seconds / scored.epoch_seconds
        if trainer.is_global_zero:
            for method, tracks in ((scored.method, scores), ("mixture", baselines)):
                folder = run_folder(trainer, "scores", method, split)
                for track in tracks:
                    write_scores(track, folder / f"{track.name}.json")
            trainer.print(score_table(summary, baseline, scored.title))
            if split == "test":
                figure = score_plots.score_boxplot(scores, baselines, "Test tracks")
                style.save(figure, run_folder(trainer, "pictures") / "test_scores.png")
        return metrics

    # ---------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Tell which validation's scores are on the way."""
        owed = self._owed or (self._round and asdict(self._round.position))
        return {"owed": owed} if owed else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take note of scores that were on the way.

        Args:
            state_dict: What ``state_dict`` returned.
        """
        self._owed = state_dict["owed"]

    def _score_owed(self, trainer: Trainer, model: SourceSeparator, position: Position) -> None:
        """Separate with the state that was validated, and let its scores come."""
        name = moment_name(position.epoch, position.step)
        try:
            file = Path(trainer.default_root_dir, "checkpoints", f"{name}.ckpt")
            weights, fault = read_checkpoint(file)["state_dict"], ""
        except CheckpointError as error:
            weights, fault = {}, str(error)
        if not trainer.strategy.reduce_boolean_decision(not fault):
            rank_zero_warn(
                f"The scores of epoch {position.epoch} are lost: they were not there when this "
                "state was saved, and the one that they are of is gone "
                f"({fault or 'on another rank'})"
            )
            return
        trainer.print(f"Scoring epoch {position.epoch} again: its scores were still to come")
        scored = self._round = Round("val", not self.blocking, name, position)
        precision = trainer.precision_plugin.val_step_context()
        with scored.timed(), state_of(model, weights), torch.no_grad(), precision:
            for track in validation_tracks(trainer):
                self._take(trainer, model, scored, track, model.separate(track.mixture))

    # -------------------------------------------------------------- the end

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell of scores that nothing has made up for: no step was left to be trained."""
        if self._owed is not None:
            position = Position(**self._owed)
            name = moment_name(position.epoch, position.step)
            rank_zero_warn(
                f"The scores of epoch {position.epoch} were not there when the run was stopped, "
                f"and it has no steps left: validate with --ckpt_path checkpoints/{name}.ckpt of "
                "the run, or go on with more steps"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the pool."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._round = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """End the pool at once, whatever it is working on."""
        if self._pool is not None:
            self._pool.terminate()
        self._pool = self._round = None


def _choosing(trainer: Trainer) -> list[Checkpoints]:
    """The callbacks that choose checkpoints by scores."""
    return [
        callback
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, Checkpoints) and is_score(callback.monitor)
    ]


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
