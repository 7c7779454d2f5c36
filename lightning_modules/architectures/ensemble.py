"""Ensemble: several separators whose estimates are combined."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast, get_args

import torch
from torch import Tensor, nn

from datamodules.batches import Batch
from lightning_modules.base.known_targets import mean_of_known
from lightning_modules.base.separator import SourceSeparator
from lightning_modules.checkpoints.loading import load_separator
from lightning_modules.inference.ensemble import Estimate, combine_streams
from lightning_modules.inference.options import Combination
from lightning_modules.inference.separation import (
    SeparationSettings,
    apply,
    separate_stream,
    shared_progress,
)
from lightning_modules.inference.streams import StreamStore


class Ensemble(SourceSeparator):
    """Several separators as one; the estimates of each source are combined.

    Each member separates the song with its own settings: chunks, overlap, shifts and so on. The
    members may differ in architecture, sample rate, channels and sources. A source is combined
    from the members that have it.

    Args:
        members: Checkpoints, exported folders or configs of ensembles, or loaded separators.
        weights: Weights of the members: a list with one number per member, or such lists by
            source. 0 leaves a member out; the other weights are those of the mean. By default 1.
        combination: ``mean``, ``median``, ``min``, ``max``, ``median_spectrum``,
            ``min_spectrum`` or ``max_spectrum``; see ``inference.ensemble.combine_streams``.
        settings: Settings of separation that replace those of all members, by the names of
            ``SeparationSettings``; ``postprocessing`` is that of the combined estimates.
        sources: Sources to estimate; by default all that the members have.
        sample_rate: Sample rate, Hz; by default the highest of the members'.
        audio_channels: Channels; by default the largest number of the members'.
        segment_seconds: Longest part of a batch of crops, seconds; songs do not depend on it.

    Raises:
        CheckpointError: A member cannot be loaded.
        ValueError: An argument is invalid, or no member has a source.
    """

    tiny: ClassVar[Mapping[str, Any]] = {}
    loads_weights = True
    fixed_arguments = frozenset({"members"})  # not plain data if they are loaded separators

    def __init__(
        self,
        members: list[Any],
        weights: list[float] | dict[str, list[float]] | None = None,
        combination: Combination = "mean",
        settings: dict[str, Any] | None = None,
        sources: list[str] | None = None,
        sample_rate: int | None = None,
        audio_channels: int | None = None,
        segment_seconds: float | None = None,
    ) -> None:
        if combination not in get_args(Combination):
            known = ", ".join(get_args(Combination))
            raise ValueError(f"combination is {combination!r}: give one of {known}")
        loaded = _load(members)
        given = _check_settings(settings or {})
        super().__init__(
            sources or list(dict.fromkeys(name for member in loaded for name in member.sources)),
            sample_rate or max(member.sample_rate for member in loaded),
            audio_channels or max(member.audio_channels for member in loaded),
            segment_seconds or max(member.segment_seconds for member in loaded),
            postprocessing=given.get("postprocessing"),
        )
        self.members, self.combination = nn.ModuleList(loaded), combination
        own = SeparationSettings(members=tuple(member.separation_settings for member in loaded))
        self.separation_settings = own.changed(**given)
        self._used, self._estimates = _choose(loaded, self.sources, weights, combination)

    def estimate_stream(
        self,
        blocks: Iterable[Tensor],
        sample_rate: int,
        settings: SeparationSettings,
        progress: Callable[[int], None],
    ) -> Iterator[Tensor]:
        """Separate a mixture with all members, and combine their estimates.

        Each member reads the mixture at its own pace, from a temporary file. For arguments and
        results see ``separate_stream``.
        """
        shared = replace(settings, postprocessing=None)
        of_members = settings.members or (shared,) * len(self.members)
        report = shared_progress(progress, len(self._used))
        with tempfile.TemporaryFile() as file:
            store = StreamStore(file)
            remaining = store.write_through(blocks)
            streams = [
                separate_stream(
                    self._member(number),
                    store.read(remaining),
                    sample_rate,
                    of_members[number],
                    report,
                )
                for number in self._used
            ]
            yield from combine_streams(streams, self._estimates, self.combination)

    def forward(self, mixture: Tensor) -> Tensor:
        """Combine the members' estimates of mixtures (B, C, T), each as one chunk."""
        parts = [apply(self._member(number), mixture, self.sample_rate) for number in self._used]
        combined = [
            torch.cat(
                [*combine_streams([iter([p]) for p in song], self._estimates, self.combination)], -1
            )
            for song in zip(*parts, strict=True)
        ]
        return torch.stack(combined)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean absolute error, for ``validate``."""
        distances = (self(batch.mixture) - batch.targets).abs().mean((2, 3))  # (B, S)
        return {"loss": mean_of_known(distances, batch.known).mean()}

    def _member(self, number: int) -> SourceSeparator:
        return cast(SourceSeparator, self.members[number])


def _load(members: Sequence[Any]) -> list[SourceSeparator]:
    if not isinstance(members, list | tuple) or not members:
        raise ValueError(f"members is {members!r}: give a list of checkpoints")
    return [
        member if isinstance(member, SourceSeparator) else load_separator(member)
        for member in members
    ]


def _check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    known = SeparationSettings.__dataclass_fields__.keys() - {"members"}
    for name in settings:
        if name not in known:
            raise ValueError(f"settings has no {name!r}: give some of {', '.join(sorted(known))}")
    return settings


def _choose(
    members: Sequence[SourceSeparator],
    sources: Sequence[str],
    weights: Sequence[float] | Mapping[str, Sequence[float]] | None,
    combination: str,
) -> tuple[list[int], list[list[Estimate]]]:
    """Choose the members whose estimates count.

    Returns:
        Their numbers, and for each source its estimates.
    """
    known = {name for member in members for name in member.sources}
    by_source = weights if isinstance(weights, Mapping) else dict.fromkeys(sources, weights)
    for name in [*sources, *by_source]:
        if name not in known:
            raise ValueError(
                f"no member has the source {name!r}: they have {', '.join(sorted(known))}"
            )
    table = {name: _row(name, by_source.get(name), len(members), combination) for name in sources}
    has = [
        [name in member.sources and table[name][m] > 0 for name in sources]
        for m, member in enumerate(members)
    ]
    used = [number for number, row in enumerate(has) if any(row)]
    firsts = itertools.accumulate((len(members[number].sources) for number in used), initial=0)
    first = dict(zip(used, firsts, strict=False))
    estimates = [
        [
            Estimate(first[number] + members[number].sources.index(name), table[name][number])
            for number in used
            if has[number][position]
        ]
        for position, name in enumerate(sources)
    ]
    for name, of_source in zip(sources, estimates, strict=True):
        if not of_source:
            raise ValueError(
                f"weights of {name} are 0 for all members that have it: give one of them more"
            )
    return used, estimates


def _row(name: str, given: Any, number: int, combination: str) -> list[float]:
    """Check the weights of a source, one for each member."""
    if given is None:
        return [1.0] * number
    valid = isinstance(given, list | tuple) and len(given) == number
    if not valid or not all(isinstance(w, int | float) and 0 <= w < math.inf for w in given):
        raise ValueError(
            f"weights of {name} are {given!r}: give a list of {number} numbers from 0 on, one for "
            "each member"
        )
    if combination != "mean" and not {*given} <= {0, 1}:
        raise ValueError(
            f"weights of {name} are {given!r} with combination {combination!r}: give 1 for the "
            "members to use and 0 for others, or the combination mean"
        )
    return [float(weight) for weight in given]
