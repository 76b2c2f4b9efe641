"""What a stranger finds on the Hub of these tests: repositories made from the tiny pipeline, and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from diffusers_erasure.artifacts import Artifact, BaseModelRef, DeltaEdit, build_artifact, save_artifact
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.hub_server.clients.harness import picture
from tests.hub_server.clients.reading import BASE, COLLECTION, ENCODER, PIPELINE, TEXT, UNET
from tests.hub_server.repositories import Repositories
from tests.unit.encoders.published import publish

CARD = "---\nlibrary_name: diffusers\ntags:\n- concept-erasure\n---\n# An encoder without churches\n"


def edit_of(
    pipe: Any, part: str, where: str, *, base: BaseModelRef, seed: int = 0, size: float = 0.3
) -> Artifact:
    """An erasure of "church" with random changes of the weights whose name holds `where`."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        key: size * torch.randn(value.shape, generator=generator)
        for key, value in getattr(pipe, part).state_dict().items()
        if where in key
    }
    return build_artifact(
        pipe,
        {part: DeltaEdit(deltas)},
        method="uce" if part == "unet" else "advunlearn",
        method_version="1",
        settings={},
        concepts=resolve_concepts(["church"]),
        base=base,
        seed=seed,
        steps=0,
        canary_prompts=["a church"],
    )


class World:
    """Builds the repositories, and remembers what a client has to find in them.

    Attributes:
        facts: Commits, digests and files of pictures by name; what clients are told.
    """

    def __init__(self, repositories: Repositories, pipe: Any, pipe_folder: Path, scratch: Path) -> None:
        self.repositories, self.pipe = repositories, pipe
        self.pipe_folder, self.scratch = pipe_folder, scratch
        self.facts: dict[str, dict[str, str]] = {"commits": {}, "digests": {}, "pictures": {}}

    def build(self) -> dict[str, Any]:
        """Make everything; returns the facts."""
        commit = self.repositories.commit_folder(BASE, self.pipe_folder)
        base = BaseModelRef(id=BASE, revision=commit)
        self._draw("base", None)
        first = self._artifact("unet v1", edit_of(self.pipe, "unet", "attn2.to_v", base=base, size=1.0))
        again = self._artifact("unet", edit_of(self.pipe, "unet", "attn2.to_v", base=base, size=1.0, seed=1))
        text = self._artifact("text", edit_of(self.pipe, "text_encoder", "mlp.fc2.weight", base=base))
        self.facts["commits"]["unet v1"] = self.repositories.commit_folder(UNET, first)
        self.repositories.tag(UNET, "v1")
        self.facts["commits"]["unet"] = self.repositories.commit_folder(UNET, again)
        self.repositories.commit_folder(TEXT, text)
        self.repositories.commit_folder(COLLECTION, text, inside="churches/text")
        self._whole(text, again)
        self._foreign()
        self.repositories.commit("stranger/only-a-card", {"README.md": b"# Nothing else\n"})
        return self.facts

    def _artifact(self, name: str, artifact: Artifact) -> Path:
        folder = save_artifact(artifact, self.scratch / name)
        self.facts["digests"][name] = artifact.digest
        self._draw(name, folder)
        return folder

    def _draw(self, name: str, erasure: Any) -> ErasedStableDiffusionPipeline:
        pipe = ErasedStableDiffusionPipeline.from_pretrained(
            self.pipe_folder, erasure=erasure, require_erasure=erasure is not None
        )
        path = self.scratch / f"{name}.picture"
        save_file({"picture": picture(pipe)}, path)
        self.facts["pictures"][name] = str(path)
        return pipe

    def _whole(self, text: Path, unet: Path) -> None:
        """A pipeline that was saved erased, and its encoder alone."""
        self._draw("both", [text, unet]).save_pretrained(self.scratch / "pipeline")
        self.repositories.commit_folder(PIPELINE, self.scratch / "pipeline")
        self.repositories.tag(PIPELINE, "v1")
        robust = RobustEncoder.from_pretrained(text, base=self.pipe.text_encoder)
        robust.save_pretrained(self.scratch / "encoder")
        (self.scratch / "encoder" / "README.md").write_text(CARD)
        self.repositories.commit_folder(ENCODER, self.scratch / "encoder")

    def _foreign(self) -> None:
        folder = publish(self.pipe.text_encoder, self.scratch / "foreign" / "church_unlearned")
        commit = self.repositories.commit_folder("foreign/advunlearn", folder.parent)
        self.facts["commits"]["foreign"] = commit
