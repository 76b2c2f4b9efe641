"""How a folder of one-file plugins is found: its own modules, and the entry points of other packages.

Methods, attacks and judges register themselves when their module is imported; this is what imports them, and
what their registries say of a name or of settings that are wrong. What another package offers and cannot be
imported is left out with a warning, so that one broken plugin does not stop everybody's work. Needs no torch.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import pkgutil
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

from .errors import ErasureError

logger = logging.getLogger(__name__)

IMPORT_FAULTS = (
    ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, OSError,
    RuntimeError, ErasureError,
)  # fmt: skip
"""What a module of somebody else's may raise while it is imported and registers itself."""


def discover(package: str, *, group: str, what: str) -> None:
    """Import every module of a package, then every entry point of a group.

    Args:
        package: Dotted name of the folder.
        group: Entry point group of other packages.
        what: What they register, for the warning: "attack".
    """
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    for entry in entry_points(group=group):
        try:
            entry.load()
        except IMPORT_FAULTS as error:
            logger.warning(
                "the %s %r of %s cannot be imported (%s: %s) and is left out; mend, reinstall or remove it",
                what,
                entry.name,
                entry.dist.name if entry.dist else "an unknown package",
                type(error).__name__,
                error,
            )


def no_such(what: str, plural: str, name: str, known: Iterable[str]) -> str:
    """What to say about a name that does not exist: the known ones, and the nearest of them.

    Args:
        what: What was named: "attack".
        plural: Several of them: "attacks".
        name: What the user wrote.
        known: Names that exist.
    """
    names = list(known)
    near = get_close_matches(name, names, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "choose one of them"
    return f"there is no {what} {name!r}; known {plural} are {', '.join(names) or 'none'}; {advice}"


def name_taken(what: str, plural: str, name: str, first: str, second: str) -> str:
    """What to say about a name that two plugins want.

    Args:
        what: What is registered: "attack".
        plural: Several of them: "attacks".
        name: The name.
        first: Module of the one that has it.
        second: Module of the other one.
    """
    return (
        f"two {plural} are named {name!r}, in {first} and in {second}; a name belongs to one {what}; rename "
        f"or uninstall one of them"
    )


def foreign_settings(what: str, name: str, given: type, wanted: type) -> str:
    """What to say about a settings class that is not one of ours.

    Args:
        what: What is registered: "attack".
        name: Its name.
        given: The class that came with it.
        wanted: The class that it must be derived from.
    """
    return (
        f"the settings of the {what} {name!r} are a {given.__name__}; a subclass of {wanted.__name__} is "
        f"needed; derive it from {wanted.__module__}.{wanted.__qualname__}"
    )


def home_of(plugin: Callable[..., Any]) -> str:
    """Dotted name of the module that a plugin's function comes from."""
    return str(getattr(plugin, "__module__", "?"))


def summary_of(plugin: Callable[..., Any]) -> str:
    """First line of its docstring, without the full stop, for tables."""
    return (inspect.getdoc(plugin) or "").partition("\n")[0].rstrip(".")
