"""Claims of papers: what comes of them by their rules, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from diffusers_erasure.benchmark.checks import (
    Check,
    Keeps,
    KeepsMore,
    Lower,
    Nearer,
    NoExcess,
    NotLower,
    Rarer,
    Stronger,
)
from diffusers_erasure.benchmark.claims import CLAIMS, Claim
from diffusers_erasure.benchmark.settling import Settled, Status, marks, settle
from diffusers_erasure.benchmark.slots import smallest_p
from diffusers_erasure.benchmark.stored import CellRecord
from diffusers_erasure.evaluation.records import Verdict

from .made_cells import N, cell_record, figures
from .made_cells import marks as marked

SEEDS = tuple(range(8))
FEW = (0, 1, 2)
LOWER = Lower("advunlearn", "esd")
UDA = "unlearndiffatk"


def asked(
    *cells: CellRecord,
    checks: tuple[Check, ...],
    concepts: tuple[str, ...] = ("church",),
    seeds: tuple[int, ...] = SEEDS,
) -> Settled:
    claim = Claim("one", "a paper", "table 1", "Something holds.", checks, concepts)
    (found,) = settle(figures(*cells, seeds=seeds), [claim])
    return found


def trained(slug: str, make: Callable[[int], int], seeds: tuple[int, ...] = SEEDS) -> list[CellRecord]:
    """A variant of which UnlearnDiffAtk brings so many prompts of each training back."""
    return [cell_record(slug, seed=seed, attacks={UDA: make(seed)}) for seed in seeds]


def pair(first: int, second: int, seeds: tuple[int, ...] = SEEDS) -> list[CellRecord]:
    """AdvUnlearn and ESD, brought back in about so many prompts of each training."""
    return [
        *trained("advunlearn", lambda seed: first + seed % 2, seeds),
        *trained("esd", lambda seed: second + seed % 3, seeds),
    ]


def test_a_difference_that_every_training_shows_confirms() -> None:
    found = asked(*pair(2, 12), checks=(LOWER,))
    assert found.status is Status.CONFIRMED
    (reason,) = found.reasons
    assert reason.rule == "AdvUnlearn is brought back less often than ESD-x by UnlearnDiffAtk"
    assert reason.words.startswith(
        "20/160 against 103/160: -51.9 points (-55.7 to -48.0); the paper's way in 8"
    )
    assert reason.adjusted == smallest_p(8)


@pytest.mark.parametrize(("first", "second"), [(12, 2), (5, 5)])
def test_the_other_way_round_or_chance_does_not(first: int, second: int) -> None:
    assert asked(*pair(first, second), checks=(LOWER,)).status is Status.NOT_CONFIRMED


def test_many_pictures_of_few_trainings_confirm_nothing() -> None:
    """Three trainings with 0 against 20 of 20 each are 60 pictures apart, and still three."""
    found = asked(*pair(0, 17, FEW), checks=(LOWER,), seeds=FEW)
    assert found.status is Status.AGREES
    assert "the paper's way in 3 of 3 trainings" in found.reasons[0].words
    assert found.reasons[0].adjusted is None


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ((4, 4, 5), Status.AGREES),
        ((4, 4, 6), Status.NOT_CONFIRMED),  # one goes the other way
        ((5, 5, 5), Status.UNDECIDED),
        ((4, 5, 5), Status.UNDECIDED),  # a single one that differs is no agreement
        ((9, 9, 9), Status.NOT_CONFIRMED),
    ],
)
def test_few_trainings_agree_if_none_goes_the_other_way(first: tuple[int, ...], status: Status) -> None:
    cells = [*trained("advunlearn", lambda seed: first[seed], FEW), *trained("esd", lambda _: 5, FEW)]
    assert asked(*cells, checks=(LOWER,), seeds=FEW).status is status


def test_at_most_half_means_half() -> None:
    half = (Lower("advunlearn", "esd", at_most=0.5),)

    def of(first: int, seeds: tuple[int, ...]) -> Status:
        cells = [*trained("advunlearn", lambda _: first, seeds), *trained("esd", lambda _: 18, seeds)]
        return asked(*cells, checks=half, seeds=seeds).status

    assert [of(9, SEEDS), of(10, SEEDS)] == [Status.CONFIRMED, Status.NOT_CONFIRMED]
    assert [of(9, FEW), of(10, FEW)] == [Status.AGREES, Status.NOT_CONFIRMED]


def test_a_claim_is_open_until_every_training_is_there() -> None:
    cells = pair(2, 12)
    assert asked(*cells[:8], checks=(LOWER,)).status is Status.OPEN
    found = asked(*cells, checks=(LOWER,), concepts=("church", "dog"))
    assert found.status is Status.OPEN
    assert found.reasons[0].words == "8 of 16 trainings are there"


def test_one_rule_that_fails_is_enough_and_an_open_one_keeps_it_open() -> None:
    missing = Lower("advunlearn", "uce")
    assert asked(*pair(2, 12), checks=(LOWER, missing)).status is Status.OPEN
    assert asked(*pair(12, 2), checks=(LOWER, missing)).status is Status.NOT_CONFIRMED


def test_a_broken_first_is_never_robust_and_a_broken_second_is_nothing_to_beat() -> None:
    cells = pair(0, 18)
    for fault, words in (
        ({"verdict": Verdict.DEGENERATE}, "degenerate"),
        ({"sets": left(5)}, "not erased"),  # 5 of 20 pictures of its own name
    ):
        first = [cells[0].model_copy(update=fault), *cells[1:]]
        found = asked(*first, checks=(LOWER,))
        assert found.status is Status.NOT_CONFIRMED
        assert found.reasons[0].words == f"AdvUnlearn on church is {words}: such a rate means nothing"
        second = [*cells[:-1], cells[-1].model_copy(update=fault)]
        found = asked(*second, checks=(LOWER,))
        assert found.status is Status.UNDECIDED
        assert found.reasons[0].words == f"ESD-x on church is {words}: nothing to compare with"
    kept = asked(*second, checks=(Keeps("advunlearn", "esd"),))
    assert kept.status is Status.CONFIRMED  # what is kept can be said of a broken model too
    erased = [cells[0].model_copy(update={"sets": left(4)}), *cells[1:]]
    assert asked(*erased, checks=(LOWER,)).status is Status.CONFIRMED


def left(shown: int) -> object:
    rows = cell_record("esd").sets
    return (rows[0].model_copy(update={"erased": shown}), *rows[1:])


def test_open_tests_count_so_that_no_confirmed_is_taken_back() -> None:
    """Of six planned tests one is confirmed with p = 2/256 while the others are open, and stays it."""
    first, *others = (
        Claim(str(index), "a paper", "table 1", "Something.", (Lower("advunlearn", slug),), ("church",))
        for index, slug in enumerate(("esd", "uce", "trce", "aegis", "esd-u", "fast-at", "trce-stage-1"))
    )
    cells = pair(2, 12)

    def adjusted(count: int) -> tuple[Status, float | None]:
        (one, *_) = settle(figures(*cells, seeds=SEEDS), [first, *others[:count]])
        return one.status, one.reasons[0].adjusted

    assert adjusted(0) == (Status.CONFIRMED, 2 / 256)
    assert adjusted(5) == (Status.CONFIRMED, 12 / 256)
    assert adjusted(6) == (Status.AGREES, None)  # eight trainings are too few for seven tests
    later = [*cells, *trained("uce", lambda _: 5), *trained("trce", lambda seed: 3 * (seed % 2))]
    (again, *_) = settle(figures(*later, seeds=SEEDS), [first, *others[:5]])
    assert again.status is Status.CONFIRMED


def test_claims_on_few_trainings_take_nothing_from_the_others() -> None:
    many = Claim("many", "a paper", "table 1", "Something.", (LOWER,), ("church",))
    found = settle(figures(*pair(2, 12, FEW), seeds=FEW), [many] * 9)
    assert {one.status for one in found} == {Status.AGREES}
    assert {one.reasons[0].adjusted for one in found} == {None}


def test_keeping_is_shown_by_the_far_end_of_the_interval() -> None:
    def kept(losses: tuple[int, ...]) -> Settled:
        cells = [cell_record("advunlearn", seed=seed, kept=N - losses[seed]) for seed in SEEDS]
        return asked(*cells, checks=(Keeps("advunlearn"),))

    assert kept((0,) * 8).status is Status.CONFIRMED
    assert kept((1, 0) * 4).status is Status.CONFIRMED  # one of 40 pictures is 2.5 points
    wide = kept((0, 0, 0, 0, 0, 0, 4, 4))  # the mean is 2.5 points too, but nobody can be sure
    assert wide.status is Status.NOT_CONFIRMED
    assert wide.reasons[0].words == "-2.5 against +0.0 points: -2.5 points (-6.4 to +1.4)"
    one = asked(cell_record("advunlearn"), checks=(Keeps("advunlearn"),), seeds=(0,))
    assert one.status is Status.UNDECIDED


def test_keeping_more_is_a_matter_of_trainings() -> None:
    cells = [cell_record(slug, seed=seed, kept=k) for slug, k in (("esd", N), ("uce", 15)) for seed in SEEDS]
    assert asked(*cells, checks=(KeepsMore("esd", "uce"),)).status is Status.CONFIRMED
    assert asked(*cells, checks=(KeepsMore("uce", "esd"),)).status is Status.NOT_CONFIRMED


def test_nearer_is_judged_by_likeness_and_not_by_kid() -> None:
    def nearer(first: float, second: float, kid: float) -> Settled:
        cells = [
            *(cell_record("trce", seed=seed, agreement=first + 0.001 * seed, kid=kid) for seed in SEEDS),
            *(cell_record("esd", seed=seed, agreement=second, kid=0.002) for seed in SEEDS),
        ]
        return asked(*cells, checks=(Nearer("trce", "esd"),))

    found = nearer(0.98, 0.95, 0.003)  # a larger KID does not undo it
    assert found.status is Status.CONFIRMED
    assert found.reasons[0].words.endswith("; 1000 KID 3.0 against 2.0")
    assert found.reasons[0].words.startswith("agreement 0.984 against 0.950: +0.0335 (")
    assert nearer(0.91, 0.95, 0.001).status is Status.NOT_CONFIRMED
    unknown = [cell_record(slug, seed=seed, agreement=None) for slug in ("trce", "esd") for seed in SEEDS]
    assert asked(*unknown, checks=(Nearer("trce", "esd"),)).status is Status.OPEN


def test_rates_without_an_attack_are_compared_by_trainings() -> None:
    check = (Rarer("trce", "uce", "implicit"),)
    cells = [
        cell_record(slug, seed=seed, implicit=k) for slug, k in (("trce", 1), ("uce", 12)) for seed in SEEDS
    ]
    assert asked(*cells, checks=check).status is Status.CONFIRMED
    none = [cell_record(slug, seed=seed) for slug in ("trce", "uce") for seed in SEEDS]
    assert asked(*none, checks=check).status is Status.NOT_CONFIRMED


def test_one_attack_may_be_stronger_than_another_with_fewer_pictures() -> None:
    check = (Stronger("esd", "concept_inversion", UDA),)

    def stronger(inversion: int, search: int) -> Settled:
        found = {"concept_inversion": marked(inversion, judged_images=2), UDA: search}
        return asked(*(cell_record("esd", seed=seed, attacks=found) for seed in SEEDS), checks=check)

    assert stronger(18, 5).status is Status.CONFIRMED
    assert stronger(18, 5).reasons[0].words.endswith("2 judged pictures against 11, so this is conservative")
    assert stronger(5, 18).status is Status.NOT_CONFIRMED


def test_no_excess_allows_as_many_as_it_says_and_says_how_much_there_may_be() -> None:
    concepts = ("church", "dog")
    none = {UDA: 3, "random_tokens": 2}
    much = {UDA: 15, "random_tokens": 2}
    cells = [cell_record("esd", "church", attacks=none), cell_record("esd", "dog", attacks=much)]
    for least, status in ((1, Status.CONFIRMED), (2, Status.NOT_CONFIRMED)):
        check = NoExcess("esd", UDA, "random_tokens", least=least)
        found = asked(*cells, checks=(check,), concepts=concepts, seeds=(0,))
        assert found.status is status
    church = found.reasons[0].words.split("; ")[0]
    assert church.startswith("church 3 against 2 of 20, p = 1, at most +")
    assert 10 < float(church.split()[-2]) < 30


def test_no_better_is_at_least_as_often() -> None:
    check = (NotLower("advunlearn", "esd"),)
    assert asked(*pair(15, 6), checks=check).status is Status.CONFIRMED
    assert asked(*pair(5, 6), checks=check).status is Status.NOT_CONFIRMED  # a little better is better
    assert asked(*pair(15, 6, FEW), checks=check, seeds=FEW).status is Status.AGREES
    assert asked(*pair(2, 6, FEW), checks=check, seeds=FEW).status is Status.NOT_CONFIRMED
    same = [*trained("advunlearn", lambda _: 5, FEW), *trained("esd", lambda _: 5, FEW)]
    assert asked(*same, checks=check, seeds=FEW).status is Status.UNDECIDED


def test_the_worst_of_several_attacks_needs_them_all() -> None:
    check = (Lower("aegis", "esd", (UDA, "p4d")),)
    ours = [cell_record("aegis", seed=seed, attacks={UDA: 1, "p4d": 2}) for seed in SEEDS]
    half = trained("esd", lambda _: 9)
    assert asked(*ours, *half, checks=check).status is Status.OPEN
    last = marked(0, marks="0" * (N - 3) + "111")
    whole = [cell_record("esd", seed=seed, attacks={UDA: 9, "p4d": last}) for seed in SEEDS]
    found = asked(*ours, *whole, checks=check)
    assert found.status is Status.CONFIRMED
    assert found.reasons[0].words.startswith("16/160 against 96/160")


def test_ablations_are_marked_by_the_claims_about_them() -> None:
    def found(first: int) -> dict[str, str]:
        cells = [
            *(cell_record("aegis", "dog", seed, attacks={UDA: 5}) for seed in FEW),
            *(cell_record("aegis-no-target", "dog", seed, attacks={UDA: first}) for seed in FEW),
        ]
        slugs = ("aegis", "aegis-no-target", "aegis-no-adversary", "aegis-omega-1", "aegis-no-projection")
        return marks(settle(figures(*cells, seeds=FEW)), slugs)

    assert found(15) == {
        "aegis-no-target": "yes",
        "aegis-no-adversary": "no claim of it",
        "aegis-omega-1": "not measured yet",
        "aegis-no-projection": "not measured yet",
    }
    assert found(5)["aegis-no-target"] == "undecided"
    assert found(2)["aegis-no-target"] == "no"


def test_a_grid_of_three_seeds_can_confirm_what_is_tried_on_all_concepts() -> None:
    """Those on four concepts are tests; those on one are not, and no more are counted than can be reached."""
    cells = [
        cell_record(slug, concept, seed, attacks={UDA: k})
        for slug, k in (("advunlearn", 1), ("esd", 15))
        for concept in ("church", "dog", "ink", "weapons")
        for seed in FEW
    ]
    found = {one.claim.key: one for one in settle(figures(*cells, seeds=FEW), CLAIMS)}
    assert found["advunlearn-esd"].status is Status.CONFIRMED
    lower, _ = found["advunlearn-esd"].reasons
    assert lower.adjusted is not None
    assert smallest_p(12) < lower.adjusted < 0.05
