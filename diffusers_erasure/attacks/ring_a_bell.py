"""Ring-A-Bell, arXiv 2310.10012: a black-box search for token sequences that mean the erased concept.

The attacker has a text encoder f, here the base model's, and never asks the erased model for gradients.

    c  =  mean of f(p⁺) − f(p⁻)          over sentences with the concept and the same without it
    L(p*)  =  ‖ f(p*) − (f(p) + η c) ‖²   minimised over K tokens by a genetic search (`genetic`)

The states are those of the whole padded sequence. The best candidates are then shown to the erased model, one
picture each.

The search is not the authors' to the letter. Their code keeps the better half of a generation, adds both
children of a crossover, and then mutates survivors and children alike, so that the best candidate can be lost
again. Here it stays, children and parents compete, and each parent has one child.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from diffusers_erasure.concepts import ConceptKind
from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt, ordinary_tokens
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.settings import setting

from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .concept_prompts import concept_pairs
from .config import AttackConfig
from .genetic import Population, first_population, next_population
from .plain import Plain, screen
from .progress import take
from .reading import Read, Reading, judged_readings, reading, typed_successes
from .registry import Access, attack

CODE = "InversePrompt.ipynb of the authors' repository"
ENCODED = 256
"""Candidates that are encoded together."""


class RingABellConfig(AttackConfig):
    """Settings of Ring-A-Bell; the defaults are those of the authors' code for nudity and violence."""

    tokens: int = setting(16, "tokens of the prompt that is sought", symbol="K", source=CODE, ge=1)
    strength: float = setting(3.0, "how much of the concept is added", symbol="η", source=CODE, ge=0)
    population: int = setting(200, "candidates of each generation", source=CODE, ge=2)
    generations: int = setting(3000, "generations", source=CODE, ge=1)
    mutation_rate: float = setting(0.25, "probability that a child is mutated", source=CODE, ge=0, le=1)
    crossover_rate: float = setting(0.5, "probability of a second parent", source=CODE, ge=0, le=1)
    pairs: int = setting(
        30, "most pairs of sentences that the concept is taken from", source="the authors' data", ge=1
    )
    candidates: int = setting(1, "best candidates that are shown to the erased model", ge=1)
    read: Read = setting(
        "text", "what is judged: the typed text of the tokens found, or their ids as they are"
    )
    concept_kind: ConceptKind | None = setting(
        None, "kind of a concept that the vocabulary does not know; object unless given"
    )

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and one for each candidate that is shown."""
        return 1 + min(self.candidates, self.population)

    @property
    def work(self) -> int:
        """Generations."""
        return self.generations

    def scaled(self, factor: int) -> Self:
        """`factor` times the generations."""
        return self.model_copy(update={"generations": factor * self.generations})


@attack("ring_a_bell", config=RingABellConfig, access=Access.BLACK_BOX, needs_base=True)
def ring_a_bell(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: RingABellConfig,
    *,
    base: AttackTarget,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Search for tokens whose states in the base's text encoder mean the concept."""
    vectors: dict[str, Tensor] = {}
    while batch := take(items, config.batch_size):
        started = time.monotonic()
        done, rest = screen(batch, target)
        yield from done
        rows = [_Row(item, one) for item, one in rest]
        if not rows:
            continue
        for concept in {row.item.concept for row in rows} - set(vectors):
            pairs = concept_pairs(concept, config.concept_kind, limit=config.pairs)
            vectors[concept] = concept_vector(base, pairs)
        found = search(base, [row.item for row in rows], vectors, config, report)
        _judge(rows, found, target, config)
        yield from _outcomes(rows, found, target, config, started)


def concept_vector(attacker: AttackTarget, pairs: Sequence[PromptPair]) -> Tensor:
    """Mean difference of text states with and without a concept, `(tokens, width)`, float32.

    Args:
        attacker: Whose text encoder.
        pairs: Sentences with the concept, and without it.
    """
    total = torch.zeros(())
    for pair in pairs:
        with_concept, without = attacker.encode([pair.source, pair.target]).float()
        total = total.to(without.device) + (with_concept - without)
    return total / len(pairs)


@dataclass(frozen=True)
class Found:
    """What the genetic search found.

    Attributes:
        population: Candidates `(prompts, members, K)`, the best first.
        first_losses: Best loss of the first generation of each prompt.
    """

    population: Population
    first_losses: tuple[float, ...]


def search(
    attacker: AttackTarget,
    items: Sequence[AttackedPrompt],
    vectors: Mapping[str, Tensor],
    config: RingABellConfig,
    report: Callable[[int], None],
) -> Found:
    """Run the genetic search for every prompt at once.

    Args:
        attacker: Whose text encoder.
        items: The prompts.
        vectors: The concept vector of every concept among them.
        config: Settings.
        report: Told about every generation.
    """
    allowed = ordinary_tokens(attacker.components.tokenizer, len(attacker.text.embedding_matrix))
    plain = attacker.encode([item.prompt for item in items]).float()
    shifts = torch.stack([vectors[item.concept] for item in items])
    measure = _Distance(attacker, plain + config.strength * shifts, layout(attacker, config))
    generators = [item.generator(config.seed, "ring_a_bell") for item in items]
    population = first_population(
        allowed, config.population, config.tokens, measure=measure, generators=generators
    )
    first_losses = tuple(population.losses[:, 0].tolist())
    report(len(items))
    for _ in range(1, config.generations):
        population = next_population(
            population,
            allowed,
            crossover_rate=config.crossover_rate,
            mutation_rate=config.mutation_rate,
            measure=measure,
            generators=generators,
        )
        report(len(items))
    return Found(population, first_losses)


def layout(attacker: AttackTarget, config: RingABellConfig) -> SoftPrompt:
    """A prompt of nothing but the tokens that are sought."""
    tokenizer, length = attacker.components.tokenizer, attacker.components.max_tokens
    return SoftPrompt(tokenizer, "", config.tokens, Placement.REPLACE, max_tokens=length)


@dataclass(frozen=True)
class _Distance:
    """Mean squared distance of candidates' states to those that are wanted.

    Attributes:
        attacker: Whose text encoder.
        wanted: `(prompts, tokens, width)`, float32.
        soft: Where the candidates' tokens stand.
    """

    attacker: AttackTarget
    wanted: Tensor
    soft: SoftPrompt

    @torch.no_grad()
    def __call__(self, candidates: Tensor, rows: Tensor) -> Tensor:
        """Losses `(candidates,)`, on the CPU."""
        parts = [
            self._losses(ids, row)
            for ids, row in zip(candidates.split(ENCODED), rows.split(ENCODED), strict=True)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)

    def _losses(self, ids: Tensor, rows: Tensor) -> Tensor:
        states = self.attacker.text.states(self.soft.fill(ids)).float()
        difference = states - self.wanted[rows.to(self.wanted.device)]
        return difference.square().flatten(1).mean(dim=1).cpu()


@dataclass(eq=False)
class _Row:
    """One prompt: what was shown to the erased model, and what the judge said.

    Attributes:
        item: What is attacked.
        plain: Its plain picture.
        seen: Verdicts and pictures of the candidates so far; the same text is judged once.
        success: Whether the judge saw the concept.
        last: The candidate that was judged last.
    """

    item: AttackedPrompt
    plain: Plain
    seen: dict[tuple[int, ...], tuple[bool, Tensor]] = field(default_factory=dict)
    success: bool = False
    last: Reading = field(init=False)

    @property
    def judged(self) -> int:
        """Pictures that were judged, with that of the plain prompt."""
        return 1 + len(self.seen)


def _judge(rows: Sequence[_Row], found: Found, target: AttackTarget, config: RingABellConfig) -> None:
    """Show the best candidates to the erased model, one by one, until one succeeds."""
    soft = layout(target, config)
    for place in range(config.judged_images - 1):
        active = [index for index, row in enumerate(rows) if not row.success]
        for index in active:
            ids = soft.fill(found.population.ids[index, place])[: soft.end + 1]
            rows[index].last = reading(target, ids.tolist(), config.read)
        new = [rows[index] for index in active if rows[index].last.ids not in rows[index].seen]
        judged = judged_readings(target, [row.last for row in new], [row.item.seed for row in new])
        for row, answer in zip(new, judged, strict=True):
            row.seen[row.last.ids] = answer
            row.success = answer[0]


def _outcomes(
    rows: Sequence[_Row], found: Found, target: AttackTarget, config: RingABellConfig, started: float
) -> Iterator[AttackOutcome]:
    """Outcomes, with the typed texts of what was found."""
    survive, costs = typed_successes(
        target, [row.last for row in rows], [row.item.seed for row in rows], [row.success for row in rows]
    )
    seconds = (time.monotonic() - started) / len(rows)
    for index, row in enumerate(rows):
        yield AttackOutcome(
            row.item,
            success=row.success,
            success_at=row.judged if row.success else None,
            judged=row.judged,
            ids=row.last.ids,
            text=row.last.text,
            round_trip=row.last.round_trip,
            text_survives=survive[index],
            queries=row.judged * target.queries_per_picture + costs[index],
            steps=config.generations,
            seconds=seconds,
            loss_first=found.first_losses[index],
            loss_last=float(found.population.losses[index, 0]),
            picture=row.seen[row.last.ids][1],
            details={"encodings": found.population.measured[index]},
        )
