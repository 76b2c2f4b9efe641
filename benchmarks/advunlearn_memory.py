"""What an iteration of AdvUnlearn holds in memory at the size of Stable Diffusion 1.4.

    python -m benchmarks.advunlearn_memory [--device cuda --attack_steps 1 30]

A UNet, a text encoder and a VAE of SD 1.4's shapes are made with random weights (memory and arithmetic are
the same whatever the values; nothing is downloaded). Then the package's own path runs at the paper's settings
for nudity: every layer of the text encoder in float32 with Adam, 5 retain prompts, latents of 64 by 64, the
frozen UNet in bfloat16, activations computed again in the backward pass (arXiv:2405.15234 needs about 40 GB,
as its authors say in issue 1 of their repository). The attack is asked for by itself, so that it and the step
of `run_training` that follows are phases of their own. The exit code is 1 where a phase passes the limit.

What is smaller than in a real run, and why the peak is that of one:

pools       one trajectory of one step instead of 50. Pools lie in main memory, at the paper's defaults
            32 · 50 rows of three float32 tensors for the concept and 243 · 10 rows of two for the retain
            set, 64 KiB each: 0.31 and 0.32 GB. They are never on a GPU; on a CPU they are added to the peak.
batches     pools are sampled 16 trajectories at once, each with both halves of guidance: 32 rows, here 10 of
            five prompts (`--retain_prompts 16` makes them all, which takes a CPU many minutes).
K           each step of the attack frees its graph before the next; only K latents with their target stay,
            0.2 MB each. Every number in `--attack_steps` is a phase, and their peaks can be compared.

On CUDA the peak is that of torch's allocator, on a CPU the resident memory of the process, which also counts
the interpreter, its libraries (0.4 GB), and what the allocator has not given back.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from rich.console import Console
from rich.table import Table

from benchmarks.closed_form import text_encoder, tokenizer, unet
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.training.adversary import Adversary
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.advunlearn_task import AdvUnlearnTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.loop import run_training
from diffusers_erasure.training.student import Student

CONCEPT = "nudity"
LATENT_BYTES = 4 * 64 * 64 * 4
PAPER_POOLS = (32 * 50 * 3 + 243 * 10 * 2) * LATENT_BYTES
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # what the kernel's documentation of clear_refs gives for the peak of resident memory


@dataclass
class Phase:
    """What one part of the run took: most bytes held, bytes held after it, seconds."""

    name: str
    peak: int
    after: int
    seconds: float


class Watch:
    """Peak memory and seconds by phase, with counters that start anew at each.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: list[Phase] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        self._reset()
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        self.phases.append(Phase(name, *self._held(), seconds))
        Console(stderr=True).print(f"{name}: {self.phases[-1].peak / 1e9:.2f} GB, {seconds:.1f} s")

    def _reset(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR.exists():
            CLEAR.write_text(RESET_PEAK)

    def _held(self) -> tuple[int, int]:
        """Peak since the last reset, and what is held now, in bytes."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device), torch.cuda.memory_allocated(self.device)
        if not STATUS.exists():
            unit = 1 if sys.platform == "darwin" else 1024
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
            return peak, peak
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        peak, now = (int(lines[name].split()[0]) * 1024 for name in ("VmHWM", "VmRSS"))
        return peak, now

    def show(self, title: str) -> None:
        """Print the phases."""
        table = Table("phase", "peak GB", "held after GB", "s", title=title, title_justify="left", box=None)
        for one in self.phases:
            table.add_row(one.name, f"{one.peak / 1e9:.2f}", f"{one.after / 1e9:.2f}", f"{one.seconds:.1f}")
        Console().print(table)


@contextmanager
def made_as(dtype: torch.dtype) -> Iterator[None]:
    """Make new weights in a dtype, so that no other copy ever exists."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def models(device: torch.device, base_dtype: torch.dtype) -> DiffusionComponents:
    """A pipeline's parts at SD 1.4's shapes: UNet and VAE in a dtype, the text encoder in float32."""
    with made_as(base_dtype), device:
        frozen = unet(), _vae()
    with device:
        encoder = text_encoder()
    schedule = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
    )
    return DiffusionComponents(tokenizer(), encoder, *frozen, schedule)


def _vae() -> AutoencoderKL:
    """SD 1.4's VAE; training does not use it, but a loaded pipeline holds it."""
    stages = 4
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        layers_per_block=2,
        latent_channels=4,
    ).eval()


def settings(given: argparse.Namespace) -> AdvUnlearnConfig:
    """The paper's for nudity, with pools as small as they can be."""
    return AdvUnlearnConfig.parse(
        {
            "concept": [CONCEPT],
            "preset": "nudity",
            "attack_steps": given.attack_steps[-1],
            "frozen_dtype": given.frozen_dtype,
            "gradient_checkpointing": not given.keep_activations,
            "max_train_steps": 1,
            "num_inference_steps": given.sampling_steps,
            "pool_trajectories": 1,
            "max_retain_prompts": given.retain_prompts,
            "retain_pairs": 1,
        }
    )


def measure(given: argparse.Namespace, watch: Watch) -> None:
    """Models, pools, the attack with each number of steps, one step of the training loop."""
    config, device = settings(given), watch.device
    with watch.phase("models loaded"):
        components = models(device, getattr(torch, given.base_dtype))
    with watch.phase("pools made"):
        student = Student.of(
            components, config.train_method, gradient_checkpointing=config.gradient_checkpointing
        )
        task = AdvUnlearnTask(components, student, [ScopedPrompt(CONCEPT)], config, world="general")
    for steps in given.attack_steps[:-1]:
        other = config.model_copy(update={"attack_steps": steps})
        with watch.phase(f"attack, K = {steps}"):
            adversary = Adversary(task.text, task.pupil, task.erasing.bank, task.prompts, other)
            adversary.ask(StepDraws.at(config.seed, 0, batch=1), 0)
    with watch.phase(f"attack, K = {config.attack_steps}"):
        task.adversary.ask(StepDraws.at(config.seed, 0, batch=1), 0)  # the step below finds it done
    with watch.phase("training step"):
        run_training(task, config)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--limit_gb", type=float, default=12.0, help="most GB (10^9 bytes) of any phase")
    parser.add_argument("--attack_steps", type=int, nargs="+", default=[1, 2], help="K, a phase each")
    parser.add_argument("--base_dtype", default="bfloat16", help="in which UNet and VAE are loaded")
    parser.add_argument("--frozen_dtype", default="bfloat16", help="the method's setting")
    parser.add_argument("--keep_activations", action="store_true", help="without gradient checkpointing")
    parser.add_argument("--retain_prompts", type=int, default=5, help="trajectories of the retain pool")
    parser.add_argument("--sampling_steps", type=int, default=1, help="of each trajectory")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a phase held more than the limit."""
    given = _arguments(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    watch = Watch(torch.device(given.device))
    measure(given, watch)
    counted = "allocated by torch" if watch.device.type == "cuda" else "resident"
    watch.show(f"retain batch 5, 64 by 64, UNet in {given.frozen_dtype}; {counted}")
    extra = 0 if watch.device.type == "cuda" else PAPER_POOLS
    peak = (max(one.peak for one in watch.phases) + extra) / 1e9
    told = f"peak {peak:.2f} GB"
    if extra:
        told += f", {extra / 1e9:.2f} GB of it for pools of the paper's size"
    attack, step = watch.phases[-2:]
    Console().print(f"{told}; {attack.seconds + step.seconds:.1f} s for the iteration with {attack.name}")
    if peak > given.limit_gb:
        Console(stderr=True).print(
            f"the peak of {peak:.2f} GB passes the limit of {given.limit_gb:g} GB; expected less; see which "
            "phase above holds it"
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
