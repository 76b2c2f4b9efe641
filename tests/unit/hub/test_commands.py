"""push, sign, verify and inspect, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.files import CARD_NAME
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.signature import SIGNATURE_NAME
from diffusers_erasure.artifacts.store import attach_file
from diffusers_erasure.cli.main import main
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.unit.hub.conftest import COMMIT, TakingHub

REPO = "org/church"
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    monkeypatch.chdir(tmp_path)


def test_a_dry_run_lists_and_touches_nothing(saved: Path, capsys: Captured) -> None:
    """Without any Hub: a request would fail."""
    (saved / "diary.txt").write_text("not for you" * 1009)
    before = sorted(path.name for path in saved.iterdir())
    assert main(["push", str(saved), REPO, "--dry_run"]) == 0
    captured = capsys.readouterr()
    for path in saved.iterdir():
        assert (f" {path.stat().st_size} " in captured.out) == (path.name != "diary.txt")
    assert CARD_NAME in captured.out
    assert "nothing was uploaded" in captured.out
    assert "diary.txt is not part of the artifact" in captured.err
    assert sorted(path.name for path in saved.iterdir()) == before


def test_push_tells_the_commit_and_how_to_load(hub: TakingHub, saved: Path, capsys: Captured) -> None:
    assert main(["push", str(saved), REPO, "--token", "hf_test", "--tag", "v1", "--subfolder", "deep"]) == 0
    told = capsys.readouterr().out
    assert f"https://huggingface.co/{REPO}/commit/{COMMIT}" in told
    assert f'load_erasure(pipe, "{REPO}", revision="{COMMIT}", subfolder="deep")' in told
    assert f"deep/{MANIFEST_NAME}" in hub.names(REPO)
    assert hub.tags == {"v1": COMMIT}


def test_push_sees_what_a_folder_is(
    hub: TakingHub,
    tiny_pipe: StableDiffusionPipeline,
    tiny_pipe_folder: Path,
    tiny_artifact: Artifact,
    tmp_path: Path,
    capsys: Captured,
) -> None:
    erasure = {"method": "advunlearn", "concepts": ["church"], "base_model": "embedded"}
    RobustEncoder.from_encoder(tiny_pipe.text_encoder, erasure=erasure).save_pretrained(tmp_path / "encoder")
    pipe = ErasedStableDiffusionPipeline.from_pretrained(tiny_pipe_folder, erasure=tiny_artifact)
    pipe.save_pretrained(tmp_path / "pipeline")
    capsys.readouterr()
    for folder, words in (("encoder", "RobustEncoder.from_pretrained"), ("pipeline", "DiffusionPipeline")):
        assert main(["push", str(tmp_path / folder), f"org/{folder}", "--token", "hf_test"]) == 0
        told = capsys.readouterr().out
        assert f"{folder} for org/{folder}" in told
        assert words in told
    (tmp_path / "empty").mkdir()
    for nothing in ("empty", "missing"):
        assert main(["push", str(tmp_path / nothing), REPO]) == 2
        assert "nothing that can be pushed" in capsys.readouterr().err
    assert main(["push", str(tiny_pipe_folder), REPO]) == 2
    assert "says that this pipeline is erased" in capsys.readouterr().err


def test_push_refuses_a_broken_artifact(hub: TakingHub, saved: Path, capsys: Captured) -> None:
    data = (saved / "unet.safetensors").read_bytes()
    (saved / "unet.safetensors").write_bytes(data[:-1] + b"\1")
    assert main(["push", str(saved), REPO, "--token", "hf_test"]) == 2
    assert "unet.safetensors" in capsys.readouterr().err
    assert hub.calls == []


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    pytest.importorskip("cryptography")
    monkeypatch.setenv("DIFFUSERS_ERASURE_PASSPHRASE", "a word")
    private = tmp_path / "keys" / "signer.pem"
    assert main(["sign", "--new_key", str(private)]) == 0
    assert b"ENCRYPTED" in private.read_bytes()
    return str(private), str(private.with_name("signer.pub.pem"))


def test_sign_and_verify(saved: Path, keys: tuple[str, str], capsys: Captured) -> None:
    base = load_artifact(saved).manifest.base.id
    assert main(["verify", str(saved), "--key", keys[1]]) == 1
    assert "is not signed" in capsys.readouterr().out
    assert main(["sign", str(saved), "--key", keys[0], "--version", "1.2"]) == 0
    expected = ["--concept", "church", "--method", "uce", "--base", base, "--min_version", "1.2"]
    assert main(["verify", str(saved), "--key", keys[1], *expected]) == 0
    assert "all that was checked agrees; not checked: base and canary" in capsys.readouterr().out
    wrong = (("--concept", "dog"), ("--method", "esd"), ("--base", "org/x"), ("--min_version", "1.3"))
    for flag, value in wrong:
        assert main(["verify", str(saved), "--key", keys[1], flag, value]) == 1
        told = capsys.readouterr().out
        assert "another artifact" in told
        assert "not verified: what it is" in told
    assert main(["verify", str(saved)]) == 0
    assert "give --key to check it" in capsys.readouterr().out


def test_signed_documents_must_be_those_that_were_signed(
    saved: Path, keys: tuple[str, str], capsys: Captured
) -> None:
    attach_file(saved, "notes.json", b"{}")
    main(["sign", str(saved), "--key", keys[0]])
    (saved / "notes.json").write_text("[]")
    assert main(["verify", str(saved)]) == 0
    assert main(["verify", str(saved), "--key", keys[1]]) == 1
    assert "not verified: notes.json" in capsys.readouterr().out


def test_verify_tells_other_expectations_without_a_key(saved: Path, capsys: Captured) -> None:
    assert main(["verify", str(saved), "--concept", "church"]) == 0
    assert "only a signature (--key) binds it" in capsys.readouterr().out
    assert main(["verify", str(saved), "--concept", "dog"]) == 1
    assert main(["verify", str(saved), "--min_version", "1"]) == 2
    assert main(["verify", str(saved), "--key", "none.pem"]) == 2
    assert main(["verify", str(saved / "missing")]) == 2


def test_verify_on_base_models(
    saved: Path, tiny_pipe_folder: Path, make_tiny_pipe: object, tmp_path: Path, capsys: Captured
) -> None:
    flag = "--pretrained_model_name_or_path"
    assert main(["verify", str(saved), flag, str(tiny_pipe_folder)]) == 0
    assert "unet" in capsys.readouterr().out
    make_tiny_pipe(seed=3).save_pretrained(tmp_path / "other")  # type: ignore[operator]
    assert main(["verify", str(saved), flag, str(tmp_path / "other")]) == 1
    told = capsys.readouterr().out
    assert "other weights" in told
    assert "not verified: base" in told


@pytest.mark.parametrize("passphrase", ["", "another"])
def test_a_passphrase_is_never_asked_of_nobody(
    saved: Path, keys: tuple[str, str], capsys: Captured, monkeypatch: pytest.MonkeyPatch, passphrase: str
) -> None:
    monkeypatch.setenv("DIFFUSERS_ERASURE_PASSPHRASE", passphrase)
    assert main(["sign", str(saved), "--key", keys[0]]) == 2
    assert "passphrase" in capsys.readouterr().err
    assert not (saved / SIGNATURE_NAME).exists()


def test_sign_says_what_it_needs(saved: Path, keys: tuple[str, str], capsys: Captured) -> None:
    assert main(["sign", str(saved)]) == 2
    assert "--key FILE" in capsys.readouterr().err
    assert main(["sign", str(saved), "--new_key", "x.pem"]) == 2
    assert main(["sign", "--new_key", keys[0]]) == 2
    assert "exists already" in capsys.readouterr().err


def test_inspect_shows_all_as_json(saved: Path, keys: tuple[str, str], capsys: Captured) -> None:
    attach_file(saved, "notes.json", b"{}")
    main(["sign", str(saved), "--key", keys[0], "--version", "7"])
    (saved / "notes.json").write_text("changed")
    (saved / "diary.txt").touch()
    capsys.readouterr()
    assert main(["inspect", str(saved), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["digest"] == load_artifact(saved).digest
    assert shown["signature"]["version"] == "7"
    assert shown["manifest"]["concepts"][0]["name"] == "church"
    states = {record["name"]: (record["role"], record["state"]) for record in shown["files"]}
    assert states["unet.safetensors"] == ("weights", "as the manifest says")
    assert states["notes.json"] == ("document", "changed")
    assert states["diary.txt"] == ("other", "not named by the manifest")
    assert states[SIGNATURE_NAME][0] == "signature"
    sizes = {record["name"]: record["size"] for record in shown["files"]}
    assert sizes == {path.name: path.stat().st_size for path in saved.iterdir()}
    assert main(["inspect", str(saved)]) == 0
    told = capsys.readouterr().out
    for word in ("Signature", "diary.txt", "verify --key", "canary"):
        assert word in told
    (saved / SIGNATURE_NAME).write_text("{}")
    assert main(["inspect", str(saved)]) == 0
    assert "is no signature" in capsys.readouterr().err


def test_inspect_of_the_hub_tells_the_commit(hub: TakingHub, saved: Path, capsys: Captured) -> None:
    hub.hold(REPO, saved)
    hub.heads["main"] = COMMIT
    assert main(["inspect", REPO, "--cache_dir", "cache"]) == 0
    captured = capsys.readouterr()
    assert f"revision main is commit {COMMIT}" in captured.err
    assert "unet.safetensors" in captured.out
    shutil.rmtree(saved)
    hub.files.clear()
    assert main(["verify", REPO, "--cache_dir", "cache", "--local_files_only"]) == 0
