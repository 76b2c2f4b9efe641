"""Train, card, push; then a fresh process reads it all back from a server that nobody here wrote."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from diffusers_erasure import ErasedStableDiffusionPipeline, RobustEncoder, embedded_pipeline
from diffusers_erasure.artifacts import BaseModelRef, load_artifact, save_artifact
from diffusers_erasure.artifacts.keys import new_key, read_private_key
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.signature import SIGNATURE_NAME
from diffusers_erasure.artifacts.signing import sign_artifact
from diffusers_erasure.cli.main import main
from diffusers_erasure.embedded import resolve_model
from diffusers_erasure.errors import PublishError
from diffusers_erasure.training.esd import train_esd
from diffusers_erasure.training.esd_settings import ESDConfig
from tests.hub_server.clients import published
from tests.hub_server.clients.harness import picture
from tests.hub_server.clients.published import ARTIFACT, ENCODER, EXCHANGED, PIPELINE, SIGNED, SWAPPED
from tests.hub_server.conftest import Hub
from tests.hub_server.processes import run_client
from tests.hub_server.receiving import READER, TOKEN, ReceivingHub, receiving

pytestmark = [
    pytest.mark.integration,
    # huggingface_hub 2.4.0 uploads LFS files so; seen 2026-11-23 with httpx2 2.16.2.
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


PROPOSED, ANOTHER = "embedded/church-uce", "embedded/church-advunlearn"
"""Other erasures of the same: one for a pull request, one that is signed by the same key."""


@dataclass(frozen=True)
class Publisher:
    """What somebody trained: the artifact's folder, and what a reader has to find."""

    folder: Path
    facts: dict[str, Any]


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """A text encoder's erasure of "church" from the embedded pipeline, of two steps: pictures change."""
    scratch = tmp_path_factory.mktemp("publisher")
    config = ESDConfig(
        concept=("church",),
        train_method="text_encoder_full",
        max_train_steps=2,
        learning_rate=1e-3,
        num_inference_steps=2,
        pool_trajectories=1,
    )
    artifact = train_esd(embedded_pipeline(), config, base=BaseModelRef(id="embedded"))
    folder = save_artifact(artifact, scratch / "church-esd")
    pipe = ErasedStableDiffusionPipeline.from_pretrained("embedded", erasure=folder)
    drawn = scratch / "picture.safetensors"
    save_file({"picture": picture(pipe)}, drawn)
    assert not bool((picture(pipe) == picture(embedded_pipeline())).all())
    return Publisher(folder, {"picture": str(drawn), "base": str(resolve_model("embedded")), "commits": {}})


@pytest.fixture
def taking(hub: Hub) -> Iterator[ReceivingHub]:
    """The network of this process, which takes pushes into the repositories that the foreign server reads."""
    with receiving(hub.repositories, hub.endpoint) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def pushed(hub: Hub, publisher: Publisher) -> dict[str, Any]:
    """The three kinds, pushed: by the command, by the encoder, by the pipeline."""
    commits = publisher.facts["commits"]
    with receiving(hub.repositories, hub.endpoint) as receiver:
        assert main(["push", str(publisher.folder), ARTIFACT, "--tag", "v1", "--token", TOKEN]) == 0
        commits["artifact"] = hub.repositories.head(ARTIFACT, "main")
        robust = RobustEncoder.from_pretrained(publisher.folder)
        assert robust.push_to_hub(ENCODER, token=TOKEN, private=True).endswith(_head(hub, ENCODER))
        pipe = ErasedStableDiffusionPipeline.from_pretrained("embedded", erasure=publisher.folder)
        pipe.push_to_hub(PIPELINE, token=TOKEN, gated="auto")
        commits["pipeline"] = _head(hub, PIPELINE)
        assert receiver.created[1]["name"] == "church-encoder"
        assert receiver.settings == {PIPELINE: {"gated": "auto"}}
    return publisher.facts


@dataclass(frozen=True)
class Proposal:
    """A pull request: what the command printed, and the head of `main` before and after."""

    printed: str
    before: str
    after: str


@pytest.fixture(scope="module")
def proposal(hub: Hub, pushed: dict[str, Any]) -> Proposal:
    """Another erasure in the place of the one that was pushed, proposed by somebody who may not write."""
    before, printed = _head(hub, ARTIFACT), io.StringIO()
    folder = resolve_model(PROPOSED)
    with receiving(hub.repositories, hub.endpoint), redirect_stdout(printed):
        arguments = ["push", folder, ARTIFACT, "--create_pr", "--replace_weights", "--token", READER]
        assert main(arguments) == 0
    pushed["proposed"] = load_artifact(folder).digest
    pushed["commits"]["proposed"] = hub.repositories.head(ARTIFACT, "refs/pr/1")
    return Proposal(printed.getvalue(), before, _head(hub, ARTIFACT))


@pytest.fixture(scope="module")
def signed(hub: Hub, publisher: Publisher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The artifact signed and pushed; and copies of it with what the same key signed of another one."""
    scratch = tmp_path_factory.mktemp("signer")
    private, public = new_key(scratch / "signer.pem")
    publisher.facts["keys"] = {"signer": str(public), "other": str(new_key(scratch / "other.pem")[1])}
    mine = shutil.copytree(publisher.folder, scratch / "mine")
    another = shutil.copytree(resolve_model(ANOTHER), scratch / "another")
    for folder in (mine, another):
        sign_artifact(folder, read_private_key(private))
    with receiving(hub.repositories, hub.endpoint):
        assert main(["push", str(mine), SIGNED, "--token", TOKEN]) == 0
    files = {name: hub.repositories.read(SIGNED, name) for name in hub.repositories.names(SIGNED)}
    for repo, names in ((SWAPPED, [SIGNATURE_NAME]), (EXCHANGED, [SIGNATURE_NAME, MANIFEST_NAME])):
        hub.repositories.commit(repo, {**files, **{name: (another / name).read_bytes() for name in names}})
    return publisher.facts


@pytest.fixture(scope="module")
def report(
    hub: Hub,
    pushed: dict[str, Any],
    proposal: Proposal,
    signed: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """How the checks of a stranger ended, whose cache was empty."""
    return run_client("published", endpoint=hub.endpoint, home=tmp_path_factory.mktemp("home"), facts=pushed)


@pytest.mark.parametrize("name", published.CHECKS)
def test_a_stranger_reads_what_was_pushed(report: dict[str, Any], name: str) -> None:
    assert report[name]["fault"] is None, report[name]["fault"]


def test_every_file_arrives_as_it_was(hub: Hub, pushed: dict[str, Any], publisher: Publisher) -> None:
    names = hub.repositories.names(ARTIFACT)
    kept = sorted(path.name for path in publisher.folder.iterdir())
    assert sorted([".gitattributes", "README.md", *kept]) == sorted({*names, "README.md"})
    for name in kept:
        assert hub.repositories.read(ARTIFACT, name) == (publisher.folder / name).read_bytes()


def test_a_pull_request_leaves_the_branch_as_it_is(
    hub: Hub, pushed: dict[str, Any], proposal: Proposal
) -> None:
    assert proposal.after == proposal.before
    assert hub.repositories.head(ARTIFACT, "refs/pr/1~1") == proposal.before
    assert f"https://huggingface.co/{ARTIFACT}/discussions/1" in proposal.printed
    assert pushed["commits"]["proposed"] in proposal.printed
    assert "text_encoder.safetensors" not in hub.repositories.names(ARTIFACT, "refs/pr/1")


def test_who_may_not_write_is_told_to_propose(
    hub: Hub, proposal: Proposal, publisher: Publisher, taking: ReceivingHub
) -> None:
    artifact, before = load_artifact(publisher.folder), _head(hub, ARTIFACT)
    with pytest.raises(PublishError, match="use create_pr"):
        artifact.push_to_hub(ARTIFACT, token=READER, subfolder="mine")
    address = artifact.push_to_hub(ARTIFACT, token=READER, subfolder="mine", create_pr=True)
    assert address.endswith(f"{ARTIFACT}/discussions/2")
    assert "mine/erasure_config.json" in hub.repositories.names(ARTIFACT, "refs/pr/2")
    assert _head(hub, ARTIFACT) == before


def test_a_push_that_meets_another_one_changes_nothing(
    hub: Hub, pushed: dict[str, Any], publisher: Publisher, taking: ReceivingHub
) -> None:
    def somebody_else() -> None:
        taking.repositories.commit(ARTIFACT, {"NOTES.md": b"mine"})

    taking.before_commit = somebody_else
    with pytest.raises(PublishError, match="has moved since it was read"):
        load_artifact(publisher.folder).push_to_hub(ARTIFACT, token=TOKEN)
    assert "NOTES.md" in hub.repositories.names(ARTIFACT)
    assert hub.repositories.head(ARTIFACT, "main~1") == pushed["commits"]["artifact"]


def test_a_tag_that_exists_stays(
    hub: Hub, pushed: dict[str, Any], publisher: Publisher, taking: ReceivingHub
) -> None:
    with pytest.raises(PublishError, match="'v1' already"):
        load_artifact(publisher.folder).push_to_hub(ARTIFACT, token=TOKEN, tag="v1")
    assert hub.repositories.head(ARTIFACT, "v1") == pushed["commits"]["artifact"]


def test_a_dry_run_and_a_wrong_token_write_nothing(publisher: Publisher, taking: ReceivingHub) -> None:
    arguments = ["push", str(publisher.folder), "me/never"]
    assert main([*arguments, "--dry_run"]) == 0
    assert not taking.log
    assert main([*arguments, "--token", "hf_wrong"]) != 0
    assert not taking.repositories.exists("me/never")


def test_a_branch_is_made_for_a_push(
    hub: Hub, pushed: dict[str, Any], publisher: Publisher, taking: ReceivingHub
) -> None:
    before = _head(hub, ARTIFACT)
    load_artifact(publisher.folder).push_to_hub(ARTIFACT, token=TOKEN, revision="trial", subfolder="again")
    assert _head(hub, ARTIFACT) == before
    assert "again/erasure_config.json" in hub.repositories.names(ARTIFACT, "trial")


def _head(hub: Hub, repo: str) -> str:
    return hub.repositories.head(repo, "main") or ""
