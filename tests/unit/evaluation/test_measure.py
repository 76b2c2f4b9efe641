"""Counting: what is seen, lost, gained and failed, on pipelines that paint what the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diffusers_erasure.embedded.vocabulary import STYLES
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.evaluation.generate import Artist
from diffusers_erasure.evaluation.judges import Panel
from diffusers_erasure.evaluation.measure import Measured, measure_controls, measure_set
from diffusers_erasure.evaluation.prompt_sets import JudgeRole, PromptItem, PromptSet, Purpose
from diffusers_erasure.evaluation.report import Verdict

Build = Callable[..., Artist]
PROMPTS = [f"picture {index}" for index in range(20)]
CHURCH = ("church",)


def prompt_set(
    purpose: Purpose, role: JudgeRole = JudgeRole.CONCEPT, labels: tuple[str, ...] = CHURCH
) -> PromptSet:
    items = (PromptItem(prompt, seed, labels[0], labels, role) for seed, prompt in enumerate(PROMPTS))
    return PromptSet("own name", purpose, tuple(items))


def always(label: str | None) -> Callable[[str], str | None]:
    return lambda _: label


def first(count: int, label: str | None, then: str | None) -> Callable[[str], str | None]:
    """`label` for the first `count` prompts, `then` for the others."""
    return lambda prompt: label if PROMPTS.index(prompt) < count else then


def measured(purpose: Purpose, base: Artist, erased: Artist, panel: Panel) -> Measured:
    return measure_set(prompt_set(purpose), base, erased, panel, retention_floor=0.8)


def test_an_erasure_that_leaks(artist: Build, panel: Panel) -> None:
    found = measured(Purpose.ERASED, artist(always("church")), artist(first(3, "church", "house")), panel).row
    assert (found.base.k, found.erased.k, found.erased.n) == (20, 3, 20)
    assert (found.lost, found.gained) == (17, 0)
    assert found.difference == pytest.approx(-85)
    assert found.verdict is Verdict.MEASURED
    assert found.mcnemar_p < 0.001
    assert (found.second_judge.k, found.agreement) == (3, 1.0)
    assert [(count.label, count.base, count.erased) for count in found.by_concept] == [("church", 20, 3)]


@pytest.mark.parametrize("label", [None, "noise"])
def test_a_broken_pipeline_is_not_an_erased_one(artist: Build, panel: Panel, label: str | None) -> None:
    """NaN weights give no church, and no credit for it either."""
    found = measured(Purpose.ERASED, artist(always("church")), artist(always(label)), panel).row
    assert found.erased.k == 20
    assert (found.erased_pictures.failed, found.erased_pictures.finished) == (20, 0)
    assert found.verdict is Verdict.BROKEN
    kept = measured(Purpose.IN_DOMAIN, artist(always("church")), artist(always(label)), panel).row
    assert (kept.erased.k, kept.verdict) == (0, Verdict.BROKEN)


def test_one_failed_picture_counts_against_the_erasure(artist: Build, panel: Panel) -> None:
    base, erased = artist(always("church")), artist(first(1, None, "house"))
    found = measured(Purpose.ERASED, base, erased, panel).row
    assert found.erased.k == 1
    assert dict(found.erased_pictures.faults) == {"not finite": 1}
    kept = measured(Purpose.IN_DOMAIN, base, artist(first(1, None, "church")), panel).row
    assert (kept.erased.k, kept.lost) == (19, 1)


def test_a_failed_picture_of_the_base_is_not_one_that_shows_it(artist: Build, panel: Panel) -> None:
    found = measured(Purpose.ERASED, artist(first(1, None, "church")), artist(always("house")), panel).row
    assert found.base.k == 19


@pytest.mark.parametrize(("kept", "verdict"), [(16, Verdict.MEASURED), (15, Verdict.DEGENERATE)])
def test_retention_under_the_floor_is_degenerate(
    artist: Build, panel: Panel, kept: int, verdict: Verdict
) -> None:
    found = measured(Purpose.IN_DOMAIN, artist(always("church")), artist(first(kept, "church", "dog")), panel)
    assert found.row.verdict is verdict


def test_the_second_judge_may_disagree(artist: Build, panel_of: Callable[..., Panel]) -> None:
    found = measured(
        Purpose.ERASED, artist(always("church")), artist(first(10, "church", "dog")), panel_of(wrong=0.5)
    ).row
    assert (found.erased.k, found.second_judge.k) == (10, 0)
    assert found.agreement < 0.5


def test_styles_go_to_the_style_judge(artist: Build, panel: Panel, panel_of: Callable[..., Panel]) -> None:
    asked = prompt_set(Purpose.ERASED, JudgeRole.STYLE, ("ink",))
    base, erased = artist(always("ink"), STYLES), artist(always("noto"), STYLES)
    found = measure_set(asked, base, erased, panel, retention_floor=0.8).row
    assert (found.base.k, found.erased.k, found.judge) == (20, 0, "corner-style")
    assert found.second_judge is None
    with pytest.raises(ConfigError, match="has no style judge"):
        measure_set(asked, base, erased, panel_of(style=False), retention_floor=0.8)


def test_a_label_that_the_judge_cannot_name_is_refused(artist: Build, panel: Panel) -> None:
    asked = prompt_set(Purpose.ERASED, labels=("van gogh",))
    with pytest.raises(EvaluationError, match="cannot name 'van gogh'"):
        measure_set(asked, artist(always("dog")), artist(always("dog")), panel, retention_floor=0.8)


def test_progress_counts_both_pipelines(artist: Build, panel: Panel) -> None:
    told: list[tuple[int, int]] = []
    measure_set(
        prompt_set(Purpose.ERASED),
        artist(always("church")),
        artist(always("dog")),
        panel,
        retention_floor=0.8,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[0] == (0, 40)
    assert told[-1] == (40, 40)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_controls(artist: Build, panel: Panel) -> None:
    asked = prompt_set(Purpose.ERASED)
    row = measure_set(asked, artist(always("church")), artist(always("dog")), panel, retention_floor=0.8).row
    control = measure_controls(row, asked, panel, (64, 64))
    assert control.valid
    assert control.screened.k == control.screened.n == 20
    assert control.false_alarms.n == 30
    weak = measure_set(
        asked, artist(first(18, "church", "dog")), artist(always("dog")), panel, retention_floor=0.8
    ).row
    assert not measure_controls(weak, asked, panel, (64, 64)).valid


def test_the_rate_is_spread_over_seeds_of_every_prompt(artist: Build, panel: Panel) -> None:
    """Two prompts with three seeds each, of which one still shows the concept."""
    items = tuple(
        PromptItem(f"picture {seed % 2}", seed, "church", CHURCH, JudgeRole.CONCEPT) for seed in range(6)
    )
    base, erased = artist(always("church")), artist(lambda prompt: "house" if prompt[-1] == "1" else "church")

    def spread(count: int) -> Any:
        asked = PromptSet("own name", Purpose.ERASED, items[:count])
        return measure_set(asked, base, erased, panel, retention_floor=0.8).row.seeds

    assert [(group.k, group.n) for group in spread(6).groups] == [(1, 2)] * 3
    assert spread(5) == "not measured"
