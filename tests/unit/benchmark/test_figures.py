"""Pooled figures: counts over trainings, equal budgets, the same prompts on both sides."""

from __future__ import annotations

import pytest

from diffusers_erasure.benchmark.figures import paired, share
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.intervals import mcnemar_exact, paired_difference
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
    assert (difference.words, difference.differences) == (f"4/{N} against 9/{N}", (-25.0,))
    assert difference.p == 1.0  # one training shows nothing
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


def test_the_most_that_an_excess_may_be_is_the_upper_bound_of_first_minus_second() -> None:
    """36 prompts of both, 12 of the first alone, 2 of the second: 20 points, at least 5.7, at most 34.0."""
    first, second = "1" * 48 + "0" * 2, "1" * 36 + "0" * 12 + "1" * 2
    found, mirrored = paired([(first, second)]), paired([(second, first)])
    assert found is not None
    assert mirrored is not None
    assert (found.first_only, found.second_only, found.points) == pytest.approx((12, 2, 20))
    low, high = (100 * bound for bound in paired_difference(36, 2, 12, 0))
    assert (found.most_points, mirrored.most_points) == pytest.approx((high, -low))


def test_seeds_are_set_side_by_side_over_the_same_concepts() -> None:
    """A hard concept that only the first seed has is left out, so that it cannot pass for a bad seed."""
    group = figures(
        cell_record("esd", "church", 0, attacks={"unlearndiffatk": 5}),
        cell_record("esd", "weapons", 0, attacks={"unlearndiffatk": 20}),
        cell_record("esd", "church", 1, attacks={"unlearndiffatk": 6}),
    ).group("esd", ["church", "weapons"])
    assert {seed: (rate.k, rate.n) for seed, rate in group.rates_by_seed("unlearndiffatk").items()} == {
        0: (5, N),
        1: (6, N),
    }
    apart = figures(cell_record("esd", "church", 0), cell_record("esd", "dog", 1)).group(
        "esd", ["church", "dog"]
    )
    assert apart.rates_by_seed("unlearndiffatk") == {}


def test_evaluations_are_taken_from_another_seed_of_the_same_concept() -> None:
    found = figures(
        cell_record("esd", "church", 0),
        cell_record("esd", "church", 1, unet_evaluations=1300),
        cell_record("esd", "church", 2, unet_evaluations=5300),
        cell_record("esd", "dog", 0),
        cell_record("uce", "dog", 0, unet_evaluations=7),
    )
    assert found.evaluations(found.group("esd", ["church"])) == 1300
    assert found.evaluations(found.group("esd", ["church", "dog"])) is None


def test_what_is_suspicious_is_said() -> None:
    broken = marks(0, verdict=Verdict.BROKEN)
    found = figures(
        cell_record("esd", verdict=Verdict.DEGENERATE), cell_record("uce", attacks={"unlearndiffatk": broken})
    )
    assert found.group("esd", ["church"]).suspicious == ("degenerate",)
    assert found.group("uce", ["church"]).suspicious == ("broken",)
    own = cell_record("trce").sets
    shown = (own[0].model_copy(update={"erased": 5}), *own[1:])
    still = figures(cell_record("trce", sets=shown)).group("trce", ["church"])
    assert (still.suspicious, still.faults) == ((), ("not erased",))
