"""Publishing artifacts: a saved one is read through the door, planned as files, and pushed in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from diffusers_erasure.errors import PublishError

from .artifact import Artifact
from .card_marks import outdated
from .door import load_artifact
from .files import CARD_NAME, FileState, document_records
from .hub import FolderSource
from .manifest import MANIFEST_NAME, Manifest
from .push_plan import PushOptions, PushPlan, check_repo_id, make_plan, own_card, rendered_card
from .signature import SIGNATURE_NAME
from .store import save_artifact
from .upload import publish


def plan_artifact(folder: str | Path, repo_id: str, options: PushOptions) -> PushPlan:
    """What pushing a saved artifact uploads; reads and checks all of it.

    Args:
        folder: A saved artifact.
        repo_id: "organisation/name".
        options: Where to.

    Raises:
        ArtifactError: It is broken, a document of its manifest is missing or changed, its card tells of
            reports that are no longer attached, or code lies in it.
    """
    check_repo_id(repo_id)
    root = Path(folder).expanduser()
    manifest = load_artifact(root).manifest
    for record in document_records(FolderSource(root), manifest):
        if record.state is not FileState.AGREES:
            raise PublishError(
                f"the document {record.name} of {root} is {record.state.value}, but its manifest names it; "
                f"expected the file with the sha256 {record.sha256}; attach it again, or push the folder "
                "that it was saved in"
            )
    shas = {**manifest.files, **manifest.attachments}
    names = [MANIFEST_NAME, *shas, *([SIGNATURE_NAME] if (root / SIGNATURE_NAME).is_file() else [])]
    _check_card(root, manifest)
    card = None
    if CARD_NAME not in shas:
        card = own_card(root) or rendered_card("render_card", root, repo_id=repo_id)
    origin = "README.md, as the manifest names it" if card is None else card.origin
    return make_plan(root, names, repo_id, options, kind="artifact", card=card, origin=origin, shas=shas)


def push_artifact(source: Artifact | str | Path, repo_id: str, **options: Any) -> str:
    """Push an artifact, or the folder that it was saved in; returns the commit's address.

    A folder is pushed with its documents and its signature. An artifact in memory has those documents only
    that its method handed along, and no signature.

    Args:
        source: The artifact.
        repo_id: "organisation/name"; made if it does not exist.
        options: See `PushOptions`.
    """
    chosen = PushOptions.of(options)
    if not isinstance(source, Artifact):
        return publish(plan_artifact(source, repo_id, chosen), chosen).url
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_artifact(source, Path(scratch) / "artifact")
        return publish(plan_artifact(folder, repo_id, chosen), chosen).url


def _check_card(root: Path, manifest: Manifest) -> None:
    """Refuse a card that was rendered from other reports than those that go with it."""
    path = root / CARD_NAME
    faults = outdated(path.read_bytes(), manifest) if path.is_file() else ()
    if faults:
        attach = " --attach" if CARD_NAME in manifest.attachments else ""
        raise PublishError(
            f"the card {path} tells of other reports than those that lie beside it ({'; '.join(faults)}); "
            f"expected a card of these; make it again with `diffusers-erasure card {root}{attach}`, or, if "
            "you wrote in it yourself, bring it up to date and remove the comment at its end"
        )
