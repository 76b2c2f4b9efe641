"""A CLIP-style tokenizer for the embedded pipeline: lower-cased byte-level BPE, trained on its captions.

Laid out as CLIP's: 256 bytes, 256 bytes that end a word, the merges, then the two special tokens; padding is
the end token. The names of all drawings are in the training text as well, so that ordinary words outside the
captions are not spelled letter by letter.
"""

import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from diffusers_erasure.embedded.recipe.dataset import Scene

MAX_LENGTH = 77
_MERGES = 1500
_WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(scenes: tuple[Scene, ...], names: tuple[str, ...], *, seed: int) -> CLIPTokenizer:
    """Learn the merges from captions drawn for `scenes` and from the `names` of drawings."""
    rng = random.Random(seed)
    text = [scene.caption(rng) for scene in scenes] + [name.replace("-", " ") for name in names]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + _MERGES,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(text, trainer)
    merges = [tuple(merge) for merge in _merges(learner)][:_MERGES]
    tokens = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(merge) for merge in merges),
        _START,
        _END,
    ]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    # transformers annotates merges as lines of text, but hands them to the tokenizer, which takes pairs.
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)  # type: ignore[arg-type]


def _merges(learner: Tokenizer) -> list[list[str]]:
    import json

    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
