"""The command line from fit to predict, with stops, resumed runs and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml

from datamodules.stream.datasets import TrainingCrops
from lightning_modules.callbacks.bss_eval import BSSEval
from lightning_modules.callbacks.checkpoints import Checkpoints
from lightning_modules.checkpoints.files import AtomicCheckpointIO
from lightning_modules.checkpoints.loading import load_separator
from tests.helpers.command_line import CSV, REPOSITORY, TINY, UNET, run
from tests.helpers.configs import ROOTS, tiny_settings
from tests.helpers.light_runs import lighten
from tests.helpers.tracks import STEMS, write_track

STATE = "epoch_000-step_000002"
SCORES_AND_CHECKPOINTS = """--trainer.callbacks=[
    {class_path: lightning_modules.callbacks.bss_eval.BSSEval, init_args: {processes: 1}},
    {class_path: lightning_modules.callbacks.checkpoints.Checkpoints}]"""
CHECKPOINTS = "--trainer.callbacks=[lightning_modules.callbacks.checkpoints.Checkpoints]"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder outside the project."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(musdb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run; copy it before writing into it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        lighten(monkeypatch)
        root = f"--data.init_args.root={musdb_root}"
        ratio = "--model.init_args.mask=ratio"
        assert run("fit", *UNET, *TINY, *CSV, root, ratio, "--run_dir", str(folder / "run")) == 0
    return folder / "run"


def metrics(run_dir: Path) -> list[dict[str, str]]:
    """Rows of the newest CSV log."""
    logs = sorted(run_dir.glob("lightning_logs/version_*/metrics.csv"), key=os.path.getmtime)
    header, *rows = logs[-1].read_text().splitlines()
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


# ------------------------------------------------------------------ complete runs


@pytest.mark.slow
@pytest.mark.complete_run
def test_fit_with_the_callbacks_and_logger_of_the_base_config(
    musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *UNET, *TINY, f"--data.init_args.root={musdb_root}") == 0
    output = capsys.readouterr().out
    assert "wandb sync" in output
    assert "mix SDR" in output
    run_dir = Path("runs/unet")
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {f"{STATE}.ckpt", "best.ckpt", "last.ckpt"}
    for kind in ("spectrograms", "differences", "masks", "waveforms"):
        assert (run_dir / "pictures" / f"{STATE}_{kind}.png").stat().st_size > 10_000
    assert list(run_dir.glob("wandb/offline-run-*/*.wandb"))
    assert not (run_dir / "clips").exists(), "W&B has the audio"
    scored = json.loads(
        (run_dir / f"scores/{STATE}/val/Actions - One Minute Smile.json").read_text()
    )
    assert [target["name"] for target in scored["targets"]] == list(STEMS)
    assert len(scored["targets"][0]["frames"]) == 3


@pytest.mark.slow
def test_a_run_without_validation_says_that_it_has_no_best_checkpoint(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lighten(monkeypatch)
    root = f"--data.init_args.root={musdb_root}"
    words = [*UNET, *TINY, *CSV, root, "--trainer.check_val_every_n_epoch=2", "--run_dir", "run"]
    for resumed in ([], ["--ckpt_path", "auto"]):  # again after it has finished
        assert run("fit", *words, *resumed) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == "No validation ran: there is no best.ckpt, only last.ckpt"
    assert run("test", "--config", "run/config.yaml") == 0
    assert "last.ckpt (the latest: there is no best.ckpt)" in capsys.readouterr().out


@pytest.mark.slow
def test_validate_test_and_predict_with_the_saved_config(
    trained: Path, musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, "moved", symlinks=True)  # a moved run is found by its config
    for subcommand in ("validate", "test"):
        assert run(subcommand, "--config", "moved/config.yaml") == 0
        assert "moved/checkpoints/best.ckpt" in capsys.readouterr().out
    assert Path("moved/scores/estimate/test/Test - Song.json").is_file()
    assert Path("moved/scores/mixture/test/Test - Song.json").is_file()
    assert run("predict", "--config", "moved/config.yaml") == 0
    stems = Path("moved/estimates/Actions - One Minute Smile")
    total = sum(soundfile.read(stems / f"{stem}.wav")[0] for stem in STEMS)
    mixture, _ = soundfile.read(musdb_root / "train" / stems.name / "mixture.wav")
    assert np.abs(total - mixture).max() < 1e-5
    assert load_separator("moved/checkpoints/best.ckpt").sources == list(STEMS)


@pytest.mark.slow
def test_roots_curriculum_and_loudness_from_a_config(
    musdb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Mappings survive in the saved config, and the command line overrides them."""
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
    losses = [row["train/loss"] for row in metrics(Path("first"))]
    assert losses == [row["train/loss"] for row in metrics(Path("again"))]
    assert "'gone'" in fails(capsys, "fit", *saved, "third", "--data.init_args.root=gone")
    weights = f"--data.init_args.root={{{tmp_path / 'extra'}: 1, {musdb_root}: 3}}"
    error = fails(capsys, "fit", *saved, "fourth", weights)
    assert "left for validation: training tracks found: 1" in error


@pytest.mark.slow
def test_the_data_set_of_the_environment_is_recorded(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lighten(monkeypatch)
    Path("data").symlink_to(musdb_root)
    monkeypatch.setenv("MUSDB_PATH", "folders:data")
    assert run("fit", *UNET, *TINY, *CSV, "--run_dir", "run") == 0
    monkeypatch.delenv("MUSDB_PATH")
    for name in ("config.yaml", "lightning_logs/version_0/hparams.yaml"):
        recorded = yaml.safe_load(Path("run", name).read_text())
        assert (
            recorded.get("config", recorded)["data"]["init_args"]["root"]
            == f"folders:{Path('data').absolute()}"
        )
    assert run("validate", "--config", "run/config.yaml") == 0, "on the same data"


@pytest.mark.slow
def test_tensorboard_logger(musdb_root: Path) -> None:
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, root, "--trainer.logger=TensorBoardLogger") == 0
    assert list(Path("runs/unet/lightning_logs").rglob("events.out.tfevents*"))


@pytest.mark.slow
@pytest.mark.complete_run
def test_clips_on_disk_and_a_learning_rate_of_each_group(musdb_root: Path) -> None:
    groups = "--model.init_args.parameter_groups={bias: {lr_factor: 0.1}}"
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, *CSV, root, groups, "--lr=0.01") == 0
    (row, *_) = metrics(Path("runs/unet"))
    assert [float(row[f"train/lr/{number}"]) for number in (1, 2)] == pytest.approx([0.001, 0.01])
    (track,) = Path("runs/unet/clips").iterdir()
    clips = {path.relative_to(track).as_posix() for path in track.rglob("*.flac")}
    names = ("reference", STATE)
    assert clips == {"mixture.flac", *(f"{stem}/{name}.flac" for stem in STEMS for name in names)}
    parts = [soundfile.read(track / stem / "reference.flac")[0] for stem in STEMS]
    mixture, rate = soundfile.read(track / "mixture.flac")
    assert rate == 44100
    assert np.abs(sum(parts) - mixture).max() < 4 * 2**-15


@pytest.mark.slow
def test_documented_metrics_are_logged(trained: Path) -> None:
    logged = {name for row in metrics(trained) for name, value in row.items() if value}
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
        "train/lr",
        "train/memory_gb",
        "val/loss",
        "val/loss/vocals",
        "val/usdr",
        "val/usdr/vocals",
        "val/skipped_frames",
        "val/scoring_seconds",
        "val/scoring_share",
    }


@pytest.mark.slow
def test_a_run_that_never_started_leaves_no_directory(
    musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = f"--data.init_args.root={musdb_root}"
    nobody = "--data.init_args.validation_tracks=[Nobody - Nothing]"
    error = fails(capsys, "fit", *UNET, *TINY, *CSV, root, nobody)
    assert "validation_tracks" in error
    assert "Nobody" in error
    assert not list(Path("runs").iterdir())


@pytest.mark.slow
def test_progress_bar_and_checkpoints_can_be_disabled(musdb_root: Path) -> None:
    off = ["--trainer.enable_progress_bar=false", "--trainer.enable_checkpointing=false"]
    root = f"--data.init_args.root={musdb_root}"
    assert run("fit", *UNET, *TINY, *CSV, root, *off) == 0
    assert not Path("runs/unet/checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROOTS)
def test_every_architecture_trains_reloads_and_separates(name: str, musdb_root: Path) -> None:
    settings = [word for word in TINY if not word.startswith("--model")]
    settings += [*tiny_settings(name), f"--data.init_args.root={musdb_root}"]
    few = ["--data.init_args.batch_size=2", "--data.init_args.examples_per_epoch=4"]
    config = ["--config", f"{name}.yaml"]
    assert run("fit", *config, *settings, *few, *CSV, CHECKPOINTS, "--run_dir", "here") == 0
    separator = load_separator("here/checkpoints/last.ckpt")
    mixture = torch.randn(separator.audio_channels, 30_001) * 0.1
    estimates = separator.separate(mixture)
    assert estimates.shape == (len(separator.sources), *mixture.shape)
    assert estimates.isfinite().all()


@pytest.mark.slow
def test_compiled_networks_train_and_reload(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a backend that runs the captured graph as it is; kernels are torch's business."""
    compiled: list[str] = []
    compile_module = torch.nn.Module.compile

    def compile_eagerly(module: torch.nn.Module) -> None:
        compiled.append(type(module).__name__)
        compile_module(module, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_eagerly)
    settings = [*UNET, *TINY, *CSV, CHECKPOINTS, f"--data.init_args.root={musdb_root}"]
    assert run("fit", *settings, "--run_dir", "plain") == 0
    assert not compiled
    assert run("fit", *settings, "--model.init_args.compiled=true", "--run_dir", "compiled") == 0
    assert compiled
    plain, fast = (metrics(Path(name))[0]["train/loss"] for name in ("plain", "compiled"))
    assert float(fast) == pytest.approx(float(plain), rel=1e-3)
    weights = [
        load_separator(Path(name, "checkpoints/last.ckpt")).state_dict()
        for name in ("plain", "compiled")
    ]
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor compiles C++")
def test_one_step_with_the_compiler_of_torch(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inductor, on the smallest network; without a validation, which it would compile again."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path("kernels").resolve()))
    settings = ["--config", "fnn.yaml", *tiny_settings("fnn"), "--model.init_args.compiled=true"]
    settings += [word for word in TINY if not word.startswith("--model")]
    settings += [*CSV, CHECKPOINTS, f"--data.init_args.root={musdb_root}"]
    settings += ["--data.init_args.segment_seconds=0.1", "--data.init_args.examples_per_epoch=8"]
    settings += ["--trainer.limit_val_batches=0", "--run_dir", "compiled"]
    assert run("fit", *settings) == 0
    assert list(Path("kernels").rglob("*.cpp")), "nothing was compiled"
    assert load_separator("compiled/checkpoints/last.ckpt")


# ------------------------------------------------------------- stop and resume


@pytest.mark.slow
def test_resumed_run_continues_with_the_next_example(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stopped within an epoch and resumed has the examples and losses of another one."""
    seen: list[tuple[int, int]] = []
    saved: list[str] = []
    save, fill = AtomicCheckpointIO.save_checkpoint, TrainingCrops.fill

    def record_save(
        self: AtomicCheckpointIO, contents: Any, path: str, *options: Any, **names: Any
    ) -> None:
        saved.append(Path(path).name)
        save(self, contents, path, *options, **names)

    def record_fill(self: TrainingCrops, stems: Any, position: tuple[int, int]) -> None:
        seen.append(position)
        fill(self, stems, position)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", record_save)
    monkeypatch.setattr(TrainingCrops, "fill", record_fill)
    settings = [
        *UNET,
        *TINY,
        *CSV,
        f"--data.init_args.root={musdb_root}",
        "--data.init_args.examples_per_epoch=24",
        "--data.init_args.segment_seconds=0.2",
        "--trainer.max_epochs=2",
        # With other plugins, checkpoints are still written atomically.
        "--trainer.plugins=pytorch_lightning.plugins.environments.LightningEnvironment",
    ]
    assert run("fit", *settings, "--run_dir", "whole") == 0
    assert saved.count("last.ckpt") == 2
    whole, losses = list(seen), [row["train/loss"] for row in metrics(Path("whole"))]

    seen.clear()
    step = Checkpoints.on_train_batch_end

    def stop_at_step_4(self: Checkpoints, trainer: Any, *arguments: Any) -> None:
        if trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, trainer, *arguments)

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", stop_at_step_4)
    with pytest.raises(SystemExit) as stop:
        run("fit", *settings, "--run_dir", "parts")
    assert stop.value.code == 130
    before = [position for position in seen if position < (1, 8)]
    monkeypatch.setattr(Checkpoints, "on_train_batch_end", step)
    seen.clear()
    assert run("fit", *settings, "--run_dir", "parts", "--ckpt_path", "last") == 0
    assert before + seen == whole
    resumed = [row["train/loss"] for row in metrics(Path("parts")) if row["train/loss"]]
    assert len(resumed) == 2
    assert resumed == [loss for loss in losses if loss][-2:]


@pytest.mark.slow
def test_ctrl_c_in_a_validation_keeps_its_scores(
    musdb_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [*UNET, *TINY, *CSV, f"--data.init_args.root={musdb_root}", "--run_dir", "here"]
    settings.append("--trainer.max_epochs=2")
    score = BSSEval.on_validation_batch_end

    def stop_and_score(self: BSSEval, *arguments: Any, **names: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        score(self, *arguments, **names)
        monkeypatch.setattr(BSSEval, "on_validation_batch_end", score)

    monkeypatch.setattr(BSSEval, "on_validation_batch_end", stop_and_score)
    with pytest.raises(SystemExit) as stop:
        run("fit", *settings)
    assert stop.value.code == 130
    assert Path(f"here/scores/{STATE}/val/Actions - One Minute Smile.json").is_file()
    assert Path(f"here/checkpoints/{STATE}.ckpt").is_file()
    assert run("fit", *settings, "--ckpt_path", "last") == 0
    assert len(list(Path("here/scores").glob("epoch_*"))) == 2


# ------------------------------------------- mistakes; test_mistakes.py has more


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail; return its error message."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    return error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", *UNET, "--data.init_args.root={.: 1, gone: 0.5}"], ["'gone'", "give --data"]),
        (["fit", "--config"], ["config ''", "there are"]),
    ],
)
def test_missing_files(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, *arguments)
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model:\n  init_args: {a: 1, a: 2}", ["duplicate key 'a'"]),
        ("model: [", ["not readable as YAML"]),
        ("- a\n- b", ["expected a mapping", "list"]),
    ],
)
def test_malformed_config_files(
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
        (["--data.init_args.batch_size=1000"], ["batch_size 1000", "16 examples", "examples_per"]),
    ],
)
def test_settings_that_model_or_data_refuse(
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
        ("--model.init_args.sample=1", ["sample", "UNet"]),
        ("--data.init_args.rot=x", ["rot", "did you mean root"]),
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
def test_values_that_the_parser_refuses(
    argument: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    error = fails(capsys, "fit", *UNET, *CSV, argument)
    assert all(word in error for word in words), error
    assert len(error) < 400
    assert "NoneType" not in error


@pytest.mark.slow
def test_faulty_data_and_checkpoints_stop_before_training(
    trained: Path, musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path("broken")
    write_track(broken / "train" / "A - 1")
    write_track(broken / "train" / "B - 2")
    (broken / "train" / "B - 2" / "bass.wav").unlink()
    error = fails(capsys, "fit", *UNET, *TINY, *CSV, "--data.init_args.root=broken")
    assert "B - 2" in error
    assert "bass" in error

    shutil.copytree(trained, "run", symlinks=True)
    saved = ["--config", "run/config.yaml"]
    error = fails(capsys, "test", *saved, "--model.init_args.channels=[4,16]")
    assert "channels ([4, 8] in the checkpoint, [4, 16] in the config)" in error
    last = Path("run/checkpoints/last.ckpt")
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=rf"last.ckpt: 1000 bytes.* from .*{STATE}"):
        assert run("fit", *saved, "--ckpt_path=last") == 0
    for path in last.parent.glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    error = fails(capsys, "fit", *saved, "--ckpt_path=last")
    assert "last.ckpt: 1000 bytes" in error
    assert f"{STATE}.ckpt: 1000 bytes" in error


def test_a_missing_config_is_reported_without_importing_torch() -> None:
    script = (
        "import sys; from lightning_modules import cli;"
        "assert cli.main(['fit', '--config', 'x']) == 2;"
        "heavy = {'torch', 'pytorch_lightning'} & set(sys.modules); assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
