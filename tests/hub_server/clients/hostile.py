"""A victim's process: it loads through every case of a hostile Hub, twice, and says what came of it."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tests.hub_server.cases import (
    ERASURE,
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
from tests.hub_server.clients.harness import Checks, Facts, picture

CHECKS = Checks()


def artifact(source: str, revision: str | None = None) -> str:
    """Digest of an artifact."""
    from diffusers_erasure.artifacts import load_artifact

    return load_artifact(source, revision=revision).digest


def signed(source: str, revision: str | None = None, *, key: str) -> str:
    """Digest of an artifact that this key has to have signed."""
    from diffusers_erasure.artifacts import load_artifact

    return load_artifact(source, revision=revision, trusted_key=key).digest


def encoder(source: str, revision: str | None = None) -> str:
    """Weights and erasure of a robust encoder."""
    from diffusers_erasure import RobustEncoder
    from diffusers_erasure.artifacts.fingerprint import fingerprint

    robust = RobustEncoder.from_pretrained(source, revision=revision)
    return f"{fingerprint(robust)} {robust.erasure.concepts} {robust.erasure.verified}"


def pipeline(source: str, revision: str | None = None) -> str:
    """What a pipeline that was saved erased draws, and what it says of itself."""
    return _drawn(source, revision=revision)


def base(source: str, revision: str | None = None) -> str:
    """What a base draws under an artifact that comes whole."""
    return _drawn(source, revision=revision, erasure=ERASURE)


def foreign(source: str, revision: str | None = None) -> str:
    """Weights of an encoder in AdvUnlearn's layout, which carries nothing to verify it with."""
    from diffusers_erasure import RobustEncoder
    from diffusers_erasure.artifacts.fingerprint import fingerprint

    options = {"subfolder": FOREIGN_FOLDER, "allow_unverified": True}
    return fingerprint(RobustEncoder.from_pretrained(source, revision=revision, **options))


def _drawn(source: str, **options: str | None) -> str:
    from diffusers_erasure import ErasedStableDiffusionPipeline

    pipe = ErasedStableDiffusionPipeline.from_pretrained(source, **options)
    return f"{_digest(pipe)} {[(e.name, e.digest) for e in pipe.erasures]}"


def _named(load: str, source: str, revision: str | None = None) -> str:
    """What an artifact alone draws, on the base that its manifest names."""
    from diffusers_erasure import ErasedStableDiffusionPipeline

    pipe = ErasedStableDiffusionPipeline.from_pretrained(naming(load, source), revision=revision)
    return f"{_digest(pipe)} {pipe.verify_erasure().state.value} {[e.name for e in pipe.erasures]}"


def _digest(pipe: Any) -> str:
    return hashlib.sha256(picture(pipe, steps=1).numpy().tobytes()).hexdigest()


def loads(facts: Facts) -> Mapping[str, Callable[..., str]]:
    """Each call by its name; takes an id and, if it is not `main`, a revision."""
    return {
        "artifact": artifact,
        "encoder": encoder,
        "pipeline": pipeline,
        "base": base,
        "foreign": foreign,
        "signed": partial(signed, key=facts["keys"]["signer"]),
        **{load: partial(_named, load) for load in NAMED},
    }


def outcome(load: Callable[..., str], source: str) -> dict[str, Any]:
    """`result` of a load, or `error`, the names of the classes of its error, with its `message`."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            result = {"result": load(source)}
        except Exception as error:  # noqa: BLE001 - which one it is, the test judges
            kinds = [kind.__name__ for kind in type(error).__mro__]
            return {"error": kinds, "message": str(error)}
    return {**result, "warnings": [str(warning.message) for warning in told]}


def _check(name: str) -> Callable[[Facts], object]:
    case = all_cases()[name]

    def meet(facts: Facts) -> list[dict[str, Any]]:
        return [outcome(loads(facts)[case.load], case.source) for _ in range(2 if case.times else 1)]

    return meet


@CHECKS.add
def healthy(facts: Facts) -> dict[str, list[str]]:
    """What the same calls give when nothing is wrong: of `main`, and of the tag that it was moved on from."""
    return {
        load: [loads(facts)[load](f"{TRUE_OWNER}/{repo}", revision) for revision in ("main", "v1")]
        for load, repo in REPOS.items()
    }


@CHECKS.add
def code_beside_the_weights(facts: Facts) -> dict[str, Any]:
    """Repositories that hold Python files: what they give, and whether any of it ran."""
    calls = loads(facts)
    outcomes = {load: outcome(calls[load], f"{TRUE_OWNER}/{repo}-and-code") for load, repo in REPOS.items()}
    for source in OF_CODE:
        for load in ("pipeline", "base", "named base"):
            outcomes[f"{source}, {load}"] = outcome(calls[load], source)
    return {"outcomes": outcomes, "ran": Path(os.environ["HF_HOME"], "ran").exists()}


@CHECKS.add
def manifests_that_name_no_base(facts: Facts) -> dict[str, dict[str, Any]]:
    """Artifacts of a hostile person, each loaded alone, by what its manifest names."""
    return {base: outcome(loads(facts)["named base"], base) for base in NO_BASES}


@CHECKS.add
def names_that_leave_the_cache(facts: Facts) -> dict[str, Any]:
    """What the client makes a path of, by what it is; and whether there is a file at the path's end."""
    outcomes = {what: outcome(loads(facts)[case.load], case.source) for what, case in ESCAPES.items()}
    escaped = Path(ESCAPE).name
    return {
        "outcomes": outcomes,
        "written": [str(path) for path in Path(facts["folder"]).glob(f"*{escaped}*")],
    }


CHECKS.update({name: _check(name) for name in all_cases()})

if __name__ == "__main__":
    time.sleep = lambda seconds: None  # the pauses of the Hub's client between its tries
    CHECKS.run()
