"""AEGIS's two searches: an erasure target at the concept's centre, and an adversarial prompt.

Both are free tokens in the concept's prompt, found by signed steps on latents of the concept:

    c' <- c' - β sign ∇ ( |e_0(z | c') - e(z | c)|² + |e_0(z | c') - e_0(z | c)|² )      through the original
    c* <- c* - β sign ∇   |e(z | c*) - e_0(z | c)|²                                       through the model

with e_0 the original's and e the trained model's noise for z at its timestep, c the concept's prompt. One
step in each iteration is the paper's; what was found goes on in the next one. The wordings of one concept
share what was found, as they share its centre; each concept has its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.attacks.soft_prompt import random_embeddings
from diffusers_erasure.diffusion import NoisePredictor, SoftPrompt, TextPath
from diffusers_erasure.diffusion.parameters import frozen

from .aegis_settings import AEGISConfig
from .losses import noise_loss
from .task_state import joined_state, part_of


@dataclass(frozen=True)
class ConceptLatents:
    """Latents of the concept with what is said there for its plain prompt.

    Attributes:
        latents: `(rows, channels, height, width)`.
        timesteps: `(rows,)`.
        original: e_0(z | c), like the latents.
    """

    latents: Tensor
    timesteps: Tensor
    original: Tensor


@dataclass(frozen=True)
class FreeTokens:
    """A prompt with free tokens, and the way of it through a text encoder.

    Attributes:
        text: The encoder's.
        soft: Where they stand, for each wording.
    """

    text: TextPath
    soft: tuple[SoftPrompt, ...]

    @classmethod
    def of(cls, text: TextPath, prompts: Sequence[str], count: int, settings: AEGISConfig) -> FreeTokens:
        """Lay `count` free tokens out in each wording."""
        return cls(
            text,
            tuple(
                SoftPrompt(text.tokenizer, prompt, count, settings.attack_placement, max_tokens=text.length)
                for prompt in prompts
            ),
        )

    def states(self, number: int, delta: Tensor) -> Tensor:
        """Text states `(1, tokens, width)` of a wording with these free embeddings `(1, k, width)`."""
        soft = self.soft[number]
        ids = soft.ids.unsqueeze(0).to(self.text.device)
        return self.text.states(ids, soft.embeddings(self.text.token_embeddings(ids).detach(), delta))

    def start(self, number: int, generator: torch.Generator) -> Tensor:
        """Embeddings of random tokens, `(1, k, width)`."""
        count = self.soft[number].count
        return random_embeddings(self.text, 1, count, generator).to(self.text.device)


class SoftPair:
    """Finds both, and keeps them from iteration to iteration.

    Args:
        teacher: The original's UNet.
        pupil: The trained model's.
        target: Free tokens of the erasure target, through the original's encoder.
        attack: Free tokens of the adversarial prompt, through the trained model's.
        settings: Of AEGIS.
        groups: Of every wording, the number of its concept; wordings of one concept share tokens. All
            are of one concept unless given.

    Attributes:
        number: Of the wording that was searched for last.
    """

    def __init__(
        self,
        teacher: NoisePredictor,
        pupil: NoisePredictor,
        target: FreeTokens,
        attack: FreeTokens,
        settings: AEGISConfig,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.teacher, self.pupil, self.target, self.attack = teacher, pupil, target, attack
        self.settings = settings
        self.groups = tuple(groups) if groups is not None else (0,) * len(target.soft)
        self.number = 0
        self._found: dict[str, Tensor] = {}
        self._origins: dict[str, Tensor] = {}

    @property
    def target_delta(self) -> Tensor | None:
        """What c' is for the present wording, `(1, k, width)`; None before its concept's first search."""
        return self._found.get(self._key("aet"))

    @property
    def attack_delta(self) -> Tensor | None:
        """What c* is, likewise."""
        return self._found.get(self._key("attack"))

    def _key(self, name: str) -> str:
        return f"{name}/{self.groups[self.number]}"

    def search(
        self,
        number: int,
        generator: torch.Generator,
        latents: Callable[[], ConceptLatents],
        plain: Callable[[], Tensor],
    ) -> dict[str, Tensor]:
        """Search from the last found tokens, or from random ones.

        Args:
            number: Of the wording.
            generator: Where random tokens come from.
            latents: Gives latents of the concept for each step.
            plain: Gives the trained model's text states of the plain prompt, `(1, tokens, width)`.

        Returns:
            What both objectives were at the last step: "aet" and "attack".
        """
        self.number = number
        self._start("aet", self.target, generator)
        self._start("attack", self.attack, generator)
        told = dict[str, Tensor]()
        with frozen(self.teacher.unet, self.pupil.unet, self.target.text.encoder, self.attack.text.encoder):
            searched = self.settings.adversarial or self.settings.erasure_target == "aet"
            for _ in range(self.settings.attack_steps if searched else 0):
                here = latents()
                if self.settings.erasure_target == "aet":
                    told["aet"] = self._step("aet", self._target_loss(here, plain))
                if self.settings.adversarial:
                    told["attack"] = self._step("attack", self._attack_loss(here))
        return told

    def _start(self, name: str, tokens: FreeTokens, generator: torch.Generator) -> None:
        """Go on from what was found, or begin at random tokens; these are drawn in any case."""
        drawn, last = tokens.start(self.number, generator), self._found.get(self._key(name))
        if self.settings.attack_init == "latest" and last is not None and last.shape == drawn.shape:
            return
        self._found[self._key(name)] = self._origins[self._key(name)] = drawn

    def _target_loss(self, here: ConceptLatents, plain: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            now = self.pupil(here.latents, here.timesteps, plain())

        def loss(delta: Tensor) -> Tensor:
            said = self.teacher(here.latents, here.timesteps, self.target.states(self.number, delta))
            return noise_loss(said, now) + noise_loss(said, here.original)

        return loss

    def _attack_loss(self, here: ConceptLatents) -> Callable[[Tensor], Tensor]:
        def loss(delta: Tensor) -> Tensor:
            said = self.pupil(here.latents, here.timesteps, self.attack.states(self.number, delta))
            return noise_loss(said, here.original)

        return loss

    def _step(self, name: str, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """One signed step down; the objective before it."""
        free = self._found[self._key(name)].detach().requires_grad_(True)
        with torch.enable_grad():
            loss = objective(free)
            (gradient,) = torch.autograd.grad(loss, free)
        moved = free.detach() - self.settings.attack_learning_rate * gradient.sign()
        ball = self.settings.attack_ball
        if ball is not None:
            origin = self._origins[self._key(name)]
            moved = origin + (moved - origin).clamp(-ball, ball)
        self._found[self._key(name)] = moved
        return loss.detach()

    def state(self) -> dict[str, Tensor]:
        """The wording, and for every concept both finds and where they began."""
        kept = {"found": self._found, "origin": self._origins}
        parts = {kind: {k: v.cpu().clone() for k, v in held.items()} for kind, held in kept.items()}
        return {"number": torch.tensor(self.number), **joined_state(parts)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        self.number = int(state["number"])
        device = self.target.text.device
        for kind, held in (("found", self._found), ("origin", self._origins)):
            held.clear()
            held.update({k: v.to(device) for k, v in part_of(state, kind).items()})
