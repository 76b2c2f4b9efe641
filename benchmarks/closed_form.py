"""How long the closed form takes at the size of Stable Diffusion 1.4, on the machine at hand.

A UNet and a text encoder of SD 1.4's shapes are made with random weights (nothing is downloaded; arithmetic
costs the same whatever the values), 200 prompt pairs are encoded, solved for all 32 cross-attention
projections, and applied. `--literal` runs, for comparison and without extrapolation, what a literal
transcription of the formula does: per pair at the full length, per layer, per outer product in float32, one
inverse per layer.

    python benchmarks/closed_form.py [--pairs 200] [--threads 2] [--literal]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_erasure.artifacts.edits import RightFactorEdit, apply_edit
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection, text_projections
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training.closed_form import (
    MappingStatistics,
    Penalties,
    PriorStatistics,
    residual,
    solve,
    solve_low_rank,
)
from diffusers_erasure.training.text_states import AlignedPair, StateRows, align_pairs, state_rows
from diffusers_erasure.training.token_positions import TokenPositions

WIDTH, TOKENS, VOCABULARY = 768, 77, 49408
PENALTIES = Penalties(prior_weight=0.1, ridge=1e-6)
SUBJECTS = ("zebra", "tuba", "violin", "dagger", "falcon", "canoe", "comet", "gecko", "kiosk", "lemon")
FRAMES = (
    "a photo of a {}",
    "a painting of a {}",
    "a {} in the rain",
    "a {} on a wooden table",
    "two people looking at a {}",
    "an old photograph of a {}",
    "a close-up of a {}",
    "a poster with a {} on it",
    "the {} at night",
    "a sketch of a {} by the sea",
    "a {} seen from far away",
    "an advertisement with a {}",
    "a watercolour of a {}",
    "a {} under a bright sky",
    "a cartoon of a {}",
    "somebody points at a {}",
    "a very small {}",
    "a large {} next to a house",
    "a {} made of glass",
    "a stamp that shows a {}",
)


class Stopwatch:
    """Seconds on the wall and of the CPU, by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[float, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.phases[name] = (time.perf_counter() - wall, time.process_time() - processor)

    def show(self, title: str) -> None:
        """Print the phases and their sum."""
        table = Table("phase", "wall s", "CPU s", title=title, title_justify="left", box=None)
        total = tuple(map(sum, zip(*self.phases.values(), strict=True)))
        for name, seconds in [*self.phases.items(), ("total", total)]:
            table.add_row(name, *(f"{value:.2f}" for value in seconds))
        Console().print(table)


def tokenizer() -> CLIPTokenizer:
    """Real CLIP tokenizer in which every word of the prompts is one token, as in CLIP's own vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz-"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in dict.fromkeys(" ".join((*FRAMES, *SUBJECTS)).replace("{}", "").split()):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            words.append(parts[0])
    merges = list(dict.fromkeys(merges))
    entries = {word: index for index, word in enumerate(dict.fromkeys(words))}
    entries |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    return CLIPTokenizer(vocab=entries, merges=merges, model_max_length=TOKENS)


def text_encoder() -> CLIPTextModel:
    """ViT-L/14's text tower; its last norm is randomised, since a fresh one makes Gram matrices singular."""
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=TOKENS,
        initializer_factor=4.0,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    model = CLIPTextModel(config).eval()
    for name, weight in model.named_parameters():
        if "final_layer_norm" in name:
            nn.init.normal_(weight, mean=float("weight" in name), std=0.2)
    return model


def unet() -> UNet2DConditionModel:
    """SD 1.4's UNet: 860 million parameters, 16 layers of cross-attention."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=WIDTH).eval()


def pairs(count: int) -> list[PromptPair]:
    """Pairs of sentences, each frame with each subject."""
    every = [
        PromptPair(frame.format(subject), frame.format("horse"), subject, "horse")
        for frame in FRAMES
        for subject in SUBJECTS
    ]
    if count > len(every):
        sys.exit(f"there are {len(every)} pairs, {count} were asked for; ask for fewer")
    return every[:count]


def fast(
    components: DiffusionComponents,
    sentences: Sequence[PromptPair],
    prior: PriorStatistics,
    policy: TokenPositions,
) -> tuple[dict[str, Tensor], Stopwatch]:
    """What the package does; returns the new weights by name."""
    watch = Stopwatch()
    with watch.phase("encode"):
        aligned = align_pairs(components, sentences, policy)
        blocks = list(state_rows(components, aligned, policy, batch_size=64, progress=_ignore))
    with watch.phase("solve"):
        mapping = MappingStatistics.empty(WIDTH)
        for block in blocks:
            mapping = mapping + MappingStatistics.of(block.source, block.target, block.weight)
        edit = _edit(components, blocks, mapping, prior)
    with watch.phase("apply"), torch.no_grad():
        edited = {
            projection.key: apply_edit(projection.weight, [(edit, 1.0)], name=projection.key)
            for projection in text_projections(components.unet, text_width=WIDTH)
        }
    rows = sum(len(block.source) for block in blocks)
    Console().print(f"{len(sentences)} pairs, {rows} mapped states, stored as {[*edit.tensors]}")
    return edited, watch


def _ignore(done: int) -> None:
    del done


def _edit(
    components: DiffusionComponents,
    blocks: Sequence[StateRows],
    mapping: MappingStatistics,
    prior: PriorStatistics,
) -> RightFactorEdit:
    targets = tuple(projection.key for projection in text_projections(components.unet))
    if len(blocks) == 1 and 2 * len(blocks[0].source) <= WIDTH:
        (block,) = blocks
        factor = solve_low_rank(block.source, block.target, block.weight, prior, PENALTIES)
    else:
        factor = solve(mapping, prior, PENALTIES)
    Console().print(f"condition {factor.condition:.1e}, missing change {residual(factor, mapping):.2%}")
    if factor.left is not None and factor.right is not None:
        return RightFactorEdit(left=factor.left.float(), right=factor.right.float(), targets=targets)
    return RightFactorEdit(factor=factor.dense.float(), targets=targets)


@torch.no_grad()
def literal(
    components: DiffusionComponents, aligned: Sequence[AlignedPair], prior: PriorStatistics
) -> tuple[dict[str, Tensor], Stopwatch]:
    """The formula as it stands: each pair at full length, each layer, each outer product, each inverse."""
    watch = Stopwatch()
    layers = text_projections(components.unet, text_width=WIDTH)
    with watch.phase("encode"):
        states = [_literal_states(components, pair) for pair in aligned]
    with watch.phase("values"):
        values = [[layer.weight @ target for layer in layers] for _, target in states]
    edited: dict[str, Tensor] = {}
    with watch.phase("solve and apply"):
        for index, layer in enumerate(layers):
            edited[layer.key] = _literal_layer(layer, states, [row[index] for row in values], prior)
    return edited, watch


def _literal_states(components: DiffusionComponents, pair: AlignedPair) -> tuple[Tensor, Tensor]:
    """[EoT] states of one pair, each prompt encoded alone and padded to the full length."""
    found = []
    for prompt in (pair.source, pair.target):
        padding = [components.tokenizer.pad_token_id] * (TOKENS - len(prompt.ids))
        found.append(components.text_encoder(torch.tensor([[*prompt.ids, *padding]]))[0][0, prompt.end])
    return found[0], found[1]


def _literal_layer(
    layer: TextProjection,
    states: Sequence[tuple[Tensor, Tensor]],
    values: Sequence[Tensor],
    prior: PriorStatistics,
) -> Tensor:
    scale = PENALTIES.prior_weight / prior.count
    right = scale * prior.gram.float()
    left = layer.weight @ right
    for (concept, _), value in zip(states, values, strict=True):
        left = left + torch.outer(value, concept) / len(states)
        right = right + torch.outer(concept, concept) / len(states)
    ridge = PENALTIES.ridge * right.diagonal().mean()
    left, right = left + ridge * layer.weight, right + ridge * torch.eye(WIDTH)
    return left @ torch.linalg.inv(right)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=200, help="prompt pairs")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--retain", type=int, default=4000, help="random states that stand for the retain set"
    )
    parser.add_argument(
        "--positions", choices=("eot", "eot+padding"), default="eot", help="which states are mapped"
    )
    parser.add_argument("--literal", action="store_true", help="run the literal transcription too (minutes)")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if the fast way took 5 seconds or more."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    components = DiffusionComponents(tokenizer(), text_encoder(), unet(), None, None)  # type: ignore[arg-type]
    prior = PriorStatistics.of(torch.randn(arguments.retain, WIDTH))
    sentences = pairs(arguments.pairs)
    before = _peak_megabytes()
    edited, watch = fast(components, sentences, prior, arguments.positions)
    watch.show(f"closed form, {arguments.positions}, {arguments.threads} threads")
    Console().print(f"peak memory {_peak_megabytes():.0f} MB, {before:.0f} MB of it the models")
    if arguments.literal:
        aligned = [replace(pair, weight=1) for pair in align_pairs(components, sentences, "eot")]
        expected, slow = literal(components, aligned, prior)
        slow.show("literal transcription in float32, eot")
        Console().print(f"peak memory {_peak_megabytes():.0f} MB")
        if arguments.positions == "eot":
            worst = max(
                float((edited[key] - weight).abs().max() / weight.abs().max())
                for key, weight in expected.items()
            )
            Console().print(f"largest difference of a weight, relative to its layer's largest: {worst:.1e}")
    return int(sum(wall for wall, _ in watch.phases.values()) >= 5.0)


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    raise SystemExit(main())
