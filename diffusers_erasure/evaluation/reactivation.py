"""Measure what brings an erased concept back when somebody has more than a prompt.

    reactivate    from a base, an erased pipeline and prompts to `reactivation.json` and `reactivation.png`

The erasure is verified before every manipulation and after the last one; manipulations work on copies. Each
finished item is kept on disk, so a run that is interrupted does none of them again; of a fine-tuning whose
later items are missing, the training itself begins anew. The report is written once, at the end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from diffusers_erasure._version import __version__
from diffusers_erasure.attacks.reactivation import FineTuningConfig
from diffusers_erasure.concepts import ConceptSet
from diffusers_erasure.diffusion.pictures import png_bytes
from diffusers_erasure.durable import write_whole
from diffusers_erasure.errors import ConfigError, EvaluationError, MissingDependencyError

from .attack_groups import Group
from .attack_rows import prompts_sha256
from .attack_runner import Tell
from .attack_settings import PUBLISHED, QUICK
from .generate import DEFAULT_BATCH_SIZE, Sampling, pipeline_identity, sampling_defaults
from .prompt_sets import check_first_seed
from .reactivation_draw import Manipulations
from .reactivation_grid import reactivation_grid
from .reactivation_inversion import inversion_from_reports, run_inversion
from .reactivation_items import INVERSION, RULE_ITEMS, STEPS, Item
from .reactivation_report import (
    GRID_NAME,
    REPORT_NAME,
    ReactivationReport,
    ReactivationRow,
    overall_verdict,
)
from .reactivation_stage import Seen, Stage, labels_of, watching
from .reactivation_store import ItemStore, MeasuredItem
from .reactivation_tuning import Tuning
from .records import refusing
from .report import SamplingRecord
from .report_building import erasure_record, judge_record
from .subject import Subject

logger = logging.getLogger(__name__)

NOT_ASKED = "it was not asked for"
NO_INVERSION = (
    "no report of this attack on this artifact lies there, and it was not asked for; give --with "
    "concept-inversion, or the report of `diffusers-erasure attack --attack concept-inversion`"
)


@dataclass(frozen=True)
class Preset:
    """A size that everybody means the same by.

    Attributes:
        n: Pictures per item.
        steps: Steps of fine-tuning after which pictures are drawn.
        pictures: Pictures that fine-tuning learns from.
        inversion: Budget of concept inversion, where it is run.
    """

    n: int
    steps: tuple[int, ...]
    pictures: int
    inversion: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "quick": Preset(n=20, steps=(10, 100), pictures=16, inversion=QUICK),
        "full": Preset(n=100, steps=STEPS, pictures=64, inversion=PUBLISHED),
    }
)


@dataclass(frozen=True)
class ReactivationSettings:
    """How it is measured.

    Attributes:
        items: What is tried, in the order of a report.
        first_seed: Where the seeds of the prompts start, for the record.
        sampling: Steps and guidance scale; None takes what suits the base model.
        batch_size: Pictures drawn together.
        fine_tuning: How models are fine-tuned.
        inversion: Budget of concept inversion.
        inversion_reports: Reports in which concept inversion may stand already.
        preset: Name of the budget that these began with.
        cell: Side of a picture in the grid.
    """

    items: tuple[Item, ...]
    first_seed: int
    sampling: Sampling | None = None
    batch_size: int = DEFAULT_BATCH_SIZE
    fine_tuning: FineTuningConfig = field(default_factory=FineTuningConfig)
    inversion: str = QUICK
    inversion_reports: tuple[Path, ...] = ()
    preset: str = "quick"
    cell: int = 128

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn or reported."""
        check_first_seed(self.first_seed)


@dataclass(frozen=True)
class Reactivation:
    """What a run leaves behind.

    Attributes:
        report: The figures.
        folder: Where report and grid lie.
    """

    report: ReactivationReport
    folder: Path


def reactivate(
    subject: Subject,
    groups: Sequence[Group],
    concepts: ConceptSet,
    *,
    settings: ReactivationSettings,
    output_dir: str | Path,
    work_dir: str | Path | None = None,
    progress: Tell | None = None,
) -> Reactivation:
    """Manipulate a verified erasure in every way that was asked for, and count what comes back.

    Args:
        subject: The base, the erased pipeline and the artifact; none of them is changed.
        groups: The concept's own name with the questions about it (`attack_groups`).
        concepts: What was erased.
        settings: What to try, and how.
        output_dir: Gets `reactivation.json` and `reactivation.png`.
        work_dir: Where finished pictures and items are kept; `output_dir` unless given.
        progress: Told what is being done, how much of it is done, and how much there is.

    Raises:
        ErasureNotActiveError: The erasure is not verified, before or after; there is no report then.
        ConfigError: The pipeline is not of the Stable Diffusion 1.x and 2.x shape.
    """
    folder, kept = Path(output_dir), Path(work_dir or output_dir)
    started = time.monotonic()
    sampling = settings.sampling or sampling_defaults(subject.model)
    stage = Stage(subject, tuple(groups), sampling, settings.batch_size, kept / "pictures")
    run = _Run(stage, concepts, settings, kept, progress)
    stage.components  # noqa: B018 - refuses pipelines of another shape before anything is drawn
    before = stage.state()
    plain = run.plain()
    found = run.measure(plain)
    report = run.report(plain, found, (before, stage.state()), time.monotonic() - started)
    grid = reactivation_grid(
        report,
        (plain[0].images[0], plain[1].images[0]),
        {one.row.key: one.image for one in found if one.image is not None},
        {item.key: item for item in (*RULE_ITEMS, *settings.items)},
        prompt=stage.items[0].prompt,
        cell=settings.cell,
    )
    write_whole(folder / GRID_NAME, png_bytes(grid))
    write_whole(folder / REPORT_NAME, report.to_json().encode())
    return Reactivation(report, folder)


@dataclass
class _Run:
    """One run: what it measures, and why it could not measure the rest."""

    stage: Stage
    concepts: ConceptSet
    settings: ReactivationSettings
    folder: Path
    tell: Tell | None
    reasons: dict[str, str] = field(default_factory=dict)

    @cached_property
    def tuning(self) -> Tuning:
        """Fine-tunes and measures."""
        return Tuning(self.stage, self.concepts, self.settings.fine_tuning, self.tell, self.store, {})

    @cached_property
    def store(self) -> ItemStore:
        """Finished items on disk."""
        return ItemStore(self.folder / "items", self._identity())

    def _identity(self) -> dict[str, Any]:
        subject = self.stage.subject
        return {
            "base": pipeline_identity(subject.base, self.stage.sampling),
            "erased": pipeline_identity(subject.erased, self.stage.sampling),
            "artifact": subject.artifact.digest,
            "prompts": prompts_sha256(self.stage.items),
            "questions": [f"{group.question} {group.question.judge.sha256}" for group in self.stage.groups],
        }

    def plain(self) -> tuple[Seen, Seen]:
        """The concept's own name on the base and on the erasure as it is."""
        base, erased = (
            self.stage.seen(self.stage.draw_with(artist, watching(self.tell, name)))
            for artist, name in ((self.stage.base, "base"), (self.stage.erased, "erased"))
        )
        return base, erased

    def measure(self, plain: tuple[Seen, Seen]) -> list[MeasuredItem]:
        """Every item that was asked for, in the order of the items; why others have no row is noted."""
        ways = Manipulations(self.stage, *plain)
        found = {one.row.key: one for one in self._inversion()}
        items = [item for item in self.settings.items if item.family != INVERSION]
        for (_, data), part in groupby(items, key=lambda item: (item.family, item.data)):
            together = list(part)
            missing = [item for item in together if not self._recall(item, found)]
            if not missing:
                continue
            try:
                rows = self.tuning.measure(missing) if data else self._each(missing, ways)
                for one in rows:
                    self.store.keep(one, self._settings(one.row.key))
                    found[one.row.key] = one
            except (EvaluationError, ConfigError, MissingDependencyError, RuntimeError) as error:
                self._give_up([item for item in missing if item.key not in found], error)
        order = [item.key for item in (*RULE_ITEMS[:1], *items)]
        return [found[key] for key in order if key in found]

    def _recall(self, item: Item, found: dict[str, MeasuredItem]) -> bool:
        kept = self.store.read(item.key, self._settings(item.key))
        if kept is not None:
            found[item.key] = kept
        return kept is not None

    def _settings(self, key: str) -> dict[str, Any]:
        """What an item depends on beside the pipelines, prompts and judges."""
        item = next(one for one in self.settings.items if one.key == key)
        tuned = self.settings.fine_tuning.model_dump(mode="json") if item.data else {}
        return {**asdict(item), **tuned}

    def _give_up(self, items: Sequence[Item], error: Exception) -> None:
        for item in items:
            self.reasons[item.key] = str(error)
            logger.warning("%s is not measured: %s", item.title, error)

    def _each(self, items: Sequence[Item], ways: Manipulations) -> Iterator[MeasuredItem]:
        for item in items:
            state, started = self.stage.state(), time.monotonic()
            outcome = ways(item, watching(self.tell, item.title))
            row = ReactivationRow(
                key=item.key,
                title=item.title,
                state_before=state,
                found=outcome.seen.counts,
                base_control=outcome.base_control,
                settings=outcome.settings,
                note=outcome.note,
                seconds=round(time.monotonic() - started, 2),
            )
            yield MeasuredItem(row, outcome.seen.images[0])

    def _inversion(self) -> Iterator[MeasuredItem]:
        """Concept inversion: from a report that is there, or run if it was asked for."""
        taken = inversion_from_reports(self.settings.inversion_reports, self.stage)
        if taken is not None:
            yield taken
        elif any(item.family == INVERSION for item in self.settings.items):
            yield run_inversion(
                self.stage, self.settings.inversion, store=self.folder / "attacks", tell=self.tell
            )
        else:
            self.reasons[INVERSION] = NO_INVERSION

    def report(
        self, plain: tuple[Seen, Seen], found: Sequence[MeasuredItem], states: tuple[str, str], seconds: float
    ) -> ReactivationReport:
        """Put the report together.

        Raises:
            EvaluationError: The figures contradict each other.
        """
        rows = tuple(one.row for one in found)
        there = {row.key for row in rows}
        base, erased = (seen.counts for seen in plain)
        judges = {group.question.judge.name: group.question.judge for group in self.stage.groups}
        silent = {item.key: NOT_ASKED for item in RULE_ITEMS if item.key not in there}
        with refusing("what was measured"):
            return ReactivationReport(
                verdict=overall_verdict(base, erased),
                erasure=erasure_record(self.stage.subject, *states),
                base=base,
                erased=erased,
                rows=rows,
                not_measured={**silent, **self.reasons},
                data=self._data(rows),
                prompts_sha256=prompts_sha256(self.stage.items),
                judges=tuple(judge_record(judge) for judge in judges.values()),
                labels=labels_of(self.stage.groups),
                settings=self._record(plain[1].images),
                preset=self.settings.preset,
                seconds=round(seconds, 1),
                versions={
                    "diffusers_erasure": __version__,
                    **{name: version(name) for name in ("torch", "diffusers", "transformers")},
                },
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )

    def _data(self, rows: Sequence[ReactivationRow]) -> tuple[Any, ...]:
        """What fine-tuning learned from; pictures of items that were kept come back from disk."""
        wanted = [item.data for item in self.settings.items if item.key in {row.key for row in rows}]
        return tuple(self.tuning.data(kind).record for kind in dict.fromkeys(wanted) if kind is not None)

    def _record(self, images: Tensor) -> SamplingRecord:
        sampling, erased = self.stage.sampling, self.stage.subject.erased
        height, width = images.shape[2:]
        return SamplingRecord(
            steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            pictures_per_set=len(self.stage.items),
            first_seed=self.settings.first_seed,
            picture_size=(height, width),
            dtype=str(erased.unet.dtype).removeprefix("torch."),
            device=str(erased.device),
        )
