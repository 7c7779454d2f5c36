"""Ranks that Lightning starts end together, and the loss of one is reported on one line.

Ranks that srun or torchrun started are watched and ended by these; here only their error is
explained. Nothing heavy is imported, because the watch begins before torch is imported.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from datamodules.deaths import LIKELY, OUT_OF_MEMORY
from lightning_modules.runtime.launch import here
from lightning_modules.runtime.parent import exit_now, exit_with_parent

# Process id of the rank that starts the others, for these.
_MAIN = "STEMLAB_MAIN_RANK"
_POLL_SECONDS = 0.2
# How long a rank has to end by itself after another was lost: gloo raises an error at once, while
# NCCL and a rank that waits for a connection wait for half an hour.
_GRACE_SECONDS = 10.0
# How long finished ranks may take to end.
_END_SECONDS = 60.0
_RESUME = "Resume from last.ckpt with --ckpt_path auto"
_CONNECTION = re.compile(
    r"connection (closed|reset|refused)|broken pipe|timed out|timeout|remote process exited"
    r"|socket|peer",
    re.IGNORECASE,
)

_started: list[subprocess.Popen[bytes]] = []


class RankLostError(RuntimeError):
    """Another rank was killed or failed; the message says which, why, and how to resume."""


def end_with_main_rank() -> None:
    """In a rank that Lightning started, end when the rank that started it has died."""
    main = int(os.environ.get(_MAIN, "0"))
    if not main or main == os.getpid() or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    if os.getppid() != main and _is_alive(main):
        return  # the variables were inherited by another process
    message = ""
    if os.environ["LOCAL_RANK"] == "1":  # only one of them reports it
        message = f"error: rank 0 (process {main}) was killed: {OUT_OF_MEMORY}. {_RESUME}"
    exit_with_parent(main, message)


@contextmanager
def together() -> Iterator[None]:
    """End the ranks that Lightning starts within the context with this process.

    Raises:
        RankLostError: The connection to another rank was lost.
    """
    os.environ.setdefault(_MAIN, str(os.getpid()))
    try:
        yield
        _end_started(_END_SECONDS)
    except SystemExit:
        _end_started(_GRACE_SECONDS)  # stopped together, after the state was saved
        raise
    except Exception as error:
        if lost := _explain(error):
            raise lost from error
        raise
    finally:
        _end_started(0)
        _started.clear()
        if os.environ.get(_MAIN) == str(os.getpid()):
            del os.environ[_MAIN]


def observe(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Watch the ranks 1, 2, ... of this node that this process started."""
    _started[:] = processes
    threading.Thread(target=_end_after_loss, args=(list(processes),), daemon=True).start()


def _end_after_loss(processes: list[subprocess.Popen[bytes]]) -> None:
    while not (text := _find_loss(processes)):
        if all(process.returncode == 0 for process in processes):
            return
        time.sleep(_POLL_SECONDS)
    time.sleep(_GRACE_SECONDS)
    if _started != processes:
        return  # this rank has ended its run by itself
    _end_started(0)
    exit_now(2, f"error: {text}")


def _find_loss(processes: Sequence[subprocess.Popen[bytes]]) -> str:
    """Say which rank was lost and why; empty if all are running or have succeeded."""
    first = int(os.environ.get("NODE_RANK", "0")) * (len(processes) + 1)
    # Those that were killed come first: the others fail because of them.
    for process in sorted(processes, key=lambda each: each.poll() or 0):
        if status := process.returncode:
            rank = f"rank {first + processes.index(process) + 1} (process {process.pid}){here()}"
            return f"{rank} {_cause(status)}. {_RESUME}"
    return ""


def _cause(status: int) -> str:
    """How a process ended, in words, and the likely reason."""
    if status > 0:
        return f"failed with status {status}; its message is above"
    name = signal.strsignal(-status) or "unknown"
    likely = LIKELY.get(-status)
    return f"was ended by signal {-status} ({name}){f': {likely}' if likely else ''}"


def _explain(error: Exception) -> RankLostError | None:
    """Turn an error of a collective into one that names the lost rank; None for other errors."""
    reason = " ".join(str(error).split())
    is_collective = any(base.__name__ == "DistError" for base in type(error).__mro__) or (
        isinstance(error, RuntimeError) and re.search("gloo|nccl", reason, re.IGNORECASE)
    )
    if not is_collective:
        return None
    deadline = time.monotonic() + _GRACE_SECONDS / 2
    is_started = _MAIN in os.environ and os.environ[_MAIN] != str(os.getpid())
    while _started or is_started:  # a started rank is ended by the one that started it
        if text := _find_loss(_started):
            return RankLostError(text)
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    if not _CONNECTION.search(reason):
        return None
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", os.environ.get("LOCAL_RANK", "0")))
    reason = re.sub(r"^\[[^\]]*\] ?|\. This is typically.*", "", reason)[:200]
    return RankLostError(
        f"rank {rank}{here()} lost the connection to another rank ({reason}): that one was killed, "
        f"failed or hangs, and its message or the launcher's says why. {_RESUME}"
    )


def _end_started(seconds: float) -> None:
    """Wait for the started ranks, then kill those that are left."""
    deadline = time.monotonic() + seconds
    for process in _started:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        process.kill()  # does nothing if it has ended


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
