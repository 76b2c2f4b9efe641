"""What a stranger may name must not become a path outside of the cache."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from diffusers_erasure.artifacts import hub
from diffusers_erasure.artifacts.hub import HubSource
from diffusers_erasure.errors import ArtifactIntegrityError, ConfigError


@pytest.mark.parametrize(
    "revision", ["../../../x", "a/../b", "/etc/x", "a//b", ".hidden", "a b", "x~1", "a:b", "c\\d", "", "a/"]
)
def test_a_revision_that_leads_out_of_the_cache_is_refused(revision: str) -> None:
    with pytest.raises(ConfigError, match="which cannot be one"):
        HubSource("org/name", revision=revision)


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "refs/pr/1", "feature/x", "0" * 40])
def test_branches_tags_and_commits_are_revisions(revision: str | None) -> None:
    assert HubSource("org/name", revision=revision).revision == revision


@pytest.mark.parametrize(
    ("header", "value", "fine"),
    [
        ("etag", '"0123abcd"', True),
        ("etag", 'W/"0123abcd"', True),
        ("x-linked-etag", "../../../../x", False),
        ("etag", '"a\\b"', False),
        ("x-repo-commit", "../x", False),
    ],
)
def test_an_answer_that_names_a_file_outside_of_the_cache_is_refused(
    header: str, value: str, fine: bool
) -> None:
    def answer(address: str) -> Any:
        return SimpleNamespace(request=SimpleNamespace(url=address), headers={header: value})

    hub._refuse_paths(answer("https://huggingface.co/api/models/org/name"))
    asked = answer("https://huggingface.co/org/name/resolve/main/config.json")
    if fine:
        hub._refuse_paths(asked)
    else:
        with pytest.raises(ArtifactIntegrityError, match=header):
            hub._refuse_paths(asked)
