"""Memory of this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lightning_modules.runtime import memory
from tests.helpers.command_line import REPOSITORY

_PROGRAM = """
import resource
import numpy as np
from lightning_modules.runtime.memory import reuse_freed_memory

{call}
faults = []
for _ in range(40):
    np.ones(10_000_000)  # 80 MB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""


def page_faults(call: str) -> int:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", _PROGRAM.format(call=call)]
    return int(subprocess.check_output(command, env=environment, cwd=REPOSITORY))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_reused() -> None:
    assert page_faults("assert reuse_freed_memory()") < page_faults("") / 3


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_user_are_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert not memory.reuse_freed_memory()


def test_current_memory_is_at_most_the_peak() -> None:
    assert 0 < memory.current_memory() <= memory.peak_memory()
