"""Models of Music-Source-Separation-Training (MSST), a YAML config and weights: import, export.

Files are read without executing code from them. ``separate`` of an imported model equals MSST's
``demix`` with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from datamodules.tracks.layouts import STEMS
from lightning_modules.architectures.bs_roformer import BandSplitTransformer, BSRoFormer
from lightning_modules.architectures.mel_band_roformer import MelBandRoFormer
from lightning_modules.base.description import CheckpointError, describe
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from, check_weights
from lightning_modules.interop import roformer_weights
from lightning_modules.interop.weights_file import integer_setting, read_weights, source_names

_WRAPPERS = ("state", "state_dict", "model_state_dict")
_DECORATIVE = frozenset({
    "dim_freqs_in", "flash_attn", "match_input_audio_length", "multi_stft_hop_size",
    "multi_stft_normalized", "multi_stft_resolution_loss_weight",
    "multi_stft_resolutions_window_sizes", "multi_stft_window_fn", "sage_attention",
    "stft_window_fn", "use_torch_checkpoint",
})  # fmt: skip
"""Options that do not change a trained network: of losses, kernels and memory."""
_TRANSFORMER_OPTIONS = {
    "dim": "features", "depth": "blocks", "heads": "heads", "dim_head": "head_features",
    "time_transformer_depth": "time_layers", "freq_transformer_depth": "band_layers",
    "mlp_expansion_factor": "mask_expansion", "num_stems": "number_of_sources",
}  # fmt: skip
"""MSST's options -> arguments that follow from the shapes of the weights."""
_OTHER_OPTIONS = frozenset({
    "attn_dropout", "ff_dropout", "freqs_per_bands", "linear_transformer_depth",
    "mask_estimator_depth", "num_bands", "sample_rate", "skip_connection", "stereo",
    "stft_hop_length", "stft_n_fft", "stft_normalized", "stft_win_length", "use_pope", "zero_dc",
})  # fmt: skip


class Imported(NamedTuple):
    """An imported separator, in evaluation mode, and remarks on its config."""

    model: SourceSeparator
    notes: list[str]


class _Loader(yaml.SafeLoader):
    """YAML without Python objects, but with the tuples that MSST's configs contain."""


_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: tuple(loader.construct_sequence(node)),  # type: ignore[arg-type]
)


def load(config: str | Path, weights: str | Path, zero_dc: bool | None = None) -> Imported:
    """Build a separator from a model of MSST.

    Args:
        config: The YAML config of its training.
        weights: The weights: a state dict, as it is or in a checkpoint, in any precision.
        zero_dc: Whether bin 0 of estimates is set to zero; by default as the config says, else
            yes, as in MSST since September 2025.

    Raises:
        CheckpointError: A file cannot be read, is of a type that is not supported, or config and
            weights contradict each other.
    """
    config, weights = Path(config), Path(weights)
    sections = read_config(config)
    state = read_state(weights)
    kind = _kind(config, sections, state)
    if zero_dc is not None:
        sections["model"]["zero_dc"] = zero_dc
    try:
        return _IMPORTERS[kind](config, weights, sections, state)
    except KeyError as error:
        raise CheckpointError(
            f"{weights}: has no weights {error}, which a {kind} has; check that {config} belongs "
            "to it"
        ) from error


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """Read a config's sections; absent ones are empty.

    Raises:
        CheckpointError: It is no YAML mapping of sections.
    """
    try:
        config = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{path}: cannot be read as a YAML config ({reason}); give the config that belongs to "
            "the weights"
        ) from error
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(
            f"{path}: has no section `model`; a config of Music-Source-Separation-Training was "
            "expected"
        )
    sections = {"audio": {}, "training": {}, "inference": {}, **config}
    for name in ("audio", "training", "inference"):
        if not isinstance(sections[name], dict):
            raise CheckpointError(
                f"{path}: {name} is {sections[name]!r}, a section with keys was expected"
            )
    return sections


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict in float32, unwrapped from a checkpoint if necessary.

    Raises:
        CheckpointError: The file is unreadable or contains no weights.
    """
    contents = read_weights(path)
    for name in _WRAPPERS:
        if isinstance(contents, Mapping) and isinstance(contents.get(name), Mapping):
            contents = contents[name]
    check_weights(path, contents)
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in contents.items()
    }


def _kind(config: Path, sections: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the model's type, from the config, or else from its options or the weights."""
    model = sections["model"]
    kind = sections["training"].get("model_type")
    if not kind:
        if "freqs_per_bands" in model or "final_norm.gamma" in state:
            kind = "bs_roformer"
        elif "num_bands" in model or "layers.0.0.norm.gamma" in state:
            kind = "mel_band_roformer"
    if kind not in _IMPORTERS:
        found = f"is of type {kind}" if kind else "is of no known type"
        raise CheckpointError(
            f"{config}: {found}; types that can be imported: {', '.join(_IMPORTERS)}"
        )
    return str(kind)


# ----------------------------------------------------------------- RoFormers


def _roformer(
    config: Path, weights: Path, sections: Mapping[str, Any], state: dict[str, Tensor], kind: str
) -> Imported:
    options = sections["model"]
    arguments = roformer_weights.inferred_arguments(state)
    is_mel = kind == "mel_band_roformer"
    # MSST counts layers of the mask estimator in BS-RoFormer, hidden layers in Mel-Band RoFormer.
    depth = arguments["mask_hidden_layers"] + (not is_mel)
    found = {name: arguments[ours] for name, ours in _TRANSFORMER_OPTIONS.items()}
    _check_options(config, weights, options, {**found, "mask_estimator_depth": depth})
    if arguments.pop("norm_per_transformer") != is_mel:
        other = "bs_roformer" if is_mel else "mel_band_roformer"
        raise CheckpointError(f"{weights}: are weights of a {other}, but {config} is of a {kind}")
    number, band_inputs = arguments.pop("number_of_sources"), arguments.pop("band_inputs")
    channels = 2 if options.get("stereo") else 1
    sources = _sources(config, weights, sections["training"], number)
    n_fft = options.get("stft_n_fft", 2048)
    if options.get("stft_win_length", n_fft) != n_fft:
        raise CheckpointError(
            f"{config}: model.stft_win_length is {options['stft_win_length']}, stft_n_fft {n_fft}: "
            "only windows as long as the FFT are supported"
        )
    rate = integer_setting(config, sections["audio"], "sample_rate", 44100)
    settings = {
        "sources": sources,
        "sample_rate": rate,
        "audio_channels": channels,
        "n_fft": n_fft,
        "hop_length": options.get("stft_hop_length", 512),
        "normalized": bool(options.get("stft_normalized", False)),
        "zero_dc": bool(options.get("zero_dc", True)),
        "add_earlier_blocks": bool(options.get("skip_connection", False)),
        "attention_dropout": options.get("attn_dropout", 0.1 if is_mel else 0.0),
        "feedforward_dropout": options.get("ff_dropout", 0.1 if is_mel else 0.0),
        **_inference(config, sections, rate),
        **arguments,
    }
    model: BandSplitTransformer
    size = weights.stat().st_size
    with building_from(config, size, "describes no model of the weights"):
        if is_mel:
            if options.get("sample_rate", 44100) != rate:
                raise ValueError(
                    f"model.sample_rate is {options.get('sample_rate', 44100)}, audio.sample_rate "
                    f"{rate}: the same rate was expected"
                )
            model = MelBandRoFormer(number_of_bands=len(band_inputs), **settings)
        else:
            model = BSRoFormer(
                band_widths=[size // (2 * channels) for size in band_inputs], **settings
            )
    expected = [2 * channels * width for width in _widths(model)]
    if expected != band_inputs:
        pairs = enumerate(zip(expected, band_inputs, strict=True))
        band = next(number for number, (ours, theirs) in pairs if ours != theirs)
        raise CheckpointError(
            f"{weights}: band {band} has {band_inputs[band]} inputs, {config} gives it "
            f"{expected[band]}: check model.stereo, stft_n_fft and the bands"
        )
    _load_weights(model, weights, state)
    return Imported(model.eval(), _remarks(config, options))


def _widths(model: BandSplitTransformer) -> list[int]:
    layout = model.split.layout
    widths = {band: width for width, bands in layout.groups for band in bands}
    return [widths[band] for band in range(layout.number)]


def _check_options(
    config: Path, weights: Path, options: Mapping[str, Any], found: Mapping[str, int]
) -> None:
    """Raise if an option contradicts the weights, or makes a network that is not supported."""
    for name, value in found.items():
        if name in options and options[name] != value:
            raise CheckpointError(
                f"{config}: model.{name} is {options[name]}, but {weights} has {value}: correct "
                "the config, or give the one that belongs to the weights"
            )
    for name in ("linear_transformer_depth", "use_pope"):
        if options.get(name):
            raise CheckpointError(
                f"{config}: model.{name} is {options[name]}: this kind of network is not supported"
            )


def _remarks(config: Path, options: Mapping[str, Any]) -> list[str]:
    notes = []
    decorative = sorted(_DECORATIVE.intersection(options))
    if decorative:
        notes.append(f"{config}: not needed: {', '.join(f'model.{name}' for name in decorative)}")
    unknown = sorted({*options} - _DECORATIVE - {*_TRANSFORMER_OPTIONS} - _OTHER_OPTIONS)
    if unknown:
        notes.append(f"{config}: unknown, ignored: {', '.join(f'model.{key}' for key in unknown)}")
    return notes


def _sources(config: Path, weights: Path, training: Mapping[str, Any], number: int) -> list[str]:
    """Return the names of the weights' stems; standard names get their usual letter case."""
    instruments, target = training.get("instruments"), training.get("target_instrument")
    names = [target] if target else list(instruments or [])
    if len(names) != number:
        raise CheckpointError(
            f"{config}: names {len(names)} stems ({', '.join(map(str, names)) or 'none'}), the "
            f"weights in {weights} separate {number}: correct training.instruments, or set "
            "training.target_instrument for weights of a single stem"
        )
    names = source_names(config, names)
    return [name.lower() if name.lower() in STEMS else name for name in names]


def _inference(config: Path, sections: Mapping[str, Any], rate: int) -> dict[str, Any]:
    """Return the settings of separation that equal MSST's ``demix``."""
    inference, audio = sections["inference"], sections["audio"]
    chunk = integer_setting(
        config, inference if inference.get("chunk_size") else audio, "chunk_size", 0
    )
    overlaps = integer_setting(config, inference, "num_overlap", 1)
    return {
        "segment_seconds": chunk / rate,
        "chunks_at_once": integer_setting(config, inference, "batch_size", 1),
        "overlap": (chunk - chunk // overlaps) / chunk,
        "overlap_window": "ramps",
        "edges": "reflect",
        "normalise_mixture": bool(inference.get("normalize", False)),
    }


def _load_weights(model: BandSplitTransformer, weights: Path, state: Mapping[str, Tensor]) -> None:
    unknown = roformer_weights.unknown_names(model, list(state))
    if unknown:
        raise CheckpointError(
            f"{weights}: has {len(unknown)} weights that {type(model).__name__} does not have, "
            f"such as {unknown[0]}: it is of another kind of network, which is not supported"
        )
    try:
        model.load_state_dict(roformer_weights.from_msst(model, state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{weights}: {reason}") from error


_IMPORTERS: dict[str, Callable[[Path, Path, Any, Any], Imported]] = {
    kind: partial(_roformer, kind=kind) for kind in ("bs_roformer", "mel_band_roformer")
}


def fit_config(model: SourceSeparator) -> str:
    """Return a YAML config that makes ``fit`` build a model of the same size and sources."""
    description = describe(model)
    linked = {"sources", "sample_rate", "audio_channels", "segment_seconds"}
    arguments = description["init_args"]
    config = {
        "model": {
            "class_path": description["class_path"],
            "init_args": {key: value for key, value in arguments.items() if key not in linked},
        },
        "data": {"init_args": {key: arguments[key] for key in sorted(linked)}},
    }
    return yaml.safe_dump(config, sort_keys=False)


# --------------------------------------------------------------------- export


def write(model: SourceSeparator, folder: Path) -> list[Path]:
    """Write a model's config and weights as MSST loads them: ``config.yaml``, ``model.ckpt``.

    Raises:
        ValueError: MSST has no such architecture.
    """
    if not isinstance(model, BSRoFormer | MelBandRoFormer):
        raise ValueError(
            f"MSST has no {type(model).__name__}: a BSRoFormer or MelBandRoFormer was expected"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / "config.yaml", folder / "model.ckpt"
    state = roformer_weights.to_msst(model)
    # The full dumper writes tuples as MSST expects them; the config holds plain data only.
    config.write_text(yaml.dump(_config_of(model, state), sort_keys=False))
    torch.save(state, weights)
    return [config, weights]


def _config_of(model: BSRoFormer | MelBandRoFormer, state: Mapping[str, Tensor]) -> dict[str, Any]:
    is_mel = isinstance(model, MelBandRoFormer)
    arguments = roformer_weights.inferred_arguments(state)
    hidden_layers = arguments["mask_hidden_layers"]
    options = {name: arguments[ours] for name, ours in _TRANSFORMER_OPTIONS.items()}
    options |= {
        "stereo": model.audio_channels == 2,
        "mask_estimator_depth": hidden_layers + (not is_mel),
        "attn_dropout": 0.0,
        "ff_dropout": 0.0,
        "flash_attn": True,
        "dim_freqs_in": model.n_fft // 2 + 1,
        "stft_n_fft": model.n_fft,
        "stft_hop_length": model.hop_length,
        "stft_win_length": model.n_fft,
        "stft_normalized": model.transform.normalized,
        "zero_dc": model.zero_dc,
        "skip_connection": model.add_earlier_blocks,
    }
    if is_mel:
        options |= {"num_bands": model.split.layout.number, "sample_rate": model.sample_rate}
        options["match_input_audio_length"] = True
    else:
        options["freqs_per_bands"] = tuple(_widths(model))
    chunk = round(model.segment_seconds * model.sample_rate)
    return {
        "audio": {
            "chunk_size": chunk,
            "sample_rate": model.sample_rate,
            "num_channels": model.audio_channels,
            "min_mean_abs": 0.0,
        },
        "model": options,
        "training": {
            "instruments": list(model.sources),
            "target_instrument": model.sources[0] if len(model.sources) == 1 else None,
            "model_type": "mel_band_roformer" if is_mel else "bs_roformer",
            "use_amp": False,
        },
        "inference": {
            "batch_size": model.separation_settings.batch_size,
            "num_overlap": round(1 / (1 - model.separation_settings.overlap)),
        },
    }
