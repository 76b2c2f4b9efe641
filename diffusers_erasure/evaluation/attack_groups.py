"""What is attacked, and the question that is asked about it: prompts of one question form a group.

An artifact may erase several concepts, objects and styles, and a picture of "ink" is not judged by the one
who knows churches. Attacks see one judge at a time, so prompts are grouped by the judge and the labels that
count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.attacks import AttackedPrompt
from diffusers_erasure.errors import EvaluationError

from .confusion import JudgeValidation, LabelledBy, Source
from .controls import picture_fault
from .judges import Judge, Panel, Question, find_labels
from .labelled import LabelledPictures, validate_judge
from .measure import Measured, check_declared
from .prompt_sets import JudgeRole, PromptSet, Purpose


@dataclass(frozen=True)
class DeclaredQuestion(Question):
    """A question whose judge must answer with the threshold that it declares."""

    def __call__(self, images: Tensor) -> Tensor:
        """Whether each picture shows the concept: `(pictures,)` bool for `(pictures, 3, h, w)` uint8."""
        verdicts = self.judge.judge(images)
        check_declared(self.judge, verdicts)
        return torch.tensor(verdicts.shows([self.labels] * len(images)), dtype=torch.bool)


@dataclass(frozen=True)
class Group:
    """Prompts that one question is asked about.

    Attributes:
        items: The prompts.
        question: The judge with the labels that count.
        second: The same question to the second judge, where there is one.
        role: Which judge of the panel it is.
    """

    items: tuple[AttackedPrompt, ...]
    question: DeclaredQuestion
    second: DeclaredQuestion | None
    role: JudgeRole


def attack_groups(prompt_set: PromptSet, panel: Panel, *, limit: int | None = None) -> tuple[Group, ...]:
    """Group the prompts of a set by what is asked about them.

    Args:
        prompt_set: The concept's own name.
        panel: The judges.
        limit: Only the first so many prompts; None takes all.
    """
    chosen: dict[tuple[JudgeRole, tuple[str, ...]], list[AttackedPrompt]] = {}
    for item in prompt_set.items[:limit]:
        found = AttackedPrompt(item.prompt, item.seed, item.about)
        chosen.setdefault((item.role, item.labels), []).append(found)
    return tuple(
        Group(
            tuple(items),
            _question(panel.of(role), labels),
            _question(panel.second, labels) if panel.second and role is JudgeRole.CONCEPT else None,
            role,
        )
        for (role, labels), items in chosen.items()
    )


def _question(judge: Judge, labels: tuple[str, ...]) -> DeclaredQuestion:
    return DeclaredQuestion(judge, find_labels(labels, judge.labels))


def validate_judges(groups: Sequence[Group], measured: Sequence[Measured]) -> tuple[JudgeValidation, ...]:
    """Confusion matrices of every judge that is asked, on the pictures of an evaluation.

    What a picture shows is taken from its prompt: the base's pictures of the concept's own name show it,
    retention pictures of the base and of the erased pipeline do not. Pictures that another
    judge was asked about are left out (one in ink may show a church), unless a user's file says that they are
    of what should stay; so are broken ones.

    Args:
        groups: Questions.
        measured: The prompt sets with their pictures.
    """
    found = []
    for group in groups:
        labelled = _labelled(group, measured)
        if not labelled:
            continue
        questions = (group.question, group.second) if group.second else (group.question,)
        found += [validate_judge(question, labelled) for question in questions]
    return tuple(found)


def _labelled(group: Group, measured: Sequence[Measured]) -> list[LabelledPictures]:
    parts: dict[Source, list[tuple[Tensor, bool]]] = {Source.BASE: [], Source.ERASED: []}
    own = set(group.question.labels)
    for result in measured:
        erased = result.row.purpose is Purpose.ERASED
        if erased and result.row.name != "own name":
            continue
        for index, item in enumerate(result.prompt_set.items):
            shows = bool(own & set(item.labels))
            if item.role not in (group.role, JudgeRole.RETENTION) or shows is not erased:
                continue
            parts[Source.BASE].append((result.base[index], shows))
            if not erased:
                parts[Source.ERASED].append((result.erased[index], shows))
    return [
        LabelledPictures(
            torch.stack([image for image, _ in whole]),
            tuple(shows for _, shows in whole),
            source,
            LabelledBy.PROMPT,
        )
        for source, pictures in parts.items()
        if (whole := [(image, shows) for image, shows in pictures if not picture_fault(image)])
    ]


def prompts_of(groups: Sequence[Group]) -> tuple[AttackedPrompt, ...]:
    """Every prompt, in the order of every run.

    Raises:
        EvaluationError: There is none.
    """
    items = tuple(item for group in groups for item in group.items)
    if not items:
        raise EvaluationError(
            "there is no prompt to attack; expected the concept's own name; give the plan such a set"
        )
    return items
