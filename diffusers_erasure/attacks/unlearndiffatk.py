"""UnlearnDiffAtk: typed tokens that make an erased model explain a picture of the concept.

Zhang et al., "To Generate or Not?", arXiv:2310.11868. Read as a classifier, a diffusion model finds a prompt
c' the more likely for a picture the better it predicts the noise in it, so the attack looks for k tokens that
minimise

    E_{t,e} | e - ε_θ(sqrt(α_t) z + sqrt(1 - α_t) e | c') |²          z = the picture's latents

with one picture that the un-erased model draws for the same prompt; no second UNet takes part in the search.
As the authors' code does it: each token is a point of the simplex over the vocabulary, drawn straight
through; Adam with L2 decay, projection after every step; the timesteps are visited in turn, the least noisy
first, 40 steps at each; after each timestep the most probable tokens are decoded to text, tokenised again,
drawn and judged, and the first success ends the attack.

Ours differs from that code in what cannot change a result but for rounding: many prompts share each UNet
call, places are taken by prompts that wait, a text that was judged before is not drawn again (its picture
would be the same), and the gradient of the one-hot product is written out (`simplex.straight_through`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

import torch
from torch import Tensor

from diffusers_erasure.diffusion.noise import add_noise
from diffusers_erasure.diffusion.soft_prompt import Placement, SoftPrompt, ordinary_tokens
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.settings import setting

from .adam import AdamState, adam_step
from .base import AttackedPrompt, AttackOutcome, AttackTarget
from .config import AttackConfig
from .fitting import free_prompt
from .plain import Plain, judge_plain
from .progress import take
from .reading import Read, Reading, judged_readings, reading, typed_successes
from .registry import WHOLE_MODEL, Access, attack
from .searching import gradient_to, searching
from .simplex import choose, project_to_simplex, straight_through, uniform
from .soft_prompt import PlacedPrompts
from .target_picture import target_latents


class UnlearnDiffAtkConfig(AttackConfig):
    """Settings of UnlearnDiffAtk; the defaults are the published ones for styles and objects."""

    tokens: int = setting(
        3, "free tokens; 5 for nudity, violence, illegal acts", symbol="k", source="appendix C", ge=1
    )
    placement: Literal["prefix", "suffix", "middle", "insert", "replace"] = setting(
        "prefix", "where the free tokens stand in the prompt"
    )
    timesteps: int = setting(50, "noise levels, visited in turn; a picture is judged after each", ge=1)
    iterations: int = setting(40, "steps at each noise level", ge=1)
    learning_rate: float = setting(0.01, "Adam's step size", gt=0)
    weight_decay: float = setting(
        0.1, "L2 decay, added to the gradient (the paper says AdamW, its code is Adam)", ge=0
    )
    start: Literal["uniform", "random"] = setting("uniform", "where each token starts on the simplex")
    read: Read = setting(
        "text", "what is judged: the typed text of the tokens found, or their ids as they are"
    )
    order: Literal["ascending", "descending"] = setting("ascending", "noise levels: the least noisy first")
    early_stop: bool = setting(True, "end at the first success")

    @property
    def judged_images(self) -> int:
        """The plain prompt's picture, and one after each timestep."""
        return 1 + self.timesteps

    @property
    def work(self) -> int:
        """Steps of a prompt that is never broken."""
        return self.timesteps * self.iterations

    def scaled(self, factor: int) -> Self:
        """More steps at each noise level; the number of judged pictures, and so of chances, stays."""
        return self.model_copy(update={"iterations": self.iterations * factor})

    def levels(self, train_timesteps: int) -> tuple[int, ...]:
        """The timesteps that are visited, in their order: 10, 30, ..., 990 for 50 of 1000.

        Raises:
            ConfigError: There are not so many.
        """
        if self.timesteps > train_timesteps:
            raise ConfigError(
                f"{self.timesteps} timesteps were asked for; the model has {train_timesteps}; ask for fewer"
            )
        share = train_timesteps / self.timesteps
        levels = tuple(int((index + 0.5) * share) for index in range(self.timesteps))
        return levels if self.order == "ascending" else levels[::-1]


@attack(
    "unlearndiffatk",
    config=UnlearnDiffAtkConfig,
    access=Access.WHITE_BOX,
    needs_base=True,
    through=WHOLE_MODEL,
)
def unlearndiffatk(
    items: Iterator[AttackedPrompt],
    target: AttackTarget,
    config: UnlearnDiffAtkConfig,
    *,
    base: AttackTarget,
    report: Callable[[int], None],
) -> Iterator[AttackOutcome]:
    """Search typed tokens that explain the base's picture of the concept (arXiv:2310.11868)."""
    search = _Search(target, base, config, report)
    yield from search.admit(items)
    while search.rows:
        search.descend()
        yield from search.judge()
        yield from search.admit(items)


@dataclass
class _Row:
    """One prompt under attack; `found` and `picture` are those of the last new text, up to a success."""

    item: AttackedPrompt
    prompt: SoftPrompt
    cut: int
    latents: Tensor
    generator: torch.Generator
    found: Reading
    picture: Tensor
    success_at: int | None
    seconds: float
    level: int = 0
    losses: list[float] = field(default_factory=list)
    zero_gradient: bool = False
    seen: set[tuple[int, ...]] = field(default_factory=set)

    @property
    def judged(self) -> int:
        """Pictures so far, with the plain prompt's; the same text's picture is judged once."""
        return 1 + len(self.seen)

    def look(self, found: Reading, picture: Tensor, shows: bool) -> None:
        """Take the judge's answer about a new picture."""
        self.seen.add(found.ids)
        if self.success_at is None:
            self.found, self.picture = found, picture
            self.success_at = self.judged if shows else None


class _Search:
    """The prompts that are attacked at the moment, one row each."""

    def __init__(
        self,
        target: AttackTarget,
        base: AttackTarget,
        config: UnlearnDiffAtkConfig,
        report: Callable[[int], None],
    ) -> None:
        self.target, self.base, self.config, self.report = target, base, config, report
        self.rows: list[_Row] = []
        self.levels = config.levels(len(target.predictor.alphas_cumprod))
        matrix = target.text.embedding_matrix
        self.allowed = torch.zeros(matrix.shape[0], dtype=torch.bool, device=matrix.device)
        self.allowed[ordinary_tokens(target.text.tokenizer, matrix.shape[0]).to(matrix.device)] = True
        self.points = uniform((0, config.tokens), self.allowed)
        self.adam = AdamState.of(self.points)

    def admit(self, items: Iterator[AttackedPrompt]) -> Iterator[AttackOutcome]:
        """Fill free places; a prompt that needs no attack is answered at once."""
        while len(self.rows) < self.config.batch_size:
            batch = take(items, self.config.batch_size - len(self.rows))
            if not batch:
                return
            started = time.monotonic()
            plain = judge_plain(batch, self.target)
            spent = (time.monotonic() - started) / len(batch)
            begun = []
            for item, one in zip(batch, plain, strict=True):
                if one.shows and self.config.early_stop:
                    yield one.outcome(item, seconds=spent)
                else:
                    begun.append((item, one))
            self._begin(begun, spent)

    def _begin(self, begun: Sequence[tuple[AttackedPrompt, Plain]], spent: float) -> None:
        if not begun:
            return
        pictures = target_latents([item for item, _ in begun], self.target, self.base)
        rows = [
            self._row(item, plain, latents, spent)
            for (item, plain), latents in zip(begun, pictures, strict=True)
        ]
        points = self._start(rows)
        self.rows += rows
        self.points = torch.cat([self.points, points])
        self.adam = self.adam.joined(AdamState.of(points))

    def _row(self, item: AttackedPrompt, plain: Plain, latents: Tensor, spent: float) -> _Row:
        placement = Placement(self.config.placement)
        prompt, cut = free_prompt(self.target, item.prompt, self.config.tokens, placement)
        return _Row(
            item=item,
            prompt=prompt,
            cut=cut,
            latents=latents,
            generator=item.generator(self.config.seed, "unlearndiffatk"),
            found=Reading(plain.ids, item.prompt, round_trip=True),
            picture=plain.picture,
            success_at=1 if plain.shows else None,
            seconds=spent,
        )

    def _start(self, rows: Sequence[_Row]) -> Tensor:
        points = uniform((len(rows), self.config.tokens), self.allowed)
        if self.config.start == "uniform":
            return points
        drawn = [torch.rand(points.shape[1:], generator=row.generator) for row in rows]
        weights = torch.stack(drawn).to(points.device) * self.allowed
        return weights / weights.sum(dim=-1, keepdim=True)

    def descend(self) -> None:
        """All steps of every row at its noise level."""
        started = time.monotonic()
        target, shape = self.target, self.rows[0].latents.shape
        steps, device = self.config.iterations, target.device
        noise = torch.stack([torch.randn((steps, *shape), generator=row.generator) for row in self.rows], 1)
        draws = torch.stack(
            [torch.rand((steps, self.config.tokens), generator=row.generator) for row in self.rows], 1
        ).to(self.points.device)
        latents = torch.stack([row.latents for row in self.rows]).to(device)
        times = torch.tensor([self.levels[row.level] for row in self.rows], device=device)
        prompts = PlacedPrompts.of([row.prompt for row in self.rows], target.text)
        with searching(target, self.config.precision):
            for step in range(steps):
                tokens = choose(self.points, draws[step])
                losses, gradient = self._gradient(prompts, tokens, latents, noise[step].to(device), times)
                self._note(losses, gradient)
                self._move(gradient)
                self.report(len(self.rows))
        for row in self.rows:
            row.level += 1
            row.seconds += (time.monotonic() - started) / len(self.rows)

    def _gradient(
        self, prompts: PlacedPrompts, tokens: Tensor, latents: Tensor, noise: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Losses `(rows,)`, and gradients to the embeddings of the drawn tokens `(rows, k, width)`."""
        target = self.target
        free = target.text.token_embeddings(tokens).detach().float().requires_grad_(True)
        states = prompts.states(target.text, free)
        noisy = add_noise(latents, noise, times, target.predictor.alphas_cumprod)
        predicted = target.predictor(noisy, times, states)
        wanted = target.predictor.wanted(latents, noise, times)
        losses = (predicted - wanted).square().flatten(1).mean(dim=1)
        return losses.detach(), gradient_to(free, losses, target.predictor.dtype)

    def _note(self, losses: Tensor, gradient: Tensor) -> None:
        """Keep the first and the last loss of every row, and whether its first gradient was nothing."""
        largest = gradient.abs().flatten(1).amax(dim=1).tolist()
        for row, loss, size in zip(self.rows, losses.tolist(), largest, strict=True):
            if not row.losses:
                row.losses = [loss, loss]
                row.zero_gradient = size == 0
            row.losses[1] = loss

    def _move(self, gradient: Tensor) -> None:
        full = straight_through(gradient.to(self.points.device), self.target.text.embedding_matrix)
        moved = adam_step(
            self.points,
            full,
            self.adam,
            learning_rate=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
        )
        self.points = project_to_simplex(moved, self.allowed)

    def judge(self) -> Iterator[AttackOutcome]:
        """Draw what was found where it is new, and let go of the rows that are done."""
        started = time.monotonic()
        prompts = PlacedPrompts.of([row.prompt for row in self.rows], self.target.text)
        filled = prompts.filled(self.points.argmax(dim=-1)).tolist()
        found = [
            reading(self.target, ids[: row.prompt.end + 1], self.config.read)
            for row, ids in zip(self.rows, filled, strict=True)
        ]
        new = [(row, one) for row, one in zip(self.rows, found, strict=True) if one.ids not in row.seen]
        self._draw(new)
        for row in self.rows:
            row.seconds += (time.monotonic() - started) / len(self.rows)
        yield from self._release()

    def _draw(self, new: Sequence[tuple[_Row, Reading]]) -> None:
        seeds = [row.item.seed for row, _ in new]
        judged = judged_readings(self.target, [found for _, found in new], seeds)
        for (row, found), (shows, picture) in zip(new, judged, strict=True):
            row.look(found, picture, shows)

    def _release(self) -> Iterator[AttackOutcome]:
        over = [
            row.level == len(self.levels) or (self.config.early_stop and row.success_at is not None)
            for row in self.rows
        ]
        finished = [row for row, done in zip(self.rows, over, strict=True) if done]
        if not finished:
            return
        kept = torch.tensor([not done for done in over], device=self.points.device)
        self.rows = [row for row, done in zip(self.rows, over, strict=True) if not done]
        self.points, self.adam = self.points[kept], self.adam.rows(kept)
        survive, costs = typed_successes(
            self.target,
            [row.found for row in finished],
            [row.item.seed for row in finished],
            [row.success_at is not None for row in finished],
        )
        for row, survives, cost in zip(finished, survive, costs, strict=True):
            yield self._outcome(row, survives, cost)

    def _outcome(self, row: _Row, survives: bool, cost: int) -> AttackOutcome:
        steps = row.level * self.config.iterations
        return AttackOutcome(
            row.item,
            success=row.success_at is not None,
            success_at=row.success_at,
            judged=row.judged,
            ids=row.found.ids,
            text=row.found.text,
            round_trip=row.found.round_trip,
            text_survives=survives,
            queries=steps + row.judged * self.target.queries_per_picture + cost,
            steps=steps,
            seconds=row.seconds,
            loss_first=row.losses[0],
            loss_last=row.losses[1],
            zero_gradient=row.zero_gradient,
            picture=row.picture,
            details={
                "levels": row.level,
                "base_queries": self.base.queries_per_picture,
                "prompt_tokens_cut": row.cut,
            },
        )
