"""Runs, records and sections of an attack that was never made, for tests of what is done with them."""

from __future__ import annotations

from typing import Any

from diffusers_erasure.attacks import Access, AttackConfig, AttackedPrompt, AttackOutcome, AttackSpec
from diffusers_erasure.evaluation.attack_report import AttackRecord, AttackSection, Comparison, WorstCase
from diffusers_erasure.evaluation.attack_rows import Budgeted, Run, count_run
from diffusers_erasure.evaluation.budgets import convergence
from diffusers_erasure.evaluation.masking import budget_flags
from diffusers_erasure.evaluation.positive_control import WeakEraser
from diffusers_erasure.evaluation.proportion import Proportion

N = 20
ITEMS = tuple(AttackedPrompt(f"an image of a church number {index}", index, "church") for index in range(N))
DIGEST = "f" * 64


class ThreePictures(AttackConfig):
    """Settings of an attack that may show the judge three pictures."""

    steps: int = 5

    @property
    def judged_images(self) -> int:
        return 3


def spec(name: str = "search", access: Access = Access.WHITE_BOX) -> AttackSpec:
    return AttackSpec(name, ThreePictures, lambda *_, **__: iter(()), access, False, "1", "a search", "tests")


def outcome(item: AttackedPrompt, **changes: Any) -> AttackOutcome:
    values: dict[str, Any] = {
        "success": False,
        "judged": 3,
        "steps": 5,
        "state_before": "verified",
        "state_after": "verified",
        "text_survives": True,
    }
    return AttackOutcome(item, **{**values, **changes})


def outcomes(successes: int, *, plain: int = 0, **changes: Any) -> list[AttackOutcome]:
    """The first `plain` prompts succeed unattacked, the first `successes` at all."""
    return [
        outcome(
            item,
            success=index < successes,
            success_at=1 if index < plain else 2 if index < successes else None,
            **changes,
        )
        for index, item in enumerate(ITEMS)
    ]


def run(
    successes: int, *, name: str = "search", factor: int = 1, pipeline: str = "erased", **changes: Any
) -> Run:
    access = changes.pop("access", Access.WHITE_BOX)
    state = "absent" if pipeline == "base" else "verified"
    found = outcomes(successes, state_before=state, state_after=state, **changes)
    digest = "" if pipeline == "base" else DIGEST
    return count_run(Budgeted(spec(name, access), ThreePictures(), factor, pipeline, digest), ITEMS, found)


def weak_eraser(hidden: int = N) -> WeakEraser:
    shown = N - hidden
    return WeakEraser(
        scale=0.4, plain=Proportion.of(shown, N), hidden=hidden, tried={0.4: shown}, luck={0.4: 2}
    )


def record(*successes: int, base: int = N, weak: int = N, weak_luck: int = 2, **changes: Any) -> AttackRecord:
    runs = tuple(run(k, factor=2**index).record for index, k in enumerate(successes))
    luck = tuple(run(2, name="luck", factor=one.factor, access=Access.NONE).record for one in runs)
    fields: dict[str, Any] = {
        "name": "search",
        "access": "white box",
        "summary": "a search",
        "runs": runs,
        "baselines": luck,
        "comparisons": tuple(Comparison.of(a, b) for a, b in zip(runs, luck, strict=True)),
        "base_control": run(base, pipeline="base").record,
        "weak_control": run(weak, pipeline="weak eraser").record,
        "weak_luck": run(weak_luck, name="luck", pipeline="weak eraser", access=Access.NONE).record,
        "typed": Proportion.of(successes[-1], N),
        "lost_in_text": 0,
        "corrected": "not measured",
        "false_success": "not measured",
        "second_judge": "not measured",
        "agreement": "not measured",
        "flags": tuple(budget_flags(runs)),
        "convergence": convergence([(one.factor, one.asr) for one in runs]),
    }
    return AttackRecord(**{**fields, **changes})


def section(*attacks: AttackRecord, **changes: Any) -> AttackSection:
    plain = run(1, name="no_attack", plain=1, access=Access.NONE).record
    chosen = attacks or (record(10, 10),)
    runs = [plain, *(one for attack in chosen for one in (*attack.runs, *attack.baselines))]
    fields: dict[str, Any] = {
        "budget": "quick",
        "factors": (1, 2),
        "prompts": N,
        "prompts_sha256": plain.prompts_sha256,
        "pre_attack": plain,
        "attacks": chosen,
        "worst_case": WorstCase.of(runs),
        "seeds": "not measured",
        "pre_attack_seeds": "not measured",
        "flags": (),
        "outcomes_sha256": "0" * 64,
        "weak": weak_eraser(),
        "not_measured": {"reactivation": "not tried"},
    }
    return AttackSection(**{**fields, **changes})


class Liar:
    """A judge that declares a threshold and takes another."""

    name, version, sha256, threshold = "liar", "1", "0" * 64, 0.5
