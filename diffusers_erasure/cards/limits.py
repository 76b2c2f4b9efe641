"""The threat model: who might bring the concept back, by which means, and whether that was tested here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from diffusers_erasure.evaluation.reactivation_report import ReactivationReport
from diffusers_erasure.evaluation.records import VERIFIED
from diffusers_erasure.evaluation.report import EvaluationReport, Verdict

from .markdown import Table, code, plain

EMBEDDING_ATTACKS = {"concept_inversion", "soft_prompt"}
RICHER_INPUTS = ("concept-inversion", "img2img", "inpainting", "foreign-embeddings", "clip-skip")
WEIGHTS_IN_HAND = ("lora", "full", "merge", "int8")
NOT_TESTED = "not tested"


@dataclass(frozen=True)
class Evidence:
    """What was tried, by who could have tried it."""

    plain: bool
    prompts: tuple[str, ...]
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    doubtful: tuple[str, ...]

    @classmethod
    def of(cls, report: EvaluationReport | None, found: ReactivationReport | None) -> Evidence:
        """From what lies beside an artifact."""
        names = (
            ()
            if report is None or isinstance(report.attacks, str)
            else tuple(a.name for a in report.attacks.attacks)
        )
        items = () if found is None else tuple(row.key for row in found.rows)
        embedded = [name for name in names if name in EMBEDDING_ATTACKS]
        doubts = [
            f"{what} says {verdict.value}"
            for what, verdict in (
                ("the evaluation", None if report is None else report.verdict),
                ("the reactivation table", None if found is None else found.verdict),
            )
            if verdict is not None and verdict is not Verdict.MEASURED
        ]
        return cls(
            plain=report is not None,
            prompts=tuple(name for name in names if name not in EMBEDDING_ATTACKS),
            inputs=(*embedded, *_of(items, RICHER_INPUTS)),
            weights=_of(items, WEIGHTS_IN_HAND),
            doubtful=tuple(doubts),
        )


def _of(items: Collection[str], families: Collection[str]) -> tuple[str, ...]:
    return tuple(item for item in items if item.startswith(tuple(families)))


def threat_table(report: EvaluationReport | None, found: ReactivationReport | None, *, sealed: str) -> Table:
    """One row for each kind of person, A to G, with what was tested.

    Args:
        report: The evaluation.
        found: What brings the concept back.
        sealed: What would notice an altered file, as Markdown.
    """
    seen = Evidence.of(report, found)
    rows = (
        (
            "A",
            "someone who means no harm and uses diffusers as usual",
            "loading the wrong files, an old library, a later edit of the weights",
            _state(report),
        ),
        (
            "B",
            "someone who may only type a prompt",
            "other words, searched tokens, other seeds",
            _prompts(seen),
        ),
        (
            "C",
            "someone who may also give embeddings, pictures or masks",
            "learned words, text states of the base, img2img, inpainting",
            _tested(seen.inputs),
        ),
        (
            "D",
            "someone who holds the weights",
            "fine-tuning, merging, rounding; or simply taking the base model",
            _tested(seen.weights) + ". With the base weights it can always be undone",
        ),
        (
            "E",
            "someone who alters files on the way",
            "flipped bits, exchanged or older files",
            f"not part of this report: {sealed}",
        ),
        (
            "F",
            "whoever made this repository",
            "weights that do not do what is said",
            "not part of this report: hashes and signatures tell where files come from, not how good "
            "they are",
        ),
        (
            "G",
            "whoever measured it",
            "easy prompts, weak attacks, lost runs, a wrong judge",
            "see the rules above" if report is not None else NOT_TESTED,
        ),
    )
    return Table.of(("", "who", "by what means", "tested here"), rows)


def _state(report: EvaluationReport | None) -> str:
    if report is None:
        return NOT_TESTED
    held = report.erasure.state_before == report.erasure.state_after == VERIFIED
    return "the erasure was verified before and after every figure" if held else NOT_TESTED


def _prompts(seen: Evidence) -> str:
    if seen.prompts:
        return f"tested: plain prompts, {', '.join(code(name) for name in seen.prompts)}"
    return "plain prompts only; attacks not tested" if seen.plain else NOT_TESTED


def _tested(names: tuple[str, ...]) -> str:
    return f"tested: {', '.join(code(name) for name in dict.fromkeys(names))}" if names else NOT_TESTED


def tested_sentence(report: EvaluationReport | None, found: ReactivationReport | None) -> str:
    """Which rows of the threat model the figures are about, in one sentence."""
    seen = Evidence.of(report, found)
    letters = [
        letter for letter, tried in (("B", seen.prompts), ("C", seen.inputs), ("D", seen.weights)) if tried
    ]
    doubt = (
        f" But {' and '.join(map(plain, seen.doubtful))}, so these figures prove nothing."
        if seen.doubtful
        else ""
    )
    if letters:
        rest = [letter for letter in "BCD" if letter not in letters]
        missing = f"; {', '.join(rest)} were not" if len(rest) > 1 else f"; {rest[0]} was not" if rest else ""
        were = "were" if len(letters) > 1 else "was"
        return f"Of the rows below, {', '.join(letters)} {were} attacked{missing}.{doubt}"
    if seen.plain:
        return f"Only plain prompts were drawn: no attack of any row below was tried.{doubt}"
    return "Nothing was measured, so nothing is claimed about any row below."
