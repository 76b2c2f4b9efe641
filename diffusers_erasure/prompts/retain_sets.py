"""Which prompts a method retains: a set by name or file, filtered by a rule, with what was left out and why.

    objects   "a photo of" each everyday thing of `nouns.csv`; the default, as in AdvUnlearn's paper
              (arXiv:2405.15234, section 4), but of our own list
    classes   the same of the more special things there
    scenes    the sentences of `retain.csv`
    styles    things drawn in many styles, of `styled`: for erasing a style that others must survive
    a path    the user's own prompts: a .txt with one per line, or a .csv with a column `prompt`

For the embedded pipeline each of the names stands for its own vocabulary, since it knows few of these words:
`styles` for that drawn in styles alone, the others for the same prompts.
The rules are those of `retain_rules`. Under a limit, prompts are picked in an order that does not depend on
the concepts: two erasures of one base share nearly all, and what was computed for a prompt serves both.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from diffusers_erasure.concepts import ConceptKind, ConceptSet
from diffusers_erasure.errors import ConfigError

from .csv_file import read_csv
from .nouns import nouns
from .retain import embedded_prompts, scene_prompts
from .retain_rules import KeywordRule, RetainRule, ask_rule, load_rule, spoken
from .styled import styled_prompts
from .user_files import read_by_ending
from .wording import Split, World, templates

logger = logging.getLogger(__name__)

RetainSet = Literal["objects", "classes", "scenes", "styles"]
"""Names of the sets that come with this package."""
RETAIN_SETS: tuple[str, ...] = get_args(RetainSet)

_GOLDEN = 0x9E3779B1
"""2^32 over the golden ratio: multiples of it, modulo 2^32, spread evenly, however many are taken."""


@dataclass(frozen=True)
class DroppedPrompt:
    """A prompt that is not retained.

    Attributes:
        prompt: The prompt.
        reason: Why not: "says 'chapel', related to 'church', which is erased".
    """

    prompt: str
    reason: str


@dataclass(frozen=True)
class RetainSelection:
    """The prompts of a retain set that are kept, and those that are left out.

    Attributes:
        source: Name of the set, or path of the file.
        prompts: What is retained, each once.
        dropped: What the rule or the user left out; not what a limit cut off.
    """

    source: str
    prompts: tuple[str, ...]
    dropped: tuple[DroppedPrompt, ...]


def select_retain_prompts(
    concepts: ConceptSet,
    *,
    world: World = "general",
    source: str = "objects",
    exclude: Sequence[str] = (),
    rule: RetainRule | str = "",
    split: Split = "train",
    with_empty: bool = False,
    limit: int | None = None,
) -> RetainSelection:
    """Choose the prompts to keep while `concepts` are erased, each once and in a fixed order.

    Args:
        concepts: What is erased; may be several.
        world: Whose prompts a named set holds: the embedded pipeline's or a pretrained model's.
        source: Name of a set (`RETAIN_SETS`), or path of a .txt or .csv file.
        exclude: Further words or phrases; a prompt that says one is left out, whatever the rule says of it.
        rule: What else is left out: a function, its name as `package.module:function`, or "" for the built-in
            rule. That one knows the concepts' own words in the embedded world, and related ones elsewhere.
        split: Wording of training or of testing. Scenes and files have one wording for both.
        with_empty: Whether the empty prompt comes first; AdvUnlearn's sets have none.
        limit: Most prompts, the empty one included, taken evenly from the set; None takes all.

    Raises:
        ConfigError: The set, file, rule, limit or an excluded word cannot be used, or nothing is left.
    """
    if limit is not None and limit < 1:
        raise ConfigError(
            f"the limit of the retain set is {limit}; expected 1 or more; raise it, or give none"
        )
    prompts = retain_set_prompts(source, world=world, split=split)
    reasons = _reasons(prompts, concepts, world=world, exclude=exclude, rule=rule)
    dropped = tuple(
        DroppedPrompt(prompt, reason)
        for prompt, reason in zip(prompts, reasons, strict=True)
        if reason is not None
    )
    if len(dropped) == len(prompts):
        raise ConfigError(
            f"nothing is left of the retain set {source!r}: all {len(prompts)} prompts were left out, "
            f"{dropped[0].prompt!r} because of: {dropped[0].reason}; expected at least one to stay; take "
            f"another set or rule, or exclude less"
        )
    kept = _pick([reason is None for reason in reasons], None if limit is None else limit - with_empty)
    logger.info("retain set %s: %d of %d prompts left out", source, len(dropped), len(prompts))
    chosen = (*([""] if with_empty else []), *(prompts[index] for index in kept))
    return RetainSelection(source=source, prompts=chosen, dropped=dropped)


def retain_prompts(
    concepts: ConceptSet, *, world: World = "general", split: Split = "train", limit: int | None = None
) -> tuple[str, ...]:
    """The scenes, or the embedded pipeline's vocabulary, without the concepts' own words.

    The empty prompt comes first, since classifier-free guidance draws with it at every step. Related words
    stay: a closed form moves nothing that it is not told to, so it needs no wider filter.

    Args:
        concepts: What is erased.
        world: Whose prompts.
        split: Wording of training or of testing.
        limit: Most prompts, taken evenly from the set; None takes all.

    Raises:
        ConfigError: The limit is below 1, or nothing is left.
    """
    own = KeywordRule(related=False)
    return select_retain_prompts(
        concepts, world=world, source="scenes", rule=own, split=split, with_empty=True, limit=limit
    ).prompts


def retain_set_prompts(source: str, *, world: World = "general", split: Split = "train") -> tuple[str, ...]:
    """Every prompt of a set before any is left out, each once and in its order.

    Args:
        source: Name of a set (`RETAIN_SETS`), or path of a .txt or .csv file.
        world: Whose prompts a named set holds.
        split: Wording of training or of testing.

    Raises:
        ConfigError: There is no such set or file, or the file cannot be used.
    """
    if source not in RETAIN_SETS:
        prompts = _read_file(source)
    elif source == "styles":
        prompts = styled_prompts(split, world)
    elif world == "embedded":
        prompts = embedded_prompts(split)
    elif source == "scenes":
        prompts = scene_prompts()
    else:
        photo = _PHOTO if split == "train" else templates(ConceptKind.object, split, world=world)[0]
        prompts = tuple(photo.format(noun.phrase) for noun in nouns() if noun.list == source)
    return tuple(dict.fromkeys(prompts))


def _reasons(
    prompts: tuple[str, ...],
    concepts: ConceptSet,
    *,
    world: World,
    exclude: Sequence[str],
    rule: RetainRule | str,
) -> tuple[str | None, ...]:
    """Why each prompt is left out, or None; the user's words come first."""
    if isinstance(exclude, str) or not all(word.strip() for word in exclude):
        raise ConfigError(
            f"the words to exclude are {exclude!r}; expected a list of words, none of them empty; give each "
            f"as an item of its own, or give none"
        )
    asked = spoken(prompts, {word.strip(): f"says {word.strip()!r}, which is excluded" for word in exclude})
    if isinstance(rule, str):
        rule = load_rule(rule) if rule else KeywordRule(related=world == "general")
    ruled = ask_rule(rule, prompts, concepts)
    return tuple(first or second for first, second in zip(asked, ruled, strict=True))


def _pick(free: Sequence[bool], limit: int | None) -> list[int]:
    """Indices of the free places, or of `limit` of them, spread evenly, in their order."""
    places = [index for index, is_free in enumerate(free) if is_free]
    if limit is None:
        return places
    return sorted(sorted(places, key=lambda index: index * _GOLDEN % 2**32)[:limit])


def _read_file(source: str) -> tuple[str, ...]:
    """The prompts of a user's file."""
    path = Path(source).expanduser()
    if path.suffix.casefold() not in _READERS:
        raise ConfigError(
            f"there is no retain set {source!r}; expected one of {', '.join(RETAIN_SETS)}, or a file that "
            f"ends in .txt or .csv; correct the name"
        )
    prompts = read_by_ending(path, f"the retain set {source}", _READERS)
    if not prompts:
        raise ConfigError(
            f"the retain set {source} holds no prompt; expected at least one; write some, or take one of "
            f"{', '.join(RETAIN_SETS)}"
        )
    return prompts


def _txt(_path: Path, text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _csv(path: Path, text: str) -> tuple[str, ...]:
    def fault(line: int, found: str, expected: str) -> ConfigError:
        return ConfigError(
            f"line {line} of the retain set {path} {found}; expected {expected}; correct the file"
        )

    table = read_csv(text, fault)
    if table.columns and "prompt" not in table.columns:
        raise ConfigError(
            f"the retain set {path} has the columns {', '.join(map(repr, table.columns))}; expected one "
            f"named 'prompt'; rename it in the first line"
        )
    prompts = []
    for line, cells in table.rows:
        if len(cells) > len(table.columns):
            raise fault(
                line,
                f"has {len(cells)} cells",
                f"{len(table.columns)} ({', '.join(table.columns)}), quoted where they hold a comma",
            )
        prompt = dict(zip(table.columns, cells, strict=False)).get("prompt", "").strip()
        if not prompt:
            raise ConfigError(
                f"line {line} of the retain set {path} has no prompt; expected text in the column 'prompt'; "
                f"fill or delete the line"
            )
        prompts.append(prompt)
    return tuple(prompts)


_PHOTO = "a photo of {}"
"""Wording of AdvUnlearn's sets (arXiv:2405.15234, section 4)."""
_READERS = {".txt": _txt, ".csv": _csv}
