"""Functions that a user plugs in by name: `package.module:function`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from typing import Any

from diffusers_erasure.errors import ConfigError


def load_function(name: str, *, what: str, takes: str, empty: str) -> Callable[..., Any]:
    """The function that a name stands for.

    Args:
        name: `package.module:function`.
        what: What it is for, as an error speaks of it: "retain rule".
        takes: What it is a function of: "prompts and concepts".
        empty: What no name stands for: "the built-in rule".

    Raises:
        ConfigError: The name has another form, or there is no such module, attribute or function.
    """
    module, _, attribute = name.partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", name):
        raise ConfigError(
            f"the {what} {name!r} is no name of a function; expected 'package.module:function'; "
            f"write it so, or leave it empty for {empty}"
        )
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(
            f"the module {module!r} of the {what} {name!r} cannot be imported ({error}); expected a "
            f"module on Python's path; install it, or put its folder on PYTHONPATH"
        ) from error
    if not callable(found) or isinstance(found, type):
        fault = "does not exist in its module" if found is None else f"is of type {type(found).__name__!r}"
        raise ConfigError(
            f"the {what} {name!r} {fault}; expected a function of {takes}; correct the part after the colon"
        )
    function: Callable[..., Any] = found
    return function


def name_of(function: object) -> str:
    """How an error names a user's function."""
    return str(getattr(function, "__qualname__", type(function).__name__))
