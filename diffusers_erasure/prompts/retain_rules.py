"""Which prompts may be retained while a concept is erased: a rule that one can read, extend or replace.

A prompt that shows the erased concept must not be in the retain set, or training would ask for the concept
and against it at once. For AdvUnlearn (arXiv:2405.15234, section 4) a language model said which prompts these
are. Here `KeywordRule` decides by words, and the words are a table, `related.csv` beside this file:

    words     words for one thing, `|` between them; erasing one of them leaves out all
    related   kinds of it, its parts, and what hardly has a picture without it; left out too, but not the
              other way round: erasing poodles keeps the dog

Neighbours are not in the table: they are what a retain set is for. A concept that names a group of
`nouns.csv` ("animal") leaves out that whole group. Whoever knows better, a language model for one, gives a
rule of their own: a function, or its name as `package.module:function`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Protocol, cast

from diffusers_erasure.concepts import ConceptSet
from diffusers_erasure.errors import ConfigError

from .nouns import nouns
from .retain import word_pattern
from .user_functions import load_function, name_of

_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "foot": "feet", "tooth": "teeth",
    "goose": "geese", "mouse": "mice", "ox": "oxen", "die": "dice", "cactus": "cacti",
}  # fmt: skip
_ENDINGS = (("y", "ies"), ("fe", "ves"), ("f", "ves"), ("", "es"), ("", "s"))
"""How English nouns end in the singular and in the plural."""


class RetainRule(Protocol):
    """Decides which prompts are left out of a retain set.

    A rule gets all prompts at once, so that one that asks a language model can ask once. It takes the place
    of the built-in `KeywordRule`; one that only adds to that calls it too.
    """

    def __call__(self, prompts: tuple[str, ...], concepts: ConceptSet, /) -> Sequence[str | None]:
        """Say why each prompt is left out.

        Args:
            prompts: Every prompt of the set, each once.
            concepts: What is erased.

        Returns:
            For each prompt, in their order, the reason to leave it out, or None to keep it.
        """


@dataclass(frozen=True)
class KeywordRule:
    """Leave out what says a word of the concepts, or one that is related to them.

    Names, synonyms and members count, in the singular and the plural, as whole words and in any case.

    Attributes:
        related: Whether `related.csv` and the groups of `nouns.csv` count as well.
    """

    related: bool = True

    def __call__(self, prompts: tuple[str, ...], concepts: ConceptSet, /) -> tuple[str | None, ...]:
        """The reason to leave out each prompt, or None."""
        reasons = {word: f"says {word!r}, which is erased" for word in sorted(concepts.words)}
        if self.related:
            for word, of in related_words(concepts).items():
                reasons[word] = f"says {word!r}, related to {of!r}, which is erased"
        return spoken(prompts, reasons)


def related_words(concepts: ConceptSet) -> Mapping[str, str]:
    """Words that a retained prompt must not say although they are none of the concepts'.

    Args:
        concepts: What is erased; themes contribute their own words and those of their members.

    Returns:
        Each related word and the concept's word that it goes with, in the order of the tables.
    """
    own = {form: word for word in sorted(concepts.words) for form in word_forms(word)}
    found: dict[str, str] = {}
    for words, related in _related_table():
        of = next((own[word] for word in words if word in own), None)
        if of is not None:
            found |= dict.fromkeys((*words, *related), of)
    found |= {noun.noun.casefold(): own[noun.group] for noun in nouns() if noun.group in own}
    return {word: of for word, of in found.items() if word not in own}


def spoken(prompts: Sequence[str], reasons: Mapping[str, str]) -> tuple[str | None, ...]:
    """For each prompt the reason of the first word that it says, or None if it says none.

    Args:
        prompts: What is searched.
        reasons: A reason for each word or phrase; its singular and plural are searched with it.
    """
    patterns = [(word_pattern(word_forms(word)), reason) for word, reason in reasons.items()]
    return tuple(
        next((reason for pattern, reason in patterns if pattern.search(prompt)), None) for prompt in prompts
    )


def word_forms(word: str) -> frozenset[str]:
    """A word with what may be its singular and its plural, in lower case.

    It guesses by the endings; forms that do not exist ("bu" for "bus") find nothing.
    """
    head, _, last = word.casefold().rpartition(" ")
    forms = {last, *(plural for single, plural in _IRREGULAR.items() if last == single)}
    forms |= {single for single, plural in _IRREGULAR.items() if last == plural}
    for single, plural in _ENDINGS:
        if last.endswith(single):
            forms.add(last.removesuffix(single) + plural)
        if last.endswith(plural) and not last.endswith("ss"):
            forms.add(last.removesuffix(plural) + single)
    return frozenset(f"{head} {form}".lstrip() for form in forms if form)


def load_rule(name: str) -> RetainRule:
    """The rule that a name stands for.

    Args:
        name: `package.module:function`; empty is the built-in `KeywordRule`.

    Raises:
        ConfigError: The name has another form, or there is no such module, attribute or function.
    """
    if not name:
        return KeywordRule()
    return cast(
        RetainRule,
        load_function(name, what="retain rule", takes="prompts and concepts", empty="the built-in rule"),
    )


def ask_rule(rule: RetainRule, prompts: tuple[str, ...], concepts: ConceptSet) -> tuple[str | None, ...]:
    """What a rule says of each prompt, checked.

    Args:
        rule: The built-in rule, or a user's.
        prompts: Every prompt of the set, each once.
        concepts: What is erased.

    Raises:
        ConfigError: The rule gives no sequence, too few or too many answers, or one that is no reason.
    """
    answers = rule(prompts, concepts)
    name = name_of(rule)
    is_list = isinstance(answers, Sequence) and not isinstance(answers, str)
    if not is_list or len(answers) != len(prompts):
        got = f"{len(answers)} answers" if is_list else f"a value of type {type(answers).__name__!r}"
        raise ConfigError(
            f"the retain rule {name!r} gave {got} for {len(prompts)} prompts; expected a list with one "
            f"answer for each prompt; correct the rule"
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        if answer is not None and (not isinstance(answer, str) or not answer.strip()):
            raise ConfigError(
                f"the retain rule {name!r} answered {answer!r} for {prompt!r}; expected the reason to leave "
                f"the prompt out, or None to keep it; correct the rule"
            )
    return tuple(answers)


@lru_cache(maxsize=1)
def _related_table() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """Rows of `related.csv` in lower case: words for one thing, and what goes with it."""
    text = files(__package__).joinpath("related.csv").read_text(encoding="utf-8")
    return tuple((_cell(row["words"]), _cell(row["related"])) for row in csv.DictReader(text.splitlines()))


def _cell(cell: str) -> tuple[str, ...]:
    return tuple(word.strip().casefold() for word in cell.split("|") if word.strip())
