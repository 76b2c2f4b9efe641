"""TRCE's first stage: what a malicious prompt's [EoT] says becomes what its safe counterpart's says.

See `trce` for the objective, `closed_form` for its solution.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from diffusers_erasure.diffusion import DiffusionComponents
from diffusers_erasure.errors import ConfigError
from diffusers_erasure.prompts import (
    PromptPair,
    RetainSelection,
    World,
    expanded_pairs,
    retain_set_prompts,
    select_retain_prompts,
)

from .closed_form import PriorStatistics
from .config import Progress, ProgressCallback
from .stored_prior import prior_from_file
from .text_edit import TextEdit, solve_pairs
from .text_states import align_pairs, prior_statistics
from .trce_settings import TRCEConfig


def trce_pairs(config: TRCEConfig, *, world: World, limit: int | None) -> tuple[PromptPair, ...]:
    """Malicious prompts with their safe counterparts, in which nothing but the concept is replaced.

    Args:
        config: Names the concepts, and where further words for them come from.
        world: Whose prompts.
        limit: Most wordings per word.
    """
    return expanded_pairs(
        config.concepts,
        world=world,
        synonyms=config.use_synonyms,
        tags=config.use_tags,
        limit=limit,
        pairs_file=config.pairs_file,
        expander=config.expander,
    )


def map_prompts(
    components: DiffusionComponents,
    pairs: Sequence[PromptPair],
    config: TRCEConfig,
    *,
    world: World,
    progress: ProgressCallback,
) -> TextEdit:
    """Stage 1.

    Args:
        components: Whose text encoders are read.
        pairs: What is mapped to what.
        config: Settings.
        world: Whose prompts are retained.
        progress: Called as it goes on.

    Raises:
        ConfigError: The pairs change nothing, or the settings ask for [EoT]s that the padding is not made of.
        TrainingError: The Gram matrix is singular.
    """
    _check_padding(components, config)
    aligned = align_pairs(components, pairs, config.slots)
    prior = retained_statistics(components, config, world=world, progress=progress)
    found = solve_pairs(
        components,
        aligned,
        config.slots,
        prior,
        config.penalties(prior),
        batch_size=config.encoder_batch_size,
        progress=lambda done: progress(Progress("concept", done, len(aligned))),
    )
    progress(Progress("solve", 1, 1, found.numbers))
    return found


def mapping_digest(config: TRCEConfig, pairs: Sequence[PromptPair], *, world: World) -> str:
    """sha256 of the prompts that stage 1 reads, some of which come from files that may change.

    Args:
        config: Settings.
        pairs: What is mapped to what.
        world: Whose prompts are retained.
    """
    retained = retained_prompts(config, world=world)
    text = json.dumps([[[pair.source, pair.target] for pair in pairs], list(retained)])
    return hashlib.sha256(text.encode()).hexdigest()


def retained_prompts(config: TRCEConfig, *, world: World) -> tuple[str, ...]:
    """What stays, the empty prompt first."""
    return _retained(config, world=world).prompts


def _retained(config: TRCEConfig, *, world: World) -> RetainSelection:
    return select_retain_prompts(
        config.concepts,
        world=world,
        source=config.retain_set,
        exclude=config.retain_exclude,
        with_empty=True,
        limit=config.max_retain_prompts,
    )


def retained_statistics(
    components: DiffusionComponents, config: TRCEConfig, *, world: World, progress: ProgressCallback
) -> PriorStatistics:
    """C over every state of the retain set and of the empty prompt, padding included as in their code."""
    selection = _retained(config, world=world)
    told = _counted(progress, len(selection.prompts))
    if not config.prior_file:
        return prior_statistics(
            components, selection.prompts, padded=True, batch_size=config.encoder_batch_size, progress=told
        )
    if config.max_retain_prompts is not None:
        raise ConfigError(
            f"prior_file {config.prior_file!r} came with max_retain_prompts {config.max_retain_prompts}; the "
            f"file holds the whole retain set; expected one of the two; leave max_retain_prompts out"
        )
    whole = ("", *retain_set_prompts(config.retain_set, world=world))
    return prior_from_file(
        config.prior_file,
        components,
        whole,
        [one.prompt for one in selection.dropped],
        padded=True,
        batch_size=config.encoder_batch_size,
        progress=_counted(progress, len(whole)),
    )


def _counted(progress: ProgressCallback, total: int) -> Callable[[int], None]:
    return lambda done: progress(Progress("retain set", done, total))


def _check_padding(components: DiffusionComponents, config: TRCEConfig) -> None:
    """States of padding are [EoT]s only where prompts are padded with the end token."""
    if not config.slots.reads_last:
        return
    for tokenizer, _ in components.text_encoders:
        if tokenizer.pad_token_id != tokenizer.eos_token_id:
            raise ConfigError(
                f"padding_weight {config.padding_weight:g} and keyword_weight {config.keyword_weight:g} (to "
                f"the last end token) need prompts that are padded with end tokens; a text encoder of this "
                f"model pads with {tokenizer.pad_token!r}; set padding_weight 0, and keyword_target anchor"
            )
