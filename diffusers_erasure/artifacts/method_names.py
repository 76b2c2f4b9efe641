"""Methods as their papers call them, for whoever reads a card, a table or a picture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_NAMES: Mapping[str, str] = MappingProxyType(
    {"advunlearn": "AdvUnlearn", "trce": "TRCE", "aegis": "AEGIS", "esd": "ESD", "uce": "UCE"}
)


def told(method: str) -> str:
    """A manifest's `method` for a reader.

    `a+b` is two methods; one that we do not know is told as it is.
    """
    return " + ".join(_NAMES.get(part, part) for part in method.split("+"))
