"""The genetic search: what a generation may change, that it never gets worse, that it finds what is there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffusers_erasure.attacks.genetic import (
    Population,
    crossover,
    first_population,
    mutate,
    next_population,
)

ALLOWED = torch.tensor([3, 5, 8, 9, 12, 15])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Distance:
    """Loss: how many tokens differ from a wanted sequence, one per search; counts what it measured."""

    def __init__(self, *wanted: list[int]) -> None:
        self.wanted = torch.tensor(wanted)
        self.measured = 0

    def __call__(self, candidates: Tensor, rows: Tensor) -> Tensor:
        self.measured += len(candidates)
        return (candidates != self.wanted[rows]).sum(dim=1).float()


def advance(population: Population, measure: Distance, generators: list[torch.Generator]) -> Population:
    return next_population(
        population, ALLOWED, crossover_rate=0.5, mutation_rate=0.25, measure=measure, generators=generators
    )


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_a_child_has_the_head_of_its_parent_and_one_tail(seed: int, tokens: int, members: int) -> None:
    parents = torch.arange(members * tokens).view(members, tokens)
    children = crossover(parents, 1.0, generator(seed))
    for parent, child in zip(parents, children, strict=True):
        heads = [cut for cut in range(tokens + 1) if torch.equal(child[:cut], parent[:cut])]
        assert heads[-1] >= 1
        tails = [other for other in parents if torch.equal(child[heads[-1] :], other[heads[-1] :])]
        assert tails or heads[-1] == tokens


def test_without_crossover_and_mutation_children_are_their_parents() -> None:
    parents = torch.arange(12).view(3, 4)
    assert torch.equal(crossover(parents, 0.0, generator()), parents)
    assert torch.equal(mutate(parents, ALLOWED, 0.0, generator()), parents)


def test_a_mutation_exchanges_at_most_one_token_for_an_allowed_one() -> None:
    children = torch.full((400, 6), 99)
    mutated = mutate(children, ALLOWED, 1.0, generator())
    changed = mutated != children
    assert (changed.sum(dim=1) == 1).all()
    assert set(mutated[changed].tolist()) == set(ALLOWED.tolist())
    assert changed.any(dim=0).all()


@pytest.mark.parametrize("rate", [0.25, 0.5])
def test_rates_are_probabilities_per_child(rate: float) -> None:
    children = torch.full((4000, 6), 99)
    struck = (mutate(children, ALLOWED, rate, generator()) != children).any(dim=1).float().mean()
    assert abs(float(struck) - rate) < 0.03
    parents = torch.arange(24000).view(4000, 6)
    mated = (crossover(parents, rate, generator()) != parents).any(dim=1).float().mean()
    assert abs(float(mated) - rate) < 0.03


def test_the_best_never_gets_worse_and_the_wanted_sequence_is_found() -> None:
    measure = Distance([3, 5, 8, 9], [15, 15, 12, 3])
    generators = [generator(1), generator(2)]
    population = first_population(ALLOWED, 12, 4, measure=measure, generators=generators)
    for _ in range(60):
        before = population.losses[:, 0]
        population = advance(population, measure, generators)
        assert (population.losses[:, 0] <= before).all()
        assert (population.losses.diff(dim=1) >= 0).all()
        assert population.ids.shape == (2, 12, 4)
    assert population.best.tolist() == [[3, 5, 8, 9], [15, 15, 12, 3]]
    assert population.losses[:, 0].tolist() == [0, 0]
    assert sum(population.measured) == measure.measured


def test_a_child_like_its_parent_takes_no_second_place() -> None:
    measure, generators = Distance([3, 5, 8, 9]), [generator(1)]
    population = first_population(ALLOWED, 6, 4, measure=measure, generators=generators)
    following = next_population(
        population, ALLOWED, crossover_rate=0.0, mutation_rate=0.0, measure=measure, generators=generators
    )
    assert torch.equal(following.ids, population.ids)
    assert following.measured == population.measured


def test_a_tie_is_won_by_the_older_candidate() -> None:
    generators = [generator(1)]

    def measure(candidates: Tensor, rows: Tensor) -> Tensor:
        return torch.zeros(len(candidates))

    population = first_population(ALLOWED, 6, 4, measure=measure, generators=generators)
    following = next_population(
        population, ALLOWED, crossover_rate=0.5, mutation_rate=1.0, measure=measure, generators=generators
    )
    assert torch.equal(following.ids, population.ids)
    assert following.measured != population.measured


def test_losses_belong_to_their_candidates() -> None:
    measure = Distance([3, 5, 8, 9])
    population = first_population(ALLOWED, 9, 4, measure=measure, generators=[generator(1)])
    for _ in range(5):
        population = advance(population, measure, [generator(7)])
    expected = Distance([3, 5, 8, 9])(population.ids[0], torch.zeros(9, dtype=torch.long))
    assert torch.equal(population.losses[0], expected)


def test_a_search_does_not_depend_on_those_beside_it() -> None:
    alone = Distance([15, 15, 12, 3])
    together = Distance([3, 5, 8, 9], [15, 15, 12, 3])
    single = first_population(ALLOWED, 8, 4, measure=alone, generators=[generator(2)])
    both = first_population(ALLOWED, 8, 4, measure=together, generators=[generator(1), generator(2)])
    ours, theirs = [generator(4)], [generator(3), generator(4)]
    for _ in range(6):
        single, both = advance(single, alone, ours), advance(both, together, theirs)
    assert torch.equal(single.ids[0], both.ids[1])
    assert single.measured[0] == both.measured[1]
