"""Worker processes of data loaders: signals, exit and death."""

from __future__ import annotations

import atexit
import multiprocessing
import signal


def ignore_signals(worker: int) -> None:
    """Ignore stop signals in a worker; the main process ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@atexit.register
def _kill_workers() -> None:
    """Kill workers that still exist at exit, for instance referenced by a traceback.

    Python would send them SIGTERM, which they ignore, and wait forever.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise an error
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class WorkerDiedError(RuntimeError):
    """A worker died; the message lists possible causes and what to do."""


def explain_worker_death(error: BaseException) -> WorkerDiedError | None:
    """Turn torch's error about a dead worker into one that says what to do; None for other errors.

    torch raises its error in the main process at any time, not only while it waits for a batch.
    """
    if isinstance(error, WorkerDiedError) or "DataLoader worker" not in str(error):
        return None
    return WorkerDiedError(
        f"a process that reads data died ({str(error).strip()}); the system kills one when memory "
        "runs out (Killed), or when a file is truncated while it is being read (Bus error). Fix "
        "that and resume with --ckpt_path last; fewer --data.init_args.num_workers need less memory"
    )
