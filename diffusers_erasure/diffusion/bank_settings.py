"""How a TrajectoryBank is set up: its settings, what samples for it, and which steps it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from diffusers_erasure.errors import ConfigError

from .bank_files import Storage
from .components import DiffusionComponents
from .noise import NoisePredictor, takes_gradients
from .sampling import Alignment, SamplingPath
from .text import TokenizedPrompt, distinct, encode, tokenize
from .trajectories import TrajectorySource

BankMode = Literal["fresh", "per_trajectory", "pool"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class BankSettings(BaseModel):
    """How latents are made, kept and drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mode: BankMode = Field(
        default="per_trajectory",
        description="sample for each draw, use every trajectory once at each step, or draw from a stock",
    )
    steps: int = Field(default=50, ge=1, description="sampling steps of a whole run (50 in AdvUnlearn)")
    guidance_scale: float = Field(
        default=3.0, description="guidance scale while sampling (3 in ESD and AdvUnlearn)"
    )
    alignment: Alignment = Field(
        default="aligned",
        description="ask the UNet at the latent's own timestep, or as the authors' code does (compvis)",
    )
    trajectories_per_prompt: int = Field(
        default=1, ge=1, description="trajectories of a prompt in the pool; per_trajectory: made at a time"
    )
    pairs_per_trajectory: int | None = Field(
        default=None, ge=1, description="latents kept of each trajectory, at random steps; none keeps all"
    )
    early_steps: int | None = Field(
        default=None, ge=1, description="keep latents of the first, noisiest steps only; none keeps of all"
    )
    unconditional: bool = Field(
        default=True, description="whether predictions for the unconditional prompt are kept too"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="precision in which latents and predictions are kept"
    )
    batch_size: int = Field(default=16, ge=1, description="trajectories that are sampled at once")
    height: int | None = Field(default=None, ge=1, description="height of the latents; the UNet's own")
    width: int | None = Field(default=None, ge=1, description="width of the latents; the UNet's own")
    seed: int = Field(default=0, ge=0, description="seed of a pool")

    @property
    def kept(self) -> int:
        """Latents kept of each trajectory."""
        return min(self.wanted_steps, self.pairs_per_trajectory or self.steps)

    @property
    def wanted_steps(self) -> int:
        """Steps of which latents are kept; they end with the index `steps - 1`, the noise itself."""
        return min(self.steps, self.early_steps or self.steps)

    @property
    def stored_dtype(self) -> torch.dtype:
        """Precision in which latents and predictions are kept."""
        return _DTYPES[self.dtype]

    def content(self) -> dict[str, Any]:
        """What decides the numbers in a pool."""
        always = {"mode", "batch_size"}
        return self.model_dump(mode="json", exclude=always if self.early_steps else {*always, "early_steps"})


def refuse_unfitting(
    settings: BankSettings,
    prompts: Sequence[str],
    *,
    folder: str | Path | None,
    storage: Storage,
    sampler: NoisePredictor | None,
) -> None:
    """Refuse what a bank cannot be made with.

    Raises:
        ConfigError: There is no prompt, or mode, folder, storage and sampler do not fit together.
    """
    if not prompts or isinstance(prompts, str):
        raise ConfigError(
            f"a bank was asked for with the prompts {prompts!r}; expected a list of at least one; give the "
            f"prompts to sample for"
        )
    if settings.mode != "pool" and (folder is not None or storage != "memory"):
        raise ConfigError(
            f"a {settings.mode} bank keeps nothing in a folder (found folder={folder}, storage={storage!r}); "
            f"only a pool does; set mode='pool' or leave the folder out"
        )
    if storage == "disk" and folder is None:
        raise ConfigError(
            "storage='disk' came without a folder; expected a place for the files; give a folder"
        )
    if sampler is not None and settings.mode != "fresh" and takes_gradients(sampler.unet):
        raise ConfigError(
            f"a sampler in training was given to a {settings.mode} bank; its latents cannot be kept, since "
            f"it changes; expected a frozen one; set mode='fresh'"
        )


def source_of(
    components: DiffusionComponents,
    prompts: Sequence[str],
    settings: BankSettings,
    sampler: NoisePredictor | None,
) -> tuple[TrajectorySource, list[TokenizedPrompt]]:
    """What samples, and the prompts as tokens, the unconditional one last."""
    predictor = NoisePredictor.of(components)
    path = SamplingPath(settings.steps, len(predictor.alphas_cumprod), settings.alignment)
    length = components.max_tokens
    tokens = [tokenize(components.tokenizer, text, max_tokens=length) for text in [*prompts, ""]]
    kept, numbers = distinct(tokens)
    found: dict[int, Tensor] = {}
    for batch in encode(components, kept, padded=True):
        found.update(zip(batch.indices, batch.states, strict=True))
    states = torch.stack([found[number] for number in numbers])
    source = TrajectorySource(
        predictor,
        states[:-1],
        states[-1:],
        path,
        settings.guidance_scale,
        with_unconditional=settings.unconditional,
        sampler=sampler,
    )
    _ = path.grid  # refuses steps that do not fit before anything is sampled
    return source, tokens


def kept_positions(
    count: int, settings: BankSettings, generator: torch.Generator, *, kept: int | None = None
) -> Tensor:
    """Step indices to keep of each trajectory, `(count, kept)`: different ones, each uniform.

    Args:
        count: Trajectories.
        settings: Which steps are wanted at all.
        generator: Where the choice comes from.
        kept: How many of each; the settings' number unless given.
    """
    wanted, kept = settings.wanted_steps, settings.kept if kept is None else kept
    first = settings.steps - wanted
    if kept == wanted:
        return (first + torch.arange(wanted)).expand(count, -1)
    if kept == 1:
        return first + torch.randint(wanted, (count, 1), generator=generator)
    return first + torch.stack([torch.randperm(wanted, generator=generator)[:kept] for _ in range(count)])


def batches_of(total: int, size: int) -> Iterator[range]:
    """0 to `total - 1` in runs of at most `size`."""
    return (range(start, min(start + size, total)) for start in range(0, total, size))
