"""What `attack --help` says of the attacks, and of the settings of the one that was named."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from . import console
from .flags import typed_values


def show_attacks(argv: Sequence[str], *, besides: Collection[str]) -> None:
    """Print the attacks and, for the one that `--attack` names, its settings under both budgets.

    Args:
        argv: What was typed behind the command.
        besides: Flags of the command itself, which decide for every attack.

    Raises:
        ConfigError: There is no such attack.
    """
    from diffusers_erasure.attacks import attacks

    rows = [(spec.name, spec.access, spec.summary) for spec in attacks().values()]
    console.show_table(("attack", "access", "what it does"), rows, title="attacks:")
    named = [name for name in typed_values(argv, "attack") if not name.startswith("-")]
    if not named:
        console.say("\n`diffusers-erasure attack --attack NAME --help` lists the settings of an attack.")
        return
    _show_settings(named[-1], besides)


def _show_settings(name: str, besides: Collection[str]) -> None:
    from diffusers_erasure.attacks import attack_named
    from diffusers_erasure.evaluation.attack_settings import preset_config

    spec = attack_named(name)
    quick, published = (preset_config(spec, budget) for budget in ("quick", "published"))
    rows = [
        (f"--{field}", _told(getattr(quick, field)), _told(getattr(published, field)), info.description or "")
        for field, info in spec.config.model_fields.items()
        if field not in besides
    ]
    if rows:
        title = f"\nsettings of {spec.name}, unless given, by --budget (quick unless given):"
        console.show_table(("flag", "quick", "published", "meaning"), rows, title=title)
    else:
        console.say(f"\n{spec.name} has no settings but those above.")


def _told(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
