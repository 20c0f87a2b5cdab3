"""The frame that every report stands in: one HTML file with its style and script, that needs nothing but itself.

Text from outside is escaped by those who make the sections, and the page's Content-Security-Policy lets it load
nothing. The same content gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from tercel.report.drawing import esc

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"


def section(identity: str, title: str, body: str) -> str:
    """A part of the page under its heading."""
    heading = f'<h2 id="{identity}-title">{title}</h2>'
    return f'<section id="{identity}" aria-labelledby="{identity}-title">{heading}{body}</section>'


def document(
    *,
    kind: str,
    name: str,
    facts: Iterable[str],
    verdict: str,
    tiles: Iterable[tuple[str, str, str]],
    sections: Iterable[str],
    data: Mapping[str, Any],
    version: str,
    assets: Sequence[str] = ("page.css", "page.js"),
) -> str:
    """The page. kind: what sort of report; name: of what, as its heading, not yet escaped; facts: HTML.

    tiles: (value, what it is, tone). data: JSON for the scripts, by the id of the element that holds it. assets: style
    sheets and scripts of this package.
    """
    listed = "".join(
        f'<li class="{tone}"><b>{esc(value)}</b><span>{esc(what)}</span></li>' for value, what, tone in tiles
    )
    blocks = "".join(
        f'<script type="application/json" id="{identity}">{_json(content)}</script>'
        for identity, content in data.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{esc(name)} – Tercel</title><style>{_assets(assets, '.css')}</style></head>\n<body>"
        f'<header><p class="brand">Tercel <span>{kind}</span></p><h1>{esc(name)}</h1>'
        f'<p class="facts">{" · ".join(facts)}</p><p class="verdict">{esc(verdict)}</p>'
        f'<ul class="tiles">{listed}</ul></header>\n<main>'
        + "\n".join(part for part in sections if part)
        + f"</main>\n<footer>Tercel {esc(version)}</footer>{blocks}"
        f"<script>{_assets(assets, '.js')}</script></body></html>\n"
    )


def _json(content: Any) -> str:
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _assets(names: Sequence[str], suffix: str) -> str:
    folder = resources.files("tercel.report")
    return "".join((folder / name).read_text(encoding="utf-8") for name in names if name.endswith(suffix))
