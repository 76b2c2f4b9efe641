"""What an iteration of AdvUnlearn costs: the authors' schedule of evaluations as a literal loop, and ours.

    python -m benchmarks.advunlearn --iterations 20 --literal-iterations 2

Both train the text encoder of the embedded pipeline at the paper's defaults (arXiv:2405.15234: K = 30 steps
of the adversary, 5 retain prompts, 50 sampling steps). The literal loop samples a trajectory anew for every
step of the adversary and for every training sample, one after the other, as the authors' code does. It is no
straw man: guidance is one batch of two, the UNet is frozen and keeps no activations that it does not need.
Ours draws from pools; what they cost is counted, spread over the paper's 1000 iterations. CPU seconds tell
what a busy machine hides.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusers_erasure import embedded_pipeline
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.prompts import select_retain_prompts
from diffusers_erasure.training.advunlearn_settings import AdvUnlearnConfig
from diffusers_erasure.training.advunlearn_task import AdvUnlearnTask
from diffusers_erasure.training.concept_prompts import ScopedPrompt
from diffusers_erasure.training.draws import StepDraws
from diffusers_erasure.training.losses import TOTAL
from diffusers_erasure.training.student import Student

CONCEPT = "church"
STEPS, GUIDANCE, PAPER_ITERATIONS = 50, 3.0, 1000
K, RETAIN, GAMMA, LEARNING_RATE, ATTACK_RATE = 30, 5, 0.5, 1e-5, 1e-3


@dataclass
class Clock:
    """Wall and CPU seconds since it was made."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> Clock:
        """Now."""
        return cls(time.perf_counter(), time.process_time())

    def read(self) -> tuple[float, float]:
        """Wall and CPU seconds."""
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class Literal:
    """The authors' schedule, on a copy of the pipeline."""

    def __init__(self, retain: tuple[str, ...]) -> None:
        self.pipe = embedded_pipeline()
        self.original = embedded_pipeline().text_encoder.requires_grad_(False)
        self.encoder = self.pipe.text_encoder
        self.unet = self.pipe.unet.requires_grad_(False)
        self.levels = self.pipe.scheduler.alphas_cumprod
        self.retain, self.generator = retain, random.Random(0)
        trained = self.encoder.text_model if hasattr(self.encoder, "text_model") else self.encoder
        self.weights = [*trained.encoder.parameters(), *trained.final_layer_norm.parameters()]
        self.optimizer = torch.optim.Adam(self.weights, lr=LEARNING_RATE)
        self.forwards = 0

    def iteration(self) -> None:
        """The adversary's steps, then one step of the encoder."""
        ids = self.ids(CONCEPT)
        concept, empty = self.states(CONCEPT), self.states("")
        table = self.encoder.get_input_embeddings().weight.detach()
        delta = table[torch.randint(len(table), (1,))].clone().requires_grad_(True)
        search = torch.optim.Adam([delta], lr=ATTACK_RATE)
        for weight in self.weights:
            weight.requires_grad_(False)
        for _ in range(K):
            z, t = self.sample(concept, empty)
            with torch.no_grad():
                self.noise(z, t, empty)  # the authors' code computes it and does not use it
                target = self.noise(z, t, concept)
            loss = F.mse_loss(self.noise(z, t, self.asked(ids, table, delta)), target)
            (delta.grad,) = torch.autograd.grad(loss, delta)
            search.step()
        for weight in self.weights:
            weight.requires_grad_(True)
        z, t = self.sample(concept, empty)
        with torch.no_grad():
            e_0, e_c = self.noise(z, t, empty), self.noise(z, t, concept)
        loss = F.mse_loss(self.noise(z, t, self.asked(ids, table, delta.detach())), e_0 - (e_c - e_0))
        for prompt in self.generator.sample(self.retain, RETAIN):
            states = self.states(prompt)
            z, t = self.sample(states, empty)
            with torch.no_grad():
                target = self.noise(z, t, states)
            student = self.encoder(self.ids(prompt)).last_hidden_state
            loss = loss + GAMMA / RETAIN * F.mse_loss(self.noise(z, t, student), target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def sample(self, states: Tensor, empty: Tensor) -> tuple[Tensor, Tensor]:
        """A latent on the way of one guided DDIM run, and its timestep."""
        stop = self.generator.randrange(STEPS)
        stride = len(self.levels) // STEPS
        z = torch.randn(1, self.unet.config.in_channels, *[self.unet.config.sample_size] * 2)
        both = torch.cat([states, empty])
        for step in reversed(range(stop + 1, STEPS)):
            t, before = step * stride + 1, (step - 1) * stride + 1
            with torch.no_grad():
                e_c, e_0 = self.noise(torch.cat([z, z]), torch.tensor(t), both).chunk(2)
            noise = e_0 + GUIDANCE * (e_c - e_0)
            clean = (z - (1 - self.levels[t]).sqrt() * noise) / self.levels[t].sqrt()
            z = self.levels[before].sqrt() * clean + (1 - self.levels[before]).sqrt() * noise
        return z, torch.tensor(stop * stride + 1)

    def noise(self, z: Tensor, t: Tensor, states: Tensor) -> Tensor:
        """One UNet call."""
        self.forwards += len(z)
        predicted: Tensor = self.unet(z, t, encoder_hidden_states=states).sample
        return predicted

    def ids(self, prompt: str) -> Tensor:
        """Padded token ids, `(1, tokens)`."""
        tokenizer = self.pipe.tokenizer
        length = tokenizer.model_max_length
        encoded = tokenizer(prompt, padding="max_length", max_length=length, return_tensors="pt")
        ids: Tensor = encoded.input_ids
        return ids

    def states(self, prompt: str) -> Tensor:
        """Text states of the frozen original."""
        with torch.no_grad():
            states: Tensor = self.original(self.ids(prompt)).last_hidden_state
        return states

    def asked(self, ids: Tensor, table: Tensor, delta: Tensor) -> Tensor:
        """Text states of [start, δ, concept ...]."""
        rows = table[ids[0]]
        embeddings = torch.cat([rows[:1], delta, rows[1:-1]])[None]
        shifted = torch.cat([ids[:, :1], ids[:, 1:2], ids[:, 1:-1]], dim=1)
        handle = self.encoder.get_input_embeddings().register_forward_hook(lambda *_: embeddings)
        try:
            states: Tensor = self.encoder(shifted).last_hidden_state
        finally:
            handle.remove()
        return states


def ours(config: AdvUnlearnConfig) -> AdvUnlearnTask:
    """Our task with its pools made."""
    components = DiffusionComponents.from_pipeline(embedded_pipeline())
    student = Student.of(components, config.train_method)
    return AdvUnlearnTask(components, student, [ScopedPrompt(CONCEPT)], config, world="embedded")


def main() -> None:
    """Run both and print seconds per iteration and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--literal-iterations", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    config = AdvUnlearnConfig.parse(
        {"concept": [CONCEPT], "preset": "nudity", "retain_weight": GAMMA, "learning_rate": LEARNING_RATE}
    )
    retain = select_retain_prompts(config.concepts, world="embedded", limit=config.max_retain_prompts)

    literal = Literal(retain.prompts)
    clock = Clock.start()
    for _ in range(given.literal_iterations):
        literal.iteration()
    theirs = [seconds / given.literal_iterations for seconds in clock.read()]

    clock = Clock.start()
    task = ours(config)
    pools, counted = clock.read(), task.evaluations
    optimizer = torch.optim.Adam(task.parameters().values(), lr=LEARNING_RATE)
    clock = Clock.start()
    for step in range(given.iterations):
        optimizer.zero_grad()
        task.losses(StepDraws.at(0, step, batch=1))[TOTAL].backward()
        optimizer.step()
    each = [seconds / given.iterations for seconds in clock.read()]
    with_pools = [one + pool / PAPER_ITERATIONS for one, pool in zip(each, pools, strict=True)]
    forwards = (task.evaluations - counted) / given.iterations

    _say(
        f"K = {K}, {RETAIN} retain prompts, {given.threads} threads: wall s, CPU s, UNet evaluations forward"
    )
    spread = counted / PAPER_ITERATIONS
    rows = {
        "literal loop": (*theirs, literal.forwards / given.literal_iterations),
        "ours": (*each, forwards),
        "ours with its pools": (*with_pools, forwards + spread),
        "its pools, once": (*pools, counted),
    }
    for name, (wall, cpu, evaluations) in rows.items():
        _say(f"{name:22}{wall:9.2f}{cpu:9.2f}{evaluations:10.1f}")
    wall, cpu = (one / other for one, other in zip(theirs, with_pools, strict=True))
    _say(f"literal / ours with its pools: {wall:.1f} of the wall time, {cpu:.1f} of the CPU time")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main()
