"""Fine-tuning among the items: one training for all numbers of steps, shown at each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import monotonic

from diffusers_erasure.attacks.reactivation import (
    FineTuned,
    FineTuningConfig,
    TuningPictures,
    Way,
    fine_tune,
    stock_pipeline,
)
from diffusers_erasure.attacks.target_picture import encode_pictures
from diffusers_erasure.concepts import ConceptSet
from diffusers_erasure.prompts import World, world_of

from .attack_runner import Tell
from .reactivation_data import TuningSet, data_prompts, draw_tuning_set
from .reactivation_items import DataKind, Item
from .reactivation_report import ReactivationRow
from .reactivation_stage import Seen, Stage, watching
from .reactivation_store import ItemStore, MeasuredItem

HARDLY = 0.05
"""Fall of the loss on its own data, as a share, below which fine-tuning learned hardly anything."""


@dataclass(frozen=True)
class Tuning:
    """Fine-tunes and measures.

    Attributes:
        stage: What is measured, and with what.
        concepts: What was erased.
        config: Settings.
        tell: Told how far it is.
        store: Finished items; a fine-tuning that is going on is kept beside them.
        sets: Pictures that were learned from, by kind; filled as they are drawn.
    """

    stage: Stage
    concepts: ConceptSet
    config: FineTuningConfig
    tell: Tell | None
    store: ItemStore
    sets: dict[DataKind, TuningSet]

    @property
    def world(self) -> World:
        """Whose prompts the base understands."""
        return world_of(self.stage.subject.artifact.manifest.base.id)

    def data(self, kind: DataKind) -> TuningSet:
        """The pictures of a kind, drawn once."""
        if kind not in self.sets:
            self.sets[kind] = draw_tuning_set(
                data_prompts(self.concepts, kind, world=self.world, words=self._erased_words()),
                kind,
                self.stage.base,
                self.stage.shows,
                pictures=self.config.pictures,
                seed=self.config.seed,
                progress=watching(self.tell, f"{kind} data"),
            )
        return self.sets[kind]

    def _erased_words(self) -> tuple[str, ...]:
        """Words that the method was told, which may be more than what is known of the concepts."""
        records = list(self.stage.subject.artifact.manifest.concepts)
        found: list[str] = []
        while records:
            record = records.pop()
            found += [record.name, *record.synonyms]
            records += record.members
        return tuple(found)

    def measure(self, items: Sequence[Item]) -> Iterator[MeasuredItem]:
        """Fine-tune once, and measure after the steps of each item; all are of one way and one kind of data.

        Args:
            items: By rising steps.
        """
        first = items[0]
        assert first.data is not None
        way: Way = "lora" if first.family == "lora" else "full"
        name = f"{first.group}, training"
        state, started = self.stage.state(), monotonic()
        found = self.data(first.data)
        latents = encode_pictures(found.images, self.stage.base_target)
        last = items[-1].steps
        watch = watching(self.tell, name)
        milestones = {item.steps: item for item in items}
        for tuned in fine_tune(
            self.stage.components,
            TuningPictures(latents, found.prompts),
            self.config,
            way=way,
            milestones=tuple(milestones),
            report=watch and (lambda step: watch(step, last)),
            state=self._state(first),
        ):
            item = milestones[tuned.steps]
            seen = self._draw(item, tuned)
            row = self._row(item, tuned, seen, state, monotonic() - started)
            started = monotonic()
            yield MeasuredItem(row, seen.images[0])

    def _state(self, item: Item) -> Path:
        """Where the fine-tuning of an item is kept until it ends."""
        return self.store.path(f"{item.family}-{item.data}", self.config.model_dump(mode="json")).with_suffix(
            ".safetensors"
        )

    def _draw(self, item: Item, tuned: FineTuned) -> Seen:
        pipe = stock_pipeline(self.stage.subject.erased, unet=tuned.unet, text_encoder=tuned.text_encoder)
        return self.stage.seen(self.stage.draw(pipe, watching(self.tell, item.title)))

    def _row(self, item: Item, tuned: FineTuned, seen: Seen, state: str, seconds: float) -> ReactivationRow:
        return ReactivationRow(
            key=item.key,
            title=item.title,
            state_before=state,
            found=seen.counts,
            loss_before=_number(tuned.loss_before),
            loss_after=_number(tuned.loss_after),
            settings={**self.config.model_dump(mode="json"), "steps": item.steps},
            note=_learned(tuned),
            seconds=round(seconds, 2),
        )


def _learned(tuned: FineTuned) -> str:
    """A warning where fine-tuning hardly learned what it was shown."""
    if tuned.loss_after <= (1 - HARDLY) * tuned.loss_before:
        return ""
    return (
        f"the loss on its own data fell by less than {100 * HARDLY:.0f} %: it hardly learned, so that what "
        "stayed away says little; try a higher learning rate"
    )


def _number(value: float) -> float | None:
    """A loss for JSON, which has no NaN."""
    return value if isfinite(value) else None
