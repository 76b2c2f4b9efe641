"""How to load what a card describes: snippets that work for exactly this form of it, and no others."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from .bases import Base
from .subject import Subject

PLACEHOLDER = "your-name/your-repo"
LOCAL_BASE = "path/to/the/base-model"
SAVED = "erased-pipeline"
LONGEST_LINE = 100
_ROBUST = {"text_encoder": "RobustEncoder", "text_encoder_2": "RobustEncoderWithProjection"}
_PROMPT = "a photo of a dog"


@dataclass(frozen=True)
class Way:
    """One way of loading.

    Attributes:
        title: Its heading.
        before: What to know first.
        code: What runs as it stands, or empty where there is no such way.
        language: Of the code.
    """

    title: str
    before: str
    code: str = ""
    language: str = "python"


@dataclass(frozen=True)
class Place:
    """Where the files are: a repository, maybe a folder and a commit in it.

    Attributes:
        repo_id: The repository.
        subfolder: Folder inside it.
        revision: Commit to pin.
        unverified: Whether nothing there can be verified, so that loading has to be told so.
        variant: Name between stem and ending of the weight files, as `fp16`; empty where there is none.
    """

    repo_id: str = PLACEHOLDER
    subfolder: str = ""
    revision: str = ""
    unverified: bool = False
    variant: str = ""

    def arguments(self, *, ours: bool) -> str:
        """Arguments of a loader; `ours` knows about verification."""
        parts = [quoted(self.repo_id)]
        parts += [f"subfolder={quoted(self.subfolder)}"] if self.subfolder else []
        parts += [f"revision={quoted(self.revision)}"] if self.revision else []
        parts += [f"variant={quoted(self.variant)}"] if self.variant else []
        parts += ["allow_unverified=True"] if self.unverified and ours else []
        return ", ".join(parts)


def ways(subject: Subject, place: Place) -> tuple[Way, ...]:
    """The three ways: this package, stock diffusers, stock transformers."""
    if subject.kind == "artifact":
        return _artifact_ways(subject, place)
    if subject.kind == "encoder":
        return _encoder_ways(subject, place)
    return _pipeline_ways(subject, place)


def base_code(base: Base) -> tuple[str, str]:
    """Import line and expression that give the stock base pipeline."""
    if base.kind == "embedded":
        return "from diffusers_erasure import embedded_pipeline", "embedded_pipeline()"
    pinned = f", revision={quoted(base.revision)}" if base.kind == "hub" and base.revision else ""
    name = quoted(base.id if base.kind == "hub" else LOCAL_BASE)
    return "from diffusers import DiffusionPipeline", f"DiffusionPipeline.from_pretrained({name}{pinned})"


def quoted(text: str) -> str:
    """The text as a Python string, whatever it holds."""
    return json.dumps(text)


def _imports(base_import: str, *names: str) -> list[str]:
    """The import of the base and that of names of this package, as one line where both are ours."""
    ours = "from diffusers_erasure import "
    if base_import.startswith(ours):
        return [ours + ", ".join(sorted({base_import.removeprefix(ours), *names}))]
    return [base_import, ours + ", ".join(names)]


def _pipeline_class(subject: Subject) -> str:
    return f"ErasedStableDiffusion{'XL' if subject.xl else ''}Pipeline"


def _call(function: str, arguments: str) -> str:
    """A call on one line, or on three where that is too long to read."""
    line = f"{function}({arguments})"
    return line if len(line) <= LONGEST_LINE else f"{function}(\n    {arguments}\n)"


def _lines(*lines: str) -> str:
    return "\n".join(lines)


def _artifact_ways(subject: Subject, place: Place) -> tuple[Way, ...]:
    ours = _pipeline_class(subject)
    knows_base = subject.base.kind in ("hub", "embedded")
    repo = quoted(place.repo_id)
    source = repo if knows_base else f"{quoted(LOCAL_BASE)}, erasure={repo}"
    named = (
        "It names its base model, which is loaded with it."
        if knows_base
        else "Give the base model it was made on."
    )
    base_import, base = base_code(subject.base)
    return (
        Way(
            "With diffusers-erasure",
            "`pip install diffusers-erasure`. The pipeline draws only while the erasure is verified. "
            f"{named}",
            _lines(
                f"from diffusers_erasure import {ours}",
                "",
                f"pipe = {ours}.from_pretrained({source})",
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        Way(
            "With stock diffusers",
            "This repository holds a change of the base model, which stock diffusers does not read by "
            "itself. `load_erasure` puts it into a stock pipeline:",
            _lines(
                *_imports(base_import, "load_erasure", "verify_erasure"),
                "",
                f"pipe = {base}",
                f"load_erasure(pipe, {repo})",
                f"print(verify_erasure(pipe, {repo}).state)",
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        Way(
            "",
            "Save the erased pipeline once, and what is saved is a stock repository: from then on nothing "
            "but diffusers is needed, and the picture is the same.",
            _lines(
                "# once, with diffusers-erasure",
                f"from diffusers_erasure import {ours}",
                "",
                f'{ours}.from_pretrained({source}).save_pretrained("{SAVED}")',
                "",
                "# anywhere",
                "from diffusers import DiffusionPipeline",
                "",
                f'pipe = DiffusionPipeline.from_pretrained("{SAVED}")',
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        _artifact_transformers(subject),
    )


def _artifact_transformers(subject: Subject) -> Way:
    title = "With stock transformers"
    if not subject.text_components:
        return Way(
            title,
            "There is nothing to load this way: the UNet is edited, and the text encoder is the base's own.",
        )
    part, cls = next(iter(subject.text_components.items()))
    rest = (
        ""
        if "unet" not in subject.components
        else " It is only a part of this erasure: the UNet is edited too."
    )
    return Way(
        title,
        f"Stock transformers does not read a change of a text encoder. The folder `{SAVED}` of the step "
        f"before holds the whole one.{rest}",
        _lines(
            f"from transformers import {cls}",
            "",
            f'encoder = {cls}.from_pretrained("{SAVED}", subfolder="{part}")',
        ),
    )


def _encoder_ways(subject: Subject, place: Place) -> tuple[Way, ...]:
    part, cls = next(iter(subject.components.items()))
    robust = _ROBUST[part]
    base_import, base = base_code(subject.base)
    unchecked = (
        " Nothing in the repository can be verified, and `allow_unverified=True` says that you know."
        if place.unverified
        else " What is loaded is compared with the fingerprint in `config.json`."
    )
    return (
        Way(
            "With diffusers-erasure",
            f"`pip install diffusers-erasure`.{unchecked}",
            _lines(
                *_imports(base_import, robust),
                "",
                f"pipe = {base}",
                _call(f"pipe.{part} = {robust}.from_pretrained", place.arguments(ours=True)),
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        Way(
            "With stock diffusers",
            "The text encoder takes the place of the base's.",
            _lines(
                *sorted({base_import, f"from transformers import {cls}"}),
                "",
                f"pipe = {base}",
                _call(f"pipe.{part} = {cls}.from_pretrained", place.arguments(ours=False)),
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        Way(
            "With stock transformers",
            "",
            _lines(
                f"from transformers import {cls}",
                "",
                _call(f"encoder = {cls}.from_pretrained", place.arguments(ours=False)),
            ),
        ),
    )


def _pipeline_ways(subject: Subject, place: Place) -> tuple[Way, ...]:
    ours = _pipeline_class(subject)
    if subject.text_components:
        part, cls = next(iter(subject.text_components.items()))
        last = Way(
            "With stock transformers",
            ""
            if "unet" not in subject.components
            else "Only a part of this erasure: the UNet is edited too.",
            _lines(
                f"from transformers import {cls}",
                "",
                _call(
                    f"encoder = {cls}.from_pretrained",
                    replace(place, subfolder=part).arguments(ours=False),
                ),
            ),
        )
    else:
        last = Way(
            "With stock transformers",
            "There is nothing to load this way: the UNet is edited, and the text encoder is the base's own.",
        )
    return (
        Way(
            "With diffusers-erasure",
            "`pip install diffusers-erasure`. What is loaded is compared with the fingerprints in "
            "`model_index.json`.",
            _lines(
                f"from diffusers_erasure import {ours}",
                "",
                _call(f"pipe = {ours}.from_pretrained", place.arguments(ours=True)),
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        Way(
            "With stock diffusers",
            "The weights themselves are erased, so nothing else is needed.",
            _lines(
                "from diffusers import DiffusionPipeline",
                "",
                _call("pipe = DiffusionPipeline.from_pretrained", place.arguments(ours=False)),
                f'image = pipe("{_PROMPT}").images[0]',
            ),
        ),
        last,
    )
