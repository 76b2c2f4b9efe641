"""Concept inversion, arXiv 2308.01508: a new word whose embedding brings the concept back.

Textual inversion (arXiv 2208.01618) on the erased model, with pictures of the concept that the base drew. One
word's embedding v is learned, or several that stand in a row, and nothing else:

    v  =  argmin  E ‖ ε − ε_erased(z_t, "a photo of a v") ‖²

with z_t the noised latents of a random picture. A sentence about a style names a subject too, so that each
picture of a style stands under the one that it was drawn from; anything else may stand under any sentence. v
is learned once for a concept and then takes the place of the concept's own word in every attacked prompt, so
that each prompt costs one judged picture. It is no typed text: an attacker needs the weights, or a service
that takes embeddings.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_erasure.concepts import ConceptKind, resolve_concepts
from diffusers_erasure.diffusion.noise import add_noise
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.settings import setting

from .adam import AdamState, adam_step
from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .concept_prompts import concept_pairs, concept_words
from .config import AttackConfig
from .placeholder import Placeholder, stack_embeddings, with_placeholder
from .plain import Plain, screen
from .progress import take
from .registry import WHOLE_MODEL, Access, attack
from .searching import gradient_to, searching
from .target_picture import encode_pictures, target_pictures

logger = logging.getLogger(__name__)

CODE = "esd/train.sh of the authors' repository"
DRAWN_PER_PICTURE = 2
"""Pictures that the base draws for one that is learned from; those that show the concept are taken first."""


class ConceptInversionConfig(AttackConfig):
    """Settings of concept inversion; the defaults are those of the paper's code."""

    vectors: int = setting(1, "learned embeddings, which stand in a row", ge=1)
    pictures: int = setting(25, "pictures of the concept that are learned from", source=CODE, ge=1)
    steps: int = setting(5000, "gradient steps", source=CODE, ge=1)
    pictures_per_step: int = setting(
        16, "noised pictures of each step: 4, accumulated 4 times", source=CODE, ge=1
    )
    learning_rate: float = setting(
        0.08, "learning rate of AdamW: 0.005, times the 16 pictures of a step", source=CODE, gt=0
    )
    weight_decay: float = setting(0.01, "weight decay of AdamW", source="diffusers' textual inversion", ge=0)
    initializer: str = setting(
        "", "word whose embedding the search starts from; the concept's own unless given"
    )
    concept_kind: ConceptKind | None = setting(
        None, "kind of a concept that the vocabulary does not know; object unless given"
    )

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and that of the learned word."""
        return 2

    @property
    def work(self) -> int:
        """Gradient steps; they are shared by all prompts of a concept."""
        return self.steps

    def scaled(self, factor: int) -> Self:
        """`factor` times the steps."""
        return self.model_copy(update={"steps": factor * self.steps})


@dataclass(frozen=True)
class Inversion:
    """A learned word.

    Attributes:
        vectors: Its embeddings, `(vectors, width)`, float32.
        loss_first: Loss of the first step.
        loss_last: Mean loss of the last tenth of the steps.
        zero_gradient: Whether the first gradient was zero everywhere.
        queries: UNet sample evaluations of the steps.
        base_queries: Those of the base's pictures.
        shown: Pictures, of those that were learned from, in which the base's judge sees the concept.
    """

    vectors: Tensor
    loss_first: float
    loss_last: float
    zero_gradient: bool
    queries: int
    base_queries: int
    shown: int


@attack(
    "concept_inversion",
    config=ConceptInversionConfig,
    access=Access.WHITE_BOX,
    needs_base=True,
    version="2",  # 1 put pictures of a style under sentences about other subjects
    through=WHOLE_MODEL,
)
def concept_inversion(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: ConceptInversionConfig,
    *,
    base: AttackTarget,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Learn a new word for the concept, from pictures that the base drew."""
    learned: dict[str, Inversion] = {}
    while batch := take(items, config.batch_size):
        started = time.monotonic()
        done, rest = screen(batch, target)
        yield from done
        for item, _ in rest:
            if item.concept in learned:
                report(config.steps)
            else:
                learned[item.concept] = invert(item.concept, target, base, config, report)
        yield from _shown(rest, learned, target, config, started)


def _shown(
    rest: Sequence[tuple[AttackedPrompt, Plain]],
    learned: Mapping[str, Inversion],
    target: AttackTarget,
    config: ConceptInversionConfig,
    started: float,
) -> Iterator[AttackOutcome]:
    """Draw and judge prompts with the learned word in them."""
    if not rest:
        return
    words = [learned[item.concept] for item, _ in rest]
    states = _states([item for item, _ in rest], words, target, config)
    judged = target.judged(states, [item.seed for item, _ in rest])
    seconds = (time.monotonic() - started) / len(rest)
    for (item, one), word, shows, picture in zip(rest, words, judged.shows, judged.images, strict=True):
        yield one.outcome(
            item,
            success=shows,
            success_at=2 if shows else None,
            judged=2,
            ids=None,
            text=None,
            round_trip=None,
            text_survives=None,
            queries=one.queries + target.queries_per_picture,
            steps=config.steps,
            seconds=seconds,
            loss_first=word.loss_first,
            loss_last=word.loss_last,
            zero_gradient=word.zero_gradient,
            picture=picture,
            details={
                "shared_queries": word.queries,
                "base_queries": word.base_queries,
                "pictures_that_show_it": word.shown,
            },
        )


def invert(
    concept: str,
    target: AttackTarget,
    base: AttackTarget,
    config: ConceptInversionConfig,
    report: Callable[[int], None],
) -> Inversion:
    """Learn a word for a concept.

    Args:
        concept: The concept, in words.
        target: The erased pipeline, through which the gradients pass.
        base: The un-erased pipeline, which draws the pictures.
        config: Settings.
        report: Told about every step.
    """
    generator = AttackedPrompt("", 0, concept).generator(config.seed, "concept_inversion")
    latents, drawn, shown, base_queries = _pictures(concept, base, config, generator)
    rows = _sentences(concept, drawn, target, config)
    vectors = _start(concept, target, config)
    state, losses, zero_gradient = AdamState.of(vectors), [], False
    for step in range(config.steps):
        variable = vectors.clone().requires_grad_()
        with searching(target, config.precision):
            loss = _loss(variable[0], latents, rows, target, config, generator)
            gradient = gradient_to(variable, loss[None], target.predictor.dtype)
        zero_gradient |= step == 0 and not bool(gradient.any())
        losses.append(float(loss.detach()))
        vectors = adam_step(
            vectors,
            gradient,
            state,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            decoupled=True,
        )
        report(1)
    last = losses[-max(1, len(losses) // 10) :]
    return Inversion(
        vectors=vectors[0],
        loss_first=losses[0],
        loss_last=sum(last) / len(last),
        zero_gradient=zero_gradient,
        queries=config.steps * config.pictures_per_step,
        base_queries=base_queries,
        shown=shown,
    )


def _pictures(
    concept: str, base: AttackTarget, config: ConceptInversionConfig, generator: torch.Generator
) -> tuple[Tensor, tuple[PromptPair, ...], int, int]:
    """The base's pictures: latents `(pictures, ...)`, what each was drawn from, how many show it, queries."""
    pairs = concept_pairs(concept, config.concept_kind)
    count = DRAWN_PER_PICTURE * config.pictures
    prompts = [pairs[index % len(pairs)].source for index in range(count)]
    seeds = torch.randint(2**31, (count,), generator=generator).tolist()
    images = target_pictures(
        [AttackedPrompt(prompt, seed, concept) for prompt, seed in zip(prompts, seeds, strict=True)], base
    )
    shows = base.judge(images)
    order = torch.sort((~shows).long(), stable=True).indices[: config.pictures]
    shown = int(shows[order].sum())
    if shown < config.pictures:
        logger.warning(
            "the base shows %r in %d of %d pictures that concept inversion learns from",
            concept,
            shown,
            config.pictures,
        )
    latents = encode_pictures(images[order], base).to(base.device)
    drawn = tuple(pairs[index % len(pairs)] for index in order.tolist())
    return latents, drawn, shown, count * base.queries_per_picture


def _sentences(
    concept: str, drawn: Sequence[PromptPair], target: AttackTarget, config: ConceptInversionConfig
) -> tuple[tuple[Placeholder, ...], ...]:
    """For each picture, the sentences it may stand under, with the placeholder in the concept's place."""

    def sentence(pair: PromptPair) -> Placeholder:
        return with_placeholder(
            target.components.tokenizer,
            pair.source,
            (pair.source_word,),
            config.vectors,
            max_tokens=target.components.max_tokens,
        )

    leaves = resolve_concepts([concept], kind=config.concept_kind).leaves
    if any(leaf.kind is ConceptKind.style for leaf in leaves):
        return tuple((sentence(pair),) for pair in drawn)
    found = {sentence(pair) for pair in concept_pairs(concept, config.concept_kind)}
    every = tuple(sorted(found, key=lambda row: (row.ids, row.positions)))
    return (every,) * len(drawn)


def _start(concept: str, target: AttackTarget, config: ConceptInversionConfig) -> Tensor:
    """Mean token embedding of the initial word, for every vector: `(1, vectors, width)`, float32."""
    word = config.initializer or concept
    ids = target.components.tokenizer(word, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ConfigError(
            f"the word {word!r} that concept inversion starts from has no token; expected a word; give "
            "another initializer"
        )
    matrix = target.text.embedding_matrix.detach().float()
    return matrix[torch.tensor(ids, device=matrix.device)].mean(dim=0).repeat(1, config.vectors, 1)


def _loss(
    vectors: Tensor,
    latents: Tensor,
    rows: Sequence[Sequence[Placeholder]],
    target: AttackTarget,
    config: ConceptInversionConfig,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the noise on random pictures in random ones of their sentences, a scalar."""
    count, alphas = config.pictures_per_step, target.predictor.alphas_cumprod
    pictures = torch.randint(len(latents), (count,), generator=generator)
    clean, allowed = latents[pictures], [rows[index] for index in pictures.tolist()]
    numbers = torch.randint(max(map(len, rows)), (count,), generator=generator).tolist()
    chosen = [row[number % len(row)] for row, number in zip(allowed, numbers, strict=True)]
    timesteps = torch.randint(len(alphas), (count,), generator=generator).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy = add_noise(clean, noise, timesteps, alphas)
    states = target.text.states(*stack_embeddings(target.text, chosen, [vectors] * count))
    wanted = target.predictor.wanted(clean, noise, timesteps)
    return F.mse_loss(target.predictor(noisy, timesteps, states), wanted)


@torch.no_grad()
def _states(
    items: Sequence[AttackedPrompt],
    words: Sequence[Inversion],
    target: AttackTarget,
    config: ConceptInversionConfig,
) -> Tensor:
    """Text states of the prompts with the learned word in the concept's place, `(prompts, tokens, width)`."""
    rows = [
        with_placeholder(
            target.components.tokenizer,
            item.prompt,
            concept_words(item.concept, config.concept_kind),
            config.vectors,
            max_tokens=target.components.max_tokens,
        )
        for item in items
    ]
    return target.text.states(*stack_embeddings(target.text, rows, [word.vectors for word in words]))
