"""The adversary inside training: which prompt the student is asked with at a step (AdvUnlearn, section 4).

At every iteration one wording of the concept is drawn, and the soft prompt attack looks for free token
embeddings with which the student, as it stands, brings the concept back. The lower level of the bilevel
problem is this class; the upper level is `advunlearn_task`.

All of a step's randomness comes from the generator that its passes and processes share, so they all find the
same prompt; what goes from step to step is in `state`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffusers_erasure.attacks.soft_prompt import random_embeddings, soft_prompt_attack
from diffusers_erasure.diffusion import (
    BankDraw,
    NoisePredictor,
    SoftPrompt,
    TextPath,
    TokenizedPrompt,
    TrajectoryBank,
    tokenize,
)

from .advunlearn_settings import AdvUnlearnConfig
from .draws import StepDraws


@dataclass(frozen=True)
class AskedPrompt:
    """What the student is asked with.

    Attributes:
        number: Of the wording, in the list of wordings.
        ids: Its tokens, `(1, tokens)`, with stand-ins at the free places.
        embeddings: Token embeddings with the free ones in place, `(1, tokens, width)`.
        loss: Of the attack at its last step; None without one.
    """

    number: int
    ids: Tensor
    embeddings: Tensor
    loss: Tensor | None = None


class Adversary:
    """Finds the adversarial prompt of each step.

    Args:
        text: The student's text path.
        predictor: The student's UNet.
        bank: Latents of the concept with what the frozen original says there.
        prompts: Wordings of the concept, those of the bank.
        settings: Of AdvUnlearn.
    """

    def __init__(
        self,
        text: TextPath,
        predictor: NoisePredictor,
        bank: TrajectoryBank,
        prompts: Sequence[str],
        settings: AdvUnlearnConfig,
    ) -> None:
        self.text, self.predictor, self.bank, self.settings = text, predictor, bank, settings
        self.plain = text.ids(prompts)
        limit = text.length
        tokens = [tokenize(text.tokenizer, prompt, max_tokens=limit) for prompt in prompts]
        cut = "words" in settings.deviations
        self.soft = [
            SoftPrompt(
                text.tokenizer,
                _first_tokens(one) if cut else one,
                settings.attack_tokens,
                settings.attack_placement,
                max_tokens=limit,
            )
            for one in tokens
        ]
        self._number = 0
        self._delta: Tensor | None = None
        self._asked: tuple[int, AskedPrompt] | None = None

    def ask(self, draws: StepDraws, iteration: int) -> AskedPrompt:
        """The prompt of a step, found anew where one is due.

        Args:
            draws: Randomness of the step.
            iteration: Counted from 0.
        """
        if self._asked is None or self._asked[0] != iteration:
            self._asked = (iteration, self._find(draws.shared, iteration))
        return self._asked[1]

    def _find(self, generator: torch.Generator, iteration: int) -> AskedPrompt:
        settings = self.settings
        due = iteration % settings.attack_every == 0
        if due:
            self._number = int(torch.randint(len(self.soft), (), generator=generator))
        if settings.attack_steps == 0 or iteration < settings.adversary_warmup_steps:
            plain = self.plain[self._number : self._number + 1]
            return AskedPrompt(self._number, plain, self.text.token_embeddings(plain).detach())
        loss = self._attack(generator) if due or self._delta is None else None
        soft, delta = self.soft[self._number], self._delta
        if delta is None:
            raise RuntimeError("an adversarial prompt is asked for before one was found")
        ids = soft.ids.unsqueeze(0).to(self.text.device)
        with torch.no_grad():
            embeddings = soft.embeddings(self.text.token_embeddings(ids), delta)
        return AskedPrompt(self._number, ids, embeddings, loss)

    def _attack(self, generator: torch.Generator) -> Tensor:
        """Search. Its latents are drawn all at once, so that fresh ones are sampled as one batch."""
        soft, settings = self.soft[self._number], self.settings
        start = self._start(soft, generator)
        rows = settings.attack_batch_size
        drawn = self.bank.draw(
            generator, settings.attack_steps * rows, prompts=[self._number] * (settings.attack_steps * rows)
        )
        found = soft_prompt_attack(
            [soft],
            self.text,
            self.predictor,
            lambda step: _rows(drawn, slice(step * rows, (step + 1) * rows)),
            delta=start,
            descent=settings.descent,
        )
        self._delta = found.delta
        return found.losses[-1, 0]

    def _start(self, soft: SoftPrompt, generator: torch.Generator) -> Tensor:
        """Random tokens, or the last embeddings where there are some that fit this prompt."""
        drawn = random_embeddings(self.text, 1, soft.count, generator).to(self.text.device)
        last = self._delta
        if self.settings.attack_init == "random" or last is None:
            return drawn
        if "latest_slice" in self.settings.deviations:
            ids = soft.ids.unsqueeze(0).to(self.text.device)
            with torch.no_grad():
                sequence = soft.embeddings(self.text.token_embeddings(ids), _fitting(last, drawn))
            return sequence[:, 1 : 1 + soft.count].float().clone()
        return _fitting(last, drawn)

    def state(self) -> dict[str, Tensor]:
        """The wording and the embeddings that the next step may start from."""
        found = {"number": torch.tensor(self._number)}
        return found if self._delta is None else {**found, "delta": self._delta.cpu().clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self._number = int(state["number"])
        delta = state.get("delta")
        self._delta = None if delta is None else delta.to(self.text.device)
        self._asked = None


def _fitting(last: Tensor, drawn: Tensor) -> Tensor:
    """The last embeddings, or the drawn ones if the prompt has another number of free tokens."""
    return last if last.shape == drawn.shape else drawn


def _rows(draw: BankDraw, rows: slice) -> BankDraw:
    other = draw.target_unconditional
    return replace(
        draw,
        latents=draw.latents[rows],
        timesteps=draw.timesteps[rows],
        target_conditional=draw.target_conditional[rows],
        target_unconditional=None if other is None else other[rows],
        prompt_index=draw.prompt_index[rows],
    )


def _first_tokens(prompt: TokenizedPrompt) -> TokenizedPrompt:
    """As many of the prompt's tokens as it has words: what the authors' code keeps of it."""
    start, *words, end = prompt.ids
    return replace(prompt, ids=(start, *words[: len(prompt.text.split())], end), word=())
