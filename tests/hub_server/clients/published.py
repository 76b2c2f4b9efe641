"""A stranger's process that reads what was pushed: three ways to the same erased pictures, then `verify`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.hub_server.clients.harness import Checks, Facts, draws, refused, same

CHECKS = Checks()
ARTIFACT, ENCODER, PIPELINE = "me/church-esd", "me/church-encoder", "me/church-pipeline"
SIGNED, SWAPPED, EXCHANGED = "me/church-signed", "me/signature-swapped", "me/manifest-exchanged"
SAMPLES = 200
"""Bytes that are flipped in each large file; of small ones every byte is."""
SMALL = 6000


@CHECKS.add
def stock_diffusers_draws_the_pushed_pipeline(facts: Facts) -> None:
    """By the snippet that the Hub shows."""
    from diffusers import DiffusionPipeline

    draws(DiffusionPipeline.from_pretrained(PIPELINE), facts["picture"])
    draws(
        DiffusionPipeline.from_pretrained(PIPELINE, revision=facts["commits"]["pipeline"]), facts["picture"]
    )


@CHECKS.add
def stock_transformers_opens_the_pushed_encoder(facts: Facts) -> None:
    """In a stock pipeline, beside the base's other components."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    encoder = CLIPTextModel.from_pretrained(ENCODER)
    pipe = StableDiffusionPipeline.from_pretrained(facts["base"], text_encoder=encoder)
    draws(pipe, facts["picture"])
    same([name for name in sys.modules if name.startswith("diffusers_erasure")], [])


@CHECKS.add
def plugin_loads_the_pushed_artifact(facts: Facts) -> None:
    """The artifact alone, by branch, tag and commit; it names its base."""
    from diffusers_erasure import ErasedStableDiffusionPipeline

    for revision in (None, "v1", facts["commits"]["artifact"]):
        pipe = ErasedStableDiffusionPipeline.from_pretrained(ARTIFACT, revision=revision)
        same(pipe.verify_erasure().state.value, "verified")
    draws(pipe, facts["picture"])


@CHECKS.add
def plugin_loads_pushed_pipeline_and_encoder(facts: Facts) -> None:
    """Both verified."""
    from diffusers_erasure import ErasedStableDiffusionPipeline, RobustEncoder

    pipe = ErasedStableDiffusionPipeline.from_pretrained(PIPELINE)
    same(pipe.verify_erasure().state.value, "verified")
    draws(pipe, facts["picture"])
    same(RobustEncoder.from_pretrained(ENCODER).erasure.verified, True)


@CHECKS.add
def plugin_loads_what_a_pull_request_proposes(facts: Facts) -> None:
    """By its name; the Hub says which commit that is, and the commit alone gives the same."""
    from diffusers_erasure import ErasedStableDiffusionPipeline
    from diffusers_erasure.artifacts import load_artifact

    commit = facts["commits"]["proposed"]
    for revision in ("refs/pr/1", commit):
        artifact = load_artifact(ARTIFACT, revision=revision)
        same((artifact.digest, artifact.commit), (facts["proposed"], commit))
    pipe = ErasedStableDiffusionPipeline.from_pretrained(ARTIFACT, revision="refs/pr/1")
    same(pipe.verify_erasure().state.value, "verified")
    same([erasure.digest for erasure in pipe.erasures], [facts["proposed"]])


@CHECKS.add
def plugin_loads_what_the_trusted_key_signed(facts: Facts) -> None:
    """Artifact, pipeline and the command."""
    from diffusers_erasure import ErasedStableDiffusionPipeline
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.cli.main import main

    key = facts["keys"]["signer"]
    digest = load_artifact(SIGNED, trusted_key=key).digest
    pipe = ErasedStableDiffusionPipeline.from_pretrained(SIGNED, trusted_key=key)
    same([erasure.digest for erasure in pipe.erasures], [digest])
    draws(pipe, facts["picture"])
    same(main(["verify", SIGNED, "--key", key, "--base", "embedded"]), 0)
    same(main(["verify", SIGNED, "--key", facts["keys"]["other"]]), 1)


@CHECKS.add
def what_the_trusted_key_did_not_sign_is_refused(facts: Facts) -> None:
    """Nobody, somebody else, or the signer for another artifact: its signature, or its manifest as well."""
    from diffusers_erasure import ErasedStableDiffusionPipeline
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.errors import ArtifactIntegrityError, SignatureError

    key, other = facts["keys"]["signer"], facts["keys"]["other"]
    for load in (load_artifact, ErasedStableDiffusionPipeline.from_pretrained):
        refused(SignatureError, partial(load, SIGNED, trusted_key=other), SIGNED, "not trusted")
        refused(SignatureError, partial(load, ARTIFACT, revision="v1", trusted_key=key), "is not signed")
        refused(SignatureError, partial(load, SWAPPED, trusted_key=key), SWAPPED, "signs a manifest with")
        refused(ArtifactIntegrityError, partial(load, EXCHANGED, trusted_key=key), EXCHANGED, "sha256")


@CHECKS.add
def verify_passes(facts: Facts) -> None:
    """The command, with the base."""
    from diffusers_erasure.cli.main import main

    same(main(["verify", ARTIFACT, "--revision", "v1", "--base", "embedded"]), 0)


@CHECKS.add
def cards_are_read_by_the_hub(facts: Facts) -> None:
    """What was rendered before the push holds the metadata that the Hub reads."""
    from huggingface_hub import ModelCard

    for repo in (ARTIFACT, ENCODER, PIPELINE):
        card = ModelCard.load(repo)
        same(card.data.library_name, "diffusers")
        same({"concept-erasure", "diffusers-erasure"} <= set(card.data.tags), True)
        same("not measured" in card.text, True)


@CHECKS.add
def one_flipped_byte_anywhere_is_refused(facts: Facts) -> dict[str, int]:
    """Every byte of manifest and headers, and a sample of the rest, in the cache that was filled above."""
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.errors import ArtifactError

    flipped: dict[str, int] = {}
    load = _loader(load_artifact)
    load()
    for path in _snapshot(ARTIFACT):
        if path.name not in ("erasure_config.json", "canary.safetensors", "text_encoder.safetensors"):
            continue
        blob, places = path.resolve(), _places(path)
        data = bytearray(blob.read_bytes())
        for place in places:
            _write(blob, place, data[place] ^ 1 << place % 8)
            refused(ArtifactError, load, ARTIFACT)
            _write(blob, place, data[place])
        flipped[path.name] = len(places)
    load()
    return flipped


def _loader(load_artifact: Any) -> Any:
    return lambda: load_artifact(ARTIFACT, revision="v1", local_files_only=True)


def _snapshot(repo: str) -> list[Path]:
    from huggingface_hub import snapshot_download

    return sorted(Path(snapshot_download(repo, revision="v1", local_files_only=True)).iterdir())


def _places(path: Path) -> list[int]:
    """Where bytes are flipped: everywhere in a small text, else a sample of the header and of the body."""
    import random

    size, chosen = path.stat().st_size, random.Random(0)
    if path.suffix == ".json" and size <= SMALL:
        return list(range(0, size, 3))
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else size
    count = 4 if size > 1_000_000 else SAMPLES
    return [
        *range(0, header, max(1, header // count)),
        *chosen.sample(range(header, size), min(count, size - header)),
    ]


def _write(path: Path, place: int, value: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes([value]))


if __name__ == "__main__":
    CHECKS.run()
