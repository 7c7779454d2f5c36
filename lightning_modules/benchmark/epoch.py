"""Cost of scoring in training: epochs without scores, with them, and with background scoring.

Trains a config's model without augmentations and separates all validation tracks after each epoch,
with BSS Eval at its defaults. An epoch is timed from the end of one validation to the end of the
next, from the second validation on: the first also scores the mixture and starts the scoring
processes. With ``--museval``, museval scores the estimates of one validation, track by track.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor
from tqdm import tqdm

from datamodules.batches import TrackBatch
from datamodules.errors import DataError
from datamodules.markdown import markdown
from datamodules.musdb import MUSDBDataModule
from datamodules.quiet import quiet
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain
from lightning_modules.runtime.process_pool import available_cores

# The config's data settings that apply here: the others augment.
_DATA_SETTINGS = (
    "sources", "stems", "sample_rate", "audio_channels", "segment_seconds", "batch_size",
    "examples_per_epoch",
)  # fmt: skip
_MIN_EPOCHS = 3  # timed from the second validation to the third
# BSSEval's ``blocking`` by mode; None for no scores.
_BLOCKING: dict[str, bool | None] = {"none": None, "blocking": True, "background": False}
_TITLES = {
    "none": "without scoring",
    "blocking": "scored, `blocking: true`",
    "background": "scored, `blocking: false`",
    "museval": "scored by museval",
}
Validation = list[tuple[TrackBatch, Tensor]]
"""Tracks of a validation with their estimates."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this benchmark's options."""
    parser.add_argument(
        "--config", default="unet/small.yaml", help="of the model (default unet/small.yaml)"
    )
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; by default the demo corpus")
    parser.add_argument("--epochs", type=int, default=5, help="of each training (default 5)")
    parser.add_argument("--examples", type=int, help="per epoch (default: the config's)")
    parser.add_argument(
        "--threads", type=int, help="of training on a CPU (default: all); scoring uses the others"
    )
    parser.add_argument(
        "--museval", action="store_true", help="also score one validation by museval: minutes"
    )


def check(options: argparse.Namespace) -> None:
    """Check the options.

    Raises:
        DataError: A number is too small, or museval cannot be imported.
        ConfigError: There is no such config.
    """
    chain(options.config)
    if options.epochs < _MIN_EPOCHS:
        raise DataError(f"--epochs is {options.epochs}: give {_MIN_EPOCHS} or more")
    for name in ("examples", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DataError(f"--{name} is {value}: give 1 or more")
    if options.museval:
        _museval()


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train in each mode; returns settings and rows in JSON's types."""
    threads = options.threads or torch.get_num_threads()
    rows: dict[str, dict[str, float]] = {}
    with quiet(threads):
        for mode in tqdm(_BLOCKING, disable=None, leave=False):
            rows[mode], validation, data = _train(options, _BLOCKING[mode])
    if options.museval:
        waited = museval_seconds(validation)
        epoch_seconds = rows["none"]["epoch_seconds"] + waited
        rows["museval"] = {"epoch_seconds": epoch_seconds, "waited_seconds": waited}
    return {
        "settings": {
            "config": options.config,
            "data": str(options.root or "demo corpus"),
            "epochs": options.epochs,
            "examples": data.examples(),
            "segment_seconds": data.segment_samples / data.sample_rate,
            "threads": threads,
            "cores": available_cores(),
            "load": os.getloadavg()[0],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "tracks": len(validation),
            "audio_seconds": sum(t.mixture.shape[-1] / t.sample_rate for t, _ in validation),
        },
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """Format a report of ``compare`` as a Markdown table."""
    settings, rows = report["settings"], report["rows"]
    without = rows["none"]["epoch_seconds"]
    lines = [["", "epoch", "relative", "waits for scores", "share"]]
    for name, row in rows.items():
        epoch, waited = row["epoch_seconds"], row["waited_seconds"]
        cells = f"{epoch:.1f} s", f"{epoch / without:.2f} x", f"{waited:.1f} s"
        lines.append([_TITLES[name], *cells, f"{waited / epoch:.0%}"])
    head = (
        f"{settings['config']}: epochs of {settings['examples']} examples of "
        f"{settings['segment_seconds']:g} s, {settings['tracks']} validation tracks, "
        f"{settings['audio_seconds']:.0f} s in total, {settings['data']};\n"
        f"{settings['device']}, {settings['threads']} threads for training, "
        f"{settings['cores']} cores, load {settings['load']:.1f} at the end; median over epochs."
    )
    end = (
        "With background scoring the end of the run waits for the last scores: "
        f"{rows['background']['waited_at_end_seconds']:.1f} s."
    )
    return "\n".join([head, "", *markdown(lines), "", end])


# ------------------------------------------------------------------- training


class _ValidationRecorder(Callback):
    """Records when validations end, and the last one's estimates."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.validation: Validation = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if isinstance(batch, TrackBatch):
            self.validation.append((batch, outputs["estimates"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append(time.perf_counter())


class _WaitLogger(Logger):
    """Records how long training waited for the scores of each epoch."""

    name, version = "benchmark", 0

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if "val/scoring_seconds" in metrics:
            self.seconds.append(metrics["val/scoring_seconds"])

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        return


def _train(
    options: argparse.Namespace, blocking: bool | None
) -> tuple[dict[str, float], Validation, MUSDBDataModule]:
    """Train without scores (None), with blocking or with background ones."""
    recorder, waits = _ValidationRecorder(), _WaitLogger()
    scorers = [] if blocking is None else [BSSEval(blocking=blocking)]
    model, settings = build_model(options.config)
    given = {"root": options.root and str(options.root), "examples_per_epoch": options.examples}
    chosen = {name: settings[name] for name in _DATA_SETTINGS}
    data = MUSDBDataModule(**chosen | {name: value for name, value in given.items() if value})
    with tempfile.TemporaryDirectory(prefix="stemlab-benchmark-") as folder:
        trainer = Trainer(
            max_epochs=options.epochs,
            devices=1,
            logger=waits,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=folder,
            callbacks=[*scorers, recorder],
        )
        with redirect_stdout(io.StringIO()):  # BSSEval prints a table per epoch
            trainer.fit(model, data)
    epochs = [end - start for start, end in pairwise(recorder.ends[1:])]
    # Waits inside the timed epochs; background scores are those of the epoch before.
    within = waits.seconds[2:] if blocking else waits.seconds[1:-1]
    waited = statistics.median(within) if scorers else 0.0
    row = {"epoch_seconds": statistics.median(epochs), "waited_seconds": waited}
    if blocking is False:
        row["waited_at_end_seconds"] = waits.seconds[-1]
    return row, recorder.validation, data


def _museval() -> Any:
    try:
        return importlib.import_module("museval.metrics")
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"--museval: museval cannot be imported ({error}); pip install museval, and install "
            "ffmpeg"
        ) from error


def museval_seconds(validation: Validation) -> float:
    """Score a validation by museval, track by track, in frames of one second; returns seconds."""
    engine, seconds = _museval(), 0.0
    for track, estimates in tqdm(validation, "museval", disable=None, leave=False):
        signals = [
            waveforms.cpu().double().mT.contiguous().numpy()  # (S, C, T) -> (S, T, C)
            for waveforms in (track.targets, estimates)
        ]
        started = time.perf_counter()
        engine.bss_eval(*signals, window=track.sample_rate, hop=track.sample_rate)
        seconds += time.perf_counter() - started
    return seconds
