"""MSST's type ``mdx23c``, TFC-TDF v3: import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_modules.architectures.tfc_tdf import TFCTDF
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop.msst_files import Exported, Imported, ModelFiles
from lightning_modules.interop.renaming import (
    Rules,
    count,
    to_theirs,
)
from lightning_modules.interop.weights_file import integer_setting

KINDS = ("mdx23c",)
CLASSES = (TFCTDF,)
_SUPPORTED = {"norm": "InstanceNorm", "act": "gelu"}
_OPTIONS = frozenset({
    "num_channels", "growth", "num_scales", "scale", "num_blocks_per_scale", "bottleneck_factor",
    "num_subbands", "zero_dc", *_SUPPORTED,
})  # fmt: skip
_RULES: Rules = (
    (r"^(en|de)coder\.(\d+)\.(\d+)\.", r"\1coder_blocks.\2.tfc_tdf.blocks.\3."),
    (r"^middle\.(\d+)\.", r"bottleneck_block.blocks.\1."),
    (r"\.before\.norm\.", ".tfc1.0."),
    (r"\.before\.layer\.", ".tfc1.2."),
    (r"\.dense\.0\.norm\.", ".tdf.0."),
    (r"\.dense\.0\.layer\.", ".tdf.2."),
    (r"\.dense\.1\.norm\.", ".tdf.3."),
    (r"\.dense\.1\.layer\.", ".tdf.5."),
    (r"\.after\.norm\.", ".tfc2.0."),
    (r"\.after\.layer\.", ".tfc2.2."),
    (r"^down\.(\d+)\.norm\.", r"encoder_blocks.\1.downscale.conv.0."),
    (r"^down\.(\d+)\.layer\.", r"encoder_blocks.\1.downscale.conv.2."),
    (r"^up\.(\d+)\.norm\.", r"decoder_blocks.\1.upscale.conv.0."),
    (r"^up\.(\d+)\.layer\.", r"decoder_blocks.\1.upscale.conv.2."),
    (r"^first\.", "first_conv."),
    (r"^last\.", "final_conv."),
)


def kind_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the type that options of a config or weights belong to; None for others."""
    known = {"num_subbands", "growth"} <= {*options}
    return "mdx23c" if known or "bottleneck_block.blocks.0.tfc1.0.weight" in state else None


def load(files: ModelFiles, kind: str) -> Imported:
    """Build a separator.

    Raises:
        CheckpointError: Config and weights contradict each other, or are not supported.
        KeyError: The weights lack one, whose name the error holds.
    """
    config, options, audio = files.config, files.options, files.sections["audio"]
    sizes = _sizes(files.state)
    inputs, outputs, rows = sizes.pop("inputs"), sizes.pop("outputs"), sizes.pop("bins")
    files.check_options(sizes)
    files.check_supported(_SUPPORTED)
    channels = integer_setting(config, audio, "num_channels", 2)
    subbands = integer_setting(config, options, "num_subbands", 4)
    bins = integer_setting(config, audio, "dim_f", rows * subbands)
    if inputs != 2 * channels * subbands or bins != rows * subbands or outputs % inputs:
        raise CheckpointError(
            f"{config}: audio.num_channels is {channels}, dim_f {bins}, model.num_subbands "
            f"{subbands}, but {files.weights} has {inputs} inputs (2 x channels x subbands), "
            f"{rows} bins per subband and {outputs} outputs: correct the config, or give the one "
            "that belongs to the weights"
        )
    with building_from(config, files.weights.stat().st_size, "describes no model of the weights"):
        model = TFCTDF(
            files.sources(outputs // inputs),
            sample_rate=files.sample_rate,
            audio_channels=channels,
            channels=sizes["num_channels"],
            growth=sizes["growth"],
            scales=sizes["num_scales"],
            scale=sizes["scale"],
            blocks=sizes["num_blocks_per_scale"],
            bottleneck=sizes["bottleneck_factor"],
            subbands=subbands,
            bins=bins,
            n_fft=integer_setting(config, audio, "n_fft", 8192),
            hop_length=integer_setting(config, audio, "hop_length", 1024),
            zero_dc=bool(options.get("zero_dc", False)),
            **files.separation(),
        )
    files.load_renamed(model, _RULES)
    return Imported(model.eval(), files.remarks(_OPTIONS, ()))


def _sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the options that follow from the shapes of the weights.

    Raises:
        KeyError: A tensor is missing; the error holds its name.
    """
    first, down = state["first_conv.weight"], state["encoder_blocks.0.downscale.conv.2.weight"]
    dense = state["encoder_blocks.0.tfc_tdf.blocks.0.tdf.2.weight"]  # (features, bins)
    return {
        "inputs": first.shape[1],
        "outputs": len(state["final_conv.2.weight"]),
        "bins": dense.shape[1],
        "num_channels": len(first),
        "growth": len(down) - down.shape[1],
        "scale": list(down.shape[2:]),
        "num_scales": count(state, r"encoder_blocks\.(\d+)\.downscale\.conv\.0\.weight"),
        "num_blocks_per_scale": count(state, r"bottleneck_block\.blocks\.(\d+)\.shortcut\.weight"),
        "bottleneck_factor": dense.shape[1] // len(dense),
    }


def export(model: SourceSeparator) -> Exported:
    """Describe a TFC-TDF as MSST does.

    Raises:
        ValueError: MSST has no TFC-TDF with these arguments.
    """
    assert isinstance(model, TFCTDF)
    given, transform = dict(model.hparams), model.transform
    supported = {"audio_channels": 2, "zero_dc": False, "normalized": False, "window": "hann"}
    found = {
        "audio_channels": model.audio_channels,
        "zero_dc": model.zero_dc,
        "normalized": transform.normalized,
        "window": given.get("window", "hann"),
    }
    if found != supported:
        raise ValueError(f"MSST has no TFC-TDF with {found}: {supported} was expected")
    state = to_theirs(model, _RULES)
    sizes = _sizes(state)
    options = {name: sizes[name] for name in sizes if name not in ("inputs", "outputs", "bins")}
    options |= {"num_subbands": model.subbands, **_SUPPORTED}
    audio = {"n_fft": model.n_fft, "hop_length": model.hop_length, "dim_f": model.bins}
    return Exported(KINDS[0], options, state, audio)
