"""LPIPS: how different two pictures look, by the activations of a network (Zhang et al., arXiv:1801.03924).

Equation 1: at each layer the activations are scaled to unit length over channels, their squared differences
are weighted per channel, averaged over places, and summed over layers. The published weights belong to
AlexNet and VGG, which need packages that this one does without; whoever has network and weights gives them.
On the embedded pipeline the layers are those of its concept judge, unweighted (all ones): a perceptual
distance of the same form, not the published number.

No command computes it; from Python, of pictures `(pictures, 3, height, width)`, uint8, pair by pair:

```python
distance = embedded_perceptual()
print(distance(base_images, erased_images).mean())
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_erasure.embedded.judges import ConvolutionJudge, judge_file, load_judge
from diffusers_erasure.errors import EvaluationError
from diffusers_erasure.evaluation.judges import check_pictures

BATCH_SIZE = 64
EPSILON = 1e-10
"""Added to a length before it divides, as in the authors' code."""


def lpips(
    first: Sequence[Tensor], second: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> Tensor:
    """Distance of pictures from their activations: `(pictures,)`.

    Args:
        first: One `(pictures, channels, height, width)` per layer.
        second: The same of the other pictures.
        weights: One `(channels,)` per layer; all ones unless given.

    Raises:
        EvaluationError: Layers or weights do not match.
    """
    weights = [torch.ones(layer.shape[1]) for layer in first] if weights is None else weights
    shapes = [[tuple(part.shape) for part in parts] for parts in (first, second, weights)]
    if not first or shapes[0] != shapes[1] or shapes[2] != [shape[1:2] for shape in shapes[0]]:
        raise EvaluationError(
            f"activations of shapes {shapes[0][:2]} and {shapes[1][:2]} with weights {shapes[2][:2]} do not "
            "fit; expected (pictures, channels, height, width), equal for both, and one weight per channel; "
            "take both from one network"
        )
    layers = zip(first, second, weights, strict=True)
    parts = [
        ((_unit(a) - _unit(b)).square() * w.to(a.device)[:, None, None]).sum(dim=1).mean(dim=(1, 2))
        for a, b, w in layers
    ]
    return torch.stack(parts).sum(dim=0)


def _unit(activations: Tensor) -> Tensor:
    return activations / (activations.square().sum(dim=1, keepdim=True).sqrt() + EPSILON)


@dataclass(frozen=True)
class Perceptual:
    """A network whose activations compare pictures.

    Attributes:
        name: What it is.
        sha256: Digest of its weights.
        maps: From pictures `(batch, 3, height, width)` uint8 to one `(batch, channels, h, w)` per layer.
        weights: One `(channels,)` per layer; all ones if None.
    """

    name: str
    sha256: str
    maps: Callable[[Tensor], Sequence[Tensor]]
    weights: tuple[Tensor, ...] | None = None

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance of each pair, `(pictures,)`, for pictures `(pictures, 3, height, width)` uint8."""
        check_pictures(first)
        check_pictures(second)
        if first.shape != second.shape or not len(first):
            raise EvaluationError(
                f"pictures of shapes {tuple(first.shape)} and {tuple(second.shape)} are no pairs; expected "
                "equal shapes and one pair at least; draw both sets from the same prompts and seeds"
            )
        with torch.inference_mode():
            parts = [
                lpips(self.maps(a), self.maps(b), self.weights)
                for a, b in zip(torch.split(first, BATCH_SIZE), torch.split(second, BATCH_SIZE), strict=True)
            ]
        return torch.cat(parts).float().cpu()


def embedded_perceptual(*, device: str = "cpu") -> Perceptual:
    """The embedded concept judge's convolutions, unweighted."""
    judge = load_judge("concept", device=device)
    network = judge.network
    if not isinstance(network, ConvolutionJudge):
        raise EvaluationError(
            f"the embedded concept judge is a {type(network).__name__}; expected convolutions, whose maps "
            "can be compared; install the package again"
        )
    digest = hashlib.sha256(judge_file("concept").read_bytes()).hexdigest()

    def maps(images: Tensor) -> list[Tensor]:
        return network.maps(judge.prepare(images.to(device).float() / 255))

    return Perceptual("embedded-concept, unweighted", digest, maps)
