"""An artifact in memory, and how one is made from a base pipeline and edits."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

import safetensors.torch
from pydantic import ValidationError
from torch import Tensor

from diffusers_erasure.errors import ConfigError

from . import canary as canaries
from .compatibility import behaviour, check_fits, check_not_fused
from .copying import edited_copy
from .edits import DeltaEdit, Edit, RightFactorEdit, WholeEdit, apply_edit, check_values
from .fingerprint import ROUNDED_TYPES, leaves, root, rounded
from .manifest import (
    CANARY_NAME,
    BaseModelRef,
    Canary,
    ComponentSpec,
    ConceptLike,
    ConceptRecord,
    Manifest,
    SettingRecord,
    TensorSpec,
)
from .tensors import SAFETENSORS_TYPES, canonical_name, component_tensors, unwrapped

LIBRARIES = ("diffusers-erasure", "torch", "diffusers", "transformers", "safetensors")


@dataclass(frozen=True, eq=False)
class Artifact:
    """A manifest, the edits that it describes, and the canary's tensors.

    Attributes:
        manifest: What the artifact says of itself.
        edits: Edit per component.
        canary: `<component>.<input>`, `<component>.base` and `<component>.erased`.
        origin: Where it was read from, for messages.
        commit: Commit of the Hub that it was read from.
        documents: Files that its method hands along, by name; saving writes them beside the artifact. They
            are attachments: loading an artifact does not read them, its digest does not depend on them.
    """

    manifest: Manifest
    edits: Mapping[str, Edit]
    canary: Mapping[str, Tensor]
    origin: str = "this artifact"
    commit: str | None = None
    documents: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def digest(self) -> str:
        """sha256 of the canonical manifest: the name of exactly this erasure."""
        return self.manifest.digest

    def __deepcopy__(self, memo: dict[int, Any]) -> "Artifact":
        return self

    def spec(self, component: str) -> ComponentSpec:
        """The manifest's entry of one component."""
        return {str(name): spec for name, spec in self.manifest.components.items()}[component]

    def span(self, component: str) -> float:
        """Distance between the erased and the base answer to the canary prompts."""
        return {str(name): value for name, value in self.manifest.canary.distances.items()}[component]

    def asked(self, component: str) -> dict[str, Tensor]:
        """Inputs of the canary for one component."""
        start = f"{component}."
        named = {
            name.removeprefix(start): value for name, value in self.canary.items() if name.startswith(start)
        }
        return {name: value for name, value in named.items() if name not in ("base", "erased")}

    def with_documents(self, documents: Mapping[str, bytes]) -> "Artifact":
        """The same erasure with files to be saved beside it, which its manifest notes as attachments.

        Raises:
            ConfigError: A name is not that of a plain file, or belongs to the artifact itself.
        """
        noted = {name: sha256(content).hexdigest() for name, content in documents.items()}
        attachments = {**self.manifest.attachments, **noted}
        content = {**self.manifest.model_dump(), "attachments": attachments}
        try:
            manifest = Manifest.model_validate(content)
        except ValidationError as error:
            raise ConfigError(
                f"the documents {', '.join(map(repr, documents))} cannot be put beside an artifact "
                f"({error.errors()[0]['msg']}); expected plain names of files that are not part of it; "
                f"choose other names"
            ) from error
        return replace(self, manifest=manifest, documents={**self.documents, **documents})

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Push this artifact with a rendered card, in one commit; returns the commit's address.

        Args:
            repo_id: "organisation/name"; made if it does not exist.
            options: See `push_plan.PushOptions`: `private`, `gated`, `revision`, `tag`, `commit_message`,
                `create_pr`, `subfolder`, `token`, ... A saved folder, with its documents and signature, is
                pushed by `publishing.push_artifact` or `diffusers-erasure push`.
        """
        # Pushing reads and saves artifacts, so it lies above them: found by name, as the cards are.
        publishing = import_module(f"{__package__}.publishing")
        address: str = publishing.push_artifact(self, repo_id, **options)
        return address

    def file_bytes(self) -> dict[str, bytes]:
        """The content of every safetensors file of the artifact, by name."""
        contents = {self.spec(name).file: _pack(edit.tensors) for name, edit in self.edits.items()}
        return {**contents, self.manifest.canary.file: _pack(self.canary)}


def build_artifact(  # noqa: PLR0913 (each is a line of the manifest)
    pipe: Any,
    edits: Mapping[str, Edit],
    *,
    method: str,
    method_version: str,
    settings: Mapping[str, SettingRecord],
    concepts: Iterable[ConceptLike],
    base: BaseModelRef,
    seed: int,
    steps: int,
    canary_prompts: Sequence[str],
    commit: str = "",
    tolerance: float = 0.05,
) -> Artifact:
    """Describe edits of a base pipeline completely: fingerprints before and after, hashes, and the canary.

    Args:
        pipe: The base pipeline that the edits were made for; not changed.
        edits: Edit per component; the dtype of its tensors is the one that is stored.
        method: Name of the erasure method.
        method_version: Version of the method.
        settings: Every setting with its meaning.
        concepts: What was erased.
        base: Id and commit of the base model.
        seed: Seed of the run.
        steps: Optimisation steps; 0 for a closed form.
        canary_prompts: A few prompts on which erased and base should differ.
        commit: Commit of the code that trained it.
        tolerance: Share of the erased-to-base distance within which an answer still counts as the erased one.
    """
    specs: dict[Any, ComponentSpec] = {}
    stored: dict[str, Edit] = {}
    probes, distances = dict[str, Tensor](), dict[Any, float]()
    for component, edit in edits.items():
        stored[component] = _stored_form(edit, f"the {method} edit of {component}")
        specs[component], probes_here = _describe(pipe, component, stored[component], method, canary_prompts)
        probes |= {f"{component}.{name}": value for name, value in probes_here.items()}
        distances[component] = canaries.distance(probes_here["base"], probes_here["erased"])
    canary = Canary(
        prompts=tuple(canary_prompts), tolerance=tolerance, distances=distances, tensors=tensor_table(probes)
    )
    contents = {specs[name].file: _pack(edit.tensors) for name, edit in stored.items()}
    contents[CANARY_NAME] = _pack(probes)
    manifest = Manifest(
        method=method,
        method_version=method_version,
        settings=dict(settings),
        concepts=tuple(ConceptRecord.of(concept) for concept in concepts),
        base=base,
        components=specs,
        files={name: sha256(content).hexdigest() for name, content in contents.items()},
        canary=canary,
        versions=library_versions(),
        commit=commit,
        seed=seed,
        steps=steps,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Artifact(manifest=manifest, edits=stored, canary=probes)


def tensor_table(tensors: Mapping[str, Tensor]) -> tuple[TensorSpec, ...]:
    """Name, shape and dtype of each tensor, sorted by name."""
    return tuple(
        TensorSpec(name=name, shape=tuple(tensor.shape), dtype=SAFETENSORS_TYPES[tensor.dtype])
        for name, tensor in sorted(tensors.items())
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries whose arithmetic the weights come from."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _describe(
    pipe: Any, component: str, edit: Edit, method: str, prompts: Sequence[str]
) -> tuple[ComponentSpec, dict[str, Tensor]]:
    """The manifest's entry of one component, and its part of the canary."""
    module = getattr(pipe, component, None)
    if module is None or component not in ("text_encoder", "text_encoder_2", "unet"):
        raise ConfigError(
            f"the pipeline has no component {component!r} that can be erased; expected text_encoder, "
            "text_encoder_2 or unet; name one of them in the edits"
        )
    module = unwrapped(module)
    check_not_fused(component, module)
    before = component_tensors(module)
    check_fits(component, edit, before, origin=f"the {method} edit")
    changed = {name: apply_edit(before[name], [(edit, 1.0)], name=name) for name in edit.targets}
    base_leaves = leaves(before)
    base_rounded = {name: leaves(rounded(before, dtype)) for name, dtype in ROUNDED_TYPES.items()}
    erased_rounded = {
        name: root({**base_rounded[name], **leaves(rounded(changed, dtype))})
        for name, dtype in ROUNDED_TYPES.items()
    }
    asked = canaries.questions(pipe, component, prompts)
    probes = {
        **asked,
        "base": canaries.answer(component, module, asked),
        "erased": canaries.answer(component, edited_copy(module, changed), asked),
    }
    check_values({"erased": probes["erased"]}, origin=f"the answer of the erased {component}")
    spec = ComponentSpec(
        form=edit.form,
        file=f"{component}.safetensors",
        class_name=type(module).__name__,
        base_fingerprint=root(base_leaves),
        erased_fingerprint=root({**base_leaves, **leaves(changed)}),
        base_rounded=cast(Any, {name: root(found) for name, found in base_rounded.items()}),
        erased_rounded=cast(Any, erased_rounded),
        config=behaviour(module),
        tensors=tensor_table(edit.tensors),
        targets=edit.targets if isinstance(edit, RightFactorEdit) else (),
    )
    return spec, probes


def _stored_form(edit: Edit, origin: str) -> Edit:
    """The edit under canonical names, on the CPU, without deltas that change nothing; refused if broken."""
    if isinstance(edit, RightFactorEdit):
        parts = {name: _plain(tensor) for name, tensor in edit.tensors.items()}
        targets = tuple(sorted(canonical_name(name) for name in edit.targets))
        ready: Edit = RightFactorEdit(
            parts.get("factor"), targets=targets, left=parts.get("left"), right=parts.get("right")
        )
    elif isinstance(edit, DeltaEdit):
        changing = {canonical_name(k): _plain(v) for k, v in sorted(edit.deltas.items()) if bool(v.any())}
        ready = DeltaEdit(changing)
    else:
        ready = WholeEdit(
            {canonical_name(name): _plain(value) for name, value in sorted(edit.weights.items())}
        )
    check_values(ready.tensors, origin=origin, whole=isinstance(ready, WholeEdit))
    return ready


def _plain(tensor: Tensor) -> Tensor:
    if tensor.dtype not in SAFETENSORS_TYPES:
        raise ConfigError(
            f"an edit holds a tensor of dtype {tensor.dtype}; expected float64, float32, float16 or "
            "bfloat16; cast it"
        )
    return tensor.detach().to("cpu", copy=True).contiguous()


def _pack(tensors: Mapping[str, Tensor]) -> bytes:
    packed: bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return packed
