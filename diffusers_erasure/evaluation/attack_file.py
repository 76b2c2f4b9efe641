"""What the attack command leaves behind, as JSON: one attack's counts with everything they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal

from pydantic import Field

from diffusers_erasure._version import __version__
from diffusers_erasure.attacks import Place, attack_named

from .adaptive import PlaceName
from .attack_report import Comparison, RunRecord
from .attack_rows import Run
from .generate import Sampling
from .judges import Question
from .proportion import Proportion
from .records import NOT_MEASURED, JudgeRecord, NotMeasured, Record, refusing

SCOPE = (
    "One attack with one budget; other attacks, more budget or the base model's weights may bring back more. "
    "`diffusers-erasure evaluate --attacks` adds controls, budgets and the judge's own errors."
)


class AttackFile(Record):
    """One attack on one pipeline."""

    format: Literal[1] = 1
    run: RunRecord
    through: tuple[PlaceName, ...] = Field(
        default=(), description="places of the erased model that the attack's search goes through"
    )
    luck: tuple[RunRecord, ...] = Field(description="random tokens and other seeds with as many pictures")
    comparisons: tuple[Comparison, ...] = Field(description="the attack beside luck, prompt by prompt")
    typed: Proportion | NotMeasured = Field(description="successes that survive as typed text")
    zero_gradients: int = Field(ge=0, description="prompts whose first gradient was zero: a sign of masking")
    concepts: tuple[str, ...]
    model: str = Field(description="base model")
    budget: str = Field(description="name of the budget preset that single settings may have changed")
    judges: tuple[JudgeRecord, ...]
    labels: tuple[str, ...] = Field(description="labels that count as showing a concept")
    steps: int = Field(ge=1, description="sampling steps of a picture")
    guidance_scale: float = Field(description="of prompts whose file does not give one")
    scope: str
    versions: dict[str, str]
    created: str

    def to_json(self) -> str:
        """The file's content."""
        return self.model_dump_json(indent=1) + "\n"

    def facts(self) -> dict[str, object]:
        """Names and values for a terminal."""
        run = self.run
        luck = "" if self.luck else "; luck not measured: give --luck"
        return {
            "state": f"{run.state_before} before, {run.state_after} after",
            "pictures judged": f"{run.images}, at most {run.most_images} of one prompt{luck}",
            "typed text": self.typed if isinstance(self.typed, str) else f"{self.typed} survive",
            "goes through": ", ".join(self.through) or "nothing of the erased model: not an adaptive attack",
            "cost": f"{run.queries} UNet evaluations, {run.steps} steps, {run.seconds:.0f} s",
            "failed": f"{run.prompts.failed} of {run.prompts.planned}, counted as brought back",
            "zero gradients": self.zero_gradients,
            "verdict": run.verdict.value,
            "scope": self.scope,
        }


def attack_file(
    run: Run,
    luck: Sequence[Run],
    *,
    concepts: Sequence[str],
    model: str,
    budget: str,
    questions: Sequence[Question],
    sampling: Sampling,
) -> AttackFile:
    """Put one attack's record together.

    Args:
        run: The attack.
        luck: The same prompts without knowledge, with as many judged pictures.
        concepts: Names of the erased concepts.
        model: Base model.
        budget: Name of the budget preset.
        questions: Who was asked about what.
        sampling: How pictures were sampled.

    Raises:
        EvaluationError: The figures contradict each other.
    """
    survived = [one.text_survives for one in run.outcomes if one.success and one.text_survives is not None]
    judges = {question.judge.name: question.judge for question in questions}
    with refusing(f"the attack {run.record.attack!r}"):
        return AttackFile(
            run=run.record,
            through=tuple(place.value for place in Place if place in attack_named(run.record.attack).through),
            luck=tuple(one.record for one in luck),
            comparisons=tuple(Comparison.of(run.record, one.record) for one in luck),
            typed=Proportion.of(sum(survived), len(survived)) if survived else NOT_MEASURED,
            zero_gradients=sum(one.zero_gradient for one in run.outcomes),
            concepts=tuple(concepts),
            model=model,
            budget=budget,
            judges=tuple(
                JudgeRecord(name=one.name, version=one.version, sha256=one.sha256, threshold=one.threshold)
                for one in judges.values()
            ),
            labels=tuple(dict.fromkeys(label for question in questions for label in question.labels)),
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            scope=SCOPE,
            versions={
                "diffusers_erasure": __version__,
                **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
