"""Train, score and try a model without any data: ``python -m lightning_modules.tools.demo``.

Renders the demo corpus, trains the small U-Net on it for some minutes, scores it on the test
songs, separates one of them, and prints where the results are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from datamodules import command_line
from datamodules.demo.corpus import demo_corpus
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
    extra = list(sys.argv[1:] if arguments is None else arguments)
    return command_line.run(lambda: _demo(extra))


def _demo(extra: list[str]) -> int:
    os.environ.pop("MUSDB_PATH", None)  # selects the demo corpus
    cli.prepare(["fit", *CONFIGS, *extra])  # reports mistakes before the corpus is rendered
    corpus = demo_corpus()
    from lightning_modules.training.run_directory import named_run_dir

    run_dir = named_run_dir("demo").resolve()
    # On several devices Lightning would start this program once per device.
    settings = [*CONFIGS, "--run_dir", str(run_dir), "--trainer.devices=1", *extra]
    for step in ("fit", "test"):
        print(f"\n--- python -m lightning_modules.cli {step} {' '.join(settings)}")
        if status := cli.main([step, *settings]):
            return status
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    song = sorted((corpus / "test").iterdir())[0] / "mixture.wav"
    output = run_dir / "separated"
    command = [str(song), "--checkpoint", str(checkpoint), "-o", str(output), "--force"]
    print(f"\n--- python -m lightning_modules.tools.separate {song} --checkpoint {checkpoint}")
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


if __name__ == "__main__":
    sys.exit(main())
