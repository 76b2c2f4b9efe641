"""What a stranger finds on the Hub of these tests: repositories made from the tiny pipeline."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file

from diffusers_erasure.artifacts import Artifact, BaseModelRef, DeltaEdit, build_artifact, save_artifact
from diffusers_erasure.artifacts.keys import new_key, read_private_key
from diffusers_erasure.artifacts.manifest import MANIFEST_NAME, parse_manifest, render_manifest
from diffusers_erasure.artifacts.signing import sign_artifact
from diffusers_erasure.concepts import resolve_concepts
from diffusers_erasure.encoders import RobustEncoder
from diffusers_erasure.pipelines import ErasedStableDiffusionPipeline
from tests.hub_server.cases import (
    ESCAPE,
    ESCAPES,
    FOREIGN_FOLDER,
    NAMED,
    NO_BASES,
    OF_CODE,
    REPOS,
    TRUE_OWNER,
    all_cases,
    naming,
)
from tests.hub_server.clients.harness import picture
from tests.hub_server.clients.reading import BASE, COLLECTION, ENCODER, PIPELINE, TEXT, UNET
from tests.hub_server.repositories import Repositories
from tests.unit.encoders.published import publish, retrained

ADVUNLEARN, SIGNED = (f"{TRUE_OWNER}/{REPOS[load]}" for load in ("foreign", "signed"))

CARD = "---\nlibrary_name: diffusers\ntags:\n- concept-erasure\n---\n# An encoder without churches\n"
HOSTILE_CODE = b"""
import os
import pathlib

pathlib.Path(os.environ["HF_HOME"], "ran").touch()


class Hostile:
    pass
"""


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
        facts: Commits, digests, and files of pictures and keys, by name; what clients are told.
    """

    def __init__(self, repositories: Repositories, pipe: Any, pipe_folder: Path, scratch: Path) -> None:
        self.repositories, self.pipe = repositories, pipe
        self.pipe_folder, self.scratch = pipe_folder, scratch
        self.facts: dict[str, dict[str, str]] = {"commits": {}, "digests": {}, "pictures": {}}

    def build(self) -> dict[str, Any]:
        """Make everything; returns the facts."""
        commit = self._base()
        base = BaseModelRef(id=BASE, revision=commit)
        self._draw("base", None)
        unet = [edit_of(self.pipe, "unet", "attn2.to_v", base=base, size=1.0, seed=seed) for seed in (0, 1)]
        text = [edit_of(self.pipe, "text_encoder", "fc2.weight", base=base, seed=seed) for seed in (0, 1)]
        old = self._artifact("unet v1", unet[0]), self._artifact("text v1", text[0])
        new = self._artifact("unet", unet[1]), self._artifact("text", text[1])
        self.facts["commits"]["unet v1"] = self._publish(UNET, old[0], tag="v1")
        self.facts["commits"]["unet"] = self._publish(UNET, new[0])
        self._publish(TEXT, new[1])
        self.repositories.commit_folder(COLLECTION, new[1], inside="churches/text")
        for name, (edited, encoder) in {"both v1": old, "both": new}.items():
            self._whole(name, [encoder, edited], tag="v1" if name.endswith("v1") else None)
        self._sign(old[0], new[0])
        self._foreign()
        self._code()
        self._name_bases(new[0])
        self.repositories.commit("stranger/only-a-card", {"README.md": b"# Nothing else\n"})
        return self.facts

    def _publish(self, repo: str, folder: Path, *, tag: str | None = None) -> str:
        commit = self.repositories.commit_folder(repo, folder)
        if tag is not None:
            self.repositories.tag(repo, tag)
        return commit

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

    def _whole(self, name: str, erasures: list[Path], *, tag: str | None) -> None:
        """A pipeline that was saved erased, and its encoder alone."""
        pipeline, encoder = self.scratch / f"{name} pipeline", self.scratch / f"{name} encoder"
        self._draw(name, erasures).save_pretrained(pipeline)
        self._publish(PIPELINE, pipeline, tag=tag)
        RobustEncoder.from_pretrained(erasures[0], base=self.pipe.text_encoder).save_pretrained(encoder)
        (encoder / "README.md").write_text(CARD)
        self._publish(ENCODER, encoder, tag=tag)

    def _sign(self, old: Path, new: Path) -> None:
        """The artifact under another id, signed."""
        private, public = new_key(self.scratch / "signer.pem")
        self.facts["keys"] = {"signer": str(public)}
        for folder, tag in ((old, "v1"), (new, None)):
            signed = shutil.copytree(folder, self.scratch / f"{folder.name} signed")
            sign_artifact(signed, read_private_key(private))
            self._publish(SIGNED, signed, tag=tag)

    def _name_bases(self, folder: Path) -> None:
        """The artifact once for each base that is harmed on its way, and for what a hostile person names."""
        manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes(), origin=str(folder))
        files = {name: (folder / name).read_bytes() for name in manifest.files}

        def publish(load: str, base: str, revision: str | None) -> None:
            named = manifest.model_copy(update={"base": BaseModelRef(id=base, revision=revision)})
            self.repositories.commit(naming(load, base), {**files, MANIFEST_NAME: render_manifest(named)})

        for load in NAMED:
            publish(load, BASE, "v1" if load == "named base" else self.repositories.head(BASE, "v1"))
            self.repositories.tag(naming(load, BASE), "v1")
            harmed = [case.source for case in all_cases().values() if case.load == load]
            for base in (BASE, f"{BASE}-and-code", *harmed):
                true = f"{TRUE_OWNER}/{base.partition('/')[2]}"
                publish(load, base, None if load == "named base" else self.repositories.head(true, "main"))
        for base in (*OF_CODE, *NO_BASES):
            publish("named base", base, None)
        publish("named base", ESCAPES["revision"].source, ESCAPE)

    def _code(self) -> None:
        """The same repositories with program code in them, and one whose index names it."""
        places = ("", "unet/", "text_encoder/")
        names = ("pipeline.py", "diffusers_erasure.py", "modeling.py", "__init__.py")
        code = {place + name: HOSTILE_CODE for place in places for name in names}
        for repo in (UNET, SIGNED, ENCODER, ADVUNLEARN, BASE, PIPELINE):
            held = {name: self.repositories.read(repo, name) for name in self.repositories.names(repo)}
            self.repositories.commit(f"{repo}-and-code", {**held, **code})
        for what, key, value in (
            ("pipeline", "_class_name", ["pipeline", "Hostile"]),
            ("component", "text_encoder", ["modeling", "Hostile"]),
        ):
            index = {**json.loads(held["model_index.json"]), key: value}
            named = {**held, **code, "model_index.json": json.dumps(index).encode()}
            self.repositories.commit(f"stranger/{what}-of-code", named)

    def _base(self) -> str:
        """The base, and a commit before it, with another VAE, under the tag."""
        name = "vae/diffusion_pytorch_model.safetensors"
        other = {key: 0.5 * value for key, value in self.pipe.vae.state_dict().items()}
        self.repositories.commit_folder(BASE, self.pipe_folder)
        self.repositories.commit(BASE, {name: save(other)})
        self.repositories.tag(BASE, "v1")
        return self.repositories.commit(BASE, {name: (self.pipe_folder / name).read_bytes()})

    def _foreign(self) -> None:
        for seed in (0, 1):
            change = partial(retrained, seed=seed)
            folder = publish(
                self.pipe.text_encoder, self.scratch / f"foreign {seed}" / FOREIGN_FOLDER, change
            )
            self._publish(ADVUNLEARN, folder.parent, tag="v1" if seed == 0 else None)
        commit = self.repositories.commit_folder("foreign/advunlearn", folder.parent)
        self.facts["commits"]["foreign"] = commit
