"""Methods are told by the names of their papers."""

from __future__ import annotations

import pytest

from diffusers_erasure.artifacts.method_names import told


@pytest.mark.parametrize(
    ("method", "name"),
    [("advunlearn", "AdvUnlearn"), ("trce+esd", "TRCE + ESD"), ("my_method", "my_method")],
)
def test_a_method_is_told_as_its_paper_calls_it(method: str, name: str) -> None:
    assert told(method) == name
