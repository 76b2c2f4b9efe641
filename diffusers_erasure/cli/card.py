"""Write the card (README.md) of an artifact, a saved encoder or a saved pipeline from its own records.

    diffusers-erasure card outputs/church-uce --repo_id me/church-uce --attach
    diffusers-erasure card outputs/church-uce --html card.html
    diffusers-erasure card --hub_cards hub_cards

The records are the manifest and the reports that are attached: what was not measured, the card says is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from diffusers_erasure.errors import ConfigError

from .console import note, say
from .flags import read_flags

CARD_NAME = "README.md"


@dataclass(frozen=True)
class CardArguments:
    """Write a card from records."""

    artifact: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = None
    """Folder of an artifact, or of an encoder or a pipeline that was saved erased."""
    repo_id: str | None = None
    """Repository that the card is for, owner/name; the snippets name it."""
    license: str | None = None
    """Identifier of the licence; that of a known base model unless given."""
    output: Path | None = None
    """File to write; README.md in the artifact's folder unless given."""
    attach: bool = False
    """Attach the card to the artifact: README.md in its folder, its sha256 in the manifest."""
    overwrite: bool = False
    """Replace a card that a person wrote or changed; one that was rendered is always replaced."""
    html: Path | None = None
    """Also write a page for a browser, with everything inside."""
    hub_cards: Path | None = None
    """Render every card below this folder anew, in place of a single one."""
    artifacts: Path | None = None
    """With --hub_cards: folder of the artifacts that ship; the package's own unless given."""


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure card`."""
    arguments = read_flags(CardArguments, argv, "diffusers-erasure card", __doc__)
    _check(arguments)
    if arguments.hub_cards is not None:
        return _renew(arguments.hub_cards, arguments.artifacts or shipped_artifacts())
    if arguments.artifact is not None:
        return _write(arguments, arguments.artifact)
    raise ConfigError(
        "neither a folder nor --hub_cards is given; expected what the card is of; give the folder of an "
        "artifact"
    )


def shipped_artifacts() -> Path:
    """Folder of the artifacts that ship in the package; it need not be there."""
    from diffusers_erasure.embedded import erasures_folder

    return erasures_folder()


def _check(arguments: CardArguments) -> None:
    single = (arguments.artifact, arguments.repo_id, arguments.license, arguments.output, arguments.html)
    given = any(value is not None for value in single) or arguments.attach or arguments.overwrite
    if arguments.hub_cards is not None and given:
        raise ConfigError(
            "--hub_cards was given together with options of a single card; expected it alone (or with "
            "--artifacts), since it renders every card of a folder; leave the rest out"
        )
    if arguments.attach and arguments.output is not None:
        raise ConfigError(
            "--attach and --output were both given; expected one of them, since an attached card is "
            "README.md in the artifact's folder; leave one out"
        )


def _write(arguments: CardArguments, folder: Path) -> int:
    from diffusers_erasure.cards import render_card

    root = folder.expanduser()
    if not root.is_dir():
        raise ConfigError(
            f"{folder} is no folder; expected that of an artifact, an encoder or a pipeline; download it "
            "first"
        )
    written = arguments.output or root / CARD_NAME
    if not arguments.attach:
        _check_not_attached(root, written)
    if not arguments.overwrite:
        _check_not_written_by_hand(written)
    text = render_card(root, repo_id=arguments.repo_id, license=arguments.license)
    if arguments.attach:
        from diffusers_erasure.artifacts.store import attach_file

        attach_file(root, CARD_NAME, text.encode())
    else:
        _write_text(written, text)
    say(f"wrote {written}")
    if arguments.html is not None:
        from diffusers_erasure.cards.page import card_page

        _write_text(arguments.html, card_page(text, root))
        say(f"wrote {arguments.html}")
    return 0


def _check_not_attached(root: Path, written: Path) -> None:
    """A card that is attached is replaced by attaching, or the manifest's sha256 would be of the old one."""
    from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, parse_manifest

    path = root / MANIFEST_NAME
    if written.resolve() != (root / CARD_NAME).resolve() or not path.is_file():
        return
    if CARD_NAME in parse_manifest(path.read_bytes(), origin=str(path)).attachments:
        raise ConfigError(
            f"{written} is attached to the artifact; expected it to be replaced together with its sha256 in "
            "the manifest; pass --attach, or another --output"
        )


def _check_not_written_by_hand(path: Path) -> None:
    from diffusers_erasure.artifacts.card_marks import is_as_rendered

    if path.exists() and not (path.is_file() and is_as_rendered(path.read_bytes())):
        raise ConfigError(
            f"{path} was written or changed by a person since it was rendered; expected a card that may be "
            "replaced, or none; keep it, or pass --overwrite"
        )


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _renew(folder: Path, artifacts: Path) -> int:
    from diffusers_erasure.cards.published import render_hub_cards

    cards = render_hub_cards(folder, artifacts)
    changed = 0
    for path, text in cards.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        _write_text(path, text)
        say(f"wrote {path}")
        changed += 1
    note(f"{len(cards)} cards, {changed} of them changed")
    return 0
