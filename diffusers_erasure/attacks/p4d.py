"""P4D, Prompting4Debugging, arXiv 2309.06135: a hard prompt that makes the erased model speak like the base.

The loss compares noise: with x the base's own picture of the prompt p, and z_t its latents at a random
timestep,

    L(p*) = ‖ ε_base(z_t, p) − ε_erased(z_t, p*) ‖²

and p* consists of tokens of the vocabulary, found by PEZ (`hard_prompt`). Two variants:

    P4D-N    p* is N free tokens; the prompt itself is gone
    P4D-K    p* is the prompt with a free token before every K = 3 of its own

Every so many steps the present p* is drawn and judged, until the judge sees the concept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffusers_erasure.diffusion.noise import add_noise
from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt, ordinary_tokens
from diffusers_erasure.settings import setting

from .adam import AdamState, adam_step
from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .fitting import free_prompt
from .hard_prompt import nearest_tokens, project
from .plain import Plain, screen
from .progress import take
from .reading import Read, Reading, judged_readings, reading, typed_successes
from .registry import WHOLE_MODEL, Access, attack
from .searching import gradient_to, searching
from .soft_prompt import random_embeddings
from .target_picture import target_latents

CODE = "configs/*_optmz_config.json of the authors' repository"
PLACEMENTS = {"n": Placement.REPLACE, "k": Placement.PER_K_WORDS}


class P4DConfig(AttackConfig):
    """Settings of P4D; the defaults are those of the paper."""

    variant: Literal["n", "k"] = setting(
        "n", "n: free tokens take the place of the prompt; k: one before every third of its tokens"
    )
    tokens: int = setting(16, "free tokens of variant n", symbol="N", source=CODE, ge=1)
    steps: int = setting(3000, "gradient steps", source=CODE, ge=1)
    judge_every: int = setting(
        50, "steps after which the present prompt is drawn and judged", source=CODE, ge=1
    )
    learning_rate: float = setting(0.1, "learning rate of AdamW", symbol="γ", source=CODE, gt=0)
    weight_decay: float = setting(0.1, "weight decay of AdamW", source=CODE, ge=0)

    read: Read = setting(
        "text", "what is judged: the typed text of the tokens found, or their ids as they are"
    )

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and one after every `judge_every` steps and after the last."""
        return 1 + -(-self.steps // self.judge_every)

    @property
    def work(self) -> int:
        """Gradient steps."""
        return self.steps

    def scaled(self, factor: int) -> Self:
        """`factor` times the steps."""
        return self.model_copy(update={"steps": factor * self.steps})


@attack(
    "p4d",
    config=P4DConfig,
    access=Access.WHITE_BOX,
    needs_base=True,
    version="2",  # each prompt starts from tokens of its own, whatever is searched beside it
    through=WHOLE_MODEL,
)
def p4d(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: P4DConfig,
    *,
    base: AttackTarget,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Search for hard prompts under which the erased model predicts the base's noise."""
    while batch := take(items, config.batch_size):
        started = time.monotonic()
        done, rest = screen(batch, target)
        yield from done
        if rest:
            yield from _Search(target, base, config, rest, report).outcomes(started, len(batch))


@dataclass(eq=False)
class _Row:
    """One prompt's search.

    Attributes:
        item: What is attacked.
        plain: Its plain picture.
        soft: Where the free tokens stand.
        generator: Its random numbers.
        steps: Gradient steps so far.
        losses: The first loss and the last one.
        zero_gradient: Whether its first gradient was zero everywhere.
        cut: Tokens of the prompt that there was no room for.
        seen: Verdicts and pictures of what was judged so far; the same text is judged once.
        success: Whether the judge saw the concept.
        last: The hard prompt that was judged last.
    """

    item: AttackedPrompt
    plain: Plain
    soft: SoftPrompt
    generator: torch.Generator
    cut: int
    steps: int = 0
    losses: list[float] = field(default_factory=list)
    zero_gradient: bool = False
    seen: dict[tuple[int, ...], tuple[bool, Tensor]] = field(default_factory=dict)
    success: bool = False
    last: Reading = field(init=False)

    @property
    def judged(self) -> int:
        """Pictures that were judged, with that of the plain prompt."""
        return 1 + len(self.seen)


class _Search:
    """P4D on a batch of prompts: one UNet call a step for all that are not done.

    Attributes:
        rows: The prompts that are not done.
        iterates: P of PEZ for each, `(rows, most free tokens, width)`; shorter ones are filled up with zeros.
        latents: Those of the base's pictures, `(rows, channels, height, width)`.
        wanted: The base's text states of the prompts, `(rows, tokens, width)`.
    """

    def __init__(
        self,
        target: AttackTarget,
        base: AttackTarget,
        config: P4DConfig,
        pairs: Sequence[tuple[AttackedPrompt, Plain]],
        report: Callable[[int], None],
    ) -> None:
        self.target, self.base, self.config, self.report = target, base, config, report
        self.matrix = target.text.embedding_matrix.detach()
        tokenizer = target.components.tokenizer
        self.allowed = ordinary_tokens(tokenizer, len(self.matrix)).to(self.matrix.device)
        self.rows = [self._row(item, plain) for item, plain in pairs]
        drawn = [random_embeddings(target.text, 1, row.soft.count, row.generator)[0] for row in self.rows]
        self.iterates = pad_sequence(drawn, batch_first=True)
        self.adam = AdamState.of(self.iterates)
        items = [row.item for row in self.rows]
        self.latents = torch.stack(target_latents(items, base, base)).to(base.device)
        self.wanted = base.encode([item.aim for item in items])

    def _row(self, item: AttackedPrompt, plain: Plain) -> _Row:
        placement = PLACEMENTS[self.config.variant]
        soft, cut = free_prompt(self.target, item.prompt, self.config.tokens, placement)
        return _Row(item, plain, soft, item.generator(self.config.seed, "p4d"), cut)

    def outcomes(self, started: float, batch: int) -> Iterator[AttackOutcome]:
        """Search until every prompt is done; each one's outcome as soon as it is known."""
        for step in range(1, self.config.steps + 1):
            self._step()
            self.report(len(self.rows))
            last = step == self.config.steps
            if step % self.config.judge_every and not last:
                continue
            self._judge()
            done = [row for row in self.rows if row.success or last]
            self._keep([index for index, row in enumerate(self.rows) if not row.success and not last])
            yield from self._finished(done, (time.monotonic() - started) / batch)
            if not self.rows:
                return

    def _keep(self, kept: Sequence[int]) -> None:
        """Go on with some of the prompts."""
        places = torch.tensor(kept, dtype=torch.long)
        self.rows = [self.rows[index] for index in kept]
        self.iterates = self.iterates[places.to(self.iterates.device)]
        self.adam = self.adam.rows(places.to(self.iterates.device))
        self.latents = self.latents[places.to(self.latents.device)]
        self.wanted = self.wanted[places.to(self.wanted.device)]

    def _step(self) -> None:
        """One step of AdamW on all iterates."""
        noisy, timesteps = self._noisy()
        with torch.no_grad():
            teacher = self.base.predictor(noisy, timesteps, self.wanted)
        variable = self.iterates.detach().clone().requires_grad_()
        with searching(self.target, self.config.precision):
            student = self.target.predictor(noisy, timesteps, self._states(variable))
            losses = (student - teacher).square().flatten(1).mean(dim=1)
            gradients = gradient_to(variable, losses, self.target.predictor.dtype)
        self.iterates = adam_step(
            self.iterates,
            gradients,
            self.adam,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            decoupled=True,
        )
        for row, gradient, loss in zip(self.rows, gradients, losses.tolist(), strict=True):
            row.zero_gradient |= row.steps == 0 and not bool(gradient.any())
            row.steps += 1
            row.losses = [*row.losses[:1], loss]

    def _noisy(self) -> tuple[Tensor, Tensor]:
        """Latents at a random timestep of each prompt, and the timesteps `(rows,)`."""
        alphas, generators = self.base.predictor.alphas_cumprod, [row.generator for row in self.rows]
        shape, device = self.latents.shape[1:], self.latents.device
        timesteps = torch.cat([torch.randint(len(alphas), (1,), generator=one) for one in generators])
        noise = torch.stack([torch.randn(shape, generator=one) for one in generators])
        timesteps = timesteps.to(device)
        return add_noise(self.latents, noise.to(device), timesteps, alphas), timesteps

    def _states(self, iterates: Tensor) -> Tensor:
        """Text states of the projected prompts, `(rows, tokens, width)`."""
        text = self.target.text
        shown = project(iterates, self.matrix, nearest_tokens(iterates, self.matrix, self.allowed))
        ids = torch.stack([row.soft.ids for row in self.rows]).to(text.device)
        plain = text.token_embeddings(ids).detach()
        filled = [
            row.soft.embeddings(own[None], free[None, : row.soft.count])
            for row, own, free in zip(self.rows, plain, shown, strict=True)
        ]
        return text.states(ids, torch.cat(filled))

    def _judge(self) -> None:
        """Draw the present hard prompts and judge them."""
        free = nearest_tokens(self.iterates, self.matrix, self.allowed).cpu()
        for row, own in zip(self.rows, free, strict=True):
            ids = row.soft.fill(own[: row.soft.count])[: row.soft.end + 1]
            row.last = reading(self.target, ids.tolist(), self.config.read)
        new = [row for row in self.rows if row.last.ids not in row.seen]
        judged = judged_readings(self.target, [row.last for row in new], [row.item.seed for row in new])
        for row, answer in zip(new, judged, strict=True):
            row.seen[row.last.ids] = answer
            row.success = answer[0]

    def _finished(self, rows: Sequence[_Row], seconds: float) -> Iterator[AttackOutcome]:
        """Outcomes, with the typed texts of what was found."""
        survive, costs = typed_successes(
            self.target,
            [row.last for row in rows],
            [row.item.seed for row in rows],
            [row.success for row in rows],
        )
        for row, survives, cost in zip(rows, survive, costs, strict=True):
            yield AttackOutcome(
                row.item,
                success=row.success,
                success_at=row.judged if row.success else None,
                judged=row.judged,
                ids=row.last.ids,
                text=row.last.text,
                round_trip=row.last.round_trip,
                text_survives=survives,
                queries=row.steps + row.judged * self.target.queries_per_picture + cost,
                steps=row.steps,
                seconds=seconds,
                loss_first=row.losses[0],
                loss_last=row.losses[-1],
                zero_gradient=row.zero_gradient,
                picture=row.seen[row.last.ids][1],
                details={
                    "base_queries": row.steps + self.base.queries_per_picture,
                    "prompt_tokens_cut": row.cut,
                },
            )
