"""Exported files give the model's estimates in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules.architectures.nmf import NMF
from lightning_modules.architectures.open_unmix import OpenUnmix
from lightning_modules.architectures.unet import UNet
from lightning_modules.architectures.wave_unet import WaveUNet
from lightning_modules.base.description import CARD, CONFIG, WEIGHTS
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.interop import export as exporting
from lightning_modules.tools import export
from tests.helpers.checkpoints import SOURCES, model, save

# Compares an exported file with stored pairs of inputs and outputs of the model.
FRESH = """
import sys, torch
kind, path, case = sys.argv[1:]
if kind == "safetensors":
    from lightning_modules.checkpoints.loading import from_pretrained
    run = from_pretrained(path)
elif kind == "torch_export":
    run = torch.export.load(path).module(check_guards=False)
else:
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    run = lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])
if kind != "safetensors":
    assert not any(name.startswith("lightning_modules") for name in sys.modules)
for given, expected in torch.load(case, weights_only=True):
    with torch.no_grad():
        found = run(given)
    assert found.shape == expected.shape, found.shape
    print(float((found - expected).abs().max() / expected.abs().max()))
"""


def wave_unet(path: Path) -> Path:
    torch.manual_seed(0)
    return save(WaveUNet(SOURCES, levels=1, filters=2, segment_seconds=0.02), path)


def spectral(path: Path) -> Path:
    return save(model(channels=[2], n_fft=256, hop_length=128, segment_seconds=0.02), path)


def recurrent() -> OpenUnmix:
    small: dict[str, Any] = {"hidden_size": 2, "layers": 1, "n_fft": 256, "hop_length": 128}
    return OpenUnmix(["vocals"], mask="none", **small).eval()


def read_facts(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text())
    return facts


def same_in_a_fresh_process(
    kind: str, path: Path, part: Callable[[Tensor], Tensor], inputs: Sequence[Tensor]
) -> bool:
    with torch.no_grad():
        cases = [(given, part(given)) for given in inputs]
    case = path.parent / "cases.pt"
    torch.save(cases, case)
    words = [sys.executable, "-c", FRESH, kind, str(path), str(case)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if path.is_file():
        assert str(Path(exporting.__file__).parent).encode() not in path.read_bytes()
    differences = [float(line) for line in done.stdout.splitlines()]
    assert len(differences) == len(inputs)
    return max(differences) <= exporting.TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_waveform_model_for_any_batch_and_length(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = wave_unet(tmp_path / "best.ckpt")
    output = tmp_path / "new" / f"model{export.SUFFIXES[kind]}"
    assert export.main([str(checkpoint), "-o", str(output), "--format", kind]) == 0
    assert f"{output}: the model, input (batch, 2, samples)" in capsys.readouterr().out
    inputs = [0.1 * torch.randn(3, 2, 2001), 0.1 * torch.randn(1, 2, 400)]
    assert same_in_a_fresh_process(kind, output, load_separator(checkpoint), inputs)


@pytest.mark.slow
def test_onnx_of_a_spectrogram_model_holds_its_network(tmp_path: Path) -> None:
    checkpoint, output = spectral(tmp_path / "best.ckpt"), tmp_path / "network.onnx"
    assert export.main([str(checkpoint), "-o", str(output), "--format", "onnx"]) == 0
    facts = read_facts(output)
    assert (facts["holds"], facts["input_axes"]) == ("network", ["batch", 2, 129, "frames"])
    assert facts["separator"]["init_args"]["hop_length"] == 128
    separator = load_separator(checkpoint)
    with torch.no_grad():
        inputs = [separator.network_input(0.1 * torch.randn(2, 2, n)) for n in (1, 4000)]
    assert same_in_a_fresh_process("onnx", output, separator.network_forward, inputs)


@pytest.mark.slow
def test_program_of_a_spectrogram_model_takes_any_length(tmp_path: Path) -> None:
    checkpoint, output = spectral(tmp_path / "best.ckpt"), tmp_path / "model.pt2"
    assert export.main([str(checkpoint), "-o", str(output), "--format", "torch_export"]) == 0
    facts = read_facts(output)
    assert (facts["holds"], facts["input_axes"]) == ("model", ["batch", 2, "samples"])
    assert (facts["shortest_input"], facts["obstacle"]) == (1, None)
    inputs = [0.1 * torch.randn(3, 2, samples) for samples in (1, 127, 2048, 9001)]
    assert same_in_a_fresh_process("torch_export", output, load_separator(checkpoint), inputs)


@pytest.mark.slow
def test_a_fixed_length_is_recorded(tmp_path: Path) -> None:
    """The memory layout of templates of several frames depends on the number of frames."""
    small: dict[str, Any] = {
        "rank": 1,
        "template_frames": 2,
        "iterations": 1,
        "n_fft": 256,
        "hop_length": 128,
    }
    checkpoint = save(NMF(SOURCES, **small), tmp_path / "best.ckpt")
    output = tmp_path / "model.pt2"
    words = [str(checkpoint), "-o", str(output), "--format", "torch_export", "--seconds", "0.03"]
    assert export.main(words) == 0
    facts = read_facts(output)
    assert facts["input_axes"][1:] == [2, 1323]
    assert facts["shortest_input"] is None
    assert "lengths of" in facts["obstacle"]
    inputs = [0.1 * torch.randn(1, 2, 1323)]
    assert same_in_a_fresh_process("torch_export", output, load_separator(checkpoint), inputs)
    with pytest.raises(RuntimeError, match="1323"):
        exporting._load_program(output)(torch.randn(1, 2, 1324))


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_lstms_are_loops_in_onnx_if_torch_can_export_them(
    known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not known:
        monkeypatch.setitem(sys.modules, exporting._PATCHES, None)
    found = exporting.export_onnx(recurrent(), tmp_path / "network.onnx", 0.02)
    assert (found.axes[-1] == "frames") == known
    assert found.difference <= exporting.TOLERANCE


@pytest.mark.slow
def test_lstms_are_layers_in_programs(tmp_path: Path) -> None:
    found = exporting.export_program(recurrent(), tmp_path / "model.pt2", 0.02)
    assert found.axes == ["batch", 2, "samples"]
    assert found.difference <= exporting.TOLERANCE
    nodes = torch.export.load(tmp_path / "model.pt2").graph.nodes
    assert any(str(node.target) == "aten.lstm.input" for node in nodes)


class Untraceable(UNet):
    """Its STFT or its network branches on the values of the input."""

    where: str

    def forward(self, mixture: Tensor) -> Tensor:
        estimates = super().forward(mixture)
        return estimates if mixture.sum() > 1e9 else 1 * estimates

    def magnitudes(self, mixture: Tensor) -> Tensor:
        if self.where == "network" and mixture.sum() > 1e9:
            raise AssertionError
        return super().magnitudes(mixture)


def untraceable(where: str) -> Untraceable:
    separator = Untraceable(SOURCES, channels=[2], n_fft=256, hop_length=128).eval()
    separator.where = where
    return separator


@pytest.mark.slow
def test_program_holds_the_network_if_the_stft_cannot_be_traced(tmp_path: Path) -> None:
    exported = exporting.export_program(untraceable("stft"), tmp_path / "network.pt2", 0.02)
    assert exported.part == "network"
    assert exported.axes == ["batch", 2, 129, "frames"]
    assert exported.difference <= exporting.TOLERANCE


@pytest.mark.slow
def test_untraceable_network_is_an_error(tmp_path: Path) -> None:
    for write in (exporting.export_program, exporting.export_onnx):
        with pytest.raises(exporting.ExportError, match="data-dependent"):
            write(untraceable("network"), tmp_path / "model.pt2", 0.02)


def test_outputs_that_differ_from_the_model_are_an_error(tmp_path: Path) -> None:
    separator = model(n_fft=256, hop_length=128).eval()
    whole, _ = exporting._parts(separator, 0.02)
    for wrong, said in (
        (lambda given: separator(given) * 1.01, "differs from the model by 1.0e-02"),
        (lambda given: separator(given) * float("nan"), "differs from the model by nan"),
        (lambda given: separator(given)[..., 1:], "its output for an input"),
    ):
        with pytest.raises(exporting.ExportError, match=said):
            exporting._checked(wrong, whole, {0: 1, -1: 1})


def test_force_replaces_only_the_exported_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output = wave_unet(tmp_path / "best.ckpt"), tmp_path / "folder"
    output.mkdir()
    (output / CARD).write_text("old")
    (output / "notes.txt").write_text("precious")
    words = [str(checkpoint), "-o", str(output)]
    assert export.main(words) == 2
    assert "already exists; give another name, or --force" in capsys.readouterr().err
    assert (output / CARD).read_text() == "old"
    assert export.main([*words, "--force"]) == 0
    names = sorted(path.name for path in output.iterdir())
    assert names == sorted([CARD, CONFIG, WEIGHTS, "notes.txt"])
    assert (output / CARD).read_text() != "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "folder"]


def test_output_named_by_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "out" / "here"
    here.mkdir(parents=True)
    (here / "notes.txt").write_text("precious")
    monkeypatch.chdir(here)
    checkpoint = wave_unet(tmp_path / "best.ckpt")
    assert export.main([str(checkpoint), "-o", "..", "--force"]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == sorted([CARD, CONFIG, WEIGHTS, "here"])
    assert [path.name for path in here.iterdir()] == ["notes.txt"]


def test_model_with_nan_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_separator(wave_unet(tmp_path / "best.ckpt"))
    for weights in model.parameters():
        weights.data.fill_(float("nan"))
    checkpoint = save(model, tmp_path / "broken.ckpt")
    assert export.main([str(checkpoint), "-o", str(tmp_path / "x")]) == 2
    assert "estimates of noise are not finite: use another checkpoint" in capsys.readouterr().err


def test_files_next_to_the_graph_are_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def large(_: SourceSeparator, path: Path, __: float) -> exporting.Exported:
        path.touch()
        Path(f"{path}.data").write_text("new")
        return exporting.Exported("model", ["batch", 2, "samples"], 1, 0.0)

    monkeypatch.setattr(exporting, "EXPORTS", {"onnx": large})
    output, weights, facts = (tmp_path / f"x.onnx{suffix}" for suffix in ("", ".data", ".json"))
    words = [str(wave_unet(tmp_path / "best.ckpt")), "-o", str(output), "--format", "onnx"]
    for path in (weights, facts):
        path.write_text("precious")
        assert export.main(words) == 2
        assert f"{path.name} already exists" in capsys.readouterr().err
        assert path.read_text() == "precious"
        assert not output.exists()
        if path == weights:
            path.unlink()
    assert export.main([*words, "--force"]) == 0
    assert weights.read_text() == "new"


def test_failed_export_leaves_no_files_and_names_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise exporting.ExportError("its network is a poem")

    ways = {
        "safetensors": exporting.export_folder,
        **dict.fromkeys(("torch_export", "onnx", "msst", "demucs"), fail),
    }
    monkeypatch.setattr(exporting, "EXPORTS", ways)
    checkpoint, output = wave_unet(tmp_path / "best.ckpt"), tmp_path / "x.onnx"
    assert export.main([str(checkpoint), "-o", str(output), "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        f"error: {checkpoint}: WaveUNet cannot be exported as onnx: its network is a poem; "
        "give --format safetensors\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["best.ckpt"]


def test_missing_package_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    words = [str(wave_unet(tmp_path / "best.ckpt")), "-o", str(tmp_path / "x.onnx")]
    assert export.main([*words, "--format", "onnx"]) == 2
    assert capsys.readouterr().err == (
        "error: onnx needs onnxscript, which is not installed: pip install -e '.[export]'\n"
    )


def test_formats_are_the_same_on_both_sides() -> None:
    assert list(export.SUFFIXES) == list(exporting.EXPORTS)
