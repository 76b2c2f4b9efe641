"""The base model as a card may name it, and the licence that follows from it.

A card names a base on the Hub in its metadata. A folder of somebody's machine is not one, nor is the
embedded pipeline: then the metadata leaves it out and the text says what it was.

The licence is the one that was asked for, or that of a base that is listed here, whose terms cover what is
derived from it. For every other base none is stated: it would be invented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from diffusers_erasure.errors import ConfigError

from .markdown import code, plain

EMBEDDED = "embedded"
LICENCES = {
    EMBEDDED: "apache-2.0",  # the package's; the artwork behind the weights: embedded/model/ATTRIBUTION.md
    "compvis/stable-diffusion-v1-1": "creativeml-openrail-m",
    "compvis/stable-diffusion-v1-2": "creativeml-openrail-m",
    "compvis/stable-diffusion-v1-3": "creativeml-openrail-m",
    "compvis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "stabilityai/stable-diffusion-2": "openrail++",
    "stabilityai/stable-diffusion-2-base": "openrail++",
    "stabilityai/stable-diffusion-2-1": "openrail++",
    "stabilityai/stable-diffusion-2-1-base": "openrail++",
    "stabilityai/stable-diffusion-xl-base-1.0": "openrail++",
}
"""Licence identifiers as the cards of these bases, or this package, give them."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+\-]{0,60}")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form that repositories on the Hub have, `owner/name`, whatever lies here."""
    if name.count("/") != 1 or name.startswith((".", "~", "/")):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@dataclass(frozen=True)
class Base:
    """What is known of the base model.

    Attributes:
        kind: A repository on the Hub, the embedded pipeline, a folder, or not known.
        id: Its id on the Hub, or its folder's own name; empty if it is not known.
        revision: Its commit, branch or tag, where one is known.
    """

    kind: Literal["hub", "embedded", "folder", "unknown"]
    id: str
    revision: str | None = None

    @classmethod
    def of(cls, name: str, revision: str | None = None) -> Base:
        """From the name that a manifest gives."""
        if not name:
            return cls("unknown", "")
        if name == EMBEDDED:
            return cls("embedded", name)
        if is_hub_id(name):
            return cls("hub", name, revision)
        return cls("folder", re.split(r"[/\\]", name.rstrip("/\\"))[-1], revision)

    @property
    def told(self) -> str:
        """The base in a sentence, as Markdown."""
        if self.kind == "hub":
            at = f" at revision {code(self.revision)}" if self.revision else ""
            return f"[{plain(self.id)}](https://huggingface.co/{self.id}){at}"
        if self.kind == "embedded":
            return "the small pipeline that ships inside of `diffusers-erasure` (`embedded`)"
        if self.kind == "folder":
            return f"a model that was loaded from a local folder named {code(self.id)}"
        return "a base model that was not recorded"

    @property
    def remark(self) -> str:
        """Why the metadata names no base; empty where it does."""
        if self.kind == "hub":
            return ""
        return f"it is {self.told}, which is no repository on the Hub, so the metadata names none."


def licence_of(base: Base, asked: str | None) -> tuple[str | None, str]:
    """The licence's identifier, or None, and how it was chosen, as Markdown.

    Raises:
        ConfigError: What was asked for is no identifier.
    """
    if asked is not None:
        if not _LICENCE.fullmatch(asked):
            raise ConfigError(
                f"the licence {asked!r} is no identifier; expected one of the Hub's, such as apache-2.0 or "
                "creativeml-openrail-m; correct it, or leave it out"
            )
        return asked, f"{code(asked)}, stated by whoever published this."
    found = LICENCES.get(base.id.lower()) if base.kind in ("hub", "embedded") else None
    if found is not None:
        return found, f"{code(found)}, the licence of the base model, from which these weights are derived."
    return None, (
        "**not stated.** No licence was given, and none is known for the base model. Ask whoever published "
        "this before you use it."
    )
