"""The command line in tests: small settings and a runner."""

from __future__ import annotations

from pathlib import Path

from lightning_modules import cli

REPOSITORY = Path(__file__).resolve().parents[2]

UNET = ["--config", "unet.yaml"]

# Model and data small enough for a run of seconds.
TINY = [
    "--model.init_args.channels=[4,8]",
    "--model.init_args.n_fft=512",
    "--model.init_args.hop_length=256",
    "--data.init_args.segment_seconds=0.5",
    "--data.init_args.examples_per_epoch=16",
    "--data.init_args.batch_size=8",
    "--data.init_args.validation_crops_per_track=2",
    "--data.init_args.num_workers=0",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.log_every_n_steps=1",
]

CSV = ["--trainer.logger=CSVLogger"]


def run(*arguments: str) -> int:
    """Run a subcommand in this process; return its exit status."""
    return cli.main(list(arguments))
