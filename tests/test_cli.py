"""The command line, as a user meets it: the whole way through, and every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.configuration import files
from tests.helpers.command_line import CSV, REPOSITORY, TINY, UNET, run
from tests.helpers.tracks import STEMS, write_track

MOMENT = "epoch_000-step_000002"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder that has nothing to do with the project."""
    monkeypatch.chdir(tmp_path)


def metrics(run_dir: Path) -> list[dict[str, str]]:
    """Rows of the newest CSV log."""
    logs = sorted(run_dir.glob("lightning_logs/version_*/metrics.csv"), key=os.path.getmtime)
    header, *rows = logs[-1].read_text().splitlines()
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


# ------------------------------------------------------------- the whole way


@pytest.mark.slow
@pytest.mark.complete_run
def test_fit_validate_test_predict(
    musdb_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUSDB_PATH", str(musdb_root))
    ratio = "--model.init_args.mask=ratio"
    assert run("fit", *UNET, *TINY, ratio) == 0
    shown = capsys.readouterr()
    assert "wandb sync" in shown.out
    assert "mix SDR" in shown.out

    run_dir = Path("runs/unet")
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {f"{MOMENT}.ckpt", "best.ckpt", "last.ckpt"}
    for kind in ("spectrograms", "masks", "waveforms"):
        assert (run_dir / "pictures" / f"{MOMENT}_{kind}.png").stat().st_size > 10_000
    assert list(run_dir.glob("wandb/offline-run-*/*.wandb"))
    scored = json.loads(
        (run_dir / f"scores/{MOMENT}/val/Actions - One Minute Smile.json").read_text()
    )
    assert [target["name"] for target in scored["targets"]] == list(STEMS)
    assert len(scored["targets"][0]["frames"]) == 3

    for subcommand in ("validate", "test"):
        assert run(subcommand, *UNET, *TINY, ratio) == 0
        assert "best.ckpt" in capsys.readouterr().out
    assert (run_dir / "scores/estimate/test/Test - Song.json").is_file()
    assert (run_dir / "scores/mixture/test/Test - Song.json").is_file()

    assert run("predict", *UNET, *TINY, ratio) == 0
    stems = run_dir / "estimates" / "Actions - One Minute Smile"
    total = sum(soundfile.read(stems / f"{stem}.wav")[0] for stem in STEMS)
    mixture, _ = soundfile.read(musdb_root / "train" / stems.name / "mixture.wav")
    assert np.abs(total - mixture).max() < 1e-5

    # The saved config is enough, and a checkpoint stands on its own.
    assert run("test", "--config", str(run_dir / "config.yaml")) == 0
    assert load_separator(run_dir / "checkpoints/best.ckpt").sources == list(STEMS)


@pytest.mark.slow
def test_a_second_fit_leaves_the_first_alone(musdb_root: Path) -> None:
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, *CSV, root) == 0
    first = (Path("runs/unet/checkpoints/last.ckpt")).stat().st_mtime_ns
    assert run("fit", *UNET, *TINY, *CSV, root) == 0
    assert Path("runs/unet-2/checkpoints/last.ckpt").is_file()
    assert Path("runs/unet/checkpoints/last.ckpt").stat().st_mtime_ns == first
    assert run("fit", *UNET, *TINY, *CSV, root, "--run_dir", "runs/unet") == 2


@pytest.mark.slow
def test_roots_curriculum_and_loudness_from_a_config(
    musdb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MappedFiles survive the config that a run saves, and the command line overrides them."""
    monkeypatch.setenv("STEMLAB_CACHE", str(tmp_path / "cache"))
    write_track(tmp_path / "extra" / "Extra - 1")
    Path("mix.yaml").write_text(
        f"data:\n  init_args:\n    root: {{{musdb_root}: 1.0, {tmp_path / 'extra'}: 0.5}}\n"
        "    segment_curriculum: {0: 0.25, 1: 0.5}\n"
        "    avoid_silence_db: -60\n    loudness_classes: 4\n"
    )
    assert run("fit", *UNET, *TINY, *CSV, "--config", "mix.yaml", "--run_dir", "first") == 0
    saved = ["--config", "first/config.yaml", "--run_dir"]
    assert run("fit", *saved, "again") == 0
    again = yaml.safe_load(Path("again/config.yaml").read_text())["data"]["init_args"]
    assert again["root"] == {str(musdb_root): 1.0, str(tmp_path / "extra"): 0.5}
    weights = f"--data.init_args.root={{{tmp_path / 'extra'}: 1, {musdb_root}: 3}}"
    assert run("fit", *saved, "third", f"--data.init_args.root={musdb_root}") == 0
    assert run("fit", *saved, "fourth", weights) == 2, "one track cannot train and validate"
    losses = [row["train/loss"] for row in metrics(Path("first"))]
    assert losses == [row["train/loss"] for row in metrics(Path("again"))]


@pytest.mark.slow
@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_loggers_can_be_switched(musdb_root: Path, logger: str) -> None:
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, root, f"--trainer.logger={logger}") == 0
    pattern = "metrics.csv" if logger == "CSVLogger" else "events.out.tfevents*"
    assert list(Path("runs/unet/lightning_logs").rglob(pattern))


@pytest.mark.slow
def test_training_logs_what_the_docs_promise(musdb_root: Path) -> None:
    assert run("fit", *UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}") == 0
    logged = {name for row in metrics(Path("runs/unet")) for name, value in row.items() if value}
    assert logged >= {
        "train/loss",
        "train/loss/vocals",
        "train/grad_norm",
        "train/examples_per_second",
        "train/audio_seconds_per_second",
        "train/data_wait",
        "train/share/transfer",
        "train/share/forward",
        "train/share/backward",
        "train/share/optimizer",
        "train/teraflops_per_second",
        "val/loss",
        "val/loss/vocals",
        "val/usdr",
        "val/usdr/vocals",
        "val/skipped_frames",
        "val/scoring_seconds",
        "val/scoring_share",
    }


@pytest.mark.slow
def test_two_ranks_with_unlike_numbers_of_tracks(musdb_root: Path, tmp_path: Path) -> None:
    """Three validation tracks on two ranks: nobody waits for ever, each track counts once.

    And with a home that W&B has never been in: the run is logged offline, without a question.
    """
    names = "[Actions - One Minute Smile, Band A - One, Band B - Two]"
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", f"--data.validation_tracks={names}"]
    tiny = [word for word in TINY if "devices" not in word]
    # No program is needed.
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PATH": str(tmp_path)}
    environment |= {"MUSDB_PATH": str(musdb_root), "HOME": str(tmp_path)}
    for name in [name for name in environment if name.startswith("WANDB_")]:
        del environment[name]
    finished = subprocess.run(
        [sys.executable, "-m", "lightning_modules.cli", "fit", *UNET, *tiny, *two],
        env=environment,
        timeout=180,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "3 tracks" in finished.stdout
    for kind in ("epoch_*", "mixture"):
        assert len(list(Path("runs/unet/scores").glob(f"{kind}/val/*.json"))) == 3
    assert "logs offline" in finished.stdout
    assert len(list(Path("runs/unet/wandb").glob("offline-run-*"))) == 1


def test_runs_take_directories_of_their_own() -> None:
    """Also before the first of them has saved anything."""
    from lightning_modules.training.run_directory import named_run_dir

    assert [str(named_run_dir("a")) for _ in range(3)] == ["runs/a", "runs/a-2", "runs/a-3"]
    assert str(named_run_dir("a-b")) == "runs/a-b"
    (Path("runs/a-2/checkpoints")).mkdir()
    Path("runs/a-2/checkpoints/last.ckpt").touch()
    assert str(named_run_dir("a", going_on=True)) == "runs/a-2"


@pytest.mark.slow
def test_two_runs_in_one_process(musdb_root: Path) -> None:
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, *CSV, root, "--run_dir", "one") == 0
    assert run("fit", *UNET, *TINY, *CSV, root, "--run_dir", "two") == 0
    assert Path("one/checkpoints/last.ckpt").is_file()
    assert Path("two/checkpoints/last.ckpt").is_file()
    # A run that was moved is found by its config.
    Path("one").rename("moved")
    assert run("test", "--config", "moved/config.yaml") == 0
    assert Path("moved/scores/estimate/test/Test - Song.json").is_file()
    assert not Path("one").exists()


@pytest.mark.slow
def test_a_run_that_never_began_leaves_nothing(
    musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"--data.init_args.root={musdb_root}"
    fails(capsys, "fit", *UNET, *TINY, root, "--data.init_args.validation_tracks=[nobody]")
    assert not list(Path("runs").iterdir())


@pytest.mark.slow
def test_switches_of_lightning_work(musdb_root: Path) -> None:
    off = ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, *CSV, root, *off) == 0
    assert not Path("runs/unet/checkpoints").exists()


def test_a_silent_estimate_is_not_rewarded() -> None:
    """The mean that chooses checkpoints leaves no source out."""
    from lightning_modules.callbacks.checkpoints import _whole_sdr

    names = ("vocals", "bass")
    good = {f"val/sdr/{n}": torch.tensor(v) for n, v in zip(names, (2.0, 1.0), strict=True)}
    good |= {f"val/usdr/{n}": torch.tensor(3.0) for n in names}
    assert _whole_sdr(good)["val/sdr"] == 1.5
    silent = {**good, "val/sdr/bass": torch.tensor(torch.nan)}
    silent["val/usdr/bass"] = torch.tensor(0.0)
    assert _whole_sdr(silent)["val/sdr"] == 1.0
    assert _whole_sdr({}) == {}


def architectures() -> list[list[str]]:
    """Each config, with those it stands on top of in front."""
    names = sorted(path.stem for path in (REPOSITORY / "configs").glob("*.yaml"))
    names.remove("base")
    return [[path.stem for path in files.chain(name)[1:]] for name in names]


@pytest.mark.slow
@pytest.mark.parametrize("chain", architectures(), ids="+".join)
def test_every_config_trains_reloads_and_separates(chain: list[str], musdb_root: Path) -> None:
    configs = [word for name in chain for word in ("--config", f"{name}.yaml")]
    class_path = yaml.safe_load((REPOSITORY / "configs" / f"{chain[0]}.yaml").read_text())["model"][
        "class_path"
    ]
    module, _, name = class_path.rpartition(".")
    tiny = getattr(__import__(module, fromlist=[name]), name).tiny
    small = [f"--model.init_args.{key}={json.dumps(value)}" for key, value in tiny.items()]
    settings = [word for word in TINY if not word.startswith("--model")]
    settings.append("--data.init_args.batch_size=8")  # no more than the examples of an epoch
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *configs, *small, *settings, *CSV, root, "--run_dir", "here") == 0
    separator = load_separator(Path("here/checkpoints/last.ckpt"))
    mixture = torch.randn(separator.audio_channels, 30_001) * 0.1
    estimates = separator.separate(mixture)
    assert estimates.shape == (len(separator.sources), *mixture.shape)
    assert estimates.isfinite().all()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile wants a C++ compiler")
def test_compiled_networks_train_and_reload(musdb_root: Path) -> None:
    root = f"--data.init_args.root={musdb_root}"
    # Compiled dropout draws other numbers.
    settings = [*UNET, *TINY, *CSV, root, "--model.init_args.dropout=0.0"]
    compiled = "--model.init_args.compiled=true"
    assert run("fit", *settings, "--run_dir", "plain") == 0
    assert run("fit", *settings, compiled, "--run_dir", "compiled") == 0
    plain, fast = (metrics(Path(name)) for name in ("plain", "compiled"))
    assert float(fast[0]["train/loss"]) == pytest.approx(float(plain[0]["train/loss"]), rel=1e-3)
    weights = [
        load_separator(Path(name, "checkpoints/last.ckpt")).state_dict()
        for name in ("plain", "compiled")
    ]
    assert weights[0].keys() == weights[1].keys()


# ------------------------------------------------------- stop, and go on


@pytest.mark.slow
def test_resumed_run_goes_on_with_the_next_example(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in mid-epoch and resumed, a run sees the examples and losses of an unbroken one."""
    from datamodules.stream.datasets import TrainingCrops
    from lightning_modules.callbacks.checkpoints import Checkpoints
    from lightning_modules.checkpoints.files import AtomicCheckpointIO

    seen: list[tuple[int, int]] = []
    saved: list[str] = []
    save = AtomicCheckpointIO.save_checkpoint

    def saving(
        self: AtomicCheckpointIO, contents: Any, path: str, *options: Any, **names: Any
    ) -> None:
        saved.append(Path(path).name)
        save(self, contents, path, *options, **names)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", saving)
    fill = TrainingCrops.fill

    def recording(self: TrainingCrops, stems: Any, position: tuple[int, int]) -> None:
        seen.append(position)
        fill(self, stems, position)

    monkeypatch.setattr(TrainingCrops, "fill", recording)
    settings = [
        *UNET,
        *TINY,
        *CSV,
        f"--data.init_args.root={musdb_root}",
        "--data.init_args.examples_per_epoch=40",
        "--trainer.max_epochs=3",
        # Plugins of the user's own do not stand in the way of whole checkpoints.
        "--trainer.plugins=pytorch_lightning.plugins.environments.LightningEnvironment",
    ]
    assert run("fit", *settings, "--run_dir", "whole") == 0
    assert saved.count("last.ckpt") == 3
    whole, losses = list(seen), [row["train/loss"] for row in metrics(Path("whole"))]

    seen.clear()
    step = Checkpoints.on_train_batch_end

    def stopping(self: Checkpoints, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, trainer, *arguments)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", stopping)
    with pytest.raises(SystemExit) as stop:
        run("fit", *settings, "--run_dir", "parts")
    assert stop.value.code == 130
    before = [position for position in seen if position < (1, 16)]
    monkeypatch.setattr(Checkpoints, "on_train_batch_end", step)
    seen.clear()
    assert run("fit", *settings, "--run_dir", "parts", "--ckpt_path", "last") == 0
    assert before + seen == whole
    resumed = [row["train/loss"] for row in metrics(Path("parts")) if row["train/loss"]]
    assert len(resumed) == 8
    assert resumed == [loss for loss in losses if loss][-8:]


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(musdb_root: Path) -> None:
    arguments = [
        *UNET,
        *TINY,
        *CSV,
        f"--data.init_args.root={musdb_root}",
        "--data.init_args.examples_per_epoch=100000",
        "--trainer.limit_val_batches=0",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lightning_modules.cli", "fit", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdout is not None
    output = ""
    try:
        while "Epoch 0" not in output:
            character = process.stdout.read(1)
            assert character, output
            output += character
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=180)
    finally:
        process.kill()
    output += rest
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "Go on with: python -m lightning_modules.cli fit --config unet.yaml" in output
    assert output.rstrip().endswith("--ckpt_path last")
    assert load_separator("runs/unet/checkpoints/last.ckpt").sources == list(STEMS)


@pytest.mark.slow
def test_ctrl_c_in_a_validation_keeps_its_scores(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.callbacks.bss_eval import BSSEval

    settings = [*UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}", "--run_dir", "here"]
    settings.append("--trainer.max_epochs=2")
    scored = BSSEval.on_validation_batch_end

    def pressing(self: BSSEval, *arguments: Any, **names: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        scored(self, *arguments, **names)
        monkeypatch.setattr(BSSEval, "on_validation_batch_end", scored)

    monkeypatch.setattr(BSSEval, "on_validation_batch_end", pressing)
    with pytest.raises(SystemExit) as stop:
        run("fit", *settings)
    assert stop.value.code == 130
    assert Path(f"here/scores/{MOMENT}/val/Actions - One Minute Smile.json").is_file()
    assert Path(f"here/checkpoints/{MOMENT}.ckpt").is_file()
    assert run("fit", *settings, "--ckpt_path", "last") == 0
    assert len(list(Path("here/scores").glob("epoch_*"))) == 2


# --------------------------------------------------------------- mistakes


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what must fail; return the one line it says."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    return error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["fit", "--config", "unett.yaml"],
            ["unett.yaml", "did you mean unet.yaml", "demucs.yaml"],
        ),
        (["fit"], ["no config given", "unet.yaml"]),
        (["train", "--config", "unet.yaml"], ["'train'", "fit, validate, test, predict"]),
        (["fit", *UNET, "--data.init_args.root", "nowhere"], ["'nowhere'", "MUSDB_PATH"]),
        (["fit", *UNET, "--data.init_args.root={.: 1, gone: 0.5}"], ["'gone'", "MUSDB_PATH"]),
        (["test", *UNET, "--ckpt_path", "gone.ckpt"], ["'gone.ckpt'", "last or best"]),
        (["fit", "--config"], ["config ''", "there are"]),
    ],
)
def test_mistakes_seen_before_lightning_is_imported(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, *arguments)
    assert all(word in error for word in words), error


def test_bad_musdb_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUSDB_PATH", "/does/not/exist")
    error = fails(capsys, "fit", *UNET)
    assert "/does/not/exist" in error
    assert "MUSDB_PATH" in error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("modle: {}", ["'modle'", "did you mean 'model'"]),
        ("trainer: {max_epochs: 1}\ntrainer: {max_epochs: 2}", ["duplicate key 'trainer'"]),
        ("model:\n  init_args: {a: 1, a: 2}", ["duplicate key 'a'"]),
        ("model: [", ["not readable as YAML"]),
        ("- a\n- b", ["list", "mapping was expected"]),
    ],
)
def test_faulty_config_files(
    text: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(text)
    error = fails(capsys, "fit", "--config", "mine.yaml")
    assert "mine.yaml" in error
    assert all(word in error for word in words), error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.init_args.alphas={vocals: 0.5, drums: 0.6}"], ["vocals, drums", "missing"]),
        (
            ["--config", "unet/alpha_0.5.yaml", "--model.init_args.alphas={vocals: 1.0}"],
            ["accompaniment is missing"],
        ),
        (["--data.init_args.sources=[vocals, guitar]"], ["guitar", "vocals, drums, bass, other"]),
        (["--data.init_args.batch_size=1000"], ["batch_size 1000", "16 examples", "examples_per"]),
        (["--data.init_args.validation_tracks=[Nobody - Nothing]"], ["no validation", "Nobody"]),
        (["--ckpt_path=last"], ["no last.ckpt", "fit"]),
    ],
)
def test_mistakes_seen_before_training(
    arguments: list[str],
    words: list[str],
    musdb_root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = f"--data.init_args.root={musdb_root}"
    error = fails(capsys, "fit", *UNET, *TINY, *CSV, root, *arguments)
    assert all(word in error for word in words), error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--model.init_args.chanels=[4]", ["chanels", "did you mean 'channels'"]),
        ("--model.init_args.sample=1", ["sample", "UNet"]),
        ("--data.init_args.rot=x", ["rot", "did you mean 'root'"]),
        ("--trainer.epochs=1", ["unrecognized", "--trainer.epochs=1"]),
        ("--trainer.max_epochs=many", ["trainer.max_epochs", "int", "many"]),
        ("--model.init_args.mask=soft", ["mask", "none", "ratio", "binary", "soft"]),
        ("--data.init_args.batch_size=1.5", ["batch_size", "int", "1.5"]),
        ("--model.class_path=lightning_modules.unett.UNet", ["lightning_modules.unett.UNet"]),
        (
            "--data.init_args.augmentations="
            "[{class_path: datamodules.augmentations.Polarity, init_args: {probability: 3}}]",
            ["probability is 3.0: give a number from 0 to 1"],
        ),
        ("--data.init_args.augmentations=[{class_path: Gainn}]", ["Gainn"]),
    ],
)
def test_unknown_keys_and_values_are_named_in_one_line(
    argument: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, "fit", *UNET, *CSV, argument)
    assert all(word in error for word in words), error
    assert len(error) < 400
    assert "NoneType" not in error


@pytest.mark.slow
def test_faulty_data_and_checkpoints_stop_before_training(
    musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path("broken")
    write_track(broken / "train" / "A - 1")
    write_track(broken / "train" / "B - 2")
    (broken / "train" / "B - 2" / "bass.wav").unlink()
    error = fails(capsys, "fit", *UNET, *TINY, *CSV, "--data.init_args.root=broken")
    assert "B - 2" in error
    assert "bass" in error

    good = [*UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}"]
    assert run("fit", *good) == 0
    capsys.readouterr()
    error = fails(capsys, "test", *good, "--model.init_args.channels=[4,16]")
    assert "channels ([4, 8] in the checkpoint, [4, 16] in the config)" in error
    last = Path("runs/unet/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=f"last.ckpt: 1000 bytes.*Resuming from .*{MOMENT}"):
        assert run("fit", *good, "--ckpt_path=last") == 0
    for path in last.parent.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    error = fails(capsys, "fit", *good, "--ckpt_path=last")
    assert "last.ckpt: 1000 bytes" in error
    assert f"{MOMENT}.ckpt: 1000 bytes" in error


def test_nothing_heavy_is_imported_for_a_mistake() -> None:
    """A wrong name is told at once, not after Lightning's seconds."""
    script = (
        "import sys; from lightning_modules import cli;"
        "assert cli.main(['fit', '--config', 'x']) == 2;"
        "heavy = {'torch', 'pytorch_lightning'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
