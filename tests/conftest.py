"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from lightning_modules.runtime import signals
from tests.helpers.light_runs import lighten
from tests.helpers.tracks import write_track

# Shells ignore these in background jobs and under nohup, and processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests never contact the W&B service.
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests first, so that parallel workers finish at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Initialise networks with the same weights, independent of the order of tests."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_bars() -> None:
    """Forget progress bars that tests left open: others would move the cursor over their lines."""
    tqdm._instances.clear()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove environment variables of the user's data and runs."""
    signals.restore_handlers()  # a test that stops a run leaves them installed
    for name in list(os.environ):
        if name.startswith(("SLURM_", "STEMLAB_RUN_DIR", "MUSDB_PATH", "WANDB_R")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _light_runs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Score in threads and draw no plots, except in tests marked ``complete_run``."""
    if not request.node.get_closest_marker("complete_run"):
        lighten(monkeypatch)


@pytest.fixture(scope="session")
def musdb_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set in the layout of MUSDB18-HQ: 4 training, 1 validation, 1 test track."""
    root = tmp_path_factory.mktemp("musdb")
    names = [
        "Actions - One Minute Smile",
        "Band A - One",
        "Band B - Two",
        "Band C - Three",
        "D - 4",
    ]
    for number, name in enumerate(names):
        write_track(root / "train" / name, seconds=3 + 0.3 * number, seed=number)
    write_track(root / "test" / "Test - Song", seed=99)
    return root
