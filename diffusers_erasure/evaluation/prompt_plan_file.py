"""Prompt sets of the user's own, from a csv or jsonl file: for concepts that the embedded vocabulary lacks.

    set,prompt,label
    own name,a harbour in the style of Van Gogh,
    synonyms,"a harbour, thick swirling brush strokes, 1889",
    other styles,a harbour in the style of Claude Monet,Claude Monet
    objects,an oil lamp on a desk,oil lamp

    set       one of `prompt_sets.PURPOSES`, which says what its rate means; "own name" must be there, and is
              what attacks are tried on
    prompt    what is drawn
    label     what the judge must name for the picture to count, several with | between them: names that a
              classifier keeps apart, not other words for one thing, which CLIP's share would be split over.
              Prompts of the erased concept need none: what stands behind the judge's # counts, or the
              concept's own names
    concept   which erased concept, or member of a theme, the prompt is about; needed where there are several
    seed      of its picture; where it is missing, seeds start where those of our own sets do

Nothing is skipped but blank lines: a row that cannot be used stops the reading, and the error names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from diffusers_erasure.attacks.prompt_file import LARGEST_SEED
from diffusers_erasure.errors import ConfigError, EvaluationError
from diffusers_erasure.prompts.csv_file import read_csv
from diffusers_erasure.prompts.jsonl_file import read_jsonl
from diffusers_erasure.prompts.user_files import read_by_ending

from .embedded_prompts import NamedConcept
from .judges import Panel, find_labels, panel_question
from .prompt_sets import (
    PURPOSES,
    SEED_STRIDE,
    SET_ORDER,
    JudgeRole,
    PromptItem,
    PromptPlan,
    PromptSet,
    Purpose,
    first_seed_of,
)

COLUMNS = ("set", "prompt", "label", "concept", "seed")
NEEDED = ("set", "prompt")
OWN_NAME = SET_ORDER[0]


@dataclass(frozen=True)
class PlannedPrompt:
    """One row.

    Attributes:
        row: Line of the file on which it begins; the first is 1.
        set: Name of its prompt set.
        prompt: What is drawn.
        labels: What the judge must name one of; empty if the row does not say.
        concept: The erased concept that it is about; "" if the row does not say.
        seed: Of its picture, if the row says so.
    """

    row: int
    set: str
    prompt: str
    labels: tuple[str, ...] = ()
    concept: str = ""
    seed: int | None = None

    @property
    def erased(self) -> bool:
        """Whether it asks for what was erased."""
        return PURPOSES[self.set] is Purpose.ERASED


@dataclass(frozen=True)
class PlanFile:
    """The rows of a file.

    Attributes:
        path: Where they were read.
        rows: In the order of the file.
    """

    path: Path
    rows: tuple[PlannedPrompt, ...]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read every row of a file.

        Args:
            path: File whose name ends in .csv or .jsonl.

        Raises:
            ConfigError: The file is missing, of another kind, not UTF-8, a row cannot be used, or the
                concept's own name is not among the sets.
        """
        file = Path(path).expanduser()
        rows = read_by_ending(file, f"the file of prompt sets {file}", _READERS)
        if not any(row.set == OWN_NAME for row in rows):
            raise ConfigError(
                f"{file} has no prompt of the set {OWN_NAME!r}; expected some, since they show that the "
                "judge sees the concept before the erasure; add prompts that name it"
            )
        return cls(file, rows)

    def names(
        self, concepts: Sequence[NamedConcept], judge_labels: Sequence[str]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Everything that judges will be asked about: of the erased concept, and of what should stay.

        Args:
            concepts: What was erased.
            judge_labels: Labels that were asked for together with the judge.
        """
        erased: dict[str, None] = {}
        kept: dict[str, None] = {}
        for row in self.rows:
            labels = row.labels or tuple(judge_labels) or _own_names(_about(row, concepts, self.path))
            (erased if row.erased else kept).update(dict.fromkeys(labels))
        return tuple(erased), tuple(kept)

    def plan(
        self, concepts: Sequence[NamedConcept], panel: Panel, *, n: int | None, first_seed: int
    ) -> PromptPlan:
        """The prompt sets, each with the judge that knows its labels.

        Args:
            concepts: What was erased, as the artifact's manifest names it.
            panel: The judges; its `retention` answers for what should stay, if there is one.
            n: Pictures per set: prompts come again with further seeds where there are fewer; None draws each
                prompt once.
            first_seed: Seeds of the pictures start here.

        Raises:
            ConfigError: `n` cannot be drawn, two pictures of a set would be the same, or a row does not say
                which of several concepts it is about, or names one that was not erased.
            EvaluationError: No judge knows a label.
        """
        sets = []
        for name in SET_ORDER:
            rows = [row for row in self.rows if row.set == name]
            if rows:
                chosen = self._chosen(rows, n)
                start = first_seed_of(name, first_seed)
                items = tuple(
                    self._item(row, concepts, panel, start + index) for index, row in enumerate(chosen)
                )
                self._check_distinct(name, items)
                sets.append(PromptSet(name, PURPOSES[name], items))
        return PromptPlan(tuple(sets), self._not_measured(), source=self.path.name)

    def _not_measured(self) -> dict[str, str]:
        """What the file says nothing about: ways to ask for the concept, or all of what should stay."""
        given = {row.set for row in self.rows}
        asking = [name for name, purpose in PURPOSES.items() if purpose is Purpose.ERASED]
        missing = [name for name in asking if name not in given]
        if all(row.erased for row in self.rows):
            missing.append("what should stay")
        return {name: f"{self.path.name} has no such prompts" for name in missing}

    def _chosen(self, rows: Sequence[PlannedPrompt], n: int | None) -> list[PlannedPrompt]:
        """The rows in the order of their pictures."""
        count = len(rows) if n is None else n
        if not 1 <= count <= SEED_STRIDE:
            raise ConfigError(
                f"{count} pictures of the set {rows[0].set!r} cannot be drawn; expected 1 to {SEED_STRIDE}; "
                "for a figure that can rank, take 100 or more"
            )
        if count > len(rows) and any(row.seed is not None for row in rows):
            raise ConfigError(
                f"{count} pictures of the set {rows[0].set!r} were asked for, {self.path} has {len(rows)} "
                "with seeds of their own; expected no more than that, since further pictures have no seed; "
                "lower n, or leave the seeds out"
            )
        return [rows[index % len(rows)] for index in range(count)]

    def _item(
        self, row: PlannedPrompt, concepts: Sequence[NamedConcept], panel: Panel, seed: int
    ) -> PromptItem:
        concept = _about(row, concepts, self.path) if row.erased else None
        labels = row.labels or panel.asked or _own_names(concept)
        try:
            role, known = _who_answers(row, labels, panel)
        except EvaluationError as error:
            raise EvaluationError(f"{self.path}, row {row.row}: {error}") from error
        about = concept.name if concept else " or ".join(labels)
        return PromptItem(row.prompt, seed if row.seed is None else row.seed, about, known, role)

    def _check_distinct(self, name: str, items: Sequence[PromptItem]) -> None:
        (pair, times), *_ = Counter((item.prompt, item.seed) for item in items).most_common(1)
        if times > 1:
            raise ConfigError(
                f"{self.path} has the prompt {pair[0]!r} with the seed {pair[1]} {times} times in the set "
                f"{name!r}; expected every picture once, since a picture that counts twice says nothing new; "
                "change the seed or take the row out"
            )


def _who_answers(
    row: PlannedPrompt, labels: Sequence[str], panel: Panel
) -> tuple[JudgeRole, tuple[str, ...]]:
    """The judge of a row, and its own labels for what the row asks."""
    if not row.erased and panel.retention is not None:
        return JudgeRole.RETENTION, find_labels(labels, panel.retention.labels)
    question = panel_question(panel, labels)
    return (JudgeRole.STYLE if question.judge is panel.style else JudgeRole.CONCEPT), question.labels


def _about(row: PlannedPrompt, concepts: Sequence[NamedConcept], path: Path) -> NamedConcept | None:
    """The erased concept that a row is about; None for what should stay."""
    if not row.erased:
        return None
    known = {one.name: one for concept in concepts for one in (concept, *concept.members)}
    found = known.get(row.concept) if row.concept else (concepts[0] if len(concepts) == 1 else None)
    if found is None:
        said = (
            f"is about the concept {row.concept!r}" if row.concept else "does not say which concept it means"
        )
        raise _fault(path, row.row, said, f"one of {', '.join(known)} in the column 'concept'")
    return found


def _own_names(concept: NamedConcept | None) -> tuple[str, ...]:
    """What a judge must name where nobody says otherwise: the concept, or the members of a theme."""
    if concept is None:
        return ()
    return tuple(leaf for member in concept.members for leaf in _own_names(member)) or (concept.name,)


def _csv(file: Path, text: str) -> Iterator[PlannedPrompt]:
    fault = partial(_fault, file)
    table = read_csv(text, fault)
    for line, values in table.records(fault):
        yield _row(file, line, values)


def _jsonl(file: Path, text: str) -> Iterator[PlannedPrompt]:
    for line, value in read_jsonl(text, partial(_fault, file)):
        if not isinstance(value, dict):
            raise _fault(file, line, "is no JSON object", f"an object with {', '.join(COLUMNS)}")
        yield _row(file, line, value)


def _row(file: Path, line: int, values: Mapping[str, object]) -> PlannedPrompt:
    unknown = [name for name in values if name not in COLUMNS]
    if unknown or any(name not in values for name in NEEDED):
        raise _fault(
            file, line, f"has {', '.join(values) or 'nothing'}",
            f"{' and '.join(NEEDED)}, and if needed {', '.join(COLUMNS[len(NEEDED):])}",
        )  # fmt: skip
    name, prompt, label, concept = (_text(file, line, key, values.get(key)) for key in COLUMNS[:4])
    if name not in PURPOSES:
        raise _fault(file, line, f"is of the set {name!r}", f"one of {'; '.join(SET_ORDER)}")
    if not prompt:
        raise _fault(file, line, "has no prompt", "what is to be drawn")
    labels = tuple(dict.fromkeys(part.strip() for part in label.split("|") if part.strip()))
    row = PlannedPrompt(line, name, prompt, labels, concept, _seed(file, line, values.get("seed")))
    if not row.erased and not labels:
        raise _fault(
            file, line, f"of the set {name!r} has no label",
            "what the judge must name in the picture, since it should stay",
        )  # fmt: skip
    return row


def _text(file: Path, line: int, key: str, value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise _fault(file, line, f"has the {key} {value!r}", "some text")
    return (value or "").strip()


def _seed(file: Path, line: int, value: object) -> int | None:
    if value is None or value == "":
        return None
    seed = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, str):
        with suppress(ValueError):
            seed = int(value)
    if seed is None or not 0 <= seed <= LARGEST_SEED:
        raise _fault(
            file, line, f"has the seed {value!r}", f"a whole number from 0 to {LARGEST_SEED}, or nothing"
        )
    return seed


def _fault(file: Path, line: int, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{file}, row {line}: the row {found}; expected {expected}; correct that row")


_READERS = {".csv": _csv, ".jsonl": _jsonl}
