"""What an attack is given and what it must answer.

    AttackedPrompt   one prompt with its seed: what the attack tries to get the concept out of
    AttackTarget     a pipeline as attacks see it: text path, noise prediction, drawing, and the judge
    AttackOutcome    what came of one prompt, with everything that it cost

The judge and the drawing arrive as functions, since judges live above this room. Every attack first judges
the plain prompt's picture, so `success_at == 1` is a success without an attack, and pictures are counted the
same way in all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from diffusers_erasure.artifacts.fingerprint import fingerprint
from diffusers_erasure.artifacts.manifest import canonical_json
from diffusers_erasure.diffusion.components import DiffusionComponents
from diffusers_erasure.diffusion.identity import facts_beside_weights
from diffusers_erasure.diffusion.noise import NoisePredictor
from diffusers_erasure.diffusion.text import tokenize
from diffusers_erasure.diffusion.text_path import TextPath
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.pipelines.guard import verify_all

from .drawing import Drawing

Draw = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""From text states `(batch, tokens, width)`, unconditional states `(tokens, width)` and one seed per picture
to pictures `(batch, 3, height, width)`, uint8."""
JudgePictures = Callable[[Tensor], Tensor]
"""From pictures `(batch, 3, height, width)` uint8 to `(batch,)` bool: does the picture show the concept?"""


@dataclass(frozen=True)
class AttackedPrompt:
    """One thing to attack.

    Attributes:
        prompt: A prompt that asks for the concept.
        seed: Seed of every picture that is drawn for it.
        concept: The erased concept, in words.
        target: Prompt from which the base model draws the picture that the attack aims at; `prompt` unless
            given.
    """

    prompt: str
    seed: int
    concept: str
    target: str | None = None

    @property
    def aim(self) -> str:
        """The prompt of the picture that the attack aims at; an empty `target` is one."""
        return self.prompt if self.target is None else self.target

    def generator(self, seed: int, purpose: str = "") -> torch.Generator:
        """Random numbers of this item alone: the same in any batch, order and shard.

        Args:
            seed: The attack's seed.
            purpose: Another purpose gives independent numbers.
        """
        text = canonical_json([seed, purpose, self.prompt, self.seed, self.concept, self.target])
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7], "big"))


@dataclass(frozen=True)
class AttackOutcome:
    """What came of one prompt.

    Attributes:
        item: The plain prompt, with the seed of its pictures and the erased concept.
        success: Whether the judge saw the concept in any of the pictures.
        success_at: How many pictures had been judged then, with that one; 1 is the plain prompt's.
        judged: Pictures that were judged.
        ids: Token ids of the picture that decided, from start to end token: the successful one, else the
            last; None where the attack has none (learned embeddings).
        text: The same as text that a user can type.
        round_trip: Whether decoding the ids that were found and tokenising again gives the same ids.
        text_survives: Whether the picture of the typed text was judged a success too.
        queries: UNet sample evaluations, forward; pictures and search together.
        steps: Steps of the search.
        seconds: Wall time, as a share of its batch.
        loss_first: Loss of the search's first step.
        loss_last: Loss of its last step.
        zero_gradient: The search's first gradient was zero everywhere: a sign of masking.
        failed: Why this prompt could not be attacked to the end; None if it was.
        state_before: State of the erasure in the pipeline, read before the attack.
        state_after: The same, after it.
        picture_seed: Seed of the picture that decided, where it is not `seed`.
        picture: The picture that decided, `(3, height, width)` uint8.
        details: Further numbers of one attack, as JSON values.
    """

    item: AttackedPrompt
    success: bool
    success_at: int | None = None
    judged: int = 0
    ids: tuple[int, ...] | None = None
    text: str | None = None
    round_trip: bool | None = None
    text_survives: bool | None = None
    queries: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss_first: float | None = None
    loss_last: float | None = None
    zero_gradient: bool = False
    failed: str | None = None
    state_before: str = ""
    state_after: str = ""
    picture_seed: int | None = None
    picture: Tensor | None = field(default=None, compare=False, repr=False)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The plain prompt."""
        return self.item.prompt

    @property
    def seed(self) -> int:
        """Seed of its pictures."""
        return self.item.seed

    @property
    def concept(self) -> str:
        """The erased concept."""
        return self.item.concept

    @property
    def counts_as_success(self) -> bool:
        """Worst case: a prompt that could not be attacked to the end counts for the attack."""
        return self.success or self.failed is not None

    def succeeded_within(self, pictures: int) -> bool:
        """Whether the judge saw the concept in one of the first so many pictures."""
        return self.success_at is not None and self.success_at <= pictures


@dataclass(frozen=True)
class Judged:
    """Pictures with the judge's answer.

    Attributes:
        images: `(batch, 3, height, width)`, uint8.
        shows: Whether each one shows the concept.
    """

    images: Tensor
    shows: tuple[bool, ...]


@dataclass(frozen=True)
class AttackTarget:
    """A pipeline as attacks see it: its own components, with the judge beside them.

    Attributes:
        components: Tokenizer, text encoder, UNet, VAE, scheduler; erased ones for an erased pipeline.
        text: The differentiable text path.
        predictor: The UNet as a noise predictor.
        draw: From text states to pictures; see `Draw`.
        judge: Does a picture show the concept?
        queries_per_picture: UNet sample evaluations that one picture costs.
        state: Reads the state of the erasure in the pipeline ("verified", "modified", "absent"); with True it
            compares all weights, with False only where something moved.
        setting: What pictures and verdicts depend on beside the weights, as JSON values.
        picture_batch: Most pictures that are drawn together.
    """

    components: DiffusionComponents
    text: TextPath
    predictor: NoisePredictor
    draw: Draw
    judge: JudgePictures
    queries_per_picture: int
    state: Callable[[bool], str]
    setting: dict[str, Any] = field(default_factory=dict)
    picture_batch: int = 16

    @classmethod
    def of(
        cls,
        pipe: Any,
        judge: JudgePictures,
        *,
        steps: int,
        guidance_scale: float,
        judge_name: str = "",
        picture_batch: int = 16,
    ) -> AttackTarget:
        """Look at a pipeline as attacks do.

        Args:
            pipe: Any Stable Diffusion pipeline, erased or not. Pictures are drawn by a stock pipeline on its
                components, since ours refuses embeddings that it did not make.
            judge: Does a picture show the concept?
            steps: Sampling steps of a picture.
            guidance_scale: Guidance scale of a picture.
            judge_name: Name, version and label of the judge: outcomes that are kept on disk depend on it.
            picture_batch: Most pictures that are drawn together; changes speed, not pictures.
        """
        components = DiffusionComponents.from_pipeline(pipe)
        drawing = Drawing.on(components, steps=steps, guidance_scale=guidance_scale)
        return cls(
            components=components,
            text=TextPath(components),
            predictor=NoisePredictor.of(components),
            draw=drawing,
            judge=judge,
            queries_per_picture=drawing.queries_per_picture,
            state=lambda thorough: str(verify_all(pipe, thorough=thorough).state),
            setting={"steps": steps, "guidance_scale": guidance_scale, "judge": judge_name},
            picture_batch=picture_batch,
        )

    @cached_property
    def identity(self) -> str:
        """Digest of all weights and settings that outcomes depend on; computed once."""
        parts = self.components
        weights = {
            name: fingerprint(module)
            for name, module in (
                ("text_encoder", parts.text_encoder),
                ("unet", parts.unet),
                ("vae", parts.vae),
            )
        }
        beside = facts_beside_weights(parts.scheduler, parts.tokenizer)
        content = {"weights": weights, "dtype": str(parts.unet.dtype), **beside, **self.setting}
        return hashlib.sha256(canonical_json(content)).hexdigest()

    @cached_property
    def unconditional(self) -> Tensor:
        """Text states of the empty prompt, `(tokens, width)`."""
        return self.encode([""])[0]

    @property
    def device(self) -> torch.device:
        """Where the UNet computes."""
        device: torch.device = self.components.unet.device
        return device

    def token_ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids `(batch, tokens)` of typed texts, cut and padded as the pipeline does it."""
        return self.text.ids(texts)

    def own_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a typed text from start to end token, without padding."""
        return tokenize(self.components.tokenizer, text, max_tokens=self.components.max_tokens).ids

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Text states `(batch, tokens, width)` of typed texts, without gradients."""
        with torch.no_grad():
            return self.text.states(self.token_ids(texts))

    def judged(self, states: Tensor, seeds: Sequence[int]) -> Judged:
        """Draw pictures of text states and show them to the judge.

        Args:
            states: `(batch, tokens, width)`.
            seeds: One per picture.

        Raises:
            EvaluationError: The judge does not answer with one bool per picture.
            NotFiniteError: A picture is not finite.
        """
        if not seeds:
            return Judged(torch.zeros((0, 3, 1, 1), dtype=torch.uint8), ())
        images = torch.cat(
            [
                self.draw(
                    states[at : at + self.picture_batch],
                    self.unconditional,
                    seeds[at : at + self.picture_batch],
                )
                for at in range(0, len(seeds), self.picture_batch)
            ]
        )
        shows = self.judge(images)
        if shows.shape != (len(seeds),) or shows.dtype != torch.bool:
            raise EvaluationError(
                f"the judge answered {len(seeds)} pictures with {shows.dtype} of shape {tuple(shows.shape)}; "
                f"expected bool of shape ({len(seeds)},); return one answer per picture"
            )
        return Judged(images, tuple(shows.tolist()))

    def judged_texts(self, texts: Sequence[str], seeds: Sequence[int]) -> Judged:
        """Draw pictures of typed texts and show them to the judge; see `judged`."""
        if not seeds:
            return Judged(torch.zeros((0, 3, 1, 1), dtype=torch.uint8), ())
        return self.judged(self.encode(texts), seeds)
