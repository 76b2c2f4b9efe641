"""Pooled figures: counts over trainings, equal budgets, the same prompts on both sides."""

from __future__ import annotations

import pytest

from diffusers_erasure.benchmark.figures import fisher_exact, paired, share, unpaired
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import mcnemar_exact
from diffusers_erasure.evaluation.prompt_sets import Purpose
from diffusers_erasure.evaluation.proportion import Proportion
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, cell_record, figures, marks


def test_trainings_are_pooled_and_told_apart() -> None:
    found = figures(
        cell_record("esd", seed=0, attacks={"unlearndiffatk": 5}, kept=18),
        cell_record("esd", seed=1, attacks={"unlearndiffatk": 9}),
        cell_record("esd", "dog", attacks={"unlearndiffatk": 20}),
        cell_record("uce"),
    )
    group = found.group("esd", ["church"])
    assert group.rate("unlearndiffatk") == Proportion.of(14, 2 * N)
    assert {seed: rate.k for seed, rate in group.rates_by_seed("unlearndiffatk").items()} == {0: 5, 1: 9}
    assert group.set_rate("own name") == Proportion.of(0, 2 * N)
    assert group.set_rate("own name", before=True) == Proportion.of(2 * N, 2 * N)
    assert group.set_rate("synonyms") is None
    kept, inside = group.kept(), group.kept(Purpose.IN_DOMAIN)
    assert kept is not None
    assert inside is not None
    assert (kept.erased.k, kept.base.n, inside.erased.k) == (4 * N - 2, 4 * N, 2 * N - 2)
    assert inside.change == pytest.approx(-100 * 2 / (2 * N))


def test_an_attack_that_a_training_did_not_meet_is_no_rate() -> None:
    group = figures(cell_record("esd", attacks={"unlearndiffatk": 5})).group("esd", ["church"])
    assert group.rate("p4d") is None
    assert group.excess("unlearndiffatk", "random_tokens") is None
    assert group.rate("unlearndiffatk", "p4d") is None  # the worst of both is not known
    assert group.floor(["unlearndiffatk", "p4d"]) == Proportion.of(5, N)


def test_the_worst_case_counts_a_prompt_once() -> None:
    other = marks(0, marks="0" * (N - 4) + "1111")
    group = figures(cell_record("esd", attacks={"unlearndiffatk": 5, "p4d": other})).group("esd", ["church"])
    assert group.rate("unlearndiffatk", "p4d") == Proportion.of(9, N)


def test_luck_beside_an_attack_has_as_many_pictures() -> None:
    """The soft prompt shows 5 pictures: luck that needs the 8th did not find it with that many."""
    soft = marks(6, judged_images=5)
    group = figures(
        cell_record(
            "esd", attacks={"soft_prompt": soft, "unlearndiffatk": 6, "random_tokens": marks(4, at=8)}
        )
    ).group("esd", ["church"])
    beside_soft, beside_search = (
        group.excess(name, "random_tokens") for name in ("soft_prompt", "unlearndiffatk")
    )
    assert beside_soft is not None
    assert beside_search is not None
    assert (beside_soft.second.k, beside_search.second.k) == (0, 4)
    assert beside_soft.p == mcnemar_exact(6, 0)
    assert beside_search.p == mcnemar_exact(2, 0)


def test_variants_are_compared_on_trainings_that_both_have() -> None:
    found = figures(
        cell_record("esd", seed=0, attacks={"unlearndiffatk": 9}),
        cell_record("esd", seed=1, attacks={"unlearndiffatk": 20}),
        cell_record("uce", seed=0, attacks={"unlearndiffatk": 4}),
    )
    difference = found.compare("uce", "esd", ["church"], ["unlearndiffatk"])
    assert difference is not None
    assert (difference.first.k, difference.second.k, difference.second.n) == (4, 9, N)
    assert (difference.first_only, difference.second_only) == (0, 5)
    assert difference.p == mcnemar_exact(0, 5)
    assert found.compare("uce", "trce", ["church"], ["unlearndiffatk"]) is None


def test_other_prompts_are_not_compared() -> None:
    other = marks(4, prompts_sha256="b" * 64)
    found = figures(cell_record("uce", attacks={"unlearndiffatk": other}), cell_record("esd"))
    with pytest.raises(EvaluationError, match="attacked on different prompts for church"):
        found.compare("uce", "esd", ["church"], ["unlearndiffatk"])
    luck = marks(1, at=1, prompts_sha256="b" * 64)
    mixed = figures(cell_record("uce", attacks={"unlearndiffatk": 3, "random_tokens": luck}))
    with pytest.raises(EvaluationError, match="run on different prompts"):
        mixed.group("uce", ["church"]).excess("unlearndiffatk", "random_tokens")


def test_failed_prompts_count_as_brought_back() -> None:
    assert share("1F00").k == 2
    found = paired([("F0", "00"), ("11", "10")])
    assert found is not None
    assert (found.first_only, found.second_only, found.first.k) == (2, 0, 3)


def test_fishers_test_is_the_textbooks() -> None:
    """The lady who tasted tea: 3 of 4 against 1 of 4, p = 34/70; all 4 against none, 2/70."""
    assert fisher_exact(3, 4, 1, 4) == pytest.approx(34 / 70)
    assert fisher_exact(4, 4, 0, 4) == pytest.approx(2 / 70)
    assert fisher_exact(2, 4, 2, 4) == 1.0
    assert unpaired(Proportion.of(3, 4), Proportion.of(1, 4)).points == 50


def test_what_is_suspicious_is_said() -> None:
    broken = marks(0, verdict=Verdict.BROKEN)
    found = figures(
        cell_record("esd", verdict=Verdict.DEGENERATE), cell_record("uce", attacks={"unlearndiffatk": broken})
    )
    assert found.group("esd", ["church"]).suspicious == ("degenerate",)
    assert found.group("uce", ["church"]).suspicious == ("broken",)
