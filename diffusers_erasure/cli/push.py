"""Push an artifact, a robust text encoder or an erased pipeline to the Hub, in one commit.

    diffusers-erasure push outputs/church-uce me/church-uce --dry_run
    diffusers-erasure push outputs/church-uce me/church-uce --private --tag v1

What the folder is, is seen from its files. It is read through the door of its kind first: what is broken, not
erased, or has program code or pickles beside it, is refused before anything is uploaded. A README.md in the
folder is pushed as it is, otherwise the card is rendered; one on the Hub that a person wrote or changed is
replaced only with --replace_card, and left with --keep_card. The commit's parent is the head that was read
before: if someone else pushed meanwhile, nothing is committed. Exit code 0: pushed (or listed); 2: refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.errors import ArtifactNotFoundError

from . import console
from .flags import read_flags
from .inspect import size

if TYPE_CHECKING:
    from diffusers_erasure.artifacts.push_plan import PushOptions, PushPlan
    from diffusers_erasure.artifacts.upload import Pushed

INDEX_FILE, CONFIG_FILE = "model_index.json", "config.json"


@dataclass(frozen=True)
class PushArguments:
    """What to push, and where to."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """folder of an artifact, a robust text encoder, or a pipeline that was saved erased"""
    repo_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="REPO_ID")]
    """organisation/name; made if it does not exist"""
    private: bool = False
    """a new repository is private; an existing public one is refused"""
    gated: Literal["auto", "manual"] | None = None
    """who may download: those who ask, or those whom you let in"""
    revision: str | None = None
    """branch to commit to, made if it is missing; main unless given"""
    tag: str | None = None
    """new tag for the commit"""
    commit_message: str | None = None
    """first line of the commit"""
    commit_description: str | None = None
    """the rest of the commit's message"""
    create_pr: bool = False
    """open a pull request in place of a commit to the branch"""
    subfolder: str | None = None
    """folder inside of the repository"""
    keep_card: bool = False
    """leave a README.md that is on the Hub as it is"""
    replace_card: bool = False
    """replace a README.md on the Hub also if a person wrote or changed it"""
    replace_weights: bool = False
    """delete weights on the Hub that lie beside the pushed ones and are not among them"""
    token: str | None = None
    """Hub token; the one you are logged in with unless given"""
    dry_run: bool = False
    """list files and bytes, and touch nothing; needs no token and no network"""

    def options(self) -> PushOptions:
        """The same for the library."""
        from diffusers_erasure.artifacts.push_plan import PushOptions

        named = {name: getattr(self, name) for name in PushOptions.__dataclass_fields__}
        return PushOptions.of({**named, "private": self.private or None})


def main(argv: Sequence[str]) -> int:
    """Run `diffusers-erasure push`."""
    arguments = read_flags(PushArguments, argv, "diffusers-erasure push", __doc__)
    options = arguments.options()
    plan = plan_of(arguments.folder.expanduser(), arguments.repo_id, options)
    _show_plan(plan)
    if arguments.dry_run:
        console.say("dry run: nothing was uploaded")
        return 0
    from diffusers_erasure.artifacts.upload import publish

    _show_pushed(plan, publish(plan, options), options)
    return 0


def plan_of(folder: Path, repo_id: str, options: PushOptions) -> PushPlan:
    """What pushing a folder uploads, by what the folder is.

    Raises:
        ArtifactNotFoundError: It is nothing that can be pushed.
    """
    if (folder / MANIFEST_NAME).is_file():
        from diffusers_erasure.artifacts.publishing import plan_artifact

        return plan_artifact(folder, repo_id, options)
    if (folder / INDEX_FILE).is_file():
        from diffusers_erasure.pipelines.publishing import plan_pipeline

        return plan_pipeline(folder, repo_id, options)
    if (folder / CONFIG_FILE).is_file():
        from diffusers_erasure.encoders.publishing import plan_encoder

        return plan_encoder(folder, repo_id, options)
    raise ArtifactNotFoundError(
        f"{folder} is nothing that can be pushed: it has no {MANIFEST_NAME}, no {INDEX_FILE} and no "
        f"{CONFIG_FILE}; expected the folder of an artifact, an erased pipeline or a robust text encoder; "
        "give what `train` or save_pretrained wrote"
    )


def _show_plan(plan: PushPlan) -> None:
    rows = [(file.path, size(file.size), file.size, file.sha256[:16]) for file in plan.files]
    title = f"{plan.kind} for {plan.repo_id}: {len(plan.files)} files, {size(plan.size)}"
    console.show_table(("file", "size", "bytes", "sha256"), rows, title=title, numbers=("size", "bytes"))
    console.say(f"card: {plan.card}")
    for name in plan.left_out:
        console.warn(f"{name} is not part of the {plan.kind} and is left out")


def _show_pushed(plan: PushPlan, pushed: Pushed, options: PushOptions) -> None:
    console.say(f"pushed as commit {pushed.commit} of {pushed.repo_id}, {pushed.revision}: {pushed.url}")
    if pushed.pull_request:
        console.say("it is a pull request: nothing is on the branch before it is merged")
    elif options.create_pr:
        console.say("no pull request was opened: the branch holds just these files")
    console.say("load it with:")
    for line in loading_lines(plan, pushed, options):
        console.say(f"    {line}")


def loading_lines(plan: PushPlan, pushed: Pushed, options: PushOptions) -> list[str]:
    """Python that loads what was pushed, pinned to its commit."""
    from diffusers_erasure.artifacts.weight_files import variant_of

    pinned = f'"{pushed.repo_id}", revision="{pushed.commit}"'
    inside = f', subfolder="{options.subfolder}"' if options.subfolder else ""
    if plan.kind == "encoder":
        return [
            "from diffusers_erasure import RobustEncoder",
            f"pipe.text_encoder = RobustEncoder.from_pretrained({pinned}{inside})",
        ]
    if plan.kind == "artifact":
        return ["from diffusers_erasure import load_erasure", f"load_erasure(pipe, {pinned}{inside})"]
    variant = variant_of([file.path for file in plan.files])
    stored = f', variant="{variant}"' if variant else ""
    return [
        "from diffusers import DiffusionPipeline  # or an Erased... class of diffusers_erasure, which checks",
        f"pipe = DiffusionPipeline.from_pretrained({pinned}{stored})",
    ]
