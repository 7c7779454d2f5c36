"""Class paths of version 0.1, which checkpoints and run configs of that time name."""

from __future__ import annotations

from typing import Any

_ARCHITECTURES = (
    "cascade", "cdae", "conv_tasnet", "crosslinked_open_unmix", "demucs", "denoising_autoencoder",
    "fnn", "hybrid_demucs", "mask_unet", "nmf", "open_unmix", "roma", "unet", "wave_unet",
)  # fmt: skip
_AUGMENTATIONS = ("codec", "dynamics", "filters", "noise", "repitch", "rooms")
_MODULES = {
    **{f"lightning_modules.{name}": f"lightning_modules.architectures.{name}"
       for name in _ARCHITECTURES},
    "lightning_modules.mmdense": "lightning_modules.architectures.mmdensenet",
    **{f"datamodules.{name}": "datamodules.augmentations" for name in _AUGMENTATIONS},
}  # fmt: skip


def current_class_path(class_path: str) -> str:
    """Translate a class path of version 0.1; other strings are returned unchanged."""
    module, _, name = class_path.rpartition(".")
    return f"{_MODULES[module]}.{name}" if module in _MODULES else class_path


def with_current_class_paths(settings: Any) -> Any:
    """Translate all class paths of version 0.1 in a config, or in a part of it."""
    if isinstance(settings, dict):
        return {key: with_current_class_paths(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [with_current_class_paths(value) for value in settings]
    return current_class_path(settings) if isinstance(settings, str) else settings
