"""What `attack --help` says of the attacks, and of the settings of the one that was named."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from . import console


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
    named = _named(argv)
    if named is None:
        console.say("\n`diffusers-erasure attack --attack NAME --help` lists the settings of an attack.")
        return
    _show_settings(named, besides)


def _named(argv: Sequence[str]) -> str | None:
    """The attack that was typed, the last one if there are several."""
    found = None
    for index, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag == "--attack":
            found = value if equals else next(iter(argv[index + 1 : index + 2]), None)
    return None if found is None or found.startswith("-") else found


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
