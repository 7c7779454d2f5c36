"""Damaged configs end in one line, or build a run."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pytorch_lightning import Trainer

from lightning_modules.configuration.files import chain, config_names
from tests.helpers.command_line import CSV, TINY, run
from tests.helpers.fuzzing import fuzzed

pytestmark = pytest.mark.slow

VALUES: st.SearchStrategy[Any] = st.sampled_from([
    None, True, 0, -1, 10**30, 1e300, float("nan"), "", "x", "${x}", "${", "1e", [], [0], [[]], {},
    {"class_path": "x"}, {"class_path": "os.system"}, {"init_args": 5}, {"a": {"b": 1}},
])  # fmt: skip
# Configs that once ended in a traceback.
FOUND: list[str] = [
    "trainer: 5",
    "data: {init_args: 5}",
    "trainer: {max_epochs: '${nope}'}",
    "trainer: {callbacks: [5]}",
    "model: {init_args: {optimizer: 5}}",
    "model: [1]",
    "? [a]\n: 1",
    "trainer: {logger: [[]]}",
    "&a [*a]",
]


def positions(config: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all keys and elements."""
    items = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from positions(value, (*path, key))


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """Text of a shipped config with one change."""
    name = draw(st.sampled_from(["base", *config_names()]))
    path = chain(name)[-1] if name != "base" else chain("unet")[0]
    text = path.read_text()
    kind = draw(st.sampled_from(["value", "key", "removed", "cut", "inserted"]))
    if kind == "cut":
        return text[: draw(st.integers(0, len(text)))]
    if kind == "inserted":
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.sampled_from(list("{}[]:,&*!|>%@\\\t\"'#-?\0é"))) + text[at:]
    config = copy.deepcopy(yaml.safe_load(text))
    *parents, last = draw(st.sampled_from(sorted(positions(config), key=str)))
    place = config
    for key in parents:
        place = place[key]
    if kind == "value":
        place[last] = draw(VALUES)
    else:
        value = place.pop(last)
        if kind == "key" and isinstance(place, dict):
            place[draw(st.sampled_from(["x", "", 5, "class_path", "init_args", "a.b"]))] = value
    return yaml.safe_dump(config)


def check(text: str, musdb_root: Path) -> None:
    Path("fuzz.yaml").write_text(text, encoding="utf-8")
    output = io.StringIO()
    configs = ["--config", "unet.yaml", "--config", "fuzz.yaml"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(output):
        try:
            status = run("fit", *configs, *TINY, *CSV, f"--data.init_args.root={musdb_root}")
        except SystemExit as end:
            raise AssertionError(f"exit {end.code}: {output.getvalue()}") from end
    errors = re.findall("^error: .*", output.getvalue(), re.MULTILINE)
    assert status in (0, 2)
    assert len(errors) == (status == 2), output.getvalue()
    assert "unexpected; report it" not in output.getvalue()
    assert "Traceback" not in output.getvalue()


@pytest.fixture(autouse=True)
def without_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stop before the training, which would follow."""
    monkeypatch.chdir(tmp_path)

    @functools.wraps(Trainer.fit)  # LightningCLI reads its arguments
    def fit(*arguments: Any, **options: Any) -> None:
        pass

    monkeypatch.setattr(Trainer, "fit", fit)


@pytest.mark.parametrize("text", FOUND)
def test_configs_that_once_failed(text: str, musdb_root: Path) -> None:
    check(text, musdb_root)


@fuzzed(25, list(HealthCheck))
@given(text=damaged())
def test_damaged_configs(text: str, musdb_root: Path) -> None:
    check(text, musdb_root)
