"""The stranger's next process, without a network: what was read once is read again from the cache."""

from __future__ import annotations

from functools import partial

from tests.hub_server.clients.harness import Checks, Facts, draws, refused, same
from tests.hub_server.clients.reading import BASE, COLLECTION, ENCODER, PIPELINE, TEXT, UNET

CHECKS = Checks()


@CHECKS.add
def artifact_from_the_cache(facts: Facts) -> None:
    """By branch, tag and commit."""
    from diffusers_erasure.artifacts import load_artifact

    same(load_artifact(UNET).digest, facts["digests"]["unet"])
    for revision in ("v1", facts["commits"]["unet v1"]):
        same(load_artifact(UNET, revision=revision).digest, facts["digests"]["unet v1"])
    same(load_artifact(COLLECTION, subfolder="churches/text").digest, facts["digests"]["text"])


@CHECKS.add
def pipelines_from_the_cache(facts: Facts) -> None:
    """The artifact that names its base, the base with an erasure, and the baked pipeline."""
    from diffusers import StableDiffusionPipeline

    from diffusers_erasure import ErasedStableDiffusionPipeline

    draws(ErasedStableDiffusionPipeline.from_pretrained(TEXT), facts["pictures"]["text"])
    draws(ErasedStableDiffusionPipeline.from_pretrained(BASE, erasure=UNET), facts["pictures"]["unet"])
    draws(ErasedStableDiffusionPipeline.from_pretrained(PIPELINE), facts["pictures"]["both"])
    draws(StableDiffusionPipeline.from_pretrained(PIPELINE), facts["pictures"]["both"])


@CHECKS.add
def encoders_from_the_cache(facts: Facts) -> None:
    """Whole, and from the artifact."""
    from diffusers_erasure import RobustEncoder

    for source in (ENCODER, TEXT):
        same(RobustEncoder.from_pretrained(source).erasure.verified, True)


@CHECKS.add
def what_is_not_cached_is_named(facts: Facts) -> None:
    """An id that was never read says that it is not in the cache."""
    from diffusers_erasure import ErasedStableDiffusionPipeline, RobustEncoder
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.errors import ArtifactNotFoundError
    from diffusers_erasure.pipelines.base import load_base_pipeline

    never = "stranger/never-read"
    loads = (load_artifact, ErasedStableDiffusionPipeline.from_pretrained, RobustEncoder.from_pretrained)
    for load in (*loads, load_base_pipeline):
        message = refused(ArtifactNotFoundError, partial(load, never), never, "local cache", "was not asked")
        same(" has no " in message, False)


if __name__ == "__main__":
    CHECKS.run()
