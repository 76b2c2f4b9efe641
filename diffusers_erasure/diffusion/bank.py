"""The TrajectoryBank: noisy latents of a frozen model with its predictions, drawn as often as training needs.

AdvUnlearn (arXiv:2405.15234) samples a trajectory anew for every draw, 95 % of its cost. While the UNet is
frozen, neither latents nor predictions depend on what is trained, so they can be made ahead or shared:

fresh            every draw samples its own trajectory, all rows of a draw as one batch. Same numbers as
                 sampling one at a time. The only mode for a UNet in training, whose latents change.
per_trajectory   a trajectory serves every step index once, in random order, then it is thrown away. Each
                 draw has the law of a fresh one; those of one trajectory share its start. Costs a tenth.
pool             a finite stock of trajectories made once, drawn from with replacement, kept in memory or on
                 disk, and reused by later runs.

Every draw's step index is uniform over the S steps, its start is N(0, I), its prompt is the one asked for or
uniform. All randomness comes from the generator of the draw; that of a pool comes from its seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from diffusers_erasure.errors import ConfigError

from .bank_files import (
    BANK_NAME,
    MemoryTable,
    PairTable,
    Storage,
    finish,
    open_table,
    part_is_there,
    write_part,
)
from .bank_settings import BankSettings, batches_of, kept_positions, refuse_unfitting, source_of
from .components import DiffusionComponents, latent_shape
from .identity import origins, seed_from, text_digest
from .noise import NoisePredictor
from .trajectories import Pairs, TrajectorySource

BankProgress = Callable[[int, int], None]
"""Told how many trajectories of a pool are done, and of how many."""


@dataclass(frozen=True)
class BankDraw:
    """What was drawn, one row each, float32.

    Attributes:
        latents: `(n, channels, height, width)`.
        timesteps: Timesteps to ask the UNet at, `(n,)`.
        target_conditional: The frozen model's prediction for the row's prompt, of the latents' shape.
        target_unconditional: The same for the unconditional prompt; None if the bank keeps none.
        prompt_index: Number of the row's prompt, `(n,)`, on the CPU.
    """

    latents: Tensor
    timesteps: Tensor
    target_conditional: Tensor
    target_unconditional: Tensor | None
    prompt_index: Tensor


class TrajectoryBank:
    """Source of (latents, timestep, targets) of a frozen model; see the module's text.

    The model must stay as it is while the bank is in use; text states are computed once, at the start.

    Attributes:
        prompts: The prompts, as given.
        settings: How latents are made, kept and drawn.
        source: What samples.
    """

    def __init__(
        self,
        source: TrajectorySource,
        prompts: Sequence[str],
        settings: BankSettings,
        table: PairTable | None,
    ) -> None:
        """Use `build` or `load`."""
        self.source = source
        self.prompts = tuple(prompts)
        self.settings = settings
        self._table = table
        self._unused: dict[int, Pairs] = {}
        self._origins: dict[str, str] = {}

    @classmethod
    def build(
        cls,
        components: DiffusionComponents,
        prompts: Sequence[str],
        settings: BankSettings | None = None,
        *,
        folder: str | Path | None = None,
        storage: Storage = "memory",
        sampler: NoisePredictor | None = None,
        progress: BankProgress | None = None,
    ) -> Self:
        """Make a bank; a pool is sampled now, the other modes as they are drawn from.

        Args:
            components: The frozen model: its UNet samples, its text encoder encodes, here and now.
            prompts: What to sample for.
            settings: How; the defaults unless given.
            folder: For a pool: where its parts are written as they are made. Parts that are there from an
                earlier build of the same bank are not made again, so a stopped build goes on.
            storage: For a pool: keep it in memory, or read rows from the folder.
            sampler: Model that samples in place of the frozen one; for `fresh` it may be in training.
            progress: For a pool: told how far it is.

        Raises:
            ConfigError: The settings do not fit together, or the folder holds another bank.
            TrainingError: The model gave values that are not finite.
        """
        chosen = BankSettings() if settings is None else settings
        refuse_unfitting(chosen, prompts, folder=folder, storage=storage, sampler=sampler)
        source, tokens = source_of(components, prompts, chosen, sampler)
        bank = cls(source, prompts, chosen, None)
        if chosen.mode == "pool":
            bank._origins = origins(components, source, tokens, chosen.content())
            bank._table = bank._build_pool(None if folder is None else Path(folder), storage, progress)
        return bank

    @classmethod
    def load(
        cls,
        folder: str | Path,
        components: DiffusionComponents,
        prompts: Sequence[str],
        settings: BankSettings,
        *,
        storage: Storage = "memory",
    ) -> Self:
        """Open a pool that was saved; model, prompts and settings must be those that made it.

        Raises:
            ConfigError: One of them differs; the message says which.
            ArtifactFormatError: The folder holds no complete bank.
            ArtifactIntegrityError: One of its files was changed.
        """
        refuse_unfitting(settings, prompts, folder=folder, storage=storage, sampler=None)
        source, tokens = source_of(components, prompts, settings, None)
        found = origins(components, source, tokens, settings.content())
        bank = cls(source, prompts, settings, open_table(Path(folder), found, storage))
        bank._origins = found
        return bank

    def save(self, folder: str | Path) -> Path:
        """Write a pool as a folder that `load` opens.

        Raises:
            ConfigError: It is no pool in memory, or the folder holds another bank.
        """
        if not isinstance(self._table, MemoryTable):
            raise ConfigError(
                f"a {self.settings.mode} bank {'on disk ' if self._table else ''}has nothing to save; "
                f"expected a pool in memory; build it with mode='pool' and no folder"
            )
        target = Path(folder)
        rows = self.settings.kept * self.settings.batch_size
        for number, first in enumerate(range(0, len(self._table), rows)):
            part = self._table.rows(torch.arange(first, min(first + rows, len(self._table))))
            start = first // self.settings.kept
            if not part_is_there(target, number, self._origins, start, len(part.latents)):
                write_part(target, number, part, self._origins, start)
        finish(target, number + 1, self._origins, self.settings.content())
        return target

    @property
    def fingerprint(self) -> str:
        """sha256 over all that a pool was made from; empty for the other modes, which store nothing."""
        lines = sorted(f"{name} {digest}" for name, digest in self._origins.items())
        return text_digest("\n".join(lines)) if lines else ""

    @property
    def evaluations(self) -> int:
        """UNet evaluations that this bank has cost so far, one for each sample of a batch."""
        return self.source.evaluations

    def __len__(self) -> int:
        """Pairs at hand: those of a pool, or those of trajectories that are not used up."""
        unused = sum(len(pairs.latents) for pairs in self._unused.values())
        return unused if self._table is None else len(self._table)

    def draw(self, generator: torch.Generator, n: int, *, prompts: Sequence[int] | None = None) -> BankDraw:
        """Draw n rows.

        Args:
            generator: CPU generator, where all randomness comes from.
            n: How many.
            prompts: Number of each row's prompt; uniform, with replacement, unless given.

        Raises:
            ConfigError: Fewer than one row, or a prompt that there is not.
        """
        chosen = self._prompts_of(generator, n, prompts)
        if self._table is not None:
            each = len(self._table) // len(self.prompts)
            pairs = self._table.rows(chosen * each + torch.randint(each, (n,), generator=generator))
        elif self.settings.mode == "fresh":
            pairs = self._sample(chosen, generator, kept=1)
        else:
            pairs = self._take(chosen, generator)
        device = self.source.predictor.unet.device
        without = pairs.unconditional
        return BankDraw(
            pairs.latents.to(device, torch.float32),
            pairs.timesteps.to(device),
            pairs.conditional.to(device, torch.float32),
            None if without is None else without.to(device, torch.float32),
            chosen,
        )

    def state(self) -> dict[str, Tensor]:
        """What a run must keep to go on with the same draws: the pairs that are not used up."""
        return {
            f"{prompt}.{name}": tensor.clone()
            for prompt, pairs in sorted(self._unused.items())
            for name, tensor in pairs.tensors().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state`.

        Raises:
            ConfigError: It is none of a bank with these prompts and settings.
        """
        grouped: dict[int, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            prompt, _, name = key.partition(".")
            if not prompt.isdecimal() or int(prompt) >= len(self.prompts) or self._table is not None:
                raise ConfigError(
                    f"the bank's state holds {key!r}; a {self.settings.mode} bank of {len(self.prompts)} "
                    f"prompts has no such entry; resume with the settings that the run began with"
                )
            grouped.setdefault(int(prompt), {})[name] = tensor
        self._unused = {prompt: Pairs.from_tensors(tensors) for prompt, tensors in grouped.items()}

    def _prompts_of(self, generator: torch.Generator, n: int, prompts: Sequence[int] | None) -> Tensor:
        count = len(self.prompts)
        if n < 1 or (prompts is not None and (len(prompts) != n or not all(0 <= p < count for p in prompts))):
            raise ConfigError(
                f"{n} rows were asked for the prompts {None if prompts is None else list(prompts)}; expected "
                f"at least one row and a number below {count} for each; leave prompts out to draw them"
            )
        if prompts is None:
            return torch.randint(count, (n,), generator=generator)
        return torch.tensor(list(prompts))

    def _take(self, chosen: Tensor, generator: torch.Generator) -> Pairs:
        """Rows of `per_trajectory`: the next unused pair of each prompt; where there is none, sample."""
        wanted = Counter(chosen.tolist())
        self._refill(wanted, generator)
        taken = []
        for prompt in chosen.tolist():
            pairs = self._unused[prompt]
            taken.append(pairs.rows(slice(0, 1)))
            self._unused[prompt] = pairs.rows(slice(1, None))
        self._unused = {prompt: pairs for prompt, pairs in self._unused.items() if len(pairs.latents)}
        return Pairs.joined(taken)

    def _refill(self, wanted: Mapping[int, int], generator: torch.Generator) -> None:
        """Sample trajectories, all as one batch, for every prompt with fewer unused pairs than wanted."""
        kept, at_a_time = self.settings.kept, self.settings.trajectories_per_prompt
        missing = []
        for prompt, count in sorted(wanted.items()):
            at_hand = len(self._unused[prompt].latents) if prompt in self._unused else 0
            lacking = -(-max(count - at_hand, 0) // (kept * at_a_time))
            missing += [prompt] * (lacking * at_a_time)
        if not missing:
            return
        pairs = self._sample(torch.tensor(missing), generator, kept=kept).stored(self.settings.stored_dtype)
        owners = torch.tensor(missing).repeat_interleave(kept)
        for prompt in sorted(set(missing)):
            own = (owners == prompt).nonzero().flatten()
            mixed = pairs.rows(own[torch.randperm(len(own), generator=generator)])
            self._unused[prompt] = Pairs.joined([*_some(self._unused.get(prompt)), mixed])

    def _sample(self, chosen: Tensor, generator: torch.Generator, *, kept: int) -> Pairs:
        """Trajectories with everything random from one generator."""
        noise = torch.randn((len(chosen), *self._shape), generator=generator)
        positions = kept_positions(len(chosen), self.settings, generator, kept=kept)
        return self._run(chosen, noise, positions, generator)

    def _run(self, chosen: Tensor, noise: Tensor, positions: Tensor, generator: torch.Generator) -> Pairs:
        timesteps = self.source.path.timesteps(positions.flatten().tolist(), generator).view_as(positions)
        return self.source.sample(chosen, noise, positions, timesteps, batch_size=self.settings.batch_size)

    def _build_pool(self, folder: Path | None, storage: Storage, progress: BankProgress | None) -> PairTable:
        if folder is not None and (folder / BANK_NAME).exists():
            return open_table(folder, self._origins, storage)
        total = len(self.prompts) * self.settings.trajectories_per_prompt
        parts, sizes = [], []
        for number, jobs in enumerate(batches_of(total, self.settings.batch_size)):
            rows = len(jobs) * self.settings.kept
            if folder is None:
                parts.append(self._part(jobs))
            elif not part_is_there(folder, number, self._origins, jobs.start, rows):
                write_part(folder, number, self._part(jobs), self._origins, jobs.start)
            sizes.append(rows)
            if progress is not None:
                progress(jobs.stop, total)
        if folder is None:
            return MemoryTable(Pairs.joined(parts))
        finish(folder, len(sizes), self._origins, self.settings.content())
        return open_table(folder, self._origins, storage)

    def _part(self, jobs: range) -> Pairs:
        """Some trajectories of a pool; each has its own seed, so that parts can be made in any order."""
        each = self.settings.trajectories_per_prompt
        chosen = torch.tensor([job // each for job in jobs])
        drawn = []
        for job in jobs:
            generator = torch.Generator().manual_seed(
                seed_from("bank", self.settings.seed, job // each, job % each)
            )
            noise = torch.randn((1, *self._shape), generator=generator)
            positions = kept_positions(1, self.settings, generator)
            timesteps = self.source.path.timesteps(positions.flatten().tolist(), generator)
            drawn.append((noise, positions, timesteps.view_as(positions)))
        noise, positions, timesteps = (torch.cat(column) for column in zip(*drawn, strict=True))
        pairs = self.source.sample(chosen, noise, positions, timesteps, batch_size=self.settings.batch_size)
        return pairs.stored(self.settings.stored_dtype).check(f"trajectories kept as {self.settings.dtype}")

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        channels, height, width = latent_shape(self.source.predictor.unet)
        return channels, self.settings.height or height, self.settings.width or width


def _some(pairs: Pairs | None) -> list[Pairs]:
    return [] if pairs is None else [pairs]
