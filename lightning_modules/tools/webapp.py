"""Serve the web app: ``python -m lightning_modules.tools.webapp``."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from datamodules import command_line
from datamodules.errors import DataError
from lightning_modules.interop.published import check_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the app until it is stopped; return 0, or 2 for a mistake explained on stderr."""
    options = build_parser().parse_args(arguments)
    return command_line.run(lambda: serve(options))


def build_parser() -> command_line.Parser:
    """Build the parser of the command line."""
    parser = command_line.Parser("lightning_modules.tools.webapp")
    add = parser.add_argument
    add("--checkpoint", "--model", nargs="+", type=Path, metavar="MODEL", default=[],
        help="one or more checkpoints, or names of published models; by default the page offers "
        "all published models, downloaded when first used, and the runs below runs")  # fmt: skip
    add("--device", help="cpu, cuda, ...; by default the fastest")
    serving = parser.add_argument_group("serving")
    add = serving.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1, only this "
        "machine; 0.0.0.0 for the network)")  # fmt: skip
    add("--port", type=int, default=7860, help="default 7860; 0 for any free port")
    add("--allow-host", nargs="+", default=[], metavar="NAME", help="names under which a proxy in "
        "front makes the app known; by default it answers to those of --host")  # fmt: skip
    add("--queue", type=int, default=10, help="maximum number of waiting songs (default 10)")
    add("--jobs", type=int, default=1, help="songs to separate in parallel (default 1)")
    songs = parser.add_argument_group("songs")
    add = songs.add_argument
    add("--max-minutes", type=float, default=15, help="longest song (default 15)")
    add("--max-mb", type=float, default=200, help="largest file (default 200)")
    add("--keep-minutes", type=float, default=60,
        help="delete songs this long after their last use (default 60)")  # fmt: skip
    return parser


def serve(options: argparse.Namespace) -> int:
    """Load the given models and serve the app; return the exit status, 0.

    Raises:
        DataError: An option or a checkpoint cannot be used, or Gradio is missing.
        OSError: The port is taken.
    """
    for path in options.checkpoint:
        check_model(path)

    for option, value, least in (("--queue", options.queue, 1), ("--jobs", options.jobs, 1)):
        if value < least:
            raise DataError(f"{option} is {value}: give a number from {least} on")
    if not 0 <= options.port < 2**16:
        raise DataError(f"--port is {options.port}: give a number from 0 to {2**16 - 1}")
    if importlib.util.find_spec("gradio") is None:
        raise DataError("the app needs Gradio, which is not installed: pip install gradio")
    command_line.announce("Loading the models..." if options.checkpoint else "Starting...")
    import torch
    import uvicorn

    from lightning_modules.runtime.device import usable_device
    from lightning_modules.webapp.catalogue import given_models, known_models
    from lightning_modules.webapp.jobs import Jobs
    from lightning_modules.webapp.workspace import Limits, Workspace

    limits = Limits(options.max_minutes, options.max_mb, options.keep_minutes)
    listening = _listen(options.host, options.port)  # fails before models are loaded

    place = usable_device(options.device)
    if place.type == "cpu" and options.jobs > 1:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
    given = options.checkpoint
    models = given_models(given, place) if given else known_models(place)
    # SIGTERM must delete the songs too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        suppress(KeyboardInterrupt),
        listening,
        Workspace(limits) as workspace,
        closing(Jobs(options.jobs, options.queue)) as jobs,
    ):
        # Imported here, because Gradio reads the path of the workspace at import.
        from lightning_modules.webapp.guard import Hosts
        from lightning_modules.webapp.server import build_server

        host, port = listening.getsockname()[:2]
        hosts = Hosts.of(host, options.host, options.allow_host)
        app = build_server(models, workspace, jobs, hosts)
        print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        # Players keep connections open; do not wait for them at shutdown.
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise OSError(
            f"--host {host} --port {port}: cannot listen there: {error.strerror}; give another "
            "--port, or 0 for any free one"
        ) from error
    return listening


if __name__ == "__main__":
    sys.exit(main())
