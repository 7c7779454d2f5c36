"""Separators for other programs: safetensors, ``torch.export`` programs and ONNX graphs.

What is written is read again and compared with the model before it counts. A tracer decides by
what a model does whether batch and length may vary; where it finds that they may not, or what
it made errs on other sizes, they are fixed, and the file beside the program says to what.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.export._patches import register_lstm_while_loop_decomposition as lstm_as_loop

from lightning_modules.base import SourceSeparator
from lightning_modules.checkpoint import from_pretrained
from lightning_modules.description import describe
from lightning_modules.hub_folder import write_folder

TOLERANCE = 1e-4
"""Largest difference between export and model that passes, as a part of the largest output."""

Run = Callable[[Tensor], Tensor]
# Which axes of the input may vary, as the tracer is asked in turn: batch and time, batch, none.
_ATTEMPTS = ((0, -1), (0,), ())
_LONGEST_REASON = 160


class ExportError(ValueError):
    """A separator cannot be exported to a format; the message says why."""


class Exported(NamedTuple):
    """What an export holds.

    Attributes:
        part: ``model``, from mixture to estimates; or ``network``, what is between STFT and mask.
        axes: Axes of the input: a size, or the name of an axis that may have any.
        difference: Largest difference from the model, as a part of the largest output.
    """

    part: str
    axes: list[int | str]
    difference: float


class _Part(NamedTuple):
    name: str
    module: nn.Module
    example: Tensor


class NetworkAlone(nn.Module):
    """A separator without its transforms, as a module.

    Args:
        separator: The separator.
    """

    def __init__(self, separator: SourceSeparator) -> None:
        super().__init__()
        self.separator = separator

    def forward(self, read: Tensor) -> Tensor:
        """Run ``network_alone``."""
        return self.separator.network_alone(read)


# -------------------------------------------------------------------- formats


def export_folder(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write a folder in the layout of the Hugging Face Hub.

    Args:
        model: The separator, in evaluation mode, on the CPU; as in all formats.
        path: The folder.
        seconds: Length of the example that is compared.

    Returns:
        What it holds.

    Raises:
        ExportError: What was read again differs.
    """
    whole, _ = _parts(model, seconds)
    write_folder(model, path)
    difference = _compared(from_pretrained(path), whole, (0, -1))
    return Exported(whole.name, _axes(whole, (0, -1)), difference)


def export_program(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write a ``torch.export`` program of the whole model, or else of the network alone.

    Args:
        model: The separator.
        path: The ``.pt2`` file.
        seconds: Length of the example; and of all input, where the length cannot vary.

    Returns:
        What it holds.

    Raises:
        ExportError: Neither can be exported.
    """
    whole, network = _parts(model, seconds)
    try:
        return _traced(whole, path, torch.export.save, _load_program)
    except ExportError:
        if network is whole:
            raise
    return _traced(network, path, torch.export.save, _load_program)


def export_onnx(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write an ONNX graph of the network, which leaves STFT and its inverse to the caller.

    Args:
        model: The separator.
        path: The ``.onnx`` file.
        seconds: Length of the example; and of all input, where the length cannot vary.

    Returns:
        What it holds.

    Raises:
        ExportError: The network cannot be exported, or a package is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ExportError(
                f"ONNX needs the package {package}, which cannot be imported ({error}): "
                "pip install 'stemlab[export]'"
            ) from error
    _, network = _parts(model, seconds)
    return _traced(network, path, _save_onnx, _load_onnx)


EXPORTS: Mapping[str, Callable[[SourceSeparator, Path, float], Exported]] = {
    "safetensors": export_folder,
    "torch_export": export_program,
    "onnx": export_onnx,
}


def write_facts(model: SourceSeparator, exported: Exported, path: Path) -> None:
    """Write beside a program what it holds and what it wants to be given.

    Args:
        model: The separator.
        exported: What was written.
        path: The JSON file.
    """
    facts = {
        "holds": exported.part,
        "input_axes": exported.axes,
        "sources": model.sources,
        "sample_rate": model.sample_rate,
        "largest_difference": exported.difference,
        "torch": torch.__version__,
        "separator": describe(model),
    }
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


# -------------------------------------------------------------------- tracing


def _parts(model: SourceSeparator, seconds: float) -> tuple[_Part, _Part]:
    """The model and its network, which are one and the same where no transform is before it."""
    samples = max(1, round(seconds * model.sample_rate))
    random = torch.Generator().manual_seed(0)
    # Two, because a batch of one example is taken for one that stays so.
    mixture = 0.1 * torch.randn(2, model.audio_channels, samples, generator=random)
    whole = _Part("model", model, mixture)
    with torch.no_grad():
        read = model.read_by_network(mixture)
    return whole, whole if read is mixture else _Part("network", NetworkAlone(model), read)


def _traced(
    part: _Part,
    path: Path,
    save: Callable[[ExportedProgram, Path], None],
    load: Callable[[Path], Run],
) -> Exported:
    """Trace a part with as few axes fixed as works, and save, load and compare it."""
    for attempt in _ATTEMPTS:
        if not attempt:
            part = part._replace(example=part.example[:1])
        try:
            # Else an LSTM is written out step by step: a huge graph, of a fixed length.
            with lstm_as_loop(), warnings.catch_warnings(), torch.no_grad(), _quiet():
                warnings.simplefilter("ignore")
                dynamic = ({axis % part.example.ndim: Dim.AUTO for axis in attempt},)
                program = torch.export.export(
                    part.module, (part.example,), dynamic_shapes=dynamic, strict=False
                )
                free = tuple(axis for axis in attempt if _varies(program, axis))
                save(program, path)
                return Exported(part.name, _axes(part, free), _compared(load(path), part, free))
        except Exception as error:
            # Tracers raise whatever they stumble over; with all axes fixed it counts.
            failure = error
    raise ExportError(_reason(failure)) from failure


def _varies(program: ExportedProgram, axis: int) -> bool:
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    return not isinstance(node.meta["val"].shape[axis], int)


def _axes(part: _Part, free: tuple[int, ...]) -> list[int | str]:
    """Names of the axes that may vary, and sizes of the others."""
    time = "samples" if part.name == "model" else "frames"
    names = {0: "batch", -1: time}
    axes: list[int | str] = list(part.example.shape)
    for axis in free:
        axes[axis] = names[axis]
    return axes


def _compared(run: Run, part: _Part, free: tuple[int, ...]) -> float:
    """Largest difference from the model, also with other sizes of the axes that may vary.

    Raises:
        ExportError: It is too large.
    """
    inputs = [part.example]
    if 0 in free:
        inputs += [part.example[:1], torch.cat([part.example, -part.example[:1]])]
    if -1 in free:
        longer = torch.cat([part.example, part.example.flip(-1)], -1)
        inputs.append(longer[..., : part.example.shape[-1] * 4 // 3 + 1])
    differences = []
    with torch.no_grad():
        for given in inputs:
            expected, found = part.module(given), run(given)
            if found.shape != expected.shape:
                raise ExportError(
                    f"of an input {tuple(given.shape)} it makes {tuple(found.shape)}, the model "
                    f"{tuple(expected.shape)}"
                )
            largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
            differences.append(float((found - expected).abs().max() / largest))
    # NaN passes no comparison.
    if not all(difference <= TOLERANCE for difference in differences):
        raise ExportError(
            f"it differs from the model by {max(differences):.1e} of the largest output, more "
            f"than {TOLERANCE:.0e}"
        )
    return max(differences)


def _load_program(path: Path) -> Run:
    program = torch.export.load(path).module()
    return lambda given: program(given)


def _save_onnx(program: ExportedProgram, path: Path) -> None:
    graph = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["estimates"])
    assert graph is not None
    graph.save(path)


def _load_onnx(path: Path) -> Run:
    session = importlib.import_module("onnxruntime").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()
    return lambda tensor: torch.from_numpy(session.run(None, {given.name: tensor.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the tracers' logs of failed attempts from the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of it, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:1]) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
