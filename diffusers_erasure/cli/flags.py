"""How commands read their flags: one look of every help page, and `-` and `_` alike in what is typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

Flags = TypeVar("Flags")


def read_flags(kind: type[Flags], argv: Sequence[str], prog: str, description: str | None = None) -> Flags:
    """The flags of a command; `--help`, and what cannot be read, end the program as argparse does.

    Args:
        kind: Dataclass whose fields are the flags.
        argv: What was typed behind the command.
        prog: The command as it is typed.
        description: What help says before the flags; the docstring of `kind` unless given.
    """
    return tyro.cli(kind, args=list(argv), prog=prog, description=description, use_underscores=True)


def read_known_flags(
    kind: Any, argv: Sequence[str], prog: str, *, config: tuple[Any, ...] = (), **options: Any
) -> tuple[Any, list[str]]:
    """The flags that `kind` has, and the words that are left over.

    Args:
        kind: Dataclass or settings class whose fields are the flags.
        argv: What was typed behind the command.
        prog: The command as it is typed.
        config: Marks of `tyro.conf` that hold for every field.
        options: More for `tyro.cli`, such as a default or a description.
    """
    return tyro.cli(
        kind,
        args=list(argv),
        prog=prog,
        use_underscores=True,
        return_unknown_args=True,
        config=config,
        **options,
    )


def typed_values(argv: Sequence[str], name: str) -> list[str]:
    """The values of a flag before the flags are read, where they decide what the others mean.

    Args:
        argv: What was typed behind the command.
        name: Of the flag, with underscores and without dashes.
    """
    found: list[str] = []
    for index, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            found += [value] if equals else argv[index + 1 : index + 2]
    return found


def otherwise(what: str) -> Any:
    """What help calls the default of a flag whose empty value means something else.

    Args:
        what: What happens when the flag is not given.
    """
    return tyro.conf.arg(help_behavior_hint=f"(default: {what})")
