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

from lightning_modules.base.description import describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.hub_folder import write_folder
from lightning_modules.checkpoints.loading import from_pretrained

TOLERANCE = 1e-4
"""Largest difference between export and model that passes, as a part of the largest output."""

Run = Callable[[Tensor], Tensor]
# Axes of the input that are to vary, in turn: batch and time, either, none.
_ATTEMPTS = ((0, -1), (-1,), (0,), ())
_BATCH = 3
_LARGE = 2**40
_PATCHES = "torch.export._patches"
_LONGEST_REASON = 160
# Of ONNX Runtime's logs: lengths that do not work are for this module to tell.
_FATAL = 4


class ExportError(ValueError):
    """A separator cannot be exported to a format; the message says why."""


class Exported(NamedTuple):
    """What an export holds.

    Attributes:
        part: ``model``, from mixture to estimates; or ``network``, what is between STFT and mask.
        axes: Axes of the input: a size, or the name of an axis that may vary.
        shortest: Shortest length that it takes, samples or frames, where that axis may vary.
        difference: Largest difference from the model, as a part of the largest output.
        obstacle: Why batch and length do not both vary, where they do not.
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
    """A separator without its transforms, as a module.

    Args:
        separator: The separator.
    """

    def __init__(self, separator: SourceSeparator) -> None:
        super().__init__()
        self.separator = separator

    def forward(self, read: Tensor) -> Tensor:
        """Run ``network_forward``."""
        return self.separator.network_forward(read)


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
    return _checked(from_pretrained(path), whole, {0: 1, -1: 1})


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
        ExportError: The network cannot be exported.
    """
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
    """The model and its network, which are one and the same where no transform is before it."""
    samples = max(1, round(seconds * model.sample_rate))
    random = torch.Generator().manual_seed(0)
    # A batch of one, or of as many as another axis has, tracers take for one that stays so.
    mixture = 0.1 * torch.randn(_BATCH, model.audio_channels, samples, generator=random)
    whole = _Part("model", model, mixture)
    with torch.no_grad():
        read = model.network_input(mixture)
        if not model(mixture).isfinite().all():
            raise ValueError("of noise the model makes NaN or infinity: use another checkpoint")
    return whole, whole if read is mixture else _Part("network", NetworkAlone(model), read)


def _traced(
    part: _Part,
    path: Path,
    save: Callable[[ExportedProgram, Path], None],
    load: Callable[[Path], Run],
) -> Exported:
    """Trace a part with as few axes fixed as works, and save, load and compare it."""
    obstacle: Exception | None = None
    for attempt in _ATTEMPTS:
        tried = part if 0 in attempt else part._replace(example=part.example[:1])
        try:
            with _lstm_as_loop(), warnings.catch_warnings(), torch.no_grad(), _quiet():
                warnings.simplefilter("ignore")
                dynamic = ({axis % tried.example.ndim: Dim.AUTO for axis in attempt},)
                program = torch.export.export(
                    tried.module, (tried.example,), dynamic_shapes=dynamic, strict=False
                )
                least = _least(program, attempt)
                _forget_places(program)
                save(program, path)
                exported = _checked(load(path), tried, least)
            why = None if obstacle is None else _reason(obstacle)
            return exported._replace(obstacle=why)
        except OSError:  # such as a full disk
            raise
        except Exception as error:
            # Tracers raise whatever they stumble over; with all axes fixed it counts.
            obstacle, failure = obstacle or error, error
    raise ExportError(_reason(failure)) from failure


def _lstm_as_loop() -> contextlib.AbstractContextManager[None]:
    """Have the tracer take an LSTM for a loop over its frames.

    Else it follows them one by one, which takes long and fixes their number. A program has the
    LSTM as a layer all the same, an ONNX graph the loop. torch (2.11 to 2.14) has no public name
    for this; where the private one is gone, such lengths are fixed.
    """
    try:
        patches = importlib.import_module(_PATCHES)
        loop: contextlib.AbstractContextManager[None] = (
            patches.register_lstm_while_loop_decomposition()
        )
    except (ImportError, AttributeError):
        return contextlib.nullcontext()
    return loop


def _least(program: ExportedProgram, asked: tuple[int, ...]) -> dict[int, int]:
    """Least size of each axis that is to vary.

    Raises:
        ExportError: The tracer has found that one does not.
    """
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.name == name)
    ranges = {str(symbol): found for symbol, found in program.range_constraints.items()}
    least = {}
    for axis in asked:
        size = str(node.meta["val"].shape[axis])
        found = ranges.get(size)
        if found is None or found.upper < _LARGE:
            name = "lengths" if axis else "batches"
            sizes = size if found is None else f"{found.lower} to {found.upper}"
            raise ExportError(f"its program takes {name} of {sizes} only")
        least[axis] = int(found.lower)
    return least


def _forget_places(program: ExportedProgram) -> None:
    """Drop where each operation stands in the code: it names folders of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


# ------------------------------------------------------------------ comparing


def _checked(run: Run, part: _Part, least: Mapping[int, int]) -> Exported:
    """Compare what was read again with the model, in all sizes that it is to take.

    Args:
        run: What was read again.
        part: What it must agree with.
        least: By axis that may vary, the size that it need not go below.

    Raises:
        ExportError: It differs.
    """
    inputs, shortest = [part.example], None
    if 0 in least:
        inputs += [part.example[:1], torch.cat([part.example, part.example[:1] / 2])]
    if -1 in least:
        shortest, length = _shortest(run, part, least[-1]), part.example.shape[-1]
        longer = torch.cat([part.example, part.example.flip(-1)], -1)
        # None but by chance are aligned with strides and hops as the example is.
        others = (shortest, shortest + 1, length // 2 + 1, length * 3 // 4, length * 4 // 3 + 1)
        inputs += [longer[..., :number] for number in others]
    difference = max(_difference(run, part, given) for given in inputs)
    time = "samples" if part.name == "model" else "frames"
    names = {0: "batch", -1: time}
    axes: list[int | str] = list(part.example.shape)
    for axis in least:
        axes[axis] = names[axis]
    return Exported(part.name, axes, shortest, difference)


def _shortest(run: Run, part: _Part, least: int) -> int:
    """Length from which on it works: one, though tracers leave that open, or found by doubling."""
    lengths = [1]
    while least < part.example.shape[-1]:
        lengths.append(max(2, least))
        least = 2 * lengths[-1]
    for length in lengths:
        # Runtimes raise whatever they stumble over.
        with contextlib.suppress(Exception):
            _difference(run, part, part.example[..., :length])
            return length
    return part.example.shape[-1]


def _difference(run: Run, part: _Part, given: Tensor) -> float:
    """Largest difference from the model, as a part of the largest output.

    Raises:
        ExportError: It is too large.
    """
    with torch.no_grad():
        expected, found = part.module(given), run(given)
    if found.shape != expected.shape:
        raise ExportError(
            f"of an input {tuple(given.shape)} it makes {tuple(found.shape)}, the model "
            f"{tuple(expected.shape)}"
        )
    largest = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    difference = float((found - expected).abs().max() / largest)
    # NaN passes no comparison.
    if not difference <= TOLERANCE:
        raise ExportError(
            f"it differs from the model by {difference:.1e} of the largest output, more "
            f"than {TOLERANCE:.0e}"
        )
    return difference


# -------------------------------------------------------------------- helpers


def _load_program(path: Path) -> Run:
    # Guards refuse lengths that are aligned otherwise than the example's, though what they compute
    # is right, as is seen here; fixed sizes and least ones are checked without.
    program = torch.export.load(path).module(check_guards=False)
    return lambda given: program(given)


def _save_onnx(program: ExportedProgram, path: Path) -> None:
    graph = torch.onnx.export(program, dynamo=True, verbose=False, output_names=["estimates"])
    assert graph is not None
    graph.save(path)


def _load_onnx(path: Path) -> Run:
    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
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
