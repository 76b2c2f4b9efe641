"""How long the closed form takes at the size of Stable Diffusion 1.4, on the machine at hand.

A UNet and a text encoder of SD 1.4's shapes are made with random weights (nothing is downloaded; arithmetic
costs the same whatever the values). 20 concepts in 10 templates, 200 prompt pairs, are encoded, their first
[EoT] is solved for, and all 32 cross-attention projections are edited. The statistics of retained prompts are
given, as an erasure has them in a file.

    python -m benchmarks.closed_form --threads 2 --oracle --literal

`--oracle` compares the weights with those of the formula as it stands, layer by layer in float64, on the same
text states: as they are solved for, and as they are applied, when the edit is rounded to float32 and then
multiplied so that every machine gets the same bits (`exact_product`).

`--literal` runs, for comparison and without extrapolation, the authors' schedule (github.com/ddgoodgood/TRCE
at 0da9b71) in our own words: each pair goes alone through the encoder at the full length; four positions per
pair ([SoT], the first [EoT], the last, the concept), those of weight 0 too, go through each projection; per
layer and pair the outer products of all positions are made, and added one by one to each of two sums; one
float32 inverse per layer. They copy all projections for each pair, too, which changes nothing: that is timed
apart, and the ratio is said with and without it.

The exit code is 1 if the fast way takes more than 3 seconds, if a weight differs from the oracle's by more
than 1e-6 of the largest of its layer, or if it is not 100 times as fast as the literal schedule.
"""

from __future__ import annotations

import argparse
import copy
import gc
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_erasure.artifacts.edits import apply_edit
from diffusers_erasure.diffusion import DiffusionComponents, TextProjection, text_projections
from diffusers_erasure.prompts import PromptPair
from diffusers_erasure.training.closed_form import Penalties, PriorStatistics, RightFactor
from diffusers_erasure.training.text_edit import right_factor_edit, solve_pairs
from diffusers_erasure.training.text_states import AlignedPair, align_pairs, state_rows
from diffusers_erasure.training.token_positions import TokenPositions

WIDTH, TOKENS, VOCABULARY = 768, 77, 49408
PENALTIES = Penalties(prior_weight=0.0077, ridge=1e-6)
"""TRCE's defaults."""
POSITIONS: TokenPositions = "eot"
SLOT_WEIGHTS = (0.0, 1.0, 0.0, 0.0)
"""Of [SoT], the first [EoT], the last [EoT] and the concept, in the authors' settings."""
SECONDS, TIMES, DIFFERENCE = 3.0, 100.0, 1e-6
ANCHOR = "horse"
SUBJECTS = (
    "zebra", "tuba", "violin", "dagger", "falcon", "canoe", "comet", "gecko", "kiosk", "lemon",
    "pistol", "goblin", "casino", "syringe", "coffin", "cannon", "vampire", "scorpion", "whisky", "poison",
)  # fmt: skip
FRAMES = (
    "a photo of a {}",
    "a painting of a {}",
    "a {} in the rain",
    "a {} on a wooden table",
    "two people looking at a {}",
    "an old photograph of a {}",
    "a poster with a {} on it",
    "the {} at night",
    "a sketch of a {} by the sea",
    "a {} made of glass",
)


class Stopwatch:
    """Seconds on the wall and of the CPU, by phase; it runs from when it is made."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[float, float]] = {}
        self._last = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """Count what was done since the last lap to a phase."""
        now = time.perf_counter(), time.process_time()
        wall, processor = self.phases.get(name, (0.0, 0.0))
        self.phases[name] = wall + now[0] - self._last[0], processor + now[1] - self._last[1]
        self._last = now

    @property
    def total(self) -> tuple[float, float]:
        """Wall and CPU seconds of all phases."""
        wall, processor = zip(*self.phases.values(), strict=True)
        return sum(wall), sum(processor)

    def show(self, title: str) -> None:
        """Print the phases and their sum."""
        table = Table("phase", "wall s", "CPU s", title=title, title_justify="left", box=None)
        for name, seconds in [*self.phases.items(), ("total", self.total)]:
            table.add_row(name, *(f"{value:.2f}" for value in seconds))
        Console().print(table)


def tokenizer() -> CLIPTokenizer:
    """Real CLIP tokenizer in which every word of the prompts is one token, as in CLIP's own vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz-"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: dict[tuple[str, str], int] = {}
    for word in dict.fromkeys(" ".join((*FRAMES, *SUBJECTS, ANCHOR)).replace("{}", "").split()):
        while len(parts := _parts(word, merges)) > 1:
            merges[parts[0], parts[1]] = len(merges)
            words.append(parts[0] + parts[1])
    entries = {word: index for index, word in enumerate(dict.fromkeys(words))}
    entries |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    ordered: Any = list(merges)
    return CLIPTokenizer(vocab=entries, merges=ordered, model_max_length=TOKENS)


def _parts(word: str, merges: Mapping[tuple[str, str], int]) -> list[str]:
    """What byte-pair encoding leaves of a word: again and again the first merge that it can do."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while possible := [pair for pair in pairwise(parts) if pair in merges]:
        first = min(possible, key=merges.__getitem__)
        at = list(pairwise(parts)).index(first)
        parts[at : at + 2] = ["".join(first)]
    return parts


def text_encoder(width: int = WIDTH, layers: int = 12) -> CLIPTextModel:
    """ViT-L/14's text tower; its last norm is randomised, since a fresh one makes Gram matrices singular.

    Args:
        width: Of its states, a multiple of 64.
        layers: How deep it is.
    """
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=TOKENS,
        initializer_factor=4.0,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
    )
    model: CLIPTextModel = nn.Module.eval(CLIPTextModel(config))
    for name, weight in model.named_parameters():
        if "final_layer_norm" in name:
            nn.init.normal_(weight, mean=float("weight" in name), std=0.2)
    return model


def unet() -> UNet2DConditionModel:
    """SD 1.4's UNet: 860 million parameters, 16 layers of cross-attention."""
    return UNet2DConditionModel(sample_size=64, cross_attention_dim=WIDTH).eval()


def pairs() -> list[PromptPair]:
    """The 200 pairs of sentences: each concept in each template."""
    return [
        PromptPair(frame.format(subject), frame.format(ANCHOR), subject, ANCHOR)
        for frame in FRAMES
        for subject in SUBJECTS
    ]


def fast(
    components: DiffusionComponents,
    layers: Sequence[TextProjection],
    sentences: Sequence[PromptPair],
    prior: PriorStatistics,
) -> tuple[RightFactor, dict[str, Tensor], Stopwatch]:
    """What the package does.

    Args:
        components: Whose text encoder.
        layers: What is edited.
        sentences: What is mapped to what.
        prior: What stays.

    Returns:
        The solution, new weights by name, and the seconds of encoding (with the sums over pairs), solving and
        applying.
    """
    watch = Stopwatch()
    aligned = align_pairs(components, sentences, POSITIONS)
    found = solve_pairs(
        components,
        aligned,
        POSITIONS,
        prior,
        PENALTIES,
        batch_size=64,
        progress=lambda _: watch.lap("encode"),
    )
    watch.lap("solve")
    edit = right_factor_edit(found.factor, layers)
    with torch.no_grad():
        edited = {layer.key: apply_edit(layer.weight, [(edit, 1.0)], name=layer.key) for layer in layers}
    watch.lap("apply")
    return found.factor, edited, watch


@torch.no_grad()
def oracle(
    components: DiffusionComponents,
    layers: Sequence[TextProjection],
    sentences: Sequence[PromptPair],
    prior: PriorStatistics,
) -> dict[str, Tensor]:
    """The minimiser as its formula stands, W' = A G⁻¹ for each layer by itself, in float64.

    Args:
        components: Whose text encoder.
        layers: What is edited.
        sentences: What is mapped to what.
        prior: What stays.

    Returns:
        New weights by name, float64.
    """
    aligned = align_pairs(components, sentences, POSITIONS)
    blocks = list(state_rows(components, aligned, POSITIONS, batch_size=64, progress=lambda _: None))
    malicious = torch.cat([block.source for block in blocks]).double()
    safe = torch.cat([block.target for block in blocks]).double()
    share = torch.cat([block.weight for block in blocks]).double()
    share = (share / share.sum())[:, None]
    eta = PENALTIES.prior_weight / prior.count
    edited = {}
    for layer in layers:
        old = layer.weight.double()
        right = malicious.T @ (share * malicious) + eta * prior.gram
        left = (safe @ old.T).T @ (share * malicious) + eta * old @ prior.gram
        ridge = PENALTIES.ridge * right.diagonal().mean()
        left, right = left + ridge * old, right + ridge * torch.eye(len(right), dtype=torch.float64)
        edited[layer.key] = torch.linalg.solve(right, left, left=False)
    return edited


def literal(
    components: DiffusionComponents,
    layers: Sequence[TextProjection],
    sentences: Sequence[PromptPair],
    prior: PriorStatistics,
) -> tuple[dict[str, Tensor], Stopwatch]:
    """The authors' schedule, in the precision of the weights; see the module's text.

    Args:
        components: Whose text encoder.
        layers: What is edited.
        sentences: What is mapped to what.
        prior: What stays; its product with each layer is made beforehand, as theirs is loaded from a file.

    Returns:
        New weights by name, and the seconds of each phase.
    """
    aligned = align_pairs(components, sentences, POSITIONS)
    kept = prior.gram.to(layers[0].weight.dtype) / prior.count
    with torch.no_grad():
        cached = [layer.weight @ kept for layer in layers]
        watch = Stopwatch()
        states, values = [], []
        for pair in aligned:
            malicious, safe = _literal_states(components, pair)
            states.append(malicious)
            watch.lap("encode")
            values.append([safe @ layer.weight.T for layer in layers])
            watch.lap("values")
        edited = {}
        for index, layer in enumerate(layers):
            heard = [value[index] for value in values]
            left, right = _literal_sums(layer, states, heard)
            watch.lap("outer products")
            left += PENALTIES.prior_weight * cached[index]
            right += PENALTIES.prior_weight * kept
            ridge = PENALTIES.ridge * right.diagonal().mean()
            left, right = (
                left + ridge * layer.weight,
                right + ridge * torch.eye(len(right), dtype=right.dtype),
            )
            edited[layer.key] = left @ torch.linalg.inv(right)
            watch.lap("inverse and apply")
    return edited, watch


def _literal_states(components: DiffusionComponents, pair: AlignedPair) -> tuple[Tensor, Tensor]:
    """States of a malicious and a safe prompt at the four positions, each `(4, width)`."""
    padding = components.tokenizer.pad_token_id
    rows = [prompt.ids for prompt in (pair.source, pair.target)]
    ids = torch.tensor([[*row, *[padding] * (components.max_tokens - len(row))] for row in rows])
    states = components.text_encoder(ids)[0]
    word = pair.source.word[0]
    return states[0, [0, pair.source.end, -1, word]], states[1, [0, pair.target.end, -1, -1]]


def _literal_sums(
    layer: TextProjection, states: Sequence[Tensor], values: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Means over the pairs of the weighted outer products, `(out, width)` and `(width, width)`."""
    left = torch.zeros_like(layer.weight)
    right = layer.weight.new_zeros(layer.weight.shape[1], layer.weight.shape[1])
    for context, heard in zip(states, values, strict=True):
        mapped = torch.bmm(heard[:, :, None], context[:, None, :])
        gram = torch.bmm(context[:, :, None], context[:, None, :])
        for slot, weight in enumerate(SLOT_WEIGHTS):
            left += weight * mapped[slot]
            right += weight * gram[slot]
    return left / len(states), right / len(states)


def copies(layers: Sequence[TextProjection], count: int) -> Stopwatch:
    """Copy all projections and collect garbage so many times, as the authors' code does for each pair."""
    watch = Stopwatch()
    for _ in range(count):
        copied = [copy.deepcopy(layer.weight) for layer in layers]
        del copied
        gc.collect()
    watch.lap("copies")
    return watch


def solved(layers: Sequence[TextProjection], factor: RightFactor) -> dict[str, Tensor]:
    """W (I + X) by name, in float64."""
    old = {layer.key: layer.weight.detach().double() for layer in layers}
    return {name: weight + weight @ factor.dense for name, weight in old.items()}


def difference(edited: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Largest difference of a weight, relative to the largest weight of its layer."""
    return max(
        float((edited[name].double() - weight).abs().max() / weight.abs().max())
        for name, weight in expected.items()
    )


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument(
        "--retain", type=int, default=4000, help="random states that stand for the retain set"
    )
    parser.add_argument("--oracle", action="store_true", help="compare with the formula in float64")
    parser.add_argument("--literal", action="store_true", help="run the authors' schedule too (minutes)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a bound of the module's text is not held."""
    given, say = _arguments(argv), Console().print
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    components = DiffusionComponents(tokenizer(), text_encoder(), unet(), None, None)
    layers = text_projections(components.unet, text_width=WIDTH)
    prior, sentences = PriorStatistics.of(torch.randn(given.retain, WIDTH)), pairs()
    before = _peak_megabytes()
    factor, edited, watch = fast(components, layers, sentences, prior)
    watch.show(f"closed form, {len(sentences)} pairs, {len(layers)} projections, {given.threads} threads")
    say(f"peak memory {_peak_megabytes():.0f} MB, {before:.0f} MB of it the models")
    held = [_held(f"{watch.total[0]:.2f} s in all", watch.total[0] <= SECONDS, f"at most {SECONDS:g} s")]
    if given.oracle:
        exact = oracle(components, layers, sentences, prior)
        worst = difference(solved(layers, factor), exact)
        held.append(_held(f"{worst:.1e} from the oracle", worst <= DIFFERENCE, f"at most {DIFFERENCE:g}"))
        worst = difference(edited, exact)
        limit = f"at most {DIFFERENCE:g}"
        held.append(_held(f"{worst:.1e} from the oracle as applied", worst <= DIFFERENCE, limit))
    if given.literal:
        expected, slow = literal(components, layers, sentences, prior)
        slow.show("the authors' schedule in float32, without copies")
        say(f"{difference(edited, expected):.1e} from the closed form as applied")
        apart = copies(layers, len(sentences))
        apart.show("their copies")
        wall, with_copies = _ratios(watch, slow), _ratios(watch, slow, apart)
        say(f"with the copies {with_copies[0]:.0f} times as long on the wall, {with_copies[1]:.0f} by CPU")
        found = f"without them {wall[0]:.0f} times as long on the wall, {wall[1]:.0f} by CPU"
        held.append(_held(found, wall[0] >= TIMES, f"at least {TIMES:g} on the wall"))
    return int(not all(held))


def _ratios(watch: Stopwatch, *slow: Stopwatch) -> list[float]:
    """Of wall seconds and of CPU seconds."""
    return [sum(one.total[of] for one in slow) / watch.total[of] for of in (0, 1)]


def _held(found: str, good: bool, bound: str) -> bool:
    """Print a figure with its bound."""
    Console().print(f"{found}; wanted {bound}: {'held' if good else 'NOT HELD'}")
    return good


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    sys.exit(main())
