"""Settings of an attack: one frozen model each, from which command line, JSON and budget card are made."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure.errors import ConfigError

Value = TypeVar("Value")
Precision = Literal["float32", "bfloat16"]


def setting(
    default: Value, description: str, *, symbol: str | None = None, source: str | None = None, **bounds: Any
) -> Value:
    """One field of a settings class.

    Args:
        default: Value unless given.
        description: What it means, in one line; it becomes the flag's help.
        symbol: The paper's symbol for it.
        source: Where the default comes from.
        bounds: `ge`, `le`, `gt`, `lt`: limits that pydantic checks.
    """
    full = f"{description} ({symbol} in the paper)" if symbol else description
    notes: dict[str, Any] = {"symbol": symbol, "source": source}
    return cast(Value, Field(default=default, description=full, json_schema_extra=notes, **bounds))


class AttackConfig(BaseModel):
    """What every attack is told."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seed: int = setting(0, "seed of everything that the attack draws at random", ge=0)
    batch_size: int = setting(16, "prompts that are attacked together", ge=1)
    precision: Precision = setting(
        "float32", "number format of the search's gradients; pictures are always drawn as the pipeline draws"
    )

    @property
    def judged_images(self) -> int:
        """Most pictures of one prompt that the judge is shown, with that of the plain prompt."""
        return 1

    @property
    def work(self) -> int:
        """Most steps of one prompt, as the search reports them; for progress with time left."""
        return 1

    def scaled(self, factor: int) -> Self:
        """The same attack with `factor` times its budget; the settings themselves where it has none.

        Args:
            factor: 1, 2, 4, ...
        """
        del factor
        return self

    def budget(self) -> dict[str, object]:
        """The budget card: every setting, and the most pictures and steps of one prompt."""
        return {**self.model_dump(mode="json"), "judged_images": self.judged_images, "work": self.work}

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Check values from JSON or a caller.

        Raises:
            ConfigError: A key is unknown or has a value that it cannot have.
        """
        known = tuple(cls.model_fields)
        unknown = [key for key in values if key not in known]
        if unknown:
            near = get_close_matches(unknown[0].lstrip("-").replace("-", "_"), known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise ConfigError(
                f"there is no setting {unknown[0]!r}; known settings are {', '.join(sorted(known))}; {advice}"
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}, found {fault['input']!r}"
                for fault in error.errors()
            )
            raise ConfigError(
                f"settings that cannot be used: {faults}; see the attack's --help for what each one takes"
            ) from error
