"""Settings of fuzz tests: the same examples in each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, settings


def fuzzed(
    examples: int, hidden: Sequence[HealthCheck] = (HealthCheck.function_scoped_fixture,)
) -> Callable[[Any], Any]:
    """Decorate a test that is given ``examples``; ``hidden`` are warnings about the test itself."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=hidden,
    )
