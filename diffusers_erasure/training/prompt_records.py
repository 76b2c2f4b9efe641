"""What an artifact says of prompts that no table of this package has, so that nobody measures it on them."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers_erasure.artifacts.manifest import SettingRecord
from diffusers_erasure.prompts import RETAIN_SETS

from .retain_settings import RetainSetConfig

FURTHER_PROMPTS = "further_prompts"
"""Prompts that were mapped besides the tables' own."""
RETAINED_PROMPTS = "retained_prompts"
"""Prompts of a user's file that were retained, where `retain_set` goes on naming the file."""


def records_with(config: RetainSetConfig, retained: Sequence[str]) -> dict[str, SettingRecord]:
    """The settings of a run; a retain set of the user's own stands there with its prompts.

    Args:
        config: Of the run.
        retained: What it retained; nothing if it read no retain set.
    """
    records = config.records()
    own = retained_record(config.retain_set, retained) if retained else None
    return records if own is None else {**records, "retain_set": own}


def further_record(prompts: Sequence[str]) -> SettingRecord:
    """Prompts that were mapped besides the tables' own."""
    return SettingRecord(value=list(prompts), meaning="prompts that were mapped besides the tables' own")


def retained_record(source: str, prompts: Sequence[str]) -> SettingRecord | None:
    """What was retained of a user's own file; None for a set of this package, which its name tells.

    Args:
        source: Name of the set, or path of the file.
        prompts: What was retained of it.
    """
    if source in RETAIN_SETS:
        return None
    return SettingRecord(value=list(prompts), meaning="what was retained, from a file")
