"""Reading JSON that someone else wrote: bounded before any work, and strict.

Refused: more bytes than allowed, nesting deeper than `MAX_DEPTH`, text that is not UTF-8, a key given twice,
NaN and infinities, numbers with thousands of digits.
"""

import json
import re
from typing import Any, NoReturn

from diffusers_erasure.errors import ArtifactFormatError

MAX_DEPTH = 32
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def parse_json(data: bytes, *, origin: str, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text.

    Args:
        data: The text as bytes.
        origin: File the text came from, for messages.
        max_bytes: Longest text that is looked at.
        max_depth: Deepest nesting of lists and objects.
    """
    if len(data) > max_bytes:
        _refuse(origin, f"{len(data)} bytes of JSON", f"at most {max_bytes}")
    depth = nesting(data, stop=max_depth)
    if depth > max_depth:
        _refuse(origin, f"JSON nested more than {max_depth} levels deep", f"at most {max_depth} levels")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise _fault(origin, f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text") from error
    except ValueError as error:
        raise _fault(
            origin, f"text that is not JSON ({str(error)[:200]})", "one strict JSON value"
        ) from error


def nesting(data: bytes, *, stop: int) -> int:
    """Depth of brackets outside of strings; counting ends once it passes `stop`."""
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(data):
        token = match.group()
        if token in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > stop:
                break
        elif token in (b"]", b"}"):
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} is given twice")
        result[key] = value
    return result


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _fault(origin: str, found: str, expected: str) -> ArtifactFormatError:
    return ArtifactFormatError(
        f"{origin} holds {found}; expected {expected}; download or save the artifact again"
    )


def _refuse(origin: str, found: str, expected: str) -> NoReturn:
    raise _fault(origin, found, expected)
