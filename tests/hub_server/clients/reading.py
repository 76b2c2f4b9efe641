"""A stranger's process that reads from the Hub by every documented call; stock libraries come first."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from tests.hub_server.clients.harness import Checks, Facts, draws, refused, same

CHECKS = Checks()
BASE, ENCODER, PIPELINE = "stranger/tiny-sd", "stranger/church-encoder", "stranger/church-pipeline"
UNET, TEXT, COLLECTION = "stranger/church-unet", "stranger/church-text", "stranger/collection"
FOREIGN = {"pretrained_model_name_or_path": "foreign/advunlearn", "subfolder": "church_unlearned"}


@CHECKS.add
def hub_tells_about_repositories(facts: Facts) -> None:
    """What the client library itself reads: commits, tags, files, the card."""
    from huggingface_hub import HfApi, ModelCard

    api = HfApi()
    same(api.model_info(UNET).sha, facts["commits"]["unet"])
    same(api.model_info(UNET, revision="v1").sha, facts["commits"]["unet v1"])
    same([tag.name for tag in api.list_repo_refs(UNET).tags], ["v1"])
    same(api.file_exists(UNET, "erasure_config.json"), True)
    same(api.file_exists(UNET, "model_index.json"), False)
    card = ModelCard.load(ENCODER)
    same((card.data.library_name, card.data.tags), ("diffusers", ["concept-erasure"]))


@CHECKS.add
def stock_diffusers_draws_the_baked_pipeline(facts: Facts) -> None:
    """The three stock classes that open a text-to-image repository."""
    from diffusers import AutoPipelineForText2Image, DiffusionPipeline, StableDiffusionPipeline

    for stock in (StableDiffusionPipeline, DiffusionPipeline, AutoPipelineForText2Image):
        pipe = stock.from_pretrained(PIPELINE)
        same(type(pipe), StableDiffusionPipeline)
        draws(pipe, facts["pictures"]["both"])
    draws(DiffusionPipeline.from_pretrained(PIPELINE, revision="v1"), facts["pictures"]["both v1"])


@CHECKS.add
def stock_transformers_opens_the_encoder(facts: Facts) -> None:
    """The whole encoder, in a stock pipeline; and the one inside of a pipeline's repository."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextModel

    encoder, report = CLIPTextModel.from_pretrained(ENCODER, output_loading_info=True)
    same([list(found) for found in (report["missing_keys"], report["unexpected_keys"])], [[], []])
    draws(StableDiffusionPipeline.from_pretrained(BASE, text_encoder=encoder), facts["pictures"]["text"])
    inside = CLIPTextModel.from_pretrained(PIPELINE, subfolder="text_encoder")
    same(
        all(bool((a == b).all()) for a, b in zip(encoder.parameters(), inside.parameters(), strict=True)),
        True,
    )


@CHECKS.add
def stock_processes_know_nothing_of_us(facts: Facts) -> None:
    """What was checked so far did not need this package."""
    same([name for name in sys.modules if name.startswith("diffusers_erasure")], [])


@CHECKS.add
def artifact_by_branch_tag_commit_and_subfolder(facts: Facts) -> None:
    """`main` has moved on since `v1`; each name gives what it names."""
    from diffusers_erasure.artifacts import load_artifact

    digests, commits = facts["digests"], facts["commits"]
    same(load_artifact(UNET).digest, digests["unet"])
    for revision in ("v1", commits["unet v1"]):
        same(load_artifact(UNET, revision=revision).digest, digests["unet v1"])
    same(load_artifact(UNET, revision=commits["unet"]).digest, digests["unet"])
    same(load_artifact(COLLECTION, subfolder="churches/text").digest, digests["text"])
    same(load_artifact(UNET, local_files_only=True).digest, digests["unet"])


@CHECKS.add
def erasure_on_a_stock_pipeline(facts: Facts) -> None:
    """`load_erasure` with an id, verified, taken off again."""
    from diffusers import StableDiffusionPipeline

    from diffusers_erasure import load_erasure, unload_erasure, verify_erasure

    stock = StableDiffusionPipeline.from_pretrained(BASE)
    load_erasure(stock, UNET, name="church")
    same(verify_erasure(stock).state.value, "verified")
    draws(stock, facts["pictures"]["unet"])
    unload_erasure(stock, "church")
    draws(stock, facts["pictures"]["base"])
    load_erasure(stock, COLLECTION, subfolder="churches/text", revision="main")
    draws(stock, facts["pictures"]["text"])


@CHECKS.add
def erased_pipeline_from_an_artifact_that_names_its_base(facts: Facts) -> None:
    """One id is enough: the manifest says which base, and at which commit."""
    from diffusers_erasure import ErasedStableDiffusionPipeline

    for source, drawn in ((UNET, "unet"), (TEXT, "text")):
        pipe = ErasedStableDiffusionPipeline.from_pretrained(source)
        same(pipe.verify_erasure().state.value, "verified")
        draws(pipe, facts["pictures"][drawn])
    pipe = ErasedStableDiffusionPipeline.from_pretrained(COLLECTION, erasure_subfolder="churches/text")
    draws(pipe, facts["pictures"]["text"])


@CHECKS.add
def erased_pipeline_from_base_and_erasures(facts: Facts) -> None:
    """`erasure=` with one id, with its revision, and with two ids."""
    from diffusers_erasure import ErasedStableDiffusionPipeline

    pipe = ErasedStableDiffusionPipeline.from_pretrained(BASE, erasure=UNET)
    draws(pipe, facts["pictures"]["unet"])
    pipe = ErasedStableDiffusionPipeline.from_pretrained(BASE, erasure=UNET, erasure_revision="v1")
    draws(pipe, facts["pictures"]["unet v1"])
    pipe = ErasedStableDiffusionPipeline.from_pretrained(BASE, erasure=[TEXT, UNET])
    draws(pipe, facts["pictures"]["both"])


@CHECKS.add
def erased_pipeline_that_was_saved_whole(facts: Facts) -> None:
    """The plugin compares a baked pipeline with what was saved."""
    from diffusers_erasure import ErasedStableDiffusionPipeline

    for revision, drawn in ((None, "both"), ("v1", "both v1")):
        pipe = ErasedStableDiffusionPipeline.from_pretrained(PIPELINE, revision=revision)
        same(len(pipe.erasures), 2)
        same(pipe.verify_erasure().state.value, "verified")
        draws(pipe, facts["pictures"][drawn])


@CHECKS.add
def robust_encoder_whole_and_from_an_artifact(facts: Facts) -> None:
    """A repository with the encoder, one with the edit to it, and the encoder of a pipeline."""
    from diffusers import StableDiffusionPipeline

    from diffusers_erasure import RobustEncoder

    sources: list[tuple[str, dict[str, Any]]] = [
        (ENCODER, {}),
        (TEXT, {}),
        (PIPELINE, {"subfolder": "text_encoder"}),
    ]
    for source, options in sources:
        robust = RobustEncoder.from_pretrained(source, **options)
        same((robust.erasure.verified, robust.erasure.concepts), (True, ("church",)))
        draws(StableDiffusionPipeline.from_pretrained(BASE, text_encoder=robust), facts["pictures"]["text"])


@CHECKS.add
def foreign_encoder_without_a_manifest(facts: Facts) -> None:
    """The layout of AdvUnlearn's repository: refused, then taken when that is asked for."""
    import warnings

    from diffusers_erasure import RobustEncoder
    from diffusers_erasure.errors import UnverifiedArtifactError

    refused(
        UnverifiedArtifactError, lambda: RobustEncoder.from_pretrained(**FOREIGN), "allow_unverified=True"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        robust = RobustEncoder.from_pretrained(**FOREIGN, allow_unverified=True)
    same(any("loaded unverified" in str(warning.message) for warning in told), True)
    same(robust.erasure.verified, False)


@CHECKS.add
def foreign_encoder_imported_by_the_command(facts: Facts) -> None:
    """`import` with two Hub ids makes an artifact that says where it came from, to the commit."""
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.cli.main import main

    folder = Path(facts["folder"], "imported")
    arguments = ["--pretrained_model_name_or_path", BASE, "--output_dir", str(folder), "--concept", "church"]
    same(main(["import", "foreign/advunlearn", "--subfolder", "church_unlearned", *arguments]), 0)
    settings = load_artifact(folder).manifest.settings
    same(settings["imported_commit"].value, facts["commits"]["foreign"])
    same(main(["verify", str(folder), "--base", BASE]), 0)


@CHECKS.add
def commands_take_ids(facts: Facts) -> None:
    """`verify` and `inspect` of a repository."""
    from diffusers_erasure.cli.main import main

    same(main(["verify", UNET, "--revision", "v1", "--base", BASE]), 0)
    same(main(["verify", COLLECTION, "--subfolder", "churches/text"]), 0)
    same(main(["inspect", UNET]), 0)


@CHECKS.add
def what_is_not_there_is_named(facts: Facts) -> None:
    """Repository, revision, subfolder, and a repository of something else: one error, what to do."""
    from diffusers_erasure import ErasedStableDiffusionPipeline, RobustEncoder
    from diffusers_erasure.artifacts import load_artifact
    from diffusers_erasure.errors import ArtifactNotFoundError

    loaders = (load_artifact, ErasedStableDiffusionPipeline.from_pretrained, RobustEncoder.from_pretrained)
    for load in loaders:
        refused(ArtifactNotFoundError, partial(load, "stranger/nothing"), "stranger/nothing", "spelling")
        refused(ArtifactNotFoundError, partial(load, TEXT, revision="v9"), TEXT, "'v9'", "revision=")
        refused(ArtifactNotFoundError, partial(load, "stranger/only-a-card"), "stranger/only-a-card")
    refused(
        ArtifactNotFoundError, lambda: load_artifact(COLLECTION, subfolder="dogs"), "dogs/erasure_config.json"
    )
    lonely = {"erasure": UNET, "erasure_revision": "v9"}
    refused(ArtifactNotFoundError, lambda: loaders[1](BASE, **lonely), UNET, "'v9'")


if __name__ == "__main__":
    CHECKS.run()
