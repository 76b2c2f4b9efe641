"""Everything that the page is made of, read from the cells' folders and from what earlier runs left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .cells import Cell
from .earlier import NOTHING, Earlier
from .freshness import SettingsOf
from .profiles import Profile
from .stored import Stored, read_cell


def gather(
    profile: Profile,
    main: Iterable[Cell],
    further: Iterable[Cell] = (),
    *,
    settings_of: SettingsOf,
    earlier: Earlier = NOTHING,
) -> Stored:
    """Read what there is of a profile's cells, and of those that its page shows besides.

    Args:
        profile: Which one.
        main: Its cells.
        further: Cells of other profiles; one that is of both is read once, with the attacks of both.
        settings_of: The settings that a cell's command comes to.
        earlier: What earlier runs measured.

    Raises:
        ConfigError: A folder or an earlier run's record is of a training with other settings.
        EvaluationError: A report contradicts itself.
    """
    every: dict[Path, Cell] = {}
    for cell in (*main, *further):
        twin = every.get(cell.folder)
        attacks = dict.fromkeys((*(twin.attacks if twin else ()), *cell.attacks))
        every[cell.folder] = replace(cell, attacks=tuple(attacks))
    planned = earlier.known_to(every.values(), settings_of)
    found = [earlier.beside(cell, read_cell(cell, settings_of)) for cell in planned]
    return Stored(
        profile=profile.name,
        prompts=profile.prompts,
        seeds=profile.seeds,
        planned=len(planned),
        finished=sum(cell.finished for cell in planned),
        cells=tuple(record for record in found if record is not None),
    )
