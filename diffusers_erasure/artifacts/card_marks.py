"""Comments at the end of a card, by which programs know it again; no reader sees them.

    rendered    sha256 of the card's own text, and of the reports that it tells of: whether a person wrote in
                it since, and whether it tells of reports that are no longer the artifact's
    pushed      sha256 of everything above it, put there when the card goes to the Hub: whether a person
                changed it there

Both are for honest slips, not against forgers: what binds a card to its artifact is the manifest's signature.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from .manifest import MANIFEST_NAME, Manifest

REPORT_NAMES = ("evaluation.json", "reactivation.json")
"""Documents whose figures stand in a card."""
_RENDERED = re.compile(
    rb"\n<!-- rendered by diffusers-erasure, sha256 ([0-9a-f]{64})((?:, [\w.-]+ [0-9a-f]{64})*) -->\n"
)
_PUSHED = re.compile(rb"\n<!-- pushed with diffusers-erasure, sha256 ([0-9a-f]{64}) -->\n\Z")


def mark_rendered(text: str, sources: Mapping[str, str]) -> str:
    """A card with the comment that says what it was rendered from.

    Args:
        text: The card.
        sources: sha256 of each report that it tells of; of the manifest its digest. Empty where there are
            none to compare with.
    """
    body = text.rstrip("\n") + "\n"
    told = "".join(f", {name} {digest}" for name, digest in sources.items())
    return f"{body}\n<!-- rendered by diffusers-erasure, sha256 {_sha256(body.encode())}{told} -->\n"


def is_as_rendered(card: bytes) -> bool:
    """Whether a card is, byte for byte, one that was rendered, pushed since or not."""
    mark = _RENDERED.search(card)
    if mark is None or _sha256(card[: mark.start()]) != mark[1].decode():
        return False
    return not without_push_mark(card)[mark.end() :].strip()


def outdated(card: bytes, manifest: Manifest) -> tuple[str, ...]:
    """In what a rendered card is behind its artifact, in words; empty if in nothing, or if it has no mark.

    Args:
        card: The card.
        manifest: The artifact's.
    """
    mark = _RENDERED.search(card)
    if mark is None or not mark[2]:
        return ()
    told = dict(pair.split(" ") for pair in mark[2].decode()[2:].split(", "))
    found = []
    if told.pop(MANIFEST_NAME, manifest.digest) != manifest.digest:
        found.append("it is the card of another artifact")
    for name in REPORT_NAMES:
        now = manifest.attachments.get(name)
        if told.get(name) != now:
            verb = "was attached after it" if name not in told else "is another now" if now else "is gone"
            found.append(f"{name} {verb}")
    return tuple(found)


def mark_pushed(card: bytes) -> bytes:
    """A card with the comment by which the next push knows it."""
    text = card.rstrip(b"\n") + b"\n"
    return text + f"\n<!-- pushed with diffusers-erasure, sha256 {_sha256(text)} -->\n".encode()


def is_as_pushed(card: bytes) -> bool:
    """Whether a card on the Hub is, byte for byte, one that a push left there."""
    mark = _PUSHED.search(card)
    return mark is not None and _sha256(card[: mark.start()]) == mark[1].decode()


def without_push_mark(card: bytes) -> bytes:
    """A card without the comment of an earlier push."""
    return _PUSHED.sub(b"", card)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
