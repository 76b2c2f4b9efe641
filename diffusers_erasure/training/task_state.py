"""State of a task that has parts: joined under their names for a checkpoint, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def joined_state(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Every tensor as `<part>.<name>`.

    Args:
        parts: Tensors by part and name; no part has a dot in its name.
    """
    return {f"{part}.{name}": value for part, held in parts.items() for name, value in held.items()}


def part_of(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part by their own names."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
