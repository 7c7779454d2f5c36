"""Short options of ``fit``: what they stand for, and where they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightning_modules import cli
from lightning_modules.configuration.files import ConfigError
from lightning_modules.configuration.short_options import SHORT, build_parser, check_options, expand


def test_short_options_become_settings_after_all_others() -> None:
    typed = "--lr 1e-3 --config unet --batch-size=8 --epochs 3 --out runs/x --trainer.devices 2"
    assert expand(typed.split()) == [
        *("--config", "unet", "--trainer.devices", "2"),
        "--model.init_args.optimizer.init_args.lr=1e-3",
        "--data.init_args.batch_size=8",
        "--trainer.max_epochs=3",
        "--run_dir=runs/x",
    ]
    assert expand(["--epochs", "3", "--epochs=4"]) == ["--trainer.max_epochs=4"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("vocals", "[vocals]"),
        ("vocals,drums", "[vocals,drums]"),
        ("[bass]", "[bass]"),
        ("{vocals: [vocals]}", "{vocals: [vocals]}"),
    ],
)
def test_sources_are_a_list_or_yaml(value: str, expected: str) -> None:
    assert expand(["--sources", value]) == [f"--data.init_args.sources={expected}"]


def test_data_is_a_data_set_or_a_data_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for root in ("/data/musdb18hq", "songs", "My.Songs", "../Music", "{a: b, c: d}"):
        Path("My.Songs").mkdir(exist_ok=True)
        assert expand(["--data", root]) == [f"--data.init_args.root={root}"]
    for kind in ("datamodules.degradation.DegradedMUSDBDataModule", "MUSDBDataModule"):
        assert expand([f"--data={kind}", "-c", "x"]) == [f"--data={kind}", "-c", "x"]


@pytest.mark.parametrize("option", SHORT)
def test_the_long_option_is_refused_beside_the_short_one(option: str) -> None:
    setting = SHORT[option].setting
    for name in (setting, setting.replace(".init_args", "")):
        for given in ([f"--{name}=1"], [f"--{name}", "1"]):
            with pytest.raises(ConfigError, match=f"{option} and --{name} are the same: give one"):
                expand([option, "1", *given])
    with pytest.raises(ConfigError, match=f"{option}: expected {SHORT[option].metavar}"):
        expand([option])


def test_help_shows_short_options_with_their_settings() -> None:
    text = " ".join(build_parser("fit").format_help().split())
    for option, short in SHORT.items():
        assert f"{option} {short.metavar}" in text
        assert f"(--{short.setting})" in text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--learning-rate=1", "unrecognized option --learning-rate=1"),
        ("--modl.init_args.x=1", "did you mean --model?"),
        ("unet/small.yaml", "did you mean --config unet/small.yaml?"),
        ("nothing", "unexpected argument 'nothing'$"),
    ],
)
def test_options_that_do_not_exist(given: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("?", r"\?")):
        check_options([given])


@pytest.mark.slow
def test_the_settings_are_those_of_the_run(
    musdb_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--lr", "1e-5", "--epochs", "7", "--batch-size", "4", "--out", "here"]
    short += ["--data", str(musdb_root), "--sources", "vocals,bass"]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["fit", *short, "--config", "unet/small", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == 1e-5
    assert config["trainer"]["max_epochs"] == 7
    assert config["data"]["init_args"]["batch_size"] == 4
    assert config["data"]["init_args"]["root"] == str(musdb_root)
    assert config["data"]["init_args"]["sources"] == ["vocals", "bass"]
    assert config["run_dir"] == "here"
