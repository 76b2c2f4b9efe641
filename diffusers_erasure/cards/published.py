"""Cards of erased encoders that others published, from a small file of facts.

Such encoders come without a manifest and without measurements of ours, so everything that is ours is "not
measured". What their paper reports stands in a column of its own, with paper, table and budget.

`facts.json` holds what the encoders of one repository have in common, and per encoder its folder, its concept
and the reported figures. `render_hub_cards` renders every file of facts below a folder, and the artifacts
that it is given, into the files that are kept under version control.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.embedded import EMBEDDED_MODEL_ID
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.evaluation.records import NOT_MEASURED

from .bases import Base
from .loading import Place, Way, ways
from .markdown import Table, code, plain
from .measured import AttachedReports
from .render import card_context, fill_template, render_card
from .subject import NOT_RECORDED, Subject

FACTS_NAME = "facts.json"
ARTIFACT_CARDS = "embedded"
"""Folder of the cards of artifacts that ship in the package."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ReportedFigure(_Facts):
    """One figure of a paper."""

    figure: str = Field(description="what was measured, with its unit")
    value: float
    base: float | None = Field(default=None, description="the same of the un-erased model")
    conditions: str = Field(description="attack, budget, prompts and judge")
    source: str = Field(description="paper and table")


class PublishedEncoder(_Facts):
    """One encoder of a repository."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name of the card's file")
    subfolder: str
    concept: str
    kind: Literal["object", "style", "identity", "theme"]
    training: tuple[str, ...] = Field(description="sentences that hold for this encoder alone")
    reported: tuple[ReportedFigure, ...]


class PublishedFacts(_Facts):
    """What is known of the encoders of one repository."""

    repo_id: str
    licence: str = Field(description="identifier, as the repository states it")
    base: str
    method: str
    paper: str = Field(description="the paper in words")
    files: str = Field(description="which files a folder holds")
    seen: str = Field(description="when and how this was found out")
    training: tuple[str, ...] = Field(description="sentences that hold for all")
    limits: tuple[str, ...]
    encoders: tuple[PublishedEncoder, ...] = Field(min_length=1)


def read_facts(path: Path) -> PublishedFacts:
    """Read a file of facts.

    Raises:
        ConfigError: It is none.
    """
    try:
        return PublishedFacts.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(
            f"{path} holds no facts about published encoders ({error}); expected the fields of {FACTS_NAME}; "
            "correct it"
        ) from error


def render_published_cards(facts: PublishedFacts) -> dict[str, str]:
    """The card of each encoder, by its name."""
    return {encoder.name: _render(facts, encoder) for encoder in facts.encoders}


def render_hub_cards(folder: Path, artifacts: Path | None = None) -> dict[Path, str]:
    """Every card that is kept under version control, by the file that it belongs in.

    Args:
        folder: Folder of the cards; each `facts.json` below it gives the cards beside it.
        artifacts: Folder whose sub-folders are artifacts; their cards go to `embedded/<name>.md`.

    Raises:
        ConfigError: There is nothing to render.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is no folder; expected the one that keeps cards; give the project's hub_cards"
        )
    found: dict[Path, str] = {}
    for path in sorted(folder.rglob(FACTS_NAME)):
        cards = render_published_cards(read_facts(path))
        found |= {path.parent / f"{name}.md": text for name, text in cards.items()}
    for artifact in _artifacts_in(artifacts):
        place = folder / ARTIFACT_CARDS
        found[place / f"{artifact.name}.md"] = render_card(
            artifact,
            repo_id=f"{EMBEDDED_MODEL_ID}/{artifact.name}",  # what loads it, see `embedded_erasures`
            pictures_at=Path(os.path.relpath(artifact, place)).as_posix() + "/",
        )
    if not found:
        raise ConfigError(
            f"there is no {FACTS_NAME} below {folder} and no artifact in {artifacts or 'any folder'}; "
            "expected some to render cards from; give the folder hub_cards of the project"
        )
    return found


def _artifacts_in(folder: Path | None) -> Iterator[Path]:
    if folder is not None and folder.is_dir():
        yield from (path.parent for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")))


def _render(facts: PublishedFacts, encoder: PublishedEncoder) -> str:
    subject = _subject(facts, encoder)
    place = Place(facts.repo_id, subfolder=encoder.subfolder, unverified=True)
    context = card_context(
        subject,
        AttachedReports(),
        place=place,
        licence=facts.licence,
        unofficial=f"written by the diffusers-erasure project about weights of others; {plain(facts.seen)}",
        ways=(*ways(subject, place), _importing(facts, encoder)),
        reported=_reported(facts, encoder),
        trained="\n".join(f"- {plain(line)}" for line in (*facts.training, *encoder.training)),
        limits=tuple(plain(line) for line in facts.limits),
        rendered_from=f"a file of facts ({code(FACTS_NAME)})",
    )
    return fill_template(context)


def _subject(facts: PublishedFacts, encoder: PublishedEncoder) -> Subject:
    base = Base.of(facts.base)
    return Subject(
        kind="encoder",
        methods=(facts.method,),
        concepts=(encoder.concept,),
        kinds=(encoder.kind,),
        base=base,
        components={"text_encoder": "CLIPTextModel"},
        whole=True,
        xl=False,
        details=((plain(encoder.concept), encoder.kind, NOT_RECORDED, NOT_RECORDED, "-"),),
        provenance=(
            ("repository", f"[{plain(facts.repo_id)}](https://huggingface.co/{facts.repo_id})"),
            ("folder", code(encoder.subfolder)),
            ("files", plain(facts.files)),
            ("method", f"{code(facts.method)}, {plain(facts.paper)}"),
            ("base model", base.told),
            ("base revision", NOT_RECORDED),
            ("seed", NOT_RECORDED),
            ("fingerprints", "none are published; `diffusers-erasure import` computes them"),
        ),
    )


def _importing(facts: PublishedFacts, encoder: PublishedEncoder) -> Way:
    return Way(
        "As an artifact that can be verified",
        "`import` compares the encoder with the base's own, and writes what changed with hashes, "
        "fingerprints and a canary. From then on it loads like every other erasure.",
        f"diffusers-erasure import {facts.repo_id} --subfolder {encoder.subfolder} \\\n    --concept "
        f"{shlex.quote(encoder.concept)} --concept_kind {encoder.kind} --method {facts.method} \\\n    "
        f"--pretrained_model_name_or_path {facts.base} --output_dir {encoder.name}-{facts.method}",
        language="bash",
    )


def _reported(facts: PublishedFacts, encoder: PublishedEncoder) -> dict[str, object]:
    columns = (
        "figure",
        "reported by the paper",
        "base, reported",
        "attack and budget",
        "source",
        "measured by us",
    )
    rows = (
        (
            plain(one.figure),
            f"{one.value:g}",
            "not given" if one.base is None else f"{one.base:g}",
            plain(one.conditions),
            plain(one.source),
            NOT_MEASURED,
        )
        for one in encoder.reported
    )
    told = (
        f"These figures are those of {plain(facts.paper)}, under its own prompts, judges and budgets. "
        "None of them was "
        "reproduced here, the paper gives no intervals, and they do not compare with figures of other cards."
    )
    return {"told": told, "table": Table.of(columns, rows, numbers=columns[1:3])}
