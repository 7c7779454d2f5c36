"""Variants of a tiny training, and the data set that they train on."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

_RATE = 8000
_STEMS = ("vocals", "drums", "bass", "other")
# Two validation tracks, so that each of two ranks separates one.
_TRAINING, _VALIDATION = ("A", "B", "C"), ("D", "E")
_SECONDS = 1.2  # of a track: one frame of BSS Eval
_EPOCHS, _STEPS_PER_EPOCH, _BATCH_SIZE = 3, 5, 8
BY_LIGHTNING, BY_TORCHRUN = "2 by Lightning", "2 by torchrun"
_CALLBACKS = "lightning_modules.callbacks"


@dataclass(frozen=True)
class Variant:
    """Settings of a training.

    Attributes:
        ranks: ``1``, or who starts the two: ``BY_LIGHTNING`` or ``BY_TORCHRUN``.
        workers: Worker processes of each rank's loader.
        average: When ``EMA`` averages: ``none``, ``step`` or ``epoch``.
        schedule: ``cosine``, or ``plateau`` for ``ReduceLROnPlateau``.
        accumulated: Batches per optimiser step.
        saved: When ``last.ckpt`` is saved besides after a validation: ``no`` or every n ``steps``.
        scores: Whether BSS Eval chooses the checkpoints: ``no``, ``blocking`` or ``background``.
        precision: Lightning's name.
    """

    ranks: str
    workers: int
    average: str
    schedule: str
    accumulated: int
    saved: str
    scores: str
    precision: str

    @property
    def name(self) -> str:
        """All settings in one line."""
        return ", ".join(f"{key} {value}" for key, value in asdict(self).items())

    def config(self, root: Path) -> dict[str, Any]:
        """Config of the training, a variant of unet.yaml."""
        return {
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": _EPOCHS,
                "accumulate_grad_batches": self.accumulated,
                "precision": self.precision,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "callbacks": self._callbacks(),
            },
            "model": {
                "init_args": {
                    "channels": [4, 8],
                    "n_fft": 256,
                    "hop_length": 128,
                    "dropout": 0.2,
                    "lr_scheduler": _SCHEDULERS[self.schedule],
                }
            },
            "data": {
                "init_args": {
                    "root": str(root),
                    "validation_tracks": list(_VALIDATION),
                    "sample_rate": _RATE,
                    "segment_seconds": 0.2,
                    "batch_size": _BATCH_SIZE,
                    "examples_per_epoch": _BATCH_SIZE * _STEPS_PER_EPOCH,
                    "validation_crops_per_track": 1,
                    "num_workers": self.workers,
                }
            },
        }

    def _callbacks(self) -> list[dict[str, Any]]:
        scored = self.scores != "no"
        checkpoints = {
            "monitor": "val/usdr" if scored else "val/loss",
            "mode": "max" if scored else "min",
            "save_top_k": 2,
            "save_every_n_steps": 2 if self.saved == "steps" else None,
        }
        chosen: dict[str, dict[str, Any]] = {
            "checkpoints.Checkpoints": checkpoints,
            "resume.ExactResume": {},
            "non_finite.SkipNonFinite": {},
        }
        if scored:
            chosen["bss_eval.BSSEval"] = {"processes": 1, "blocking": self.scores == "blocking"}
        if self.average != "none":
            chosen["ema.EMA"] = {"decay": 0.9, "every": self.average}
        listed = [
            {"class_path": f"{_CALLBACKS}.{name}", "init_args": arguments}
            for name, arguments in chosen.items()
        ]
        return [*listed, {"class_path": "lightning_modules.endurance.recorder.Recorder"}]

    def command(self, config: Path, run_dir: Path) -> list[str]:
        """Command that starts or resumes the training."""
        fit = ["-m", "lightning_modules.cli", "fit", "--config", "unet.yaml"]
        fit += ["--config", str(config), "--run_dir", str(run_dir), "--ckpt_path", "auto"]
        if self.ranks == BY_TORCHRUN:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            return [sys.executable, *torchrun, *fit]
        strategy = ["--trainer.strategy=ddp"] if self.ranks == BY_LIGHTNING else []
        return [sys.executable, *fit, f"--trainer.devices={self.ranks[0]}", *strategy]


_SCHEDULERS: dict[str, dict[str, Any]] = {
    "cosine": {
        "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "init_args": {"T_max": 5},
    },
    # Reduces at every second validation.
    "plateau": {
        "class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "init_args": {"patience": 1, "threshold": 10.0},
    },
}
OPTIONS: dict[str, Sequence[Any]] = {
    "ranks": ("1", BY_LIGHTNING, BY_TORCHRUN),
    "workers": (0, 1, 2),
    "average": ("none", "step", "epoch"),
    "schedule": tuple(_SCHEDULERS),
    "accumulated": (1, 2),
    "saved": ("no", "steps"),
    "scores": ("no", "blocking", "background"),
    "precision": ("32-true", "bf16-mixed"),
}
"""Values that each setting is drawn from."""


def draw(random: random.Random) -> Variant:
    """Draw a variant; each setting is drawn independently of the others."""
    return Variant(**{name: random.choice(values) for name, values in OPTIONS.items()})


def write_config(variant: Variant, root: Path, path: Path) -> Path:
    """Write the config of a variant, and return its path."""
    path.write_text(yaml.safe_dump(variant.config(root)))
    return path


def write_corpus(root: Path) -> Path:
    """Write five tracks of noise in four stems, and return the root."""
    noise = np.random.default_rng(0)
    for name in (*_TRAINING, *_VALIDATION):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for stem in _STEMS:
            audio = 0.1 * noise.standard_normal((round(_RATE * _SECONDS), 2))
            soundfile.write(folder / f"{stem}.wav", audio, _RATE, subtype="PCM_16")
    return root
