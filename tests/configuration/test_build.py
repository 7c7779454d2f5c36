"""Models as configs describe them, and which configs stand on which."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_modules.architectures.unet import UNet
from lightning_modules.configuration.build import build_model
from lightning_modules.configuration.files import ConfigError, chain


def test_variants_stand_on_what_they_are_named_after(tmp_path: Path) -> None:
    def stems(name: str) -> list[str]:
        return [path.stem for path in chain(name)]

    assert stems("unet") == ["base", "unet"]
    assert stems("unet_alpha_0.5.yaml") == ["base", "unet", "unet_alpha_0.5"]
    (tmp_path / "mine.yaml").write_text("model: {init_args: {dropout: 0.1}}")
    assert stems(f"unet_small+{tmp_path / 'mine.yaml'}") == ["base", "unet", "unet_small", "mine"]
    with pytest.raises(ConfigError, match=r"mine\.yaml names no model .*unet\+mine"):
        chain(str(tmp_path / "mine.yaml"))
    with pytest.raises(ConfigError, match="does not exist"):
        chain("nothing")


def test_a_model_is_what_its_configs_say() -> None:
    found = build_model("unet_small", ["--data.init_args.segment_seconds=1.5"])
    assert isinstance(found.model, UNet)
    assert found.model.segment_seconds == found.data["segment_seconds"] == 1.5
    assert found.model.sources == found.data["sources"]
    again = build_model("unet_small").model.state_dict()
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
def test_settings_that_cannot_be_used(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("unet", [setting])
