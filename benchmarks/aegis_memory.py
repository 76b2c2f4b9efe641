"""What AEGIS holds of weights at the size of Stable Diffusion 1.4: every copy, counted as torch makes it.

    python -m benchmarks.aegis_memory [--train_method full]

The UNet has SD 1.4's shapes (686 tensors, 859.5 M weights) on torch's "meta" device, where tensors have
shapes and no memory; the package's own student, step and rectifier make their copies of it, with torch's
Adam, and every storage is counted while it lives. What rectification reads of values, its inner products, is
given: a conflict in every tensor, the case in which all of them are corrected. Activations are not counted.

Counted in GB (10^9 bytes), with torch 2.13, float32 and every weight trained:

                          memory sign     memory full   rectify after  projection_ema
original                        3.438           3.438           3.438           3.438
copy in training                3.438           3.438           3.438           3.438
gradients                       3.438           3.438           3.438           3.438
Adam's moments                  6.876           6.876           6.876           6.876
last projection                 0.000           3.438           0.000           3.438
most besides, in a step         0.236           0.236           3.792           0.236
all                            17.426          20.864          20.982          20.864

What is besides is θ - θ0 of the largest tensor and a product of it, 0.118 GB each; rectifying the step itself
needs the weights from before it. A retain set (`retain_from prompts`) holds one gradient more, 3.438.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import torch
from diffusers import DDIMScheduler

from benchmarks.closed_form import text_encoder, tokenizer, unet
from benchmarks.live_bytes import LiveBytes
from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.training.aegis_settings import AEGISConfig
from diffusers_erasure.training.aegis_step import AEGISStep
from diffusers_erasure.training.rectification import Gradients, Rectifier
from diffusers_erasure.training.student import Student

VARIANTS: Mapping[str, Mapping[str, object]] = {
    "memory sign": {},
    "memory full": {"memory": "full"},
    "rectify after": {"rectify": "after"},
    "projection_ema": {"projection_ema": 0.5},
}


class EveryTensorConflicts(Rectifier):
    """A rectifier that is told its inner products, since tensors without memory have none."""

    def products(self, gradients: Gradients) -> dict[str, list[float]]:
        """Make them, so that they count, and say that every tensor is in conflict."""
        for name in gradients.names:
            erase, pull = gradients.erase(name), gradients.pull(name)
            _ = (erase * pull).sum(dtype=torch.float64)
        return {name: [-1.0, 1.0, 1.0, -1.0] for name in gradients.names}


def count(components: DiffusionComponents, train_method: str, **values: object) -> dict[str, int]:
    """Bytes of every copy that a step makes or needs.

    Args:
        components: With the UNet on the meta device.
        train_method: Which weights are trained.
        values: Settings of the method.
    """
    config = AEGISConfig.parse(
        {"concept": ["x"], "preset": "paper", "train_method": train_method, "omega": 1.0, **values}
    )
    rows: dict[str, int] = {}
    with LiveBytes() as live:
        student = Student.of(components, config.train_method)
        rows["copy in training"] = live.now
        for parameter in student.parameters.values():
            parameter.grad = torch.empty_like(parameter)
        rows["gradients"] = live.now - sum(rows.values())
        optimizer = torch.optim.Adam(student.parameters.values(), lr=config.learning_rate, foreach=False)
        optimizer.step()
        rows["Adam's moments"] = live.now - sum(rows.values())
        step = AEGISStep(student, config)
        step.rectifier = EveryTensorConflicts(config.rectification)
        step.make(optimizer.step)  # the first one makes what is remembered
        rows["last projection"] = live.now - sum(rows.values())
        live.peak = live.now
        step.make(optimizer.step)
        rows["most besides, in a step"] = live.peak - sum(rows.values())
    return rows


def sd14() -> DiffusionComponents:
    """SD 1.4's UNet without memory, and small parts beside it that are not counted."""
    with torch.device("meta"):
        network = unet()
    return DiffusionComponents(tokenizer(), text_encoder(), network, None, DDIMScheduler())


def main(argv: Sequence[str] | None = None) -> int:
    """Count and print; 1 if a sign for each tensor does not save a copy of what is trained."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--train_method", default="full", help="which weights are trained")
    given = parser.parse_args(argv)
    components = sd14()
    found = {name: count(components, given.train_method, **values) for name, values in VARIANTS.items()}
    original = sum(one.numel() * one.element_size() for one in components.unet.parameters())
    _say(f"{'GB of weights, ' + given.train_method:26}" + "".join(f"{name:>16}" for name in found))
    _say(f"{'original':26}" + f"{original / 1e9:16.3f}" * len(found))
    for row in next(iter(found.values())):
        _say(f"{row:26}" + "".join(f"{rows[row] / 1e9:16.3f}" for rows in found.values()))
    _say(f"{'all':26}" + "".join(f"{(original + sum(rows.values())) / 1e9:16.3f}" for rows in found.values()))
    saved = found["memory full"]["last projection"] - found["memory sign"]["last projection"]
    _say(f"a sign for each tensor saves {saved / 1e9:.2f} GB")
    return int(saved < found["memory sign"]["copy in training"])


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    raise SystemExit(main())
