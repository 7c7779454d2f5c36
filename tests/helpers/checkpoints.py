"""Tiny models and their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from lightning_modules.architectures.denoising_autoencoder import DenoisingAutoencoder
from lightning_modules.architectures.unet import UNet
from lightning_modules.base.description import KEY
from lightning_modules.base.separator import SourceSeparator

SOURCES = ["vocals", "accompaniment"]


def model(**arguments: Any) -> UNet:
    torch.manual_seed(0)
    settings = {"channels": [4, 8], "segment_seconds": 0.5, "mask": "ratio", **arguments}
    return UNet(SOURCES, **settings)


def save(module: SourceSeparator, path: Path, **changes: Any) -> Path:
    """Save a Lightning checkpoint without training."""
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.strategy.connect(module)
    contents = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
    contents[KEY] |= changes
    torch.save(contents, path)
    return path


def checkpoints(folder: Path, **denoising: Any) -> tuple[Path, Path]:
    """Save a small denoiser and a small separator."""
    torch.manual_seed(0)
    settings = {"segment_seconds": 0.5, **denoising}
    denoiser = DenoisingAutoencoder(["music"], [3], 3, **settings)
    separator = UNet(
        ["vocals", "accompaniment"], channels=[4, 8], segment_seconds=0.5, mask="ratio"
    )
    return save(denoiser, folder / "denoiser.ckpt"), save(separator, folder / "separator.ckpt")
