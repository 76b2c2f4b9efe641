"""The Hub, played inside of the real client: one commit for all files, no corrupted file accepted."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import file_download

from diffusers_erasure.artifacts.artifact import Artifact
from diffusers_erasure.artifacts.documents import read_document
from diffusers_erasure.artifacts.door import load_artifact
from diffusers_erasure.artifacts.hub import HubSource
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME
from diffusers_erasure.artifacts.store import save_artifact
from diffusers_erasure.errors import ArtifactIntegrityError, ArtifactNotFoundError, ConfigError

httpx = pytest.importorskip("httpx2")

REPO, COMMIT, NEXT = "org/church", "a" * 40, "b" * 40
WEIGHTS = "text_encoder.safetensors"


class FakeHub:
    """A repository with one artifact; `spoil` decides what is really sent."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.heads: list[str] = []
        self.gets: list[str] = []
        self.spoil: Callable[[str, bytes, int], bytes] = lambda name, data, count: data
        self.error: str | None = None
        self.commit = COMMIT

    def __call__(self, request: httpx.Request) -> httpx.Response:
        _, _, _, _, revision, *rest = request.url.path.split("/", 5)
        name = rest[0]
        if self.error is not None:
            return httpx.Response(
                403 if self.error == "GatedRepo" else 404, headers={"X-Error-Code": self.error}
            )
        if name not in self.files:
            return httpx.Response(
                404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit}
            )
        good = self.files[name]
        (self.heads if request.method == "HEAD" else self.gets).append(f"{revision}/{name}")
        sent = self.spoil(name, good, sum(seen.endswith(name) for seen in self.gets))
        headers = {
            "ETag": f'"{hashlib.sha256(good).hexdigest()}"',
            "X-Repo-Commit": self.commit if revision == "main" else revision,
            "Content-Length": str(len(good)),
        }
        if request.method == "HEAD":
            return httpx.Response(200, headers=headers)
        return httpx.Response(200, headers=headers, content=sent)


@pytest.fixture
def hub(saved_once: Path, serve_hub: Callable[[object], None]) -> FakeHub:
    fake = FakeHub({path.name: path.read_bytes() for path in saved_once.iterdir()})
    serve_hub(fake)
    return fake


def test_one_commit_for_all_files(
    hub: FakeHub, tmp_path: Path, saved_once: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diffusers_erasure")

    def move(name: str, data: bytes, count: int) -> bytes:
        hub.commit = NEXT if count else COMMIT  # someone pushes while we download
        return data

    hub.spoil = move
    found = load_artifact(REPO, cache_dir=tmp_path)
    assert found.digest == load_artifact(saved_once).digest
    assert hub.gets[0] == f"main/{MANIFEST_NAME}"
    assert all(seen.startswith(COMMIT) for seen in hub.gets[1:])
    assert COMMIT in caplog.text
    assert load_artifact(REPO, cache_dir=tmp_path, local_files_only=True).digest == found.digest


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


FAULTS = {
    "one bit": flipped,
    "zero tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "all zero": lambda data: bytes(len(data)),
    "header bit": lambda data: data[:20] + bytes([data[20] ^ 4]) + data[21:],
}


@pytest.mark.parametrize("name", [WEIGHTS, "canary.safetensors", MANIFEST_NAME])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_corrupted_download_is_fetched_once_more(
    hub: FakeHub, tmp_path: Path, name: str, fault: str
) -> None:
    hub.spoil = lambda file, data, count: FAULTS[fault](data) if file == name and count == 1 else data
    digest = load_artifact(REPO, cache_dir=tmp_path).digest
    assert sum(seen.endswith(name) for seen in hub.gets) == 2
    hub.spoil = lambda file, data, count: data
    assert load_artifact(REPO, cache_dir=tmp_path).digest == digest


def test_a_file_that_stays_corrupted_is_refused_with_both_hashes(hub: FakeHub, tmp_path: Path) -> None:
    hub.spoil = lambda file, data, count: flipped(data) if file == WEIGHTS else data
    good = hub.files[WEIGHTS]
    with pytest.raises(ArtifactIntegrityError, match="second download") as caught:
        load_artifact(REPO, cache_dir=tmp_path)
    assert hashlib.sha256(good).hexdigest() in str(caught.value)
    assert hashlib.sha256(flipped(good)).hexdigest() in str(caught.value)
    assert sum(seen.endswith(WEIGHTS) for seen in hub.gets) == 2
    with pytest.raises(ArtifactIntegrityError, match="sha256"):
        load_artifact(REPO, cache_dir=tmp_path, local_files_only=True)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("RepoNotFound", "no repository 'org/church'"),
        ("RevisionNotFound", "no revision 'main'"),
        ("EntryNotFound", "there is no erasure_config.json of org/church"),
        ("GatedRepo", "gated"),
    ],
)
def test_errors_of_the_client_are_ours(hub: FakeHub, tmp_path: Path, code: str, words: str) -> None:
    hub.error = code
    with pytest.raises(ArtifactNotFoundError, match=words):
        load_artifact(REPO, cache_dir=tmp_path)


def test_a_file_that_the_repository_lacks(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files[WEIGHTS]
    with pytest.raises(ArtifactNotFoundError, match=WEIGHTS):
        load_artifact(REPO, cache_dir=tmp_path)


def test_subfolders(hub: FakeHub, tmp_path: Path) -> None:
    hub.files = {f"deep/er/{name}": data for name, data in hub.files.items()}
    assert load_artifact(REPO, subfolder="deep/er/", cache_dir=tmp_path).manifest.method == "test"
    for outside in ("../up", "/etc", "a/../../b"):
        with pytest.raises(ConfigError, match="leaves the repository"):
            load_artifact(REPO, subfolder=outside, cache_dir=tmp_path)


def test_each_file_is_fetched_anew_once(hub: FakeHub, tmp_path: Path) -> None:
    place = HubSource(REPO, cache_dir=tmp_path, force_download=True)
    for _ in range(3):
        assert place.checked(WEIGHTS).read_bytes() == hub.files[WEIGHTS]
        assert place.path(MANIFEST_NAME).read_bytes() == hub.files[MANIFEST_NAME]
    assert [seen.partition("/")[2] for seen in hub.gets] == [WEIGHTS, MANIFEST_NAME]
    assert HubSource(REPO, cache_dir=tmp_path, force_download=True).path(WEIGHTS)
    assert len(hub.gets) == 3


def test_a_document_is_read_at_the_commit_of_its_manifest(
    hub: FakeHub, artifact: Artifact, tmp_path: Path
) -> None:
    """Also where someone has pushed another one since."""
    told = artifact.with_documents({"numbers.bin": b"old"})
    saved = save_artifact(told, tmp_path / "told")
    hub.files |= {path.name: path.read_bytes() for path in saved.iterdir()}
    loaded = load_artifact(REPO, cache_dir=tmp_path / "cache")
    hub.commit = NEXT
    hub.spoil = lambda name, data, count: data if hub.gets[-1].startswith(COMMIT) else b"new"
    place = {"manifest": loaded.manifest, "max_bytes": 10, "cache_dir": tmp_path / "cache"}
    assert read_document(REPO, "numbers.bin", revision=loaded.commit, **place) == b"old"
    assert hub.gets[-1] == f"{COMMIT}/numbers.bin"


def test_a_cache_without_links_is_told_once(
    hub: FakeHub, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the client's is on Windows without developer mode; nothing there says what a file should be."""
    place = HubSource(REPO, cache_dir=tmp_path / "links")
    place.checked(WEIGHTS)
    assert "not compared" not in caplog.text
    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda cache_dir=None: False)
    place = HubSource(REPO, cache_dir=tmp_path / "plain")
    assert not place.checked(WEIGHTS).is_symlink()
    place.check_all([WEIGHTS, MANIFEST_NAME])
    told = [record.getMessage() for record in caplog.records if "not compared" in record.getMessage()]
    assert len(told) == 1
    assert f"{REPO} at {COMMIT}" in told[0]
