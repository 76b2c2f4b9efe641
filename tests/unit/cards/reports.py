"""Reports with figures that a test knows, for tests of how they are shown."""

from __future__ import annotations

from typing import Any

from diffusers_erasure.evaluation.confusion import ConfusionMatrix, JudgeValidation, LabelledBy, Source
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.reactivation_items import BY_KEY
from diffusers_erasure.evaluation.reactivation_report import (
    CountedPictures,
    ReactivationReport,
    ReactivationRow,
)
from diffusers_erasure.evaluation.reactivation_report import (
    overall_verdict as reactivation_verdict,
)
from diffusers_erasure.evaluation.report import (
    Accounting,
    ConceptCount,
    Control,
    ErasureRecord,
    EvaluationReport,
    JudgeRecord,
    Row,
    SamplingRecord,
    overall_verdict,
    report_rules,
)
from tests.unit.evaluation.counted_runs import DIGEST, record, section

N = 100
JUDGE = JudgeRecord(name="corner", version="1", sha256="0" * 64, threshold=0.25)
SETTINGS = SamplingRecord(
    steps=25,
    guidance_scale=4.0,
    pictures_per_set=N,
    first_seed=900_000_000,
    picture_size=(64, 64),
    dtype="float32",
    device="cpu",
)


def row(name: str, purpose: Purpose, base: int, erased: int, **changes: Any) -> Row:
    """One prompt set of `N` pictures."""
    lost, gained = max(0, base - erased), max(0, erased - base)
    whole = Accounting(planned=N, finished=N, failed=0)
    fields: dict[str, Any] = {
        "name": name,
        "purpose": purpose,
        "judge": "corner",
        "prompts": 12,
        "set_sha256": "0" * 64,
        "base": Proportion.of(base, N),
        "erased": Proportion.of(erased, N),
        "lost": lost,
        "gained": gained,
        "mcnemar_p": mcnemar_exact(lost, gained),
        "second_judge": None,
        "agreement": None,
        "by_concept": (ConceptCount(label="church", n=N, base=base, erased=erased),),
        "base_pictures": whole,
        "erased_pictures": whole,
        "retention_floor": 0.8,
    }
    return Row(**{**fields, **changes})


def erasure(digest: str) -> ErasureRecord:
    """An erasure that was verified before and after."""
    return ErasureRecord(
        digest=digest,
        method="uce",
        concepts=("church",),
        base="embedded",
        base_revision=None,
        scale=1.0,
        transfer=False,
        state_before="verified",
        state_after="verified",
    )


def evaluation(digest: str, *, kept: int = 97, attacked: bool = True, **changes: Any) -> EvaluationReport:
    """Own name 99 to 4 of 100, neighbours 98 to `kept`; half of 20 prompts fall to "search"."""
    rows = (row("own name", Purpose.ERASED, 99, 4), row("neighbours", Purpose.IN_DOMAIN, 98, kept))
    control = Control(
        positive=Proportion.of(99, N), screened=Proportion.of(20, 20), false_alarms=Proportion.of(0, 30)
    )
    matrix = ConfusionMatrix(
        source=Source.BASE,
        labelled_by=LabelledBy.PROMPT,
        true_positives=19,
        false_negatives=1,
        false_positives=2,
        true_negatives=38,
    )
    judged = JudgeValidation(
        judge="corner", version="1", sha256="0" * 64, threshold=0.25, labels=("church",), matrices=(matrix,)
    )
    attacks = section(record(10, 11, flags=("a | flag",))) if attacked else "not measured"
    fields: dict[str, Any] = {
        "verdict": overall_verdict(rows, control, attacks),
        "erasure": erasure(DIGEST),
        "rows": rows,
        "control": control,
        "judges": (JUDGE,),
        "settings": SETTINGS,
        "not_measured": {"fidelity": "not computed"},
        "attacks": attacks,
        "validation": (judged,),
        "rules": report_rules(rows, control, attacks, erasure(DIGEST)),
        "seconds": 12.5,
        "versions": {"torch": "2.13.0"},
        "created": "2026-01-01T00:00:00+00:00",
    }
    found = EvaluationReport(**{**fields, **changes})
    return EvaluationReport.model_validate_json(found.to_json().replace(DIGEST, digest))


def reactivation(digest: str) -> ReactivationReport:
    """Only the merge with half of the base was tried: 7 of 10 pictures."""
    base, erased = CountedPictures.of("1" * 10, {}), CountedPictures.of("0" * 10, {})
    merged = ReactivationRow(
        key="merge-0.5",
        title=BY_KEY["merge-0.5"].title,
        state_before="verified",
        found=CountedPictures.of("1" * 7 + "000", {}),
        note="a | note",
        seconds=1.0,
    )
    return ReactivationReport(
        verdict=reactivation_verdict(base, erased),
        erasure=erasure(digest),
        base=base,
        erased=erased,
        rows=(merged,),
        not_measured={key: "not asked for" for key in BY_KEY if key != merged.key},
        prompts_sha256="0" * 64,
        judges=(JUDGE,),
        labels=("church",),
        settings=SETTINGS,
        preset="quick",
        seconds=3.0,
        versions={"torch": "2.13.0"},
        created="2026-01-01T00:00:00+00:00",
    )
