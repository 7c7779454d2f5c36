"""The progress bar in files and pipes."""

from __future__ import annotations

import io
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from lightning_modules.callbacks.progress import Progress


@pytest.mark.parametrize("batches", [1, 7, 60, 10_007, 1_000_000])
def test_ten_to_forty_updates_of_an_epoch_in_a_file(batches: int) -> None:
    bar = Progress()
    bar.in_terminal = False
    updates = [batch for batch in range(1, batches + 1) if bar.is_due(batch, batches)]
    assert min(batches, 10) <= len(updates) <= 40
    assert updates[-1] == batches


def test_every_batch_in_a_terminal_and_unknown_lengths() -> None:
    bar = Progress()
    bar.in_terminal = True
    assert bar.is_due(1, 1000)
    bar.in_terminal = False
    assert [bar.is_due(batch, float("inf")) for batch in (1, 100, 150, 200)] == [
        *(False, True, False, True),
    ]


class Terminal(io.StringIO):
    """Stream that claims to be a terminal, and shows what is on its last lines."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What a terminal shows, as far as carriage returns go."""
        return [
            [part for part in line.split("\r") if part.strip()][-1].rstrip() if line.strip() else ""
            for line in self.getvalue().split("\n")
        ]


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Replace stdout and stderr; in a fixture, pytest would replace them again."""
    shared = Terminal()
    monkeypatch.setattr("sys.stdout", shared)
    monkeypatch.setattr("sys.stderr", shared)
    return shared


def opened() -> tuple[Progress, Trainer]:
    bar = Progress()
    trainer = Trainer(logger=False, accelerator="cpu", callbacks=[bar])
    trainer.fit_loop.max_batches = 20
    bar.setup(trainer, LightningModule(), "fit")
    bar.on_train_start(trainer, LightningModule())
    bar.on_train_epoch_start(trainer, LightningModule())
    return bar, trainer


def test_messages_are_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    handler = logging.StreamHandler(screen)
    logging.getLogger("pytorch_lightning").addHandler(handler)
    bar, trainer = opened()
    try:
        bar.on_train_batch_end(trainer, LightningModule(), None, None, 9)
        print("first", "line")
        print("a warning", file=sys.stderr)
        logging.getLogger("pytorch_lightning").warning("a notice")
        print("without an end", end="")
        bar.on_train_end(trainer, LightningModule())
        bar.teardown(trainer, LightningModule(), "fit")
        assert sys.stdout is screen
        print("after it")
    finally:
        logging.getLogger("pytorch_lightning").removeHandler(handler)
    lines = screen.lines()
    for text in ("first line", "a warning", "a notice", "without an end", "after it"):
        assert text in lines
    assert sum("10/20" in line for line in lines) == 1


def test_an_error_begins_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    bar, trainer = opened()
    bar.on_train_batch_end(trainer, LightningModule(), None, None, 9)
    bar.on_exception(trainer, LightningModule(), ValueError())
    print("error")
    assert screen.lines()[-2:] == ["error", ""]


def test_a_file_has_lines(capsys: pytest.CaptureFixture[str]) -> None:
    bar, trainer = opened()
    for batch in range(20):
        bar.on_train_batch_end(trainer, LightningModule(), None, None, batch)
    print("a message")
    bar.on_train_end(trainer, LightningModule())
    bar.teardown(trainer, LightningModule(), "fit")
    *lines, message = capsys.readouterr().out.splitlines()
    assert message == "a message"
    assert [line.partition(" [")[0] for line in lines] == [
        f"Epoch 0: {batch}/20" for batch in range(1, 21)
    ]


def test_lines_of_the_model_are_printed_without_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress()
    trainer = Trainer(logger=False, accelerator="cpu", callbacks=[bar])
    bar.setup(trainer, LightningModule(), "predict")
    model = LightningModule()
    model._trainer = trainer
    model.print("Estimates are in", "x", sep=" ")
    bar.teardown(trainer, model, "predict")
    assert capsys.readouterr().out == "Estimates are in x\n"


@pytest.mark.parametrize(("stage", "word"), [("test", "Test"), ("predict", "Separation")])
def test_the_track_is_named_from_its_beginning(
    stage: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal(monkeypatch)
    bar, trainer = opened()
    model, track = LightningModule(), SimpleNamespace(name="A song\n" + 50 * "x")
    trainer.test_loop._max_batches = [2]
    trainer.predict_loop.max_batches = [2]
    getattr(bar, f"on_{stage}_start")(trainer, model)
    getattr(bar, f"on_{stage}_batch_start")(trainer, model, track, 0)
    assert f"{word}, A song\\n{32 * 'x'}:" in screen.lines()[-1]
    getattr(bar, f"on_{stage}_end")(trainer, model)
    bar.teardown(trainer, model, stage)


def test_time_left_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    bar, trainer = opened()
    logged = {"train/loss": torch.tensor(0.5), "train/hours_left": torch.tensor(2.5)}
    monkeypatch.setattr(Trainer, "callback_metrics", logged)
    assert bar.get_metrics(trainer, LightningModule()) == {"train/loss": 0.5, "run left": "2:30:00"}
    bar.teardown(trainer, LightningModule(), "fit")
