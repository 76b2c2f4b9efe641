"""The text encoder, trained before the UNet and then kept, as Stable Diffusion keeps CLIP's.

CLIP learns to say in its [EoT] state what a picture shows. Here the pictures' contents are known, so the
encoder learns it directly: from the [EoT] state, or any padding state after it, linear heads name the left
and the right concept, the style and the background. Names, synonyms and tags of a concept thereby come to lie
together. The heads are then thrown away. (An encoder trained by the UNet's loss alone, over 77 mostly empty
tokens, had not bound words to shapes after 190,000 samples.)
"""

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffusers_erasure.embedded.recipe.dataset import Scene
from diffusers_erasure.embedded.recipe.loop import Schedule, World, train
from diffusers_erasure.embedded.vocabulary import COLOURS, CONCEPTS, STYLES

WIDTH = 160
_BATCH = 48
_SCHEDULE = Schedule(steps=700, learning_rate=1.5e-3, ema_decay=0.99)
_HEADS: dict[str, tuple[str, ...]] = {
    "left": tuple(CONCEPTS),
    "right": (*CONCEPTS, ""),
    "style": STYLES,
    "colour": (*COLOURS, ""),
}


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return the text encoder with fresh weights: 4 layers of width 160, 77 tokens."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=4 * WIDTH, projection_dim=WIDTH,
        num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModel(config)


class Namer(nn.Module):
    """The text encoder with heads that name what a caption says."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.text = new_text_encoder(tokenizer)
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(labels)) for name, labels in _HEADS.items()})

    def forward(self, ids: Tensor, positions: Tensor) -> dict[str, Tensor]:
        """Logits of each head, `(batch, labels)`, from the state at `positions`, `(batch,)`."""
        states = self.text(ids).last_hidden_state
        chosen = states[torch.arange(len(states)), positions]
        return {name: head(chosen) for name, head in self.heads.items()}


def train_text_encoder(
    scenes: tuple[Scene, ...], tokenizer: CLIPTokenizer, *, folder: Path, world: World
) -> CLIPTextModel:
    """Train on captions of the scenes; returns the encoder without its heads."""
    torch.manual_seed(0)
    namer = Namer(tokenizer)
    namer.text.set_attn_implementation("eager")

    def step(_index: int, generator: torch.Generator) -> dict[str, Tensor]:
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        chosen = [scenes[rng.randrange(len(scenes))] for _ in range(_BATCH)]
        captions = [scene.caption(rng) for scene in chosen]
        ids = tokenize(tokenizer, captions)
        first = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        positions = torch.tensor([rng.randrange(int(at), ids.shape[1]) for at in first])
        positions[::2] = first[::2]
        with torch.autocast("cpu", torch.bfloat16):
            logits = namer(ids, positions)
        wanted = _labels(chosen, captions)
        losses = {
            name: F.cross_entropy(logits[name].float(), wanted[name], ignore_index=-1) for name in _HEADS
        }
        right = (logits["left"].argmax(-1) == wanted["left"]).float().mean()
        return {"loss": torch.stack(list(losses.values())).sum(), "named": right}

    train(namer, step, _SCHEDULE, folder=folder / "text", seed=3, world=world)
    namer.text.set_attn_implementation("sdpa")
    return namer.text.requires_grad_(False)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids `(captions, 77)`, padded."""
    ids: Tensor = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return ids


def _labels(scenes: list[Scene], captions: list[str]) -> dict[str, Tensor]:
    """What the heads should say; -1 (no loss) for a style or colour that the caption leaves open."""
    wanted: dict[str, list[int]] = {name: [] for name in _HEADS}
    for scene, caption in zip(scenes, captions, strict=True):
        wanted["left"].append(_HEADS["left"].index(scene.concepts[0]))
        wanted["right"].append(_HEADS["right"].index(scene.concepts[1] if len(scene.concepts) > 1 else ""))
        wanted["style"].append(STYLES.index(scene.style) if f"{scene.style} style" in caption
                               or f"style of {scene.style}" in caption else -1)  # fmt: skip
        wanted["colour"].append(_HEADS["colour"].index(scene.colour or ""))
    return {name: torch.tensor(values) for name, values in wanted.items()}
