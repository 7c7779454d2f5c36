"""What scoring costs a training: epochs without it, with it, and with it in the background.

A config's model trains, without augmentations, and separates all validation tracks after each
epoch; BSS Eval has its defaults. Counted is the time from the end of one validation to the end of
the next, from the second validation on: the first one also scores the mixture, and starts the
scoring processes. museval, where it is asked for, scores one validation's estimates by itself, one
track after the other: what an epoch would wait for it.
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

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch import Tensor
from tqdm import tqdm

from datamodules.batches import TrackBatch
from datamodules.errors import DataError
from datamodules.musdb import MUSDBDataModule
from datamodules.quiet import quiet
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import chain
from lightning_modules.runtime.process_pool import available_cores

# What a data module is given of a config's settings.
_OF_THE_DATA = (
    "sources",
    "stems",
    "sample_rate",
    "audio_channels",
    "segment_seconds",
    "batch_size",
    "examples_per_epoch",
)
_FEWEST_EPOCHS = 3  # with fewer, there is no epoch that begins and ends as most do
_MODES: dict[str, bool | None] = {"none": None, "blocking": True, "background": False}
_TITLES = {
    "none": "without scoring",
    "blocking": "scored, `blocking: true`",
    "background": "scored, `blocking: false`",
    "museval": "scored by museval",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command line may hold.

    Args:
        parser: Gets the arguments.
    """
    parser.add_argument(
        "--config", default="unet/small.yaml", help="of the model (default unet/small.yaml)"
    )
    parser.add_argument("--root", type=Path, help="MUSDB18-HQ; by default the embedded corpus")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each way (default 5)")
    parser.add_argument("--examples", type=int, help="in an epoch (default: as the config says)")
    parser.add_argument(
        "--threads", type=int, help="of the training on a CPU (default: all); others stay free"
    )
    parser.add_argument(
        "--museval", action="store_true", help="score one validation by museval, too: minutes"
    )


def check(options: argparse.Namespace) -> None:
    """Refuse numbers that measure nothing.

    Args:
        options: What ``add_arguments`` asked for.

    Raises:
        DataError: An option is not what it must be.
        ConfigError: There is no such config.
    """
    chain(options.config)
    if options.epochs < _FEWEST_EPOCHS:
        raise DataError(f"--epochs is {options.epochs}: give {_FEWEST_EPOCHS} or more")
    for name in ("examples", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DataError(f"--{name} is {value}: give 1 or more")
    if options.museval:
        _museval()


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train in each way.

    Args:
        options: What ``add_arguments`` asked for.

    Returns:
        What was measured, on what and how, in JSON's types.

    Raises:
        DataError: The data set is not what it must be.
    """
    threads = options.threads or torch.get_num_threads()
    rows: dict[str, dict[str, float]] = {}
    with quiet(threads):
        for mode in tqdm(_MODES, disable=None, leave=False):
            rows[mode], tracks, data = _train(options, _MODES[mode])
    if options.museval:
        waited = _score_by_museval(tracks, data.sample_rate)
        epoch_seconds = rows["none"]["epoch_seconds"] + waited
        rows["museval"] = {"epoch_seconds": epoch_seconds, "waited_seconds": waited}
    return {
        "settings": {
            "config": options.config,
            "data": str(options.root or "embedded corpus"),
            "epochs": options.epochs,
            "examples": data.examples(),
            "segment_seconds": data.segment_samples / data.sample_rate,
            "threads": threads,
            "cores": available_cores(),
            "load": os.getloadavg()[0],
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "tracks": len(tracks),
            "audio_seconds": sum(t.mixture.shape[-1] for t, _ in tracks) / data.sample_rate,
        },
        "rows": rows,
    }


def table(report: dict[str, Any]) -> str:
    """Write a report for people, as a Markdown table.

    Args:
        report: What ``compare`` returned.

    Returns:
        Settings and table, in lines.
    """
    settings, rows = report["settings"], report["rows"]
    without = rows["none"]["epoch_seconds"]
    lines = [
        f"| {_TITLES[name]} | {row['epoch_seconds']:.1f} s "
        f"| {row['epoch_seconds'] / without:.2f} x | {row['waited_seconds']:.1f} s "
        f"| {row['waited_seconds'] / row['epoch_seconds']:.0%} |"
        for name, row in rows.items()
    ]
    return "\n".join(
        [
            f"{settings['config']}: {settings['examples']} examples of "
            f"{settings['segment_seconds']:g} s an epoch, {settings['tracks']} validation tracks, "
            f"{settings['audio_seconds']:.0f} s together, {settings['data']};",
            f"{settings['device']}, {settings['threads']} threads to train, {settings['cores']} "
            f"cores, load {settings['load']:.1f} at the end; median over epochs.",
            "",
            "| | epoch | to none | waits for scores | share |",
            "|---|---|---|---|---|",
            *lines,
            "",
            "A run that does not wait does so once, at its end: "
            f"{rows['background']['waited_at_end_seconds']:.1f} s.",
        ]
    )


# ------------------------------------------------------------------- training


class _Clock(Callback):
    """Notes when validations end, and what they separated last."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.tracks: list[tuple[TrackBatch, Tensor]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tracks.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if isinstance(batch, TrackBatch):
            self.tracks.append((batch, outputs["estimates"]))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends.append(time.perf_counter())


class _Waits(Logger):
    """Notes how long the training waited for the scores of each epoch."""

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
) -> tuple[dict[str, float], list[tuple[TrackBatch, Tensor]], MUSDBDataModule]:
    """Train in one way; returns times in seconds, the tracks that were separated last, the data."""
    clock, waits = _Clock(), _Waits()
    scorer = [] if blocking is None else [BSSEval(blocking=blocking)]
    model, settings = build_model(options.config)
    given = {"root": options.root and str(options.root), "examples_per_epoch": options.examples}
    known = {name: settings[name] for name in _OF_THE_DATA}
    data = MUSDBDataModule(**known | {name: value for name, value in given.items() if value})
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
            callbacks=[*scorer, clock],
        )
        with redirect_stdout(io.StringIO()):  # a table of scores for each epoch
            trainer.fit(model, data)
    epochs = [end - began for began, end in pairwise(clock.ends[1:])]
    # Those that are waited for within the epochs that count: what is late, is of the one before.
    within = waits.seconds[2:] if blocking else waits.seconds[1:-1]
    waited = statistics.median(within) if scorer else 0.0
    row = {"epoch_seconds": statistics.median(epochs), "waited_seconds": waited}
    if blocking is False:
        row["waited_at_end_seconds"] = waits.seconds[-1]
    return row, clock.tracks, data


def _museval() -> Any:
    """The engine of museval.

    Raises:
        DataError: It is not there.
    """
    try:
        return importlib.import_module("museval.metrics")
    except (ImportError, RuntimeError) as error:
        raise DataError(
            f"--museval: it cannot be imported ({error}); pip install museval, and install ffmpeg"
        ) from error


def _score_by_museval(tracks: list[tuple[TrackBatch, Tensor]], rate: int) -> float:
    """Score tracks by museval, one after the other; returns how long it took, seconds."""
    engine, seconds = _museval(), 0.0
    for track, estimates in tqdm(tracks, "museval", disable=None, leave=False):
        # (S, C, T) -> (S, T, C)
        signals = [
            np.ascontiguousarray(waveforms.cpu().double().numpy().transpose(0, 2, 1))
            for waveforms in (track.targets, estimates)
        ]
        began = time.perf_counter()
        engine.bss_eval(*signals, window=rate, hop=rate)
        seconds += time.perf_counter() - began
    return seconds
