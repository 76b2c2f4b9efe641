"""More ways to mean a concept than its own words, each with a safe counterpart in the same context.

TRCE (arXiv:2503.07389) maps pairs of a malicious prompt and a *contextually similar* safe one, and had a
language model write them. Here they come from what is at hand, in this order:

    words      names and synonyms in our templates (`erasure_pairs`)
    tags       words that imply a concept without naming it, from the embedded pipeline's vocabulary (`tags`)
    a file     pairs that the user wrote (`pair_files`)
    expander   a function of the user that knows other words, a language model for one

In each pair the safe side keeps the wording, and only what means the concept is exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from diffusers_erasure.concepts import Concept, ConceptSet
from diffusers_erasure.errors import ConfigError

from .pair_files import read_pairs
from .pairs import PromptPair, erasure_pairs, word_pairs
from .tags import tag_pairs
from .user_functions import load_function, name_of
from .wording import Split, World


class ConceptExpander(Protocol):
    """Knows other words for concepts: synonyms, metaphors, slang."""

    def __call__(self, concepts: ConceptSet, /) -> Mapping[str, Sequence[str]]:
        """Find other words.

        Args:
            concepts: What is erased.

        Returns:
            For the name of a concept, theme or member, words or phrases that mean it, as they stand in a
            sentence after "a photo of", with or without an article. Names may be missing.
        """


def expanded_pairs(
    concepts: ConceptSet,
    *,
    world: World,
    split: Split = "train",
    synonyms: bool = True,
    tags: bool = False,
    limit: int | None = None,
    pairs_file: str = "",
    expander: ConceptExpander | str = "",
) -> tuple[PromptPair, ...]:
    """Every pair that teaches the erasure of `concepts`, each once, in the order of the module's docstring.

    An expander that asks a language model; in a module `words` on Python's path its name is `words:ask`:

        def ask(concepts):
            generate = transformers.pipeline("text-generation", model="some/instruction-tuned-model")
            wish = "Other words for {}, one a line, and nothing else."
            chats = [[{"role": "user", "content": wish.format(part.name)}] for part in concepts.leaves]
            texts = [answer[0]["generated_text"] for answer in generate(chats, return_full_text=False)]
            lines = [[line for line in text.splitlines() if line.strip()] for text in texts]
            return {part.name: words for part, words in zip(concepts.leaves, lines)}

    Args:
        concepts: What is erased; themes contribute their own words and those of their members.
        world: Whose prompts: the embedded pipeline's, with its style words, or a pretrained model's.
        split: Templates of training or of testing; for tags, parts of a list or the whole list.
        synonyms: Whether synonyms are mapped too.
        tags: Whether lists of words that imply a concept are mapped too (`tag_pairs`).
        limit: Most templates per word, an expander's words included; 0 takes the bare word alone. None
            takes all. Tags and files have no templates, so they are taken whole.
        pairs_file: A csv file of the user's own pairs (`read_pairs`), or "" for none.
        expander: A function, its name as `package.module:function`, or "" for none. It is called once, and
            its words go where synonyms go.

    Raises:
        ConfigError: Tags are asked for and there are none, or file or expander cannot be used.
    """
    found = dict.fromkeys(erasure_pairs(concepts, world=world, split=split, synonyms=synonyms, limit=limit))
    if tags:
        found |= dict.fromkeys(tag_pairs(concepts, split))
    if pairs_file:
        found |= dict.fromkeys(read_pairs(Path(pairs_file)))
    if expander:
        for concept, word in _expanded(concepts, expander):
            found |= dict.fromkeys(word_pairs(concept, word, world, split, limit))
    return tuple(found)


def load_expander(name: str) -> ConceptExpander:
    """The expander that a name stands for.

    Args:
        name: `package.module:function`.

    Raises:
        ConfigError: The name has another form, or there is no such module, attribute or function.
    """
    return cast(ConceptExpander, load_function(name, what="expander", takes="concepts", empty="none"))


def _expanded(concepts: ConceptSet, expander: ConceptExpander | str) -> Iterator[tuple[Concept, str]]:
    """Every concept that the expander knows words for, with each of them, checked."""
    ask = load_expander(expander) if isinstance(expander, str) else expander
    answer, name = ask(concepts), name_of(ask)
    if not isinstance(answer, Mapping):
        raise ConfigError(
            f"the expander {name!r} gave a value of type {type(answer).__name__!r}; expected lists of words "
            f"by the names of concepts; correct the expander"
        )
    known: dict[str, list[Concept]] = {}
    for part in (part for concept in concepts for part in concept.walk()):
        known.setdefault(part.name.casefold(), []).append(part)
    for concept, words in answer.items():
        parts = known.get(concept.strip().casefold()) if isinstance(concept, str) else None
        if parts is None:
            raise ConfigError(
                f"the expander {name!r} gave words for {concept!r}, which is not erased; expected names "
                f"among {', '.join(map(repr, known))}; correct the expander"
            )
        for part in parts:
            yield from ((part, word) for word in _words(words, part, name))


def _words(words: object, concept: Concept, expander: str) -> tuple[str, ...]:
    """The words for one concept, each once and without superfluous blanks."""
    if isinstance(words, str) or not isinstance(words, Sequence):
        raise ConfigError(
            f"the expander {expander!r} gave {words!r} for {concept.name!r}; expected a list of words or "
            f"phrases; correct the expander"
        )
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(
                f"the expander {expander!r} gave {word!r} among its words for {concept.name!r}; expected a "
                f"word or phrase; correct the expander"
            )
        if word.strip().casefold() == concept.anchor.casefold():
            raise ConfigError(
                f"the expander {expander!r} gave {word!r} as a word for {concept.name!r}, which is mapped to "
                f"it; expected words for the concept alone; leave it out, or choose another anchor"
            )
    return tuple(dict.fromkeys(" ".join(word.split()) for word in words))
