"""Randomness of one training step, addressed instead of consumed.

Every sample of the global batch has a generator of its own, seeded by (seed, step, number of the sample). So

- a resumed run draws what the uninterrupted one would have drawn, without any state of a generator in a
  checkpoint;
- two processes with a batch of one draw what one process draws with a batch of two, and so do two
  accumulated backward passes.

Generators live on the CPU, so a GPU sees the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor


def derived_seed(seed: int, *address: int | str) -> int:
    """A seed for one place of a run: the same for the same address, unrelated for any other."""
    text = "/".join(map(str, (seed, *address)))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class StepDraws:
    """What one backward pass of one process may draw.

    Attributes:
        step: Index of the optimizer step, from 0.
        samples: One generator for each sample of this pass.
        shared: Generator that gives the same in every process and every pass of the step.
        first: Number of the first sample within the global batch.
    """

    step: int
    samples: tuple[torch.Generator, ...]
    shared: torch.Generator
    first: int = 0

    @classmethod
    def at(cls, seed: int, step: int, *, batch: int, first: int = 0) -> StepDraws:
        """The draws of the samples `first` to `first + batch - 1` of a step."""
        samples = tuple(
            torch.Generator().manual_seed(derived_seed(seed, step, "sample", first + number))
            for number in range(batch)
        )
        shared = torch.Generator().manual_seed(derived_seed(seed, step, "shared"))
        return cls(step, samples, shared, first)

    @property
    def batch(self) -> int:
        """Samples of this pass."""
        return len(self.samples)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal values, `(batch, *shape)`, float32 on the CPU."""
        return torch.stack([torch.randn(shape, generator=generator) for generator in self.samples])

    def integers(self, high: int) -> tuple[int, ...]:
        """One whole number from 0 to `high - 1` for each sample."""
        return tuple(int(torch.randint(high, (), generator=generator)) for generator in self.samples)
