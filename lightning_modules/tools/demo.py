"""Train, score and try a model without any data: ``python -m lightning_modules.tools.demo``.

Renders the demo corpus, trains the small U-Net on it (about 4 minutes on two idle CPU cores),
scores it on the test songs, separates one of them, and prints where the results are. An interrupted
demo is continued by the next.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules import command_line
from datamodules.files.find import song_name
from lightning_modules import cli
from lightning_modules.tools import separate

CONFIGS = ["--config", "unet/small.yaml"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        arguments: Further arguments of ``fit`` and ``test``; by default this process's.

    Returns:
        Exit status: 0, that of the step that failed, or 2 for a mistake that the message on
        stderr explains.
    """
    _, extra = build_parser().parse_known_args(arguments)
    return command_line.run(lambda: _demo(extra))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    return command_line.Parser(
        "lightning_modules.tools.demo",
        usage="%(prog)s [--SETTING=VALUE ...]",
        description=__doc__,
        epilog="Settings are those of fit, such as --trainer.max_epochs=1.",
    )


def _demo(extra: list[str]) -> int:
    # Without it, the demo corpus is used.
    without = "env -u MUSDB_PATH " if os.environ.pop("MUSDB_PATH", None) else ""
    cli.prepare(["fit", *CONFIGS, *extra])  # reports mistakes before the corpus is rendered
    from datamodules.demo.corpus import demo_corpus

    corpus = demo_corpus()
    from lightning_modules.checkpoints.files import BEST, LAST

    song = sorted((corpus / "test").iterdir())[0] / "mixture.wav"
    run_dir, resumed = _choose_run(song)
    # On several devices Lightning would start this program once per device.
    settings = [*CONFIGS, "--run_dir", str(run_dir), "--trainer.devices=1", *extra]
    name = command_line.program("lightning_modules.cli")
    for command in (["fit", *settings, *resumed], ["test", *settings]):
        print(f"\n--- {without}{name} {shlex.join(command)}", flush=True)
        try:
            status = cli.main(command)
        except SystemExit:  # stopped by a signal, with a message on how to resume the training
            print("The same command, such as `make demo`, continues the whole demo.")
            raise
        if status:
            return status
    checkpoint = run_dir / "checkpoints" / BEST
    if not checkpoint.is_file():  # no validation ran, as with --trainer.max_epochs=1
        checkpoint = checkpoint.with_name(LAST)
    output = run_dir / "separated"
    command = [str(song), "--checkpoint", str(checkpoint), "-o", str(output), "--force"]
    name = command_line.program("lightning_modules.tools.separate")
    print(f"\n--- {name} {shlex.join(command)}", flush=True)
    if status := separate.main(command):
        return status
    print(
        f"\nEstimates:  {output / song_name(song)}/{{vocals,drums,bass,other}}.wav"
        f"\nReferences: {song.parent}"
        f"\nPlots:      {run_dir / 'pictures'}"
        f"\nScores:     {run_dir / 'scores'}"
        f"\nRun:        {run_dir}"
    )
    return 0


def _choose_run(song: Path) -> tuple[Path, list[str]]:
    """Directory of the newest demo if it is unfinished, else a new one; arguments to resume it."""
    from lightning_modules.training.run_directory import is_used, named_run_dir

    newest = named_run_dir("demo", resume=True)
    if is_used(newest / "checkpoints") and not (newest / "separated" / song_name(song)).exists():
        return newest.resolve(), ["--ckpt_path", "auto"]
    return named_run_dir("demo").resolve(), []


if __name__ == "__main__":
    sys.exit(main())
