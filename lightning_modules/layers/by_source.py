"""One module per source."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn


def modules_by_source(sources: Iterable[str], build: Callable[[str], nn.Module]) -> nn.ModuleDict:
    """Build one module per source.

    Args:
        sources: Names of the sources.
        build: Called with each source, in their order.

    Returns:
        The modules by source.

    Raises:
        ValueError: PyTorch does not accept a name as that of a module.
    """
    modules = nn.ModuleDict()
    for name in sources:
        if "." in name or hasattr(modules, name):
            raise ValueError(
                f"sources has {name!r}: PyTorch does not accept it as the name of a source's "
                "network, nor any with a dot; rename the source"
            )
        modules[name] = build(name)
    return modules
