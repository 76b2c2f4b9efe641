"""From records to the text of a card: everything that the template asks for, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from diffusers_erasure.artifacts.card_marks import mark_rendered
from diffusers_erasure.artifacts.jsontext import parse_json
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, parse_manifest
from diffusers_erasure.artifacts.method_names import told
from diffusers_erasure.artifacts.weight_files import variant_of
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError, ConfigError
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.records import NOT_MEASURED, Verdict
from diffusers_erasure.evaluation.report import EvaluationReport

from . import attack_part, evaluation_part, limits, reactivation_part
from .bases import is_hub_id, licence_of
from .front_matter import front_matter
from .loading import Place, ways
from .markdown import Table, code, listed, plain, short_hash
from .measured import EVALUATION_NAME, REACTIVATION_NAME, AttachedReports, read_measured
from .papers import cited
from .pictures import pictures
from .subject import Subject, artifact_subject, encoder_subject, pipeline_subject

TEMPLATE = "card.md"
ENCODER_CONFIG, PIPELINE_INDEX = "config.json", "model_index.json"
SHOWN_CONCEPTS = 5
UNDO = "Whoever holds the base weights can undo it."


def render_card(
    folder: Path,
    *,
    repo_id: str | None = None,
    license: str | None = None,  # noqa: A002
    pictures_at: str = "",
) -> str:
    """The text of `README.md` for an artifact, a saved encoder or a saved pipeline.

    Only the manifest and what it names as attached are read: a document whose bytes are not those that were
    attached is refused, and so is a report about another artifact.

    Args:
        folder: Folder of an artifact, or of an encoder or a pipeline that was saved erased.
        repo_id: Repository that the card is for, `owner/name`; a placeholder stands in the snippets without.
        license: Identifier of the licence; that of a known base unless given.
        pictures_at: What stands before an artifact's pictures: their folder with "/", as seen from the card.

    Raises:
        ArtifactNotFoundError: The folder holds none of them.
        ArtifactError: One of the kinds below it says what is wrong with the files.
        EvaluationError: An attached report contradicts itself.
    """
    root = Path(folder)
    if (root / MANIFEST_NAME).is_file():
        manifest = parse_manifest((root / MANIFEST_NAME).read_bytes(), origin=str(root / MANIFEST_NAME))
        return fill_template(
            card_context(
                artifact_subject(manifest),
                read_measured(root, manifest),
                place=_place(repo_id),
                licence=license,
                pictures_at=pictures_at,
            )
        )
    if (root / PIPELINE_INDEX).is_file():
        index = _json(root / PIPELINE_INDEX)
        weights = (path.name for path in root.glob("*/*.safetensors"))
        return render_pipeline_card(
            index, repo_id=repo_id, license=license, variant=variant_of(weights) or ""
        )
    if (root / ENCODER_CONFIG).is_file():
        return render_encoder_card(_json(root / ENCODER_CONFIG), repo_id=repo_id, license=license)
    raise ArtifactNotFoundError(
        f"{root} holds no {MANIFEST_NAME}, no {PIPELINE_INDEX} and no {ENCODER_CONFIG}; expected the folder "
        "of an artifact, or of an encoder or a pipeline that was saved erased; give its folder"
    )


def render_encoder_card(
    config: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    license: str | None = None,  # noqa: A002
    subfolder: str = "",
) -> str:
    """The card of a whole text encoder, from its `config.json` with the ``erasure`` entry.

    Args:
        config: The parsed `config.json`.
        repo_id: Repository that the card is for.
        license: Identifier of the licence; that of a known base unless given.
        subfolder: Folder of the encoder inside the repository.

    Raises:
        ArtifactFormatError: The config has no readable entry.
    """
    return _render(
        encoder_subject(config), AttachedReports(), place=_place(repo_id, subfolder), licence=license
    )


def render_pipeline_card(
    index: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    license: str | None = None,  # noqa: A002
    variant: str = "",
) -> str:
    """The card of a whole pipeline, from its `model_index.json` with the ``_erasure`` entry.

    Args:
        index: The parsed `model_index.json`.
        repo_id: Repository that the card is for.
        license: Identifier of the licence; that of a known base unless given.
        variant: What its weights were saved as, `fp16` of `model.fp16.safetensors`; loading has to name it.

    Raises:
        ArtifactFormatError: The index has no readable entry.
    """
    place = replace(_place(repo_id), variant=variant)
    return _render(pipeline_subject(index), AttachedReports(), place=place, licence=license)


def fill_template(context: Mapping[str, Any]) -> str:
    """The card from everything that the template asks for, with its mark; a missing name is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent, encoding="utf-8"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, whose values are escaped where they are read
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    text = environment.get_template(TEMPLATE).render(context)
    lines = [line.rstrip() for line in text.splitlines()]
    kept = [line for index, line in enumerate(lines) if line or (index and lines[index - 1])]
    return mark_rendered("\n".join(kept).strip(), context["sources"])


def card_context(
    subject: Subject, measured: AttachedReports, *, place: Place, licence: str | None, **extra: Any
) -> dict[str, Any]:
    """Everything that the template asks for.

    Args:
        subject: What the card is about.
        measured: What was measured.
        place: Repository that the card is for.
        licence: Licence that was asked for.
        extra: Entries that replace these.
    """
    chosen, licence_told = licence_of(subject.base, licence)
    report = measured.report
    attacks = () if report is None or isinstance(report.attacks, str) else report.attacks.attacks
    papers, without = cited(subject.methods, [one.name for one in attacks])
    context = {
        "front_matter": front_matter(subject, licence=chosen, repo_id=place.repo_id, report=report).rstrip(
            "\n"
        ),
        "title": f"{_names(subject)}, erased with {listed(map(told, subject.methods))}",
        "summary": _summary(subject, report),
        "licence": licence_told,
        "base_remark": subject.base.remark,
        "unofficial": "",
        "ways": ways(subject, place),
        "bypass": _bypass(subject),
        "pictures": pictures(measured.pictures, _names(subject)),
        "pictures_at": "",
        "details": Table.of(
            ("concept", "kind", "synonyms", "anchor, where the method maps to one", "members"),
            subject.details,
        )
        if subject.details
        else "",
        "concepts": listed(subject.concepts) or "The concepts",
        "evaluation": _evaluation(report),
        "attacks": _attacks(report),
        "reactivation": _reactivation(measured),
        "reported": None,
        "tested": limits.tested_sentence(report, measured.reactivation),
        "threats": limits.threat_table(report, measured.reactivation, sealed=_sealed(subject, place)),
        "limits": _limits(subject, measured),
        "trained": "",
        "settings": Table.of(("setting", "value", "meaning"), subject.settings) if subject.settings else "",
        "provenance": Table.of(("", ""), subject.provenance),
        "parts": _parts(subject),
        "papers": papers,
        "without_paper": " and ".join(code(name) for name in without),
        "rendered_from": _sources(subject, measured),
        "sources": measured.sources,
    }
    return {**context, **extra}


def _render(subject: Subject, measured: AttachedReports, *, place: Place, licence: str | None) -> str:
    return fill_template(card_context(subject, measured, place=place, licence=licence))


def _place(repo_id: str | None, subfolder: str = "") -> Place:
    if repo_id is None:
        return Place(subfolder=subfolder)
    if not is_hub_id(repo_id):
        raise ConfigError(
            f"{repo_id!r} is no repository id; expected owner/name, as on the Hub; correct it, or leave "
            "it out"
        )
    return Place(repo_id, subfolder=subfolder)


def _json(path: Path) -> dict[str, Any]:
    content = parse_json(path.read_bytes(), origin=str(path), max_bytes=MAX_MANIFEST_BYTES)
    if not isinstance(content, dict):
        raise ArtifactFormatError(
            f"{path} holds {json.dumps(content)[:80]}; expected a JSON object; save or download it again"
        )
    return content


def _names(subject: Subject) -> str:
    """The concepts as Markdown; many are cut."""
    shown = listed(subject.concepts[:SHOWN_CONCEPTS]) or "unnamed concepts"
    more = len(subject.concepts) - SHOWN_CONCEPTS
    return f"{shown} and {more} more" if more > 0 else shown


def _summary(subject: Subject, report: EvaluationReport | None) -> str:
    what = {
        "artifact": "a change of a base model's weights (an erasure)",
        "encoder": "a whole text encoder, erased",
        "pipeline": "a whole pipeline, erased",
    }[subject.kind]
    own = (
        None if report is None else next((row for row in report.rows if row.purpose is Purpose.ERASED), None)
    )
    if report is None:
        effect, measured = "is meant to reduce", "Nothing of it was measured yet."
    elif report.verdict is not Verdict.MEASURED or own is None:
        effect, measured = "is meant to reduce", f"Its evaluation says **{report.verdict.value}**; see below."
    else:
        effect = "reduces" if own.erased.rate < own.base.rate else "is meant to reduce, and did not reduce,"
        measured = (
            f"Measured under the prompts and seeds below, pictures that show it went from {own.base} to "
            f"{own.erased} ({plain(own.name)})."
        )
    methods = listed(map(told, subject.methods))
    return (
        f"This is {what}. It {effect} how often {subject.base.told} draws **{_names(subject)}**. The method "
        f"{methods} changed its {subject.edited}. {measured} Other prompts, attacks and budgets than those "
        f"below may bring the concept back. {UNDO}"
    )


def _bypass(subject: Subject) -> str:
    if subject.text_components and "unet" not in subject.components:
        return (
            "The erasure lives in the text encoder alone. Text states that come from elsewhere "
            "(`prompt_embeds`), and what an initial picture already shows, go past it."
        )
    return ""


def _evaluation(report: EvaluationReport | None) -> dict[str, Any]:
    if report is None:
        names = (
            "how",
            "rows",
            "fidelity",
            "fidelity_note",
            "judges",
            "controls",
            "errors",
            "rules",
            "missing",
        )
        return {
            **dict.fromkeys(names, ""),
            "verdict": "Verdict: **not measured**. No evaluation is attached.",
        }
    fidelity = None if isinstance(report.fidelity, str) else report.fidelity
    why = report.not_measured.get("fidelity", "")
    note = (
        f"Not measured{f': {plain(why)}' if why else ''}."
        if fidelity is None
        else f"Features of {code(fidelity.extractor)}, sha256 {short_hash(fidelity.sha256)}. Agreement "
        "1: the base's own picture. KID 0: the base's own distribution. Beside each stands what the base "
        "reaches against itself."
    )
    tried = {} if isinstance(report.attacks, str) else report.attacks.not_measured
    missing = {**report.not_measured, **tried}
    missing.pop("fidelity", None)
    return {
        "verdict": f"Verdict: **{report.verdict.value}**: {evaluation_part.VERDICTS[report.verdict]}.",
        "how": evaluation_part.how(report),
        "rows": evaluation_part.rows_table(report),
        "fidelity": "" if fidelity is None else evaluation_part.fidelity_table(fidelity),
        "fidelity_note": note,
        "judges": evaluation_part.judges_table(report),
        "controls": evaluation_part.controls(report),
        "errors": evaluation_part.errors_table(report) or "",
        "rules": evaluation_part.rules_table(report) or "",
        "missing": tuple((plain(name), plain(reason)) for name, reason in missing.items()),
    }


def _attacks(report: EvaluationReport | None) -> dict[str, Any] | None:
    if report is None or isinstance(report.attacks, str):
        return None
    section = report.attacks
    return {
        "headline": attack_part.headline(section),
        "rates": attack_part.rates_table(section),
        "luck": attack_part.luck_table(section) or "",
        "budget": attack_part.budget_table(section),
        "checks": attack_part.checks_table(section),
        "flags": attack_part.flags(section),
    }


def _reactivation(measured: AttachedReports) -> dict[str, Any]:
    found = measured.reactivation
    told = (
        "What somebody can do who holds more than a prompt. Nothing of it was tried on the weights: "
        f'"{NOT_MEASURED}" is no good news.'
        if found is None
        else reactivation_part.told(found)
    )
    return {"told": told, "table": reactivation_part.reactivation_table(found, measured.report)}


def _limits(subject: Subject, measured: AttachedReports) -> tuple[str, ...]:
    known = [f"{UNDO} An erasure is a mitigation, not access control."]
    if measured.report is not None:
        known.append(plain(measured.report.scope))
    if measured.reactivation is not None:
        known.append(plain(measured.reactivation.scope))
    if subject.base.kind == "embedded":
        known.append("The embedded pipeline is small. Its figures do not predict those of a larger model.")
    return tuple(dict.fromkeys(known))


def _sealed(subject: Subject, place: Place) -> str:
    """What would notice an altered file."""
    if place.unverified:
        return "the repository holds nothing to compare its files with"
    if subject.kind == "artifact":
        return "the manifest holds the sha256 of every file, and `diffusers-erasure verify` compares them"
    return "a fingerprint of the erased weights lies in the repository, and diffusers-erasure compares it"


def _parts(subject: Subject) -> Table | str:
    if not subject.parts:
        return ""
    columns = (
        "component",
        "stored as",
        "edited weights",
        "size",
        "fingerprint of the base",
        "erased fingerprint",
    )
    return Table.of(columns, subject.parts, numbers=("edited weights",))


def _sources(subject: Subject, measured: AttachedReports) -> str:
    own = {"artifact": MANIFEST_NAME, "encoder": ENCODER_CONFIG, "pipeline": PIPELINE_INDEX}[subject.kind]
    names = [
        own,
        *([EVALUATION_NAME] if measured.report else []),
        *([REACTIVATION_NAME] if measured.reactivation else []),
    ]
    return ", ".join(code(name) for name in names)
