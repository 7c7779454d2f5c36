"""Which stems are written, and what is computed from the mixture and a model's estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from datamodules.errors import DataError
from datamodules.files.info import Audio

OtherMethod = Literal["minus", "add", "none"]

_VOCALS, _INSTRUMENTAL, _RESIDUAL = "vocals", "instrumental", "residual"
# Names that models give to all but the vocals, in any letter case.
_NAMES_OF_INSTRUMENTAL = (_INSTRUMENTAL, "accompaniment")


class _Pair(NamedTuple):
    """Two files that a song is divided into.

    Attributes:
        stem: Name of the first.
        source: Source of the model that it is.
        rest: Name of the second.
        own: Source of the model that the second is; None if it has none.
    """

    stem: str
    source: str
    rest: str
    own: str | None = None


@dataclass(frozen=True)
class Selection:
    """Which stems to write.

    Args:
        stems: Some of the sources; by default all.
        two_stems: Write this source, and all the rest of the song as ``no_<source>``.
        instrumental: Write ``vocals`` and ``instrumental``: the model's, and for the one that it
            does not have, the rest of the song.
        other_method: How the rest is computed. ``minus``: the mixture minus the stem, so that both
            add up to the song. ``add``: the sum of the model's other sources. ``none``: it is not
            written.
        residual: Also write the mixture minus all estimates as ``residual``.

    Raises:
        DataError: Arguments exclude each other.
    """

    stems: Sequence[str] | None = None
    two_stems: str | None = None
    instrumental: bool = False
    other_method: OtherMethod = "minus"
    residual: bool = False

    def __post_init__(self) -> None:
        given = {
            "--stems": self.stems is not None,
            "--two-stems": bool(self.two_stems),
            "--instrumental": self.instrumental,
        }
        names = [name for name, is_given in given.items() if is_given]
        if len(names) > 1:
            raise DataError(f"{' and '.join(names)}: give one of them")
        if self.other_method != "minus" and not (self.two_stems or self.instrumental):
            raise DataError(
                f"--other-method {self.other_method}: is about the rest of a song; give it with "
                "--two-stems or --instrumental"
            )

    def names(self, sources: Sequence[str]) -> list[str]:
        """Return the names of the stems of a model with the given sources.

        Raises:
            DataError: A requested name is not among them, or there is no rest to compute.
        """
        pair = self._pair(sources)
        if pair is None:
            for name in self.stems or []:
                _check_has(name, sources)
            names = [name for name in sources if self.stems is None or name in self.stems]
        elif self.other_method == "none":
            names = [pair.stem]
        else:
            names = [pair.stem, pair.rest]
            self._check_rest(pair, sources)
        return names + [_RESIDUAL] * self.residual

    def needs_mixture(self, sources: Sequence[str]) -> bool:
        """Whether ``take`` needs the mixture."""
        pair = self._pair(sources)
        is_rest = pair is not None and pair.own is None and self.other_method == "minus"
        return self.residual or is_rest

    def take(self, estimates: Audio, sources: Sequence[str], mixture: Audio | None) -> Audio:
        """Compute the stems from estimates.

        Args:
            estimates: Waveforms, shape (S, C, n).
            sources: Their names.
            mixture: The mixture, shape (C, n), if ``needs_mixture``.

        Returns:
            Waveforms in the order of ``names``, shape (stems, C, n).
        """
        parts = dict(zip(sources, estimates, strict=True))
        if pair := self._pair(sources):
            stem = parts[pair.source]
            parts[pair.stem] = stem
            if pair.own is not None:
                parts[pair.rest] = parts[pair.own]
            elif self.other_method == "minus":
                assert mixture is not None
                parts[pair.rest] = mixture - stem
            else:
                parts[pair.rest] = np.delete(estimates, sources.index(pair.source), 0).sum(0)
        if self.residual:
            assert mixture is not None
            parts[_RESIDUAL] = mixture - estimates.sum(0)
        return np.stack([parts[name] for name in self.names(sources)])

    def _pair(self, sources: Sequence[str]) -> _Pair | None:
        """Return the two files that are asked for, if there are two."""
        if self.two_stems:
            _check_has(self.two_stems, sources)
            return _Pair(self.two_stems, self.two_stems, f"no_{self.two_stems}")
        if not self.instrumental:
            return None
        own = next((name for name in sources if name.lower() in _NAMES_OF_INSTRUMENTAL), None)
        vocals = next((name for name in sources if name.lower() == _VOCALS), None)
        if vocals is not None:
            return _Pair(_VOCALS, vocals, _INSTRUMENTAL, own)
        if own is not None:
            return _Pair(_INSTRUMENTAL, own, _VOCALS)
        raise DataError(
            f"--instrumental: this model has no vocals, its stems are {', '.join(sources)}; give "
            "another model, or --two-stems with one of these"
        )

    def _check_rest(self, pair: _Pair, sources: Sequence[str]) -> None:
        if pair.own is not None:
            return
        if self.other_method == "add" and len(sources) == 1:
            raise DataError(
                f"--other-method add: this model has no stem besides {pair.source}, so that their "
                "sum would be silent; leave it out, for the mixture minus the stem"
            )
        if self.other_method == "minus" and self.residual:
            raise DataError(
                f"--residual: {pair.rest} is already all that {pair.stem} leaves of the song; "
                "leave it out, or give --other-method add"
            )


def _check_has(name: str, sources: Sequence[str]) -> None:
    if name not in sources:
        hint = " (--instrumental writes vocals and the rest)" if name == _INSTRUMENTAL else ""
        known = ", ".join(sources)
        raise DataError(f"this model has no stem {name!r}: give some of {known}{hint}")
