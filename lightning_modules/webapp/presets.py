"""What users want from a song: which stems, and which of them play at first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.errors import DataError
from lightning_modules.inference.selection import Selection


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
        """Raise ``DataError`` if a model with some sources cannot give the stems."""
        try:
            self.selection.names(sources)
        except DataError as error:
            raise DataError(
                f"{model}: has neither vocals nor instrumental; its stems are "
                f"{', '.join(sources)}: choose {ALL_STEMS.label!r} or another model"
            ) from error


ALL_STEMS = Preset("All stems")
PRESETS = {
    preset.label: preset
    for preset in (
        ALL_STEMS,
        Preset("Vocals and instrumental", Selection(instrumental=True)),
        Preset("Karaoke", Selection(instrumental=True), muted=("vocals",)),
    )
}
