"""Building models from configs, and the parents of variants."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.architectures.unet import UNet
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import ConfigError, chain, config_name


def test_parents_of_variants_by_name(tmp_path: Path) -> None:
    def stems(name: str) -> list[str]:
        return [config_name(path) for path in chain(name)]

    assert stems("unet") == ["base", "unet"]
    assert stems("unet/alpha_0.5.yaml") == ["base", "unet", "unet/alpha_0.5"]
    assert stems("roma/cnn2_small") == ["base", "roma", "roma/cnn2", "roma/cnn2_small"]
    assert stems("roma+roma/cnn2_small") == ["base", "roma", "roma/cnn2_small"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("model: {init_args: {dropout: 0.1}}")
    assert stems(f"unet/small+{mine}") == ["base", "unet", "unet/small", str(mine)]
    with pytest.raises(ConfigError, match=r"mine\.yaml names no model .*unet\+mine"):
        chain(str(mine))
    with pytest.raises(ConfigError, match="does not exist"):
        chain("nothing")


def test_parents_of_the_users_variants(
    tmp_path: Path,
) -> None:
    for name in ("unet/mine.yaml", "unet_mine.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("model: {init_args: {dropout: 0.1}}")
        assert [config_name(each) for each in chain(str(path))] == ["base", "unet", str(path)]
    own = tmp_path / "unet.yaml"
    own.write_text("model: {class_path: lightning_modules.architectures.unet.UNet}")
    assert chain(str(tmp_path / "unet" / "mine.yaml"))[1] == own


def test_flat_config_names_of_version_0_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert chain("unet_small.yaml") == chain("unet/small")
    assert capsys.readouterr().err == (
        "note: config unet_small.yaml is now unet/small.yaml; the old name works until version "
        "0.3\n"
    )


def test_build_model_applies_config_and_settings() -> None:
    found = build_model("unet/small", ["--data.init_args.segment_seconds=1.5"])
    assert isinstance(found.model, UNet)
    assert found.model.segment_seconds == found.data["segment_seconds"] == 1.5
    assert found.model.sources == found.data["sources"]
    again = build_model("unet/small").model.state_dict()
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, again[name])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--model.init_args.nothing=1", "unet: .*nothing.* is not accepted"),
        ("--model.init_args.hop_length=4096", "unet: hop_length is 4096"),
        ("--data.init_args.stems=[]", "unet: .*stems"),
    ],
)
def test_unusable_settings_raise(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("unet", [setting])
