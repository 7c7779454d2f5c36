"""What users want from a song: which stems, and which of them play at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.errors import DataError
from lightning_modules.inference.stem_files import Selection

_VOCALS = "vocals"


@dataclass(frozen=True)
class Preset:
    """A choice of the page.

    Attributes:
        label: Its name.
        selection: Which stems to compute.
        muted: Stems that are muted at first.
    """

    label: str
    selection: Selection = field(default_factory=Selection)
    muted: Sequence[str] = ()

    def check(self, model: str, sources: Sequence[str]) -> None:
        """Raise ``DataError`` if a model with some sources does not have the stems."""
        try:
            self.selection.names(sources)
        except DataError as error:
            raise DataError(f"{model}, for {self.label}: {error}") from error


ALL_STEMS = Preset("All stems")
PRESETS = {
    preset.label: preset
    for preset in (
        ALL_STEMS,
        Preset("Vocals and instrumental", Selection(two_stems=_VOCALS)),
        Preset("Karaoke", Selection(two_stems=_VOCALS), muted=(_VOCALS,)),
    )
}
