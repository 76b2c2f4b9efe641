"""Settings: one frozen model each, from which command line, JSON, checks and the table in a card are made.

A field says what it means; where it is a symbol of a paper, which one, and where its default comes from.
Unknown keys are errors that list the known ones. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure.errors import ConfigError

Value = TypeVar("Value")


def setting(
    default: Value,
    description: str,
    *,
    symbol: str | None = None,
    source: str | None = None,
    recorded: bool = True,
    **bounds: Any,
) -> Value:
    """One field of a settings class.

    Args:
        default: Value unless given.
        description: What it means, in one line; it becomes the flag's help and an artifact's record.
        symbol: The paper's symbol for it.
        source: Where the default comes from.
        recorded: Whether an artifact records it; where files lie is nobody's business.
        bounds: `ge`, `le`, `gt`, `lt`, `min_length`: limits that pydantic checks.
    """
    notes: dict[str, Any] = {"symbol": symbol, "source": source, "recorded": recorded}
    full = f"{description} ({symbol} in the paper)" if symbol else description
    return cast(Value, Field(default=default, description=full, json_schema_extra=notes, **bounds))


class Settings(BaseModel):
    """Base of every settings class: frozen, with no unknown keys, infinities or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check values from JSON or a caller.

        Raises:
            ConfigError: A key is unknown, missing, or has a value that it cannot have.
        """
        known = tuple(cls.model_fields)
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ConfigError(unknown_setting(unknown[0], known))
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}, found {fault['input']!r}"
                for fault in error.errors()
            )
            raise ConfigError(
                f"settings that cannot be used: {faults}; see the command's --help for what each one takes"
            ) from error


def unknown_setting(name: str, known: tuple[str, ...]) -> str:
    """What to say about a setting that does not exist: name it, list the known ones, propose the nearest."""
    near = get_close_matches(name.lstrip("-").replace("-", "_"), known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "leave it out"
    return f"there is no setting {name!r}; known settings are {', '.join(sorted(known))}; {advice}"
