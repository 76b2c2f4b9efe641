"""What a hostile Hub does, to which file, and how a client meets it: data for proxy, client and test."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRUE_OWNER = "stranger"


@dataclass(frozen=True)
class Case:
    """One fault in one file, met through one call.

    Attributes:
        name: Of the case, and owner in the address that the client asks for.
        fault: What happens; see `hostile`.
        repo: Repository of the stranger.
        load: How the client loads it; see `clients.hostile`.
        file: Path of the file that is hit; empty where the whole repository is.
        times: How often it happens; None for always.
        word: Text whose first letter is flipped, where the file holds it; else the byte at `WHERE`.
    """

    name: str
    fault: str
    repo: str
    load: str
    file: str = ""
    times: int | None = None
    word: bytes = b""

    @property
    def source(self) -> str:
        """The id that the client asks for."""
        return f"{self.name}/{self.repo}"


WHERE = 0.6
"""Where a file is flipped or cut, as a part of its length."""
REPOS = {
    "artifact": "church-unet",
    "encoder": "church-encoder",
    "pipeline": "church-pipeline",
    "base": "tiny-sd",
    "foreign": "advunlearn",
    "signed": "church-signed",
    "named base": "tiny-sd",
    "pinned base": "tiny-sd",
}
"""By call: the repository that it loads; for those of `NAMED` the base that its manifest names."""
NAMED = ("named base", "pinned base")
"""Calls with an artifact alone, whose manifest names the base: without a revision, and at a commit."""
ERASURE = f"{TRUE_OWNER}/{REPOS['artifact']}"
"""Artifact that is put on a base."""
FOREIGN_FOLDER = "church_unlearned"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = {
    "artifact": ("erasure_config.json", "unet.safetensors", "canary.safetensors"),
    "encoder": ("config.json", "model.safetensors"),
    "pipeline": ("model_index.json", UNET_WEIGHTS),
    "base": ("model_index.json", UNET_WEIGHTS),
    "foreign": (f"{FOREIGN_FOLDER}/config.json", f"{FOREIGN_FOLDER}/pytorch_model.bin"),
    "signed": ("erasure.sig",),
    "named base": ("model_index.json", UNET_WEIGHTS),
    "pinned base": ("model_index.json", UNET_WEIGHTS),
}
"""By call: the files that decide what is erased, and by whom, which meet every fault."""
ERASED = ("artifact", "encoder", "pipeline")
"""Calls whose first file says what is erased."""
FILE_FAULTS = ("flip", "zeros", "cut", "short", "wrong length", "missing", "gone midway")
FLIPPED_TOO = (
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "scheduler/scheduler_config.json",
    "tokenizer/tokenizer.json",
    "unet/config.json",
    "vae/diffusion_pytorch_model.safetensors",
)
"""Files of a pipeline that erasing does not change, and that a picture depends on."""
ALSO_FLIPPED = {
    "pipeline": FLIPPED_TOO,
    "base": FLIPPED_TOO,
    "named base": FLIPPED_TOO[::2],
    "pinned base": FLIPPED_TOO[1::2],
}
"""By call: which of them are flipped."""
OF_CODE = (f"{TRUE_OWNER}/pipeline-of-code", f"{TRUE_OWNER}/component-of-code")
"""Pipelines whose index names a class of the repository's own."""
NO_BASES = (
    "../x",
    "/etc",
    "~nobody-here/x",
    "diffusers_erasure/embedded/model",
    "https://huggingface.co/stranger/tiny-sd",
    "file:///etc",
    "embedded/../model",
    ERASURE,
)
"""What the manifest of a hostile person names in place of a base."""
ESCAPE = "../../../escaped"
"""Out of the cache, from where a cached repository has its references and its contents."""
ESCAPES = {
    "revision": Case("escape-revision", "escape revision", REPOS["base"], "named base"),
    "etag": Case("escape-etag", "escape etag", REPOS["artifact"], "artifact"),
}
"""By what the client takes for a file's name: the case that leads it out of the cache."""
WORD = b"church"
"""Stands in every file that says what is erased: flipped there, the text stays well formed."""


def naming(load: str, base: str) -> str:
    """Repository of the artifact whose manifest names a base, for one of the calls of `NAMED`."""
    return f"{_slug(load)}/{_slug(base).strip('-')}"


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text)


def _case(fault: str, load: str, file: str = "", *, times: int | None = None, word: bytes = b"") -> Case:
    told = [fault, load, file, {1: "once", 2: "twice"}.get(times or 0, ""), "word" if word else ""]
    name = "-".join(_slug(part) for part in told if part)
    return Case(name, fault, REPOS[load], load, file, times, word)


def all_cases() -> dict[str, Case]:
    """Every case by its name."""
    cases = [
        _case(fault, load, file) for load, files in FILES.items() for file in files for fault in FILE_FAULTS
    ]
    cases += [_case("flip", load, file, times=1) for load, files in FILES.items() for file in files]
    cases += [_case("flip", load, FILES[load][0], word=WORD) for load in ERASED]
    cases += [_case("flip", load, file) for load, files in ALSO_FLIPPED.items() for file in files]
    cases += [
        _case("moving", load, times=times) for load in FILES if load != "pinned base" for times in (1, 2)
    ]
    cases += [_case(fault, load) for fault in ("gated", "broken") for load in FILES]
    return {case.name: case for case in cases}
