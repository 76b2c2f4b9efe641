"""A card is known again: whether a person wrote in it, and whether it tells of reports that changed since."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_erasure.artifacts.card_marks import (
    is_as_pushed,
    is_as_rendered,
    mark_pushed,
    outdated,
    without_push_mark,
)
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, Manifest, parse_manifest
from diffusers_erasure.artifacts.publishing import plan_artifact
from diffusers_erasure.artifacts.push_plan import PushOptions
from diffusers_erasure.cards import render_card
from diffusers_erasure.cli.main import main
from diffusers_erasure.errors import PublishError
from tests.unit.cards.reports import evaluation, reactivation

REPO = "someone/church-uce"


def test_a_card_is_known_as_rendered_until_somebody_writes_in_it(evaluated: Path) -> None:
    card = render_card(evaluated).encode()
    assert is_as_rendered(card)
    assert is_as_rendered(mark_pushed(card))
    assert without_push_mark(mark_pushed(card)) == card
    assert is_as_pushed(mark_pushed(card))
    assert not is_as_pushed(card)
    for changed in (
        card.replace(b"church", b"chapel", 1),
        card + b"More of mine.\n",
        mark_pushed(card + b"More of mine.\n"),
        b"# my own\n",
        b"",
    ):
        assert not is_as_rendered(changed)


def test_a_card_is_out_of_date_once_a_report_changes(evaluated: Path, attach: Callable[..., Path]) -> None:
    digest, card = _manifest(evaluated).digest, render_card(evaluated).encode()
    assert outdated(card, _manifest(evaluated)) == ()
    attach(evaluated, "notes.json", b"{}")
    assert outdated(card, _manifest(evaluated)) == ()
    attach(evaluated, "evaluation.json", evaluation(digest).to_json().encode() + b"\n")
    assert outdated(card, _manifest(evaluated)) == ("evaluation.json is another now",)
    assert outdated(mark_pushed(card), _manifest(evaluated)) == ("evaluation.json is another now",)
    assert outdated(render_card(evaluated).encode(), _manifest(evaluated)) == ()
    without = _manifest(evaluated).model_copy(update={"attachments": {}})
    assert outdated(card, without) == ("evaluation.json is gone", "reactivation.json is gone")
    assert outdated(b"# my own\n", _manifest(evaluated)) == ()


def test_a_report_that_came_after_the_card_puts_it_out_of_date(
    folder: Path, attach: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    card = render_card(folder).encode()
    attach(folder, "README.md", card)
    with caplog.at_level(logging.WARNING):
        attach(folder, "grid.png", b"\x89PNG")
        assert not caplog.text
        attach(folder, "reactivation.json", reactivation(_manifest(folder).digest).to_json().encode())
    assert "reactivation.json was attached after it" in caplog.text
    assert f"card {folder} --attach" in caplog.text
    assert outdated(card, _manifest(folder)) == ("reactivation.json was attached after it",)


@pytest.mark.parametrize("attached", [True, False])
def test_a_card_that_is_out_of_date_is_not_pushed(
    evaluated: Path, attach: Callable[..., Path], attached: bool
) -> None:
    command = ["card", str(evaluated), "--repo_id", REPO, *(["--attach"] if attached else [])]
    assert main(command) == 0
    plan_artifact(evaluated, REPO, PushOptions())
    digest = _manifest(evaluated).digest
    attach(evaluated, "evaluation.json", evaluation(digest).to_json().encode() + b"\n")
    with pytest.raises(PublishError, match="is another now") as caught:
        plan_artifact(evaluated, REPO, PushOptions())
    assert ("--attach" in str(caught.value)) is attached
    assert main(command) == 0
    plan_artifact(evaluated, REPO, PushOptions())


def test_the_words_of_a_person_are_pushed_whatever_they_tell(evaluated: Path) -> None:
    (evaluated / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    assert plan_artifact(evaluated, REPO, PushOptions()).card == "README.md of the folder"


def test_verify_notes_a_card_that_is_out_of_date(
    evaluated: Path, attach: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", str(evaluated), "--attach"]) == 0
    assert main(["verify", str(evaluated)]) == 0
    assert "out of date" not in capsys.readouterr().out
    digest = _manifest(evaluated).digest
    attach(evaluated, "evaluation.json", evaluation(digest).to_json().encode() + b"\n")
    assert main(["verify", str(evaluated)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "README.md note" in said
    assert "out of date: evaluation.json is another now" in said


@pytest.mark.parametrize("attached", [True, False])
def test_a_card_that_a_person_changed_is_not_written_over(
    evaluated: Path, attach: Callable[..., Path], attached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["card", str(evaluated), *(["--attach"] if attached else [])]
    assert main(command) == 0
    assert main(command) == 0
    path = evaluated / "README.md"
    edited = path.read_bytes().replace(b"church", b"chapel", 1)
    if attached:
        attach(evaluated, "README.md", edited)
    else:
        path.write_bytes(edited)
    capsys.readouterr()
    assert main(command) == 2
    assert "written or changed by a person" in capsys.readouterr().err
    assert path.read_bytes() == edited
    assert main([*command, "--overwrite"]) == 0
    assert is_as_rendered(path.read_bytes())


def _manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    return parse_manifest(path.read_bytes(), origin=str(path))
