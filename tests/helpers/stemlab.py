"""The command ``stemlab`` as a script, as installers write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.command_line import REPOSITORY

_SCRIPT = """#!{python}
import sys
from lightning_modules.__main__ import main
if __name__ == "__main__":
    sys.exit(main())
"""


def write_script(folder: Path, python: Path = Path(sys.executable)) -> Path:
    """Write the script to ``folder/bin`` and return its path."""
    path = folder / "bin" / "stemlab"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_SCRIPT.format(python=python))
    path.chmod(0o755)
    return path


def stemlab(
    script: Path, *words: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder; ``PYTHONPATH`` of the tests is this repository."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(script), *words],
        cwd=cwd,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
