"""MSST's type ``htdemucs``: import and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_modules.architectures.htdemucs import HTDemucs
from lightning_modules.base.description import CheckpointError
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.limits import building_from
from lightning_modules.interop import htdemucs_weights
from lightning_modules.interop.msst_files import Exported, Imported, ModelFiles
from lightning_modules.interop.weights_file import integer_setting

KINDS = ("htdemucs",)
CLASSES = (HTDemucs,)


def kind_of(options: Mapping[str, Any], state: Mapping[str, Tensor]) -> str | None:
    """Return the type that options of a config or weights belong to; None for others."""
    return "htdemucs" if htdemucs_weights.is_htdemucs(state) else None


def load(files: ModelFiles, kind: str) -> Imported:
    """Build a separator.

    Raises:
        CheckpointError: Config and weights contradict each other, or are not supported.
        KeyError: The weights lack one, whose name the error holds.
    """
    config, state, training = files.config, files.state, files.sections["training"]
    arguments = htdemucs_weights.arguments_of(config, state, files.options)
    channels = integer_setting(config, training, "channels", 2)
    if channels != arguments["audio_channels"]:
        raise CheckpointError(
            f"{config}: training.channels is {channels}, but {files.weights} has "
            f"{arguments['audio_channels']}: correct the config"
        )
    rate, segment = integer_setting(config, training, "samplerate", 44100), training.get("segment")
    if not isinstance(segment, int | float) or not segment > 0:
        raise CheckpointError(f"{config}: training.segment is {segment!r:.40}: give seconds")
    heads = len(state[f"tdecoder.{arguments['depth'] - 1}.conv_tr.bias"])
    settings = {
        **arguments,
        "sources": files.sources(heads // channels),
        "sample_rate": rate,
        **files.separation(round(rate * segment)),
        "overlap_window": "mean",
        "edges": "zeros",
        "segment_seconds": round(rate * segment) / rate,
    }
    with building_from(config, files.weights.stat().st_size, "describes no model of the weights"):
        model = HTDemucs(**settings)
    files.check_options(
        {name: value for name, value in htdemucs_weights.options_of(model).items()
         if name not in htdemucs_weights.NOT_IN_WEIGHTS}
    )  # fmt: skip
    known = model.network.state_dict()
    unknown = [name for name in state if name not in known]
    files.load_into(model, {f"network.{name}": value for name, value in state.items()}, unknown)
    return Imported(model.eval(), files.remarks(htdemucs_weights.KNOWN, ()))


def export(model: SourceSeparator) -> Exported:
    """Describe an HTDemucs as MSST does."""
    assert isinstance(model, HTDemucs)
    training = {
        "channels": model.audio_channels,
        "samplerate": model.sample_rate,
        "segment": model.segment_seconds,
    }
    state = model.network.state_dict()
    return Exported(
        "htdemucs", htdemucs_weights.options_of(model), state, training=training, by_name=True
    )
