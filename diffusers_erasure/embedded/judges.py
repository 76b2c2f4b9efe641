"""The embedded pipeline's judges: small networks that say what a 64-pixel picture shows.

    concept    seven convolutions; the vocabulary's concepts and "none"
    concept-2  a small vision transformer with another seed, for agreement
    style      seven convolutions; the vocabulary's styles

They were trained on the drawings, on drawings passed through the autoencoder, and on pictures that show none
of the concepts (other emoji, mush, noise). Their confusion on pictures of known content stands in the
pipeline's card.
"""

import json
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusers_erasure.embedded.vocabulary import CONCEPTS, STYLES
from diffusers_erasure.errors import ArtifactFormatError, ArtifactNotFoundError, ConfigError

JudgeName = Literal["concept", "concept-2", "style"]
NONE = "none"
JUDGE_LABELS: dict[str, tuple[str, ...]] = {
    "concept": (*CONCEPTS, NONE),
    "concept-2": (*CONCEPTS, NONE),
    "style": STYLES,
}
_FOLDER = Path(__file__).parent / "model" / "judges"


class ConvolutionJudge(nn.Sequential):
    """Seven 3 x 3 convolutions, four of them with stride 2, and a linear head."""

    def __init__(self, classes: int, width: int = 32) -> None:
        plan = [(3, width, 2), (width, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 1),
                (2 * width, 4 * width, 2), (4 * width, 4 * width, 1), (4 * width, 6 * width, 2)]  # fmt: skip
        layers: list[nn.Module] = []
        for before, after, stride in plan:
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.GroupNorm(8, after), nn.SiLU()]
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6 * width, classes)
        )

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, `(batch, 6 width)`, for `(batch, 3, height, width)` in [-1, 1]."""
        for layer in list(self)[:-1]:
            images = layer(images)
        return images

    def maps(self, images: Tensor) -> list[Tensor]:
        """Activations `(batch, channels, height, width)` after each convolution, for the same images."""
        found = []
        for layer in self:
            if isinstance(layer, nn.AdaptiveAvgPool2d):
                break
            images = layer(images)
            if isinstance(layer, nn.SiLU):
                found.append(images)
        return found


class TransformerJudge(nn.Module):
    """Small vision transformer: a convolutional stem to 8 x 8 tokens, then three layers of self-attention."""

    def __init__(self, classes: int, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 4, 4),
            nn.SiLU(),
            nn.GroupNorm(8, width // 2),
            nn.Conv2d(width // 2, width, 3, 2, 1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, 64, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = nn.Linear(width, classes)

    def features(self, images: Tensor) -> Tensor:
        """What the head sees, `(batch, width)`, for `(batch, 3, 64, 64)` in [-1, 1]."""
        tokens = self.stem(images).flatten(2).transpose(1, 2) + self.position
        features: Tensor = self.layers(tokens).mean(dim=1)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(batch, classes)` for `(batch, 3, 64, 64)` in [-1, 1]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class JudgeNetwork(nn.Module):
    """A judge: normalised input, logits out, and the labels that they stand for."""

    def __init__(self, name: JudgeName) -> None:
        super().__init__()
        if name not in JUDGE_LABELS:
            raise ConfigError(f"there is no embedded judge {name!r}; choose one of {', '.join(JUDGE_LABELS)}")
        self.name = name
        self.labels = JUDGE_LABELS[name]
        self.network: ConvolutionJudge | TransformerJudge
        self.network = (TransformerJudge if name == "concept-2" else ConvolutionJudge)(len(self.labels))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(batch, labels)` for images `(batch, 3, height, width)` in [0, 1]; resized to 64 x 64."""
        logits: Tensor = self.network(self.prepare(images))
        return logits

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What the last layer sees, `(batch, width)`, for images `(batch, 3, height, width)` in [0, 1].

        Two sets of pictures are compared by them, where Inception's features would be taken for photographs.
        """
        features: Tensor = self.network.features(self.prepare(images.float()))
        return features

    def prepare(self, images: Tensor) -> Tensor:
        """Images `(batch, 3, height, width)` in [0, 1] as the network takes them: 64 x 64, in [-1, 1].

        Raises:
            ConfigError: They have another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"the judge takes images of shape (batch, 3, height, width) in [0, 1], "
                f"got {tuple(images.shape)}; add a batch axis and convert to RGB"
            )
        if images.shape[-2:] != (64, 64):
            images = F.interpolate(images, (64, 64), mode="bilinear", antialias=True)
        return images * 2 - 1

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities `(batch, labels)` for images `(batch, 3, height, width)` in [0, 1]."""
        return F.softmax(self(images.float()), dim=-1)


def judge_file(name: JudgeName) -> Path:
    """Return where the weights of a judge lie in the package."""
    return _FOLDER / f"{name}.safetensors"


def load_judge(name: JudgeName, *, device: str | torch.device = "cpu") -> JudgeNetwork:
    """Load one of the judges that ship with the embedded pipeline.

    Raises:
        ConfigError: There is no judge of that name, or its labels are not today's vocabulary.
        ArtifactNotFoundError: The weights are missing from the installation.
        ArtifactFormatError: The weights are damaged.
    """
    judge = JudgeNetwork(name)
    path = judge_file(name)
    if not path.exists():
        raise ArtifactNotFoundError(
            f"the judge's weights {path.name} are missing from the package; install it again"
        )
    labels = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["labels"]
    if tuple(labels) != judge.labels:
        raise ConfigError(f"judge {name!r} was trained on another vocabulary; train it again with the recipe")
    try:
        judge.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ArtifactFormatError(
            f"the judge's weights {path.name} are damaged ({error}); expected the tensors of this version's "
            f"{name!r} judge; install the package again"
        ) from error
    return judge.eval().to(device)
