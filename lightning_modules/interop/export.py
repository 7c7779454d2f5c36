"""Export of separators: safetensors folders, ``torch.export`` programs, ONNX graphs, MSST, Demucs.

Every export is read back and compared with the model. The tracer finds out whether batch size and
length can vary. If they cannot, or if the export is wrong at other sizes, they are fixed; a JSON
file beside the export documents the sizes.
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

from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.base.description import describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.hub_folder import write_folder
from lightning_modules.checkpoints.loading import from_pretrained
from lightning_modules.interop import demucs, msst

TOLERANCE = 1e-4
"""Largest accepted difference between export and model, relative to the largest output."""

Run = Callable[[Tensor], Tensor]
Load = Callable[[Path], Run]
# Dynamic axes of the input, tried in turn: batch and time, either, none.
_ATTEMPTS = ((0, -1), (-1,), (0,), ())
_PATCHES = "torch.export._patches"
_LONGEST_REASON = 160


class ExportError(ValueError):
    """A separator cannot be exported to a format."""


class Exported(NamedTuple):
    """Properties of an export.

    Attributes:
        part: ``model``, from mixture to estimates; or ``network``, between STFT and mask.
        axes: Axes of the input: a size, or the name of a dynamic axis.
        shortest: Shortest supported length, samples or frames, if the length is dynamic.
        difference: Largest difference from the model, relative to the largest output.
        obstacle: Why batch size and length are not both dynamic, if they are not.
    """

    part: str
    axes: list[int | str]
    shortest: int | None
    difference: float
    obstacle: str | None = None


class _Part(NamedTuple):
    name: str
    module: nn.Module
    example: Tensor


class NetworkAlone(nn.Module):
    """A separator's network without its transforms."""

    def __init__(self, separator: SourceSeparator) -> None:
        super().__init__()
        self.separator = separator

    def forward(self, features: Tensor) -> Tensor:
        """Run ``network_forward``."""
        return self.separator.network_forward(features)


# -------------------------------------------------------------------- formats


def export_folder(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write a folder in the layout of the Hugging Face Hub; for arguments see ``EXPORTS``."""
    whole, _ = _parts(model, seconds)
    write_folder(model, path)
    return _checked(from_pretrained(path), whole, {0: 1, -1: 1})


def export_program(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write a ``torch.export`` program of the complete model, or else of the network alone."""
    whole, network = _parts(model, seconds)
    try:
        return _traced(whole, path, torch.export.save, _load_program)
    except ExportError:
        if network is whole:
            raise
    return _traced(network, path, torch.export.save, _load_program)


def export_onnx(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write an ONNX graph of the network; the caller computes the STFT and its inverse."""
    _, network = _parts(model, seconds)
    return _traced(network, path, _save_onnx, _load_onnx)


def export_msst(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write config and weights of Music-Source-Separation-Training; see ``msst.write``."""
    whole, _ = _parts(model, seconds)
    try:
        config, weights = msst.write(model, path)
    except ValueError as error:
        raise ExportError(str(error)) from error
    return _checked(msst.load(config, weights).model, whole, {0: 1, -1: 1})


def export_demucs(model: SourceSeparator, path: Path, seconds: float) -> Exported:
    """Write a file of the package ``demucs``; see ``demucs.write``."""
    whole, _ = _parts(model, seconds)
    if not isinstance(model, HTDemucs):
        raise ExportError(f"it has no {type(model).__name__}: an HTDemucs was expected")
    demucs.write(model, path)
    again = demucs.from_package(path)
    order = [again.sources.index(name) for name in model.sources]
    return _checked(lambda mixture: again(mixture)[:, order], whole, {0: 1, -1: 1})


EXPORTS: Mapping[str, Callable[[SourceSeparator, Path, float], Exported]] = {
    "safetensors": export_folder,
    "torch_export": export_program,
    "onnx": export_onnx,
    "msst": export_msst,
    "demucs": export_demucs,
}
"""Functions by format: (model, path, seconds) -> ``Exported``. The model is in evaluation mode, on
the CPU; ``seconds`` is the length of the example, and of every input if the length cannot vary.
They raise ``ExportError``."""


def write_facts(model: SourceSeparator, exported: Exported, path: Path) -> None:
    """Document an export's contents and inputs in a JSON file."""
    facts = {
        "holds": exported.part,
        "input_axes": exported.axes,
        "shortest_input": exported.shortest,
        "sources": model.sources,
        "sample_rate": model.sample_rate,
        "obstacle": exported.obstacle,
        "largest_difference": exported.difference,
        "torch": torch.__version__,
        "separator": describe(model),
    }
    path.write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


# -------------------------------------------------------------------- tracing


def _parts(model: SourceSeparator, seconds: float) -> tuple[_Part, _Part]:
    """Return the model and its network, which are the same for models without transforms."""
    samples = max(1, round(seconds * model.sample_rate))
    random = torch.Generator().manual_seed(0)
    # A batch of 3: tracers fix a batch of one, or one of the same size as another axis.
    mixture = 0.1 * torch.randn(3, model.audio_channels, samples, generator=random)
    whole = _Part("model", model, mixture)
    with torch.no_grad():
        features = model.network_input(mixture)
        if not model(mixture).isfinite().all():
            raise ValueError("its estimates of noise are not finite: use another checkpoint")
    return whole, whole if features is mixture else _Part("network", NetworkAlone(model), features)


def _traced(
    part: _Part, path: Path, save: Callable[[ExportedProgram, Path], None], load: Load
) -> Exported:
    """Trace a part with as many dynamic axes as possible; save, load and compare it."""
    obstacle: Exception | None = None
    for attempt in _ATTEMPTS:
        tried = part if 0 in attempt else part._replace(example=part.example[:1])
        try:
            with _lstm_as_loop(), torch.no_grad(), _quiet():
                dynamic = ({axis % tried.example.ndim: Dim.AUTO for axis in attempt},)
                program = torch.export.export(
                    tried.module, (tried.example,), dynamic_shapes=dynamic, strict=False
                )
                smallest = _smallest_sizes(program, attempt)
                _drop_stack_traces(program)
                save(program, path)
                exported = _checked(load(path), tried, smallest)
            return exported._replace(obstacle=_reason(obstacle) if obstacle else None)
        except OSError:  # such as a full disk
            raise
        except Exception as error:
            # Tracers raise errors of any type; the last one, with all axes fixed, is final.
            obstacle, failure = obstacle or error, error
    raise ExportError(_reason(failure)) from failure


def _lstm_as_loop() -> contextlib.AbstractContextManager[None]:
    """Make the tracer treat an LSTM as a loop over frames.

    Otherwise it unrolls the frames, which takes long and fixes their number. Programs keep the
    LSTM as a layer, ONNX graphs contain the loop. torch (2.11 to 2.14) has no public name for
    this; without the private one, lengths are fixed.
    """
    try:
        treat_as_loop = importlib.import_module(_PATCHES).register_lstm_while_loop_decomposition
    except (ImportError, AttributeError):
        treat_as_loop = contextlib.nullcontext
    loop: contextlib.AbstractContextManager[None] = treat_as_loop()
    return loop


def _smallest_sizes(program: ExportedProgram, dynamic: tuple[int, ...]) -> dict[int, int]:
    """Return the smallest size of each dynamic axis, or raise if the tracer fixed one."""
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    ranges = {str(symbol): found for symbol, found in program.range_constraints.items()}
    smallest = {}
    for axis in dynamic:
        size = str(node.meta["val"].shape[axis])
        found = ranges.get(size)
        if found is None or found.upper < 2**40:
            name = "lengths" if axis else "batches"
            sizes = size if found is None else f"{found.lower} to {found.upper}"
            raise ExportError(f"its program takes {name} of {sizes} only")
        smallest[axis] = int(found.lower)
    return smallest


def _drop_stack_traces(program: ExportedProgram) -> None:
    """Drop the operations' stack traces, which contain paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


# ------------------------------------------------------------------ comparing


def _checked(run: Run, part: _Part, smallest: Mapping[int, int]) -> Exported:
    """Compare a loaded export with the model at several sizes; raise if the outputs differ."""
    inputs, shortest = [part.example], None
    if 0 in smallest:
        inputs += [part.example[:1], torch.cat([part.example, part.example[:1] / 2])]
    if -1 in smallest:
        shortest, length = _shortest(run, part, smallest[-1]), part.example.shape[-1]
        longer = torch.cat([part.example, part.example.flip(-1)], -1)
        # Lengths that differ from the example's modulo strides and hops.
        others = (shortest, shortest + 1, length // 2 + 1, length * 3 // 4, length * 4 // 3 + 1)
        inputs += [longer[..., :number] for number in others]
    difference = max(_difference(run, part, given) for given in inputs)
    names = {0: "batch", -1: "samples" if part.name == "model" else "frames"}
    axes: list[int | str] = list(part.example.shape)
    for axis in smallest:
        axes[axis] = names[axis]
    return Exported(part.name, axes, shortest, difference)


def _shortest(run: Run, part: _Part, smallest: int) -> int:
    """Find the shortest length that works: 1, which tracers leave open, or one by doubling."""
    lengths = [1]
    while smallest < part.example.shape[-1]:
        lengths.append(max(2, smallest))
        smallest = 2 * lengths[-1]
    for length in lengths:
        # Runtimes raise errors of any type.
        with contextlib.suppress(Exception):
            _difference(run, part, part.example[..., :length])
            return length
    return part.example.shape[-1]


def _difference(run: Run, part: _Part, given: Tensor) -> float:
    """Return the largest difference relative to the largest output, or raise if it is too large."""
    with torch.no_grad():
        expected, found = part.module(given), run(given)
    if found.shape != expected.shape:
        raise ExportError(
            f"its output for an input {tuple(given.shape)} is {tuple(found.shape)}, the model's "
            f"{tuple(expected.shape)}"
        )
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    difference = float((found - expected).abs().max() / largest)
    if not difference <= TOLERANCE:  # also true for NaN
        raise ExportError(
            f"it differs from the model by {difference:.1e} of the largest output, more "
            f"than {TOLERANCE:.0e}"
        )
    return difference


# -------------------------------------------------------------------- helpers


def _load_program(path: Path) -> Run:
    # Guards would reject lengths of another alignment than the example's, for which results are
    # right. Fixed and smallest sizes are checked without guards, too.
    return torch.export.load(path).module(check_guards=False)


def _save_onnx(program: ExportedProgram, path: Path) -> None:
    graph = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["estimates"])
    assert graph is not None
    graph.save(path)


def _load_onnx(path: Path) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal errors: `_shortest` tries unsupported lengths
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda tensor: torch.from_numpy(session.run(None, {given.name: tensor.numpy()})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the tracers' logs and warnings of failed attempts."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(level)


def _reason(error: BaseException) -> str:
    """Return the root cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().partition("\n")[0].strip() or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."
