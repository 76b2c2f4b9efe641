"""Genetic search over token sequences: crossover, mutation, survival of the fittest.

Every generation makes one child per member of the population. With the crossover rate a child has its head
from one parent and its tail from another, cut at a random place; with the mutation rate one of its tokens is
exchanged for a random one. Parents and children compete, and the best survive, so that the best loss never
rises. Children that came out like their parent are not measured again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Measure = Callable[[Tensor, Tensor], Tensor]
"""From candidates `(candidates, tokens)` and the row `(candidates,)` that each belongs to, to losses
`(candidates,)`."""


@dataclass(frozen=True)
class Population:
    """Candidates of several searches that run side by side, each search sorted from best to worst.

    Attributes:
        ids: Token ids `(searches, members, tokens)`.
        losses: `(searches, members)`.
        measured: Candidates whose loss was computed, of each search so far.
    """

    ids: Tensor
    losses: Tensor
    measured: tuple[int, ...]

    @property
    def best(self) -> Tensor:
        """The best candidate of each search, `(searches, tokens)`."""
        return self.ids[:, 0]


def first_population(
    allowed: Tensor, members: int, tokens: int, *, measure: Measure, generators: Sequence[torch.Generator]
) -> Population:
    """Random candidates, one search per generator.

    Args:
        allowed: Token ids to choose from, `(choices,)`, on the CPU.
        members: Candidates of each search.
        tokens: Length of a candidate.
        measure: Computes losses.
        generators: One per search.
    """
    ids = torch.stack(
        [allowed[torch.randint(len(allowed), (members, tokens), generator=one)] for one in generators]
    )
    rows = torch.arange(len(generators)).repeat_interleave(members)
    losses = measure(ids.flatten(0, 1), rows).view(len(generators), members)
    return _sorted(ids, losses, (members,) * len(generators))


def next_population(
    population: Population,
    allowed: Tensor,
    *,
    crossover_rate: float,
    mutation_rate: float,
    measure: Measure,
    generators: Sequence[torch.Generator],
) -> Population:
    """One generation further: children are made and measured, and the best of all survive.

    Args:
        population: Where the searches are.
        allowed: Token ids that a mutation chooses from, `(choices,)`, on the CPU.
        crossover_rate: Probability that a child has two parents.
        mutation_rate: Probability that one token of a child is exchanged.
        measure: Computes losses.
        generators: One per search.
    """
    members = population.ids.shape[1]
    children = torch.stack(
        [
            mutate(crossover(ids, crossover_rate, one), allowed, mutation_rate, one)
            for ids, one in zip(population.ids, generators, strict=True)
        ]
    )
    changed = (children != population.ids).any(dim=-1)
    losses = population.losses.clone()
    losses[changed] = measure(children[changed], changed.nonzero()[:, 0])
    # A child like its parent does not take a second place.
    losses[~changed] = torch.inf
    together = _sorted(
        torch.cat([population.ids, children], dim=1),
        torch.cat([population.losses, losses], dim=1),
        tuple(before + new for before, new in zip(population.measured, changed.sum(1).tolist(), strict=True)),
    )
    return Population(together.ids[:, :members], together.losses[:, :members], together.measured)


def crossover(parents: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """One child per parent, with the tail of another one where chance will have it.

    Args:
        parents: `(members, tokens)`.
        rate: Probability of a second parent.
        generator: Source of the choices.
    """
    members, tokens = parents.shape
    mated = torch.rand(members, generator=generator) < rate
    partner = torch.randint(members, (members,), generator=generator)
    cut = torch.randint(1, max(tokens, 2), (members,), generator=generator)
    tail = torch.arange(tokens)[None] >= cut[:, None]
    return torch.where(tail & mated[:, None], parents[partner], parents)


def mutate(children: Tensor, allowed: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """Exchange one token of a child for a random one, where chance will have it.

    Args:
        children: `(members, tokens)`.
        allowed: Token ids to choose from, `(choices,)`.
        rate: Probability per child.
        generator: Source of the choices.
    """
    members, tokens = children.shape
    struck = torch.rand(members, generator=generator) < rate
    place = torch.randint(tokens, (members,), generator=generator)
    drawn = allowed[torch.randint(len(allowed), (members,), generator=generator)]
    here = torch.arange(tokens)[None] == place[:, None]
    return torch.where(here & struck[:, None], drawn[:, None], children)


def _sorted(ids: Tensor, losses: Tensor, measured: tuple[int, ...]) -> Population:
    """From best to worst; a tie keeps the older candidate in front."""
    ordered, order = losses.sort(dim=1, stable=True)
    return Population(ids.gather(1, order[..., None].expand_as(ids)), ordered, measured)
