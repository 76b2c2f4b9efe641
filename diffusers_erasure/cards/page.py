"""A card as one page for a browser: its Markdown as HTML, its pictures inside of the page.

The page asks nobody for anything: no scripts, no styles or fonts from elsewhere, pictures as data. The
metadata at the head of the card is a table of its own. HTML in a card is shown as text, never read.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from .markdown import one_line

MAX_PICTURE_BYTES = 64 * 2**20
_STYLE = """
:root { color-scheme: light dark; --line: #d5d9df; --soft: #f5f6f8; --ink: #1d2229; --dim: #5c6570;
  --link: #0a58b5; --page: #fff; }
@media (prefers-color-scheme: dark) { :root { --line: #3a414b; --soft: #20252c; --ink: #e6e9ed;
  --dim: #9aa4b0; --link: #7ab4ff; --page: #15191e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.6 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.25; margin: 1.2rem 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 .8rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1.08rem; margin: 1.8rem 0 .6rem; }
p, li { overflow-wrap: anywhere; }
a { color: var(--link); }
.table { overflow-x: auto; margin: 1rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; line-height: 1.45; }
th, td { padding: .42rem .7rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--soft); font-weight: 600; }
thead:not(:has(th:not(:empty))) { display: none; }
thead:not(:has(th:not(:empty))) + tbody tr:first-child td { border-top: 0; }
td[style*="right"], th[style*="right"] { font-variant-numeric: tabular-nums; }
td[style*="right"] { white-space: nowrap; }
p, ul { max-width: 54rem; }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; background: var(--soft); padding: .1em .3em;
  border-radius: 4px; overflow-wrap: anywhere; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto; }
pre code { background: none; padding: 0; overflow-wrap: normal; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0 .3rem; border: 1px solid var(--line);
  border-radius: 6px; background: #fff; }
td code { overflow-wrap: break-word; }
details { color: var(--dim); font-size: .9rem; }
details .table td:first-child { white-space: nowrap; font-weight: 600; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{head}
{body}
</main>
</body>
</html>
"""


def card_page(card: str, folder: Path | None = None) -> str:
    """The card as a page that needs no other file.

    Args:
        card: Text of a card.
        folder: Where its pictures lie; those that do not are named in place of being shown.
    """
    read = ModelCard(card)
    metadata = read.data.to_dict()  # type: ignore[no-untyped-call]
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(read.text)
    _wrap_tables(tokens)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                _inline_picture(child, folder)
    body = reader.renderer.render(tokens, reader.options, {})
    title = next((t.content for a, t in itertools.pairwise(tokens) if a.tag == "h1"), "Model card")
    return _PAGE.format(title=html.escape(title), style=_STYLE, head=_metadata_table(metadata), body=body)


def _wrap_tables(tokens: list[Token]) -> None:
    """Put every table into a box of its own, so that a wide one scrolls and the page does not."""
    for index in reversed(range(len(tokens))):
        if tokens[index].type == "table_close":
            tokens.insert(index + 1, Token("html_block", "", 0, content="</div>\n", block=True))
        elif tokens[index].type == "table_open":
            tokens.insert(index, Token("html_block", "", 0, content='<div class="table">', block=True))


def _inline_picture(token: Token, folder: Path | None) -> None:
    name = str(token.attrs.get("src", ""))
    kind = mimetypes.guess_type(name)[0] or ""
    path = None if folder is None or "/" in name or "\\" in name else folder / name
    if (
        path is None
        or not kind.startswith("image/")
        or not path.is_file()
        or path.stat().st_size > MAX_PICTURE_BYTES
    ):
        token.type, token.tag, token.children = "text", "", None
        token.content = f"(picture {name} is not here: {token.content})"
        return
    token.attrs["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _metadata_table(metadata: Any) -> str:
    """The metadata, folded away: it is for the Hub, and a reader may look."""
    if not isinstance(metadata, Mapping) or not metadata:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{_value(value)}</td></tr>"
        for name, value in metadata.items()
    )
    return (
        '<details open><summary>Metadata, as the Hub reads it</summary><div class="table"><table><tbody>'
        f"{rows}</tbody></table></div></details>"
    )


def _value(value: Any) -> str:
    if isinstance(value, str):
        return f"<code>{html.escape(one_line(value))}</code>"
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return " ".join(f"<code>{html.escape(one_line(item))}</code>" for item in value)
    results = _results(value)
    if results:
        return "<br>".join(html.escape(line) for line in results)
    return f"<code>{html.escape(json.dumps(value, default=str))}</code>"


def _results(value: Any) -> list[str]:
    """The results of a `model-index`, one line each; nothing if it is something else."""
    try:
        return [
            f"{one_line(result['dataset']['name'])}: {metric['type']} = {metric['value']}"
            for model in value
            for result in model["results"]
            for metric in result["metrics"]
        ]
    except (TypeError, KeyError):
        return []
