"""What an evaluation asks, and whom: our prompt sets or a user's, with judges that can answer them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffusers_erasure.errors import ConfigError

from .embedded_prompts import NamedConcept, embedded_prompt_plan
from .judges import Panel, load_panel, parse_judge
from .prompt_plan_file import PlanFile
from .prompt_sets import PromptPlan

FIGURE_PICTURES = 100
"""Pictures per prompt set from which a figure can rank."""


def check_judges(judge: str, retention_judge: str | None, *, own_prompts: bool) -> None:
    """Refuse judges that the prompt sets cannot use: in ours, what counts is another label in every set.

    Args:
        judge: As it was asked for.
        retention_judge: The same, where there is one.
        own_prompts: Whether the prompt sets are a user's.

    Raises:
        ConfigError: Labels were named where the sets have theirs, or a second judge where ours need none.
    """
    if retention_judge is not None and (not own_prompts or parse_judge(retention_judge).labels):
        raise ConfigError(
            f"{retention_judge!r} is to judge what should stay; expected a judge without labels, and a file "
            "of prompt sets whose rows say what it must name; give --prompts FILE, and leave out what stands "
            "behind # but for options"
        )
    labels = parse_judge(judge).labels
    if labels and not own_prompts:
        raise ConfigError(
            f"the judge {judge!r} names labels ({', '.join(labels)}), and an evaluation asks for another one "
            "in every prompt set; expected a judge without them; leave out what stands behind #, or give "
            "prompt sets of your own with --prompts FILE"
        )


def plan_and_panel(
    concepts: Sequence[NamedConcept],
    own: PlanFile | None,
    *,
    judge: str = "embedded",
    retention_judge: str | None = None,
    n: int | None = None,
    first_seed: int,
    device: str = "cpu",
) -> tuple[PromptPlan, Panel]:
    """The prompt sets, and who answers; judges that can name anything are told everything that is asked.

    Args:
        concepts: What was erased.
        own: A user's prompt sets; None takes those of the embedded vocabulary.
        judge: Family of the judges.
        retention_judge: Who answers for what should stay in a user's sets.
        n: Pictures per set; None draws 100, or each prompt of a file once.
        first_seed: Seeds of the pictures start here.
        device: Where the judges' networks are to be.

    Raises:
        ConfigError: A row of the file cannot be used, or there is no such judge.
        EvaluationError: There are no prompts for what was erased, or no judge knows a label.
    """
    if own is None:
        plan = embedded_prompt_plan(concepts, n=FIGURE_PICTURES if n is None else n, first_seed=first_seed)
        return plan, load_panel(judge, device=device)
    erased, kept = own.names(concepts, parse_judge(judge).labels)
    if retention_judge is None:
        panel = load_panel(judge, names=(*erased, *kept), device=device)
    else:
        other = load_panel(retention_judge, names=kept, device=device)
        panel = replace(load_panel(judge, names=erased, device=device), retention=other.concept)
    return own.plan(concepts, panel, n=n, first_seed=first_seed), panel
