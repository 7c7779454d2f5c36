"""Files of the package ``demucs``, in all formats of its versions."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.demucs import Demucs
from lightning_modules.architectures.hybrid_demucs import HybridDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.interop.demucs import PACKAGE_SOURCES, from_package
from lightning_modules.interop.weights_file import our_order
from tests.helpers.demucs_package import network


def later(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights as in the third version of the package and later."""
    level = re.compile(r"^(..coder\.\d)\.2\.")
    return {level.sub(r"\1.3.", key): value for key, value in state.items()}


def demucs(path: Path, **arguments: Any) -> Demucs:
    model = from_package(path, **arguments)
    assert isinstance(model, Demucs)
    return model


@pytest.mark.parametrize("names", ["old", "new"])
def test_heads_are_reordered(names: str, tmp_path: Path) -> None:
    theirs = network()
    state = theirs.state_dict()
    torch.save(state if names == "old" else later(state), tmp_path / "demucs.th")
    model = demucs(tmp_path / "demucs.th", resample=False)
    assert model.sources == ["vocals", "drums", "bass", "other"]
    assert model.network.padded == (names == "new")
    assert not model.training
    if names == "old":
        mixture = torch.randn(1, 2, 9000)
        with torch.no_grad():
            assert torch.equal(model.network(mixture), theirs(mixture)[:, [3, 0, 1, 2]])
    last = model.network.state_dict()["decoder.3.2.weight"]
    assert torch.equal(last[:, 2:4], state["decoder.3.2.weight"][:, :2]), "drums"
    settings = dict(model.hparams)
    assert (settings["channels"], settings["depth"], settings["lstm_layers"]) == (4, 4, 2)


def package_class(monkeypatch: pytest.MonkeyPatch, module: str) -> type:
    """A class that is pickled under the name of the package's."""

    def refuse(self: Any, *arguments: Any, **names: Any) -> None:
        raise AssertionError("a class of the file was called")

    kind = type("Demucs", (), {"__module__": f"demucs.{module}", "__init__": refuse})
    for name in ("demucs", f"demucs.{module}"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(sys.modules[f"demucs.{module}"], "Demucs", kind, raising=False)
    return kind


def test_files_of_each_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class in the file is neither imported nor called; its arguments are used."""
    path, state = tmp_path / "demucs.th", network().state_dict()
    with monkeypatch.context() as present:
        torch.save((package_class(present, "model"), (), {"sources": 4}, state), path)
    assert demucs(path).network.upsampling is None
    with monkeypatch.context() as present:
        package = {
            "klass": package_class(present, "demucs"),
            "args": (),
            "kwargs": {
                "sources": ["piano", "other", "vocals"],
                "samplerate": 22050,
                "resample": True,
            },
            "state": {k: v.half() for k, v in later(network(3).state_dict()).items()},
            "training_args": {"lr": 3e-4},
        }
        torch.save(package, path)
    model = demucs(path)
    assert model.sources == ["vocals", "other", "piano"]
    assert model.sample_rate == 22050
    assert model.network.upsampling is not None
    assert next(model.parameters()).dtype == torch.float32
    torch.save(state, path)
    assert demucs(path).network.upsampling is not None, "as published for the second version"
    assert from_package(path, list("abcd"), resample=False).sources == list("abcd")


@pytest.mark.parametrize("n_fft", [1024, 4096])
@pytest.mark.parametrize("names", ["torchaudio", "package"])
def test_weights_of_the_hybrid(names: str, n_fft: int, tmp_path: Path) -> None:
    path = tmp_path / "hybrid.pt"
    torch.manual_seed(0)
    theirs = HybridDemucs(list(PACKAGE_SOURCES), channels=4, n_fft=n_fft).eval()
    state = theirs.network.state_dict()
    if names == "package":
        for theirs_name, ours in (("", "freq_"), ("t", "time_")):
            state = {
                re.sub(f"^{ours}(..coder)", rf"{theirs_name}\1", k): v for k, v in state.items()
            }
        state = {k: v for k, v in state.items() if not k.startswith("tencoder.4.norm1.")}
    torch.save(state, path)
    model = from_package(path)
    assert isinstance(model, HybridDemucs)
    assert model.sources == ["vocals", "drums", "bass", "other"]
    assert not model.training
    mixture = torch.randn(1, 2, 9000)
    with torch.no_grad():
        assert torch.equal(model(mixture), theirs(mixture)[:, [3, 0, 1, 2]])


def test_invalid_files_of_the_hybrid_raise(tmp_path: Path) -> None:
    path = tmp_path / "hybrid.pt"
    state = HybridDemucs(list("abcd"), channels=4, n_fft=1024).network.state_dict()
    bare = {k: v for k, v in state.items() if k != "freq_decoder.2.conv_tr.weight"}
    for contents, words in (
        (bare, "hybrid.pt: weights of the first.*freq_decoder.2.conv_tr.weight"),
        ({"time_encoder.0.conv.weight": torch.ones(1)}, "hybrid.pt: has no freq_emb.embedding"),
        (
            {k: v for k, v in state.items() if k != "freq_decoder.4.conv_tr.weight"},
            "has no freq_decoder.4.conv_tr.weight",
        ),
        (
            {**state, "freq_emb.embedding.weight": torch.ones(64, 4)},
            "hybrid.pt: .*n_fft is 512.*use an n_fft of 1024, 2048, 4096",
        ),
    ):
        torch.save(contents, path)
        with pytest.raises(CheckpointError, match=words):
            from_package(path)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"has 8 channels, 2 for each of a, b were expected"):
        from_package(path, ["a", "b"])


def test_our_order() -> None:
    assert our_order(PACKAGE_SOURCES) == ["vocals", "drums", "bass", "other"]
    assert our_order(["piano", "bass", "guitar"]) == ["bass", "piano", "guitar"]


def test_invalid_files_raise(tmp_path: Path) -> None:
    path, state = tmp_path / "demucs.th", network().state_dict()
    shallow = {**state, "decoder.2.2.weight": state["decoder.3.2.weight"]}
    shallow = {k: v for k, v in shallow.items() if not k.startswith("encoder.3")}
    shallow["decoder.2.2.bias"] = state["decoder.3.2.bias"]
    for contents, words in (
        ({"epoch": 3}, "demucs.th: its weights 'epoch' are of type int"),
        ({}, "demucs.th: has no encoder.0.0.weight, decoder.-1.2.weight"),
        ({**state, "lstm.linear.bias": torch.ones(3)}, "demucs.th: weights of the first or second"),
        (shallow, "demucs.th: weights of the first or second.*Unexpected.*decoder.3"),
        ({"__quantized": True, **state}, "demucs.th: contains weights quantised by DiffQ"),
        (3, "demucs.th: its weights are of type int"),
        (torch.nn.Linear(1, 1), "demucs.th: cannot be read as weights.*save its state dict"),
    ):
        torch.save(contents, path)
        with pytest.raises(CheckpointError, match=words):
            from_package(path)
    path.write_bytes(b"<html>")
    with pytest.raises(CheckpointError, match=r"demucs\.th: cannot be read as weights"):
        from_package(path)
    torch.save(state, path)
    with pytest.raises(
        CheckpointError, match=r"decoder.3.2.bias has 8 channels, 2 for each of a, b"
    ):
        from_package(path, ["a", "b"])
    with pytest.raises(CheckpointError, match=r"gone\.th: cannot be read"):
        from_package(tmp_path / "gone.th")
