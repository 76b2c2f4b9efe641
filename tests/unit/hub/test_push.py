"""What is pushed is what a stranger can load: whole, verified, in one commit, or nothing."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.card_marks import is_as_pushed, mark_pushed
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.files import CARD_NAME
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.publishing import plan_artifact, push_artifact
from diffusers_erasure.artifacts.push_plan import PushOptions
from diffusers_erasure.artifacts.store import attach_file
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.encoders.publishing import plan_encoder
from diffusers_erasure.errors import (
    ArtifactError,
    ArtifactIntegrityError,
    ConfigError,
    ErasureNotActiveError,
    ErasureRequiredError,
    PublishError,
    UnverifiedArtifactError,
)
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline, ErasedStableDiffusionXLPipeline
from diffusers_erasure.pipelines.publishing import plan_pipeline
from tests.unit.hub.conftest import COMMIT, START, TakingHub

ERASURE = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
REPO = "org/church"
TOKEN = "hf_test"


def test_a_pushed_artifact_loads_by_its_id(hub: TakingHub, tiny_artifact: Artifact, tmp_path: Path) -> None:
    address = tiny_artifact.push_to_hub(REPO, token=TOKEN, private=True)
    assert address == f"https://huggingface.co/{REPO}/commit/{COMMIT}"
    assert hub.created[0]["visibility"] == "private"
    assert hub.names(REPO) == {MANIFEST_NAME, CARD_NAME, *tiny_artifact.manifest.files}
    assert [commit["parentCommit"] for commit in hub.commits] == [START]
    found = load_artifact(REPO, cache_dir=tmp_path)
    assert (found.digest, found.commit) == (tiny_artifact.digest, COMMIT)
    card = hub.files[REPO, CARD_NAME].decode()
    assert card.startswith("---\n")
    assert REPO in card
    assert is_as_pushed(card.encode())


def test_documents_and_signature_go_along(hub: TakingHub, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from diffusers_erasure.artifacts import keys
    from diffusers_erasure.artifacts.signing import sign_artifact

    attach_file(saved, "notes.json", b"{}")
    private, public = keys.new_key(tmp_path / "keys" / "signer.pem")
    sign_artifact(saved, keys.read_private_key(private))
    (saved / "diary.txt").write_text("not for you")
    push_artifact(saved, REPO, token=TOKEN, tag="v1")
    assert hub.names(REPO) == {path.name for path in saved.iterdir()} - {"diary.txt"} | {CARD_NAME}
    assert hub.tags == {"v1": COMMIT}
    assert load_artifact(REPO, cache_dir=tmp_path / "cache", trusted_key=public)
    assert not (saved / CARD_NAME).exists()


@pytest.mark.parametrize(
    "name", ["pipeline.py", "weights.bin", "model.pkl", "a/b/handler.py", "quiet.dat", "torch.dat", "run"]
)
def test_code_and_pickles_are_refused(hub: TakingHub, saved: Path, name: str) -> None:
    contents = {"quiet.dat": pickle.dumps({"a": 1}), "torch.dat": b"PK\x03\x04....", "run": b"#!/bin/sh\n"}
    (saved / name).parent.mkdir(parents=True, exist_ok=True)
    (saved / name).write_bytes(contents.get(name, b"x"))
    with pytest.raises(PublishError, match="program code or pickles"):
        push_artifact(saved, REPO, token=TOKEN)
    assert hub.calls == []


def test_code_cannot_come_as_a_document(hub: TakingHub, saved: Path) -> None:
    attach_file(saved, "pipeline.py", b"print()")
    with pytest.raises(PublishError, match=r"program code or pickles \(pipeline\.py\)"):
        push_artifact(saved, REPO, token=TOKEN)
    assert hub.calls == []


def flipped(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("name", ["unet.safetensors", "canary.safetensors", MANIFEST_NAME, "notes.json"])
@pytest.mark.parametrize("fault", [flipped, Path.unlink])
def test_what_is_broken_is_not_pushed(
    hub: TakingHub, saved: Path, name: str, fault: Callable[[Path], None]
) -> None:
    attach_file(saved, "notes.json", b"{}")
    fault(saved / name)
    with pytest.raises(ArtifactError):
        push_artifact(saved, REPO, token=TOKEN)
    assert hub.calls == []


def test_a_branch_that_moves_is_refused(hub: TakingHub, saved: Path) -> None:
    hub.meanwhile = lambda: hub.heads.update(main="b" * 40)
    with pytest.raises(PublishError, match=r"main of org/church has moved.*push again"):
        push_artifact(saved, REPO, token=TOKEN)
    assert hub.commits == []
    assert hub.names(REPO) == set()


def test_branch_tag_gate_and_message(hub: TakingHub, saved: Path) -> None:
    push_artifact(
        saved, REPO, token=TOKEN, revision="strong", gated="manual", commit_message="Take it", tag="v2"
    )
    assert hub.heads["strong"] == COMMIT
    assert hub.heads["main"] == START
    assert hub.settings == [{"gated": "manual"}]
    assert hub.commits[0]["summary"] == "Take it"
    gate, commit = (
        next(n for n, call in enumerate(hub.calls) if word in call) for word in ("/settings", "/commit/")
    )
    assert gate < commit
    with pytest.raises(PublishError, match="has a tag 'v2' already"):
        push_artifact(saved, REPO, token=TOKEN, tag="v2")
    assert len(hub.commits) == 1


def test_a_pull_request(hub: TakingHub, saved: Path) -> None:
    assert push_artifact(saved, REPO, token=TOKEN, create_pr=True).endswith("/discussions/1")
    with pytest.raises(ConfigError, match="cannot be put on a pull request"):
        push_artifact(saved, REPO, token=TOKEN, create_pr=True, tag="v1")


@pytest.mark.parametrize(
    "options",
    [
        {"gated": "yes"},
        {"revision": "a" * 40},
        {"keep_card": True, "replace_card": True},
        {"subfolder": "../up"},
        {"branch": "main"},
    ],
)
def test_options_that_cannot_be_met(hub: TakingHub, saved: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        push_artifact(saved, REPO, token=TOKEN, **options)
    with pytest.raises(ConfigError, match="no Hub id"):
        push_artifact(saved, "church", token=TOKEN)
    assert hub.calls == []


def test_private_is_not_granted_silently(hub: TakingHub, saved: Path) -> None:
    hub.exists = True
    with pytest.raises(PublishError, match="exists and is public"):
        push_artifact(saved, REPO, token=TOKEN, private=True)
    assert hub.commits == []
    hub.public = False
    push_artifact(saved, REPO, token=TOKEN, private=True)


def test_a_persons_card_is_not_overwritten(hub: TakingHub, saved: Path) -> None:
    push_artifact(saved, REPO, token=TOKEN)
    first = hub.files[REPO, CARD_NAME]
    attach_file(saved, "notes.json", b"{}")
    push_artifact(saved, REPO, token=TOKEN)
    hub.files[REPO, CARD_NAME] = edited = first.replace(b"---\n", b"---\n\nMy own words.\n\n", 2)
    for card in (edited, b"# all mine\n"):
        hub.files[REPO, CARD_NAME] = card
        with pytest.raises(PublishError, match="written or changed by a person"):
            push_artifact(saved, REPO, token=TOKEN)
        assert len(hub.commits) == 2
    push_artifact(saved, REPO, token=TOKEN, keep_card=True)
    assert hub.files[REPO, CARD_NAME] == b"# all mine\n"
    push_artifact(saved, REPO, token=TOKEN, replace_card=True)
    assert is_as_pushed(hub.files[REPO, CARD_NAME])


def test_a_card_in_the_folder_is_pushed_as_it_is(hub: TakingHub, saved: Path) -> None:
    (saved / CARD_NAME).write_text("---\nlicense: mit\n---\nMy own words.\n")
    push_artifact(saved, REPO, token=TOKEN)
    assert hub.files[REPO, CARD_NAME].startswith(b"---\nlicense: mit\n---\nMy own words.\n\n<!-- pushed")
    assert mark_pushed(b"words") == mark_pushed(b"words\n")


def test_an_attached_card_keeps_its_bytes(hub: TakingHub, saved: Path) -> None:
    for text in (b"# one\n", b"# two\n"):
        attach_file(saved, CARD_NAME, text)
        push_artifact(saved, REPO, token=TOKEN)
        assert hub.files[REPO, CARD_NAME] == text
    hub.files[REPO, CARD_NAME] = b"# edited\n"
    with pytest.raises(PublishError, match="by a person"):
        push_artifact(saved, REPO, token=TOKEN)
    with pytest.raises(PublishError, match="cannot be kept: the artifact has another card attached"):
        push_artifact(saved, REPO, token=TOKEN, keep_card=True)
    attach_file(saved, CARD_NAME, b"# edited\n")
    push_artifact(saved, REPO, token=TOKEN, keep_card=True)
    assert hub.files[REPO, CARD_NAME] == b"# edited\n"


def test_weights_that_would_mix_are_not_left_beside(hub: TakingHub, saved: Path) -> None:
    hub.files[REPO, "text_encoder.safetensors"] = b"of another artifact"
    hub.files[REPO, "erasure.sig"] = b"of another manifest"
    hub.files[REPO, "other/unet.safetensors"] = b"not beside"
    hub.files[REPO, "picture.png"] = b"a picture"
    with pytest.raises(PublishError, match=r"not part of this push \(text_encoder\.safetensors\)"):
        push_artifact(saved, REPO, token=TOKEN)
    push_artifact(saved, REPO, token=TOKEN, replace_weights=True)
    left = hub.names(REPO)
    assert not {"text_encoder.safetensors", "erasure.sig"} & left
    assert {"other/unet.safetensors", "picture.png"} <= left


def test_a_file_that_changes_between_check_and_upload(hub: TakingHub, saved: Path) -> None:
    from diffusers_erasure.artifacts.upload import publish

    plan = plan_artifact(saved, REPO, PushOptions(token=TOKEN))
    flipped(saved / "unet.safetensors")
    with pytest.raises(PublishError, match="was changed while it was pushed"):
        publish(plan, PushOptions(token=TOKEN))
    assert hub.commits == []


@pytest.mark.parametrize(("code", "words"), [(403, "does not let you write"), (500, "refused the push")])
def test_refusals_of_the_hub_are_ours(
    serve_hub: Callable[[object], None], saved: Path, code: int, words: str
) -> None:
    httpx = pytest.importorskip("httpx2")
    serve_hub(lambda request: httpx.Response(code, json={"error": "no"}))
    with pytest.raises(PublishError, match=words):
        push_artifact(saved, REPO, token=TOKEN)


def test_no_connection_is_said(serve_hub: Callable[[object], None], saved: Path) -> None:
    def nobody(request: object) -> object:
        raise pytest.importorskip("httpx2").ConnectError("nobody there")

    serve_hub(nobody)
    with pytest.raises(PublishError, match="did not go through"):
        push_artifact(saved, REPO, token=TOKEN)


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # as huggingface_hub 2.4.0 uploads
def test_a_failed_upload_of_a_file_is_ours(hub: TakingHub, saved: Path) -> None:
    """The client raises RuntimeError there."""
    hub.by_lfs = True
    with pytest.raises(PublishError, match=r"did not go through .*403.*; expected .*push again") as caught:
        push_artifact(saved, REPO, token=TOKEN)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert hub.commits == []


@pytest.mark.parametrize("token", ["hf_se cret", "hf_secret\n", "", "hf_sécret"])
def test_a_token_of_the_wrong_form_is_not_repeated(hub: TakingHub, saved: Path, token: str) -> None:
    """The HTTP library would put it into its error."""
    with pytest.raises(ConfigError, match=rf"the token of {len(token)} characters.*expected") as caught:
        push_artifact(saved, REPO, token=token)
    assert "cret" not in str(caught.value)
    assert hub.calls == []
    assert TOKEN not in repr(PushOptions(token=TOKEN))


@pytest.mark.parametrize("repo", ["church", "a/b/c", "org/a--b", "org/chürch", "org/" + "a" * 97, "org/.a"])
def test_ids_that_the_hub_would_refuse(hub: TakingHub, saved: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="no Hub id"):
        push_artifact(saved, repo, token=TOKEN)
    assert hub.calls == []


def test_offline_is_said(saved: Path) -> None:
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        push_artifact(saved, REPO, token=TOKEN)


def test_a_pushed_encoder_opens_for_everyone(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    address = robust.push_to_hub(REPO, commit_message="Take this one", private=True, token=TOKEN)
    assert address.endswith(f"{REPO}/commit/{COMMIT}")
    assert hub.created[0]["visibility"] == "private"
    assert [commit["summary"] for commit in hub.commits] == ["Take this one"]
    folder = hub.checkout(REPO, tmp_path / "found")
    assert sorted(path.name for path in folder.iterdir()) == [CARD_NAME, "config.json", "model.safetensors"]
    again = RobustEncoder.from_pretrained(folder)
    assert again.erasure is not None
    assert again.erasure.concepts == ("church",)
    stock = CLIPTextModel.from_pretrained(folder)
    expected = robust.state_dict()
    for found in (again.state_dict(), stock.state_dict()):
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_an_encoder_goes_into_a_subfolder(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    hub.files[REPO, CARD_NAME] = b"# of a person, above\n"
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    robust.save_pretrained(
        tmp_path / "encoder", push_to_hub=True, repo_id=REPO, subfolder="deep", token=TOKEN
    )
    assert hub.files[REPO, CARD_NAME] == b"# of a person, above\n"
    found = RobustEncoder.from_pretrained(REPO, subfolder="deep", cache_dir=tmp_path / "cache")
    assert found.erasure is not None


def test_encoders_that_nobody_can_verify_are_not_pushed(
    hub: TakingHub, tiny_pipe: StableDiffusionPipeline, tmp_path: Path
) -> None:
    with pytest.raises(UnverifiedArtifactError, match="carries no erasure entry"):
        RobustEncoder.from_encoder(tiny_pipe.text_encoder).push_to_hub(REPO, token=TOKEN)
    robust = RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=ERASURE)
    robust.save_pretrained(tmp_path / "encoder")
    flipped(tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(ArtifactIntegrityError, match="fingerprint"):
        plan_encoder(tmp_path / "encoder", REPO, PushOptions())
    assert hub.calls == []


def erased_pipeline(folder: Path, artifact: Artifact) -> ErasedStableDiffusionPipeline:
    pipe = ErasedStableDiffusionPipeline.from_pretrained(folder, erasure=artifact)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_pushed_pipeline_is_erased_for_everyone(
    hub: TakingHub, tiny_artifact: Artifact, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    pipe = erased_pipeline(tiny_pipe_folder, tiny_artifact)
    pipe.push_to_hub(REPO, token=TOKEN)
    assert len(hub.commits) == 1
    assert b"church" in hub.files[REPO, CARD_NAME]
    folder = hub.checkout(REPO, tmp_path)
    erased = ErasedStableDiffusionPipeline.from_pretrained(folder)
    assert [found.concepts for found in erased.erasures] == [("church",)]
    stock = StableDiffusionPipeline.from_pretrained(folder)
    expected = pipe.unet.state_dict()
    for found in (erased.unet.state_dict(), stock.unet.state_dict()):
        assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_a_variant_and_shards_are_pushed_as_they_were_saved(
    hub: TakingHub, tiny_artifact: Artifact, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    pipe = erased_pipeline(tiny_pipe_folder, tiny_artifact)
    pipe.push_to_hub(REPO, token=TOKEN, variant="fp16", max_shard_size="60KB")
    names = hub.names(REPO)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" not in names
    assert any("-of-" in name for name in names)
    folder = hub.checkout(REPO, tmp_path)
    assert ErasedStableDiffusionPipeline.from_pretrained(folder, variant="fp16").erasures


def test_an_sdxl_pipeline_is_pushed(
    hub: TakingHub, tiny_xl: Any, tiny_xl_folder: Path, tmp_path: Path
) -> None:
    robust = RobustEncoder.from_encoder(tiny_xl.text_encoder, erasure=ERASURE)
    pipe = ErasedStableDiffusionXLPipeline.from_pretrained(tiny_xl_folder, text_encoder=robust)
    pipe.push_to_hub(REPO, token=TOKEN)
    folder = hub.checkout(REPO, tmp_path)
    assert [one.concepts for one in ErasedStableDiffusionXLPipeline.from_pretrained(folder).erasures] == [
        ("church",)
    ]


def test_only_verified_pipelines_are_pushed(
    hub: TakingHub, tiny_artifact: Artifact, tiny_pipe_folder: Path, tmp_path: Path
) -> None:
    base = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, require_erasure=False)
    with pytest.raises(ErasureRequiredError, match="only erased pipelines are pushed"):
        base.push_to_hub(REPO, token=TOKEN)
    pipe = erased_pipeline(tiny_pipe_folder, tiny_artifact)
    pipe.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        pipe.unet.conv_in.weight += 0.1
    with pytest.raises(ErasureNotActiveError):
        pipe.push_to_hub(REPO, token=TOKEN)
    with pytest.raises(PublishError, match="says that this pipeline is erased"):
        plan_pipeline(tiny_pipe_folder, REPO, PushOptions())
    with pytest.raises(ConfigError, match="from the root"):
        plan_pipeline(tmp_path / "saved", REPO, PushOptions(subfolder="deep"))
    (tmp_path / "saved" / "unet" / "code.py").touch()
    with pytest.raises(PublishError, match=r"unet/code\.py"):
        plan_pipeline(tmp_path / "saved", REPO, PushOptions())
    (tmp_path / "saved" / "unet" / "code.py").unlink()
    assert plan_pipeline(tmp_path / "saved", REPO, PushOptions())
    flipped(tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(ArtifactIntegrityError, match="fingerprint"):
        plan_pipeline(tmp_path / "saved", REPO, PushOptions())
    assert hub.calls == []
