"""The report of `tercel track`: one HTML file that plays the tracks, shows every track's life, and accounts for all.

The player's data is in the file (see track_player), as are style and script; nothing is loaded. The same run gives the
same bytes, but for the frames per second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tercel.report import timeline
from tercel.report.drawing import esc, number
from tercel.report.page import document, section
from tercel.report.tables import table
from tercel.report.track_charts import bars_of, counts_panel, duration_s
from tercel.report.track_player import Film, films
from tercel.report.tracking_account import Account
from tercel.report.tracking_run import TrackRun
from tercel.report.tracking_steps import Tracked

MAX_SEQUENCES = 24
MAX_ROWS = 1800
"""Rows in the timelines of all sequences together."""
_KINDS = ("matched", "new", "tentative", "rejected")
_ASSETS = ("page.css", "player.css", "player.js")
_CURSOR = '<i class="cursor" hidden></i>'


def write_track_report(path: Path, run: TrackRun) -> None:
    """Write the report of a run to path. Raises OSError if the file cannot be written."""
    shown = list(run.tracked.values())[:MAX_SEQUENCES]
    made = films(shown, run.images)
    most = max(30, min(timeline.MAX_ROWS, MAX_ROWS // max(1, len(shown))))
    articles = [_article(tracked, most) for tracked in shown]
    spans = [
        {"begin": t.loaded.frames.start / t.loaded.source.rate_hz, "end": duration_s(t), "left": left, "width": width}
        for t, (_, left, width) in zip(shown, articles, strict=True)
    ]
    sections = [
        _player_section(run, shown, made),
        section("tracks", "Tracks over time", "".join(html for html, _, _ in articles)),
        section("account", "What became of every detection", _account(run, len(shown))),
        section("numbers", "Settings and numbers", _numbers(run)),
    ]
    page = document(
        kind="tracking report",
        name=run.options.detections.resolve().name,
        facts=_facts(run),
        verdict=_verdict(run.total),
        tiles=_tiles(run),
        sections=sections,
        data={"films": [film.content for film in made], "spans": spans},
        version=run.summary()["tercel"],
        assets=_ASSETS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")


# --- the player ------------------------------------------------------------------------------------------------------


def _player_section(run: TrackRun, shown: list[Tracked], made: list[Film]) -> str:
    names = [tracked.loaded.source.name for tracked in shown]
    options = "".join(f'<option value="{index}">{esc(name)}</option>' for index, name in enumerate(names))
    speeds = "".join(
        f'<option value="{speed}"{" selected" * (speed == "1")}>{speed}×</option>'
        for speed in ("0.25", "0.5", "1", "2", "4")
    )
    controls = (
        f'<div class="controls"><button type="button" id="play" aria-label="Play">▶</button>'
        f'<select id="sequence" aria-label="Sequence"{" hidden" * (len(names) < 2)}>{options}</select>'
        '<input type="range" id="slider" min="0" max="0" value="0" step="1" aria-label="Frame">'
        f'<select id="speed" aria-label="Speed">{speeds}</select><output id="clock" for="slider"></output></div>'
    )
    width, height = made[0].content["size"] if made else (4, 3)
    views = (
        f'<div class="views films" id="views"><figure class="main" style="--ratio:{number(width / height, 4)}">'
        '<canvas id="picture" role="img" aria-label="The tracks in the image"></canvas>'
        '<figcaption id="count"></figcaption><div class="chips" id="chips"></div></figure>'
        '<figure id="above-view" hidden><canvas id="above" role="img" aria-label="The tracks from above"></canvas>'
        "<figcaption>Seen from above, forward is up</figcaption></figure></div>"
    )
    layers = "".join(
        f'<label id="{css}-layer"><input type="checkbox" id="layer-{css}" checked> {name}</label>'
        for css, name in (("labels", "Labels"), ("trails", "Trails"), ("others", "Unconfirmed"), ("image", "Images"))
    )
    words = (
        "Each track keeps its colour, its trail is the way of its foot in the last 2 s, dashed means not seen now. "
        "Thin grey: detections that began a track or await its confirmation; thin red dots: rejected."
    )
    notes = "".join(f"<li>{esc(note)}</li>" for note in _notes(run, shown, made))
    return section(
        "player",
        "Tracks",
        f'<div class="card scenes">{controls}{views}<noscript><p class="quiet">The tracks move with JavaScript only; '
        f'their lives are below.</p></noscript><div class="layers">{layers}<p class="quiet">{words}</p></div></div>'
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}",
    )


def _notes(run: TrackRun, shown: list[Tracked], made: list[Film]) -> list[str]:
    """What of the run is not shown."""
    notes = []
    if len(run.tracked) > len(shown):
        notes.append(f"shown are the first {len(shown)} of {len(run.tracked)} sequences; the account has them all")
    for tracked, film in zip(shown, made, strict=True):
        name = tracked.loaded.source.name
        if film.every > 1:
            what = "its images fit" if film.has_images else "the page stays small"
            notes.append(f"{name}: every {_ordinal(film.every)} frame is shown, so that {what}")
        if run.options.images is not None and not film.has_images:
            notes.append(f"{name}: no images were found in {run.options.images.name}")
    return notes


def _ordinal(count: int) -> str:
    return {2: "second", 3: "third"}.get(count, f"{count}th")


# --- charts ----------------------------------------------------------------------------------------------------------


def _article(tracked: Tracked, most: int) -> tuple[str, float, float]:
    """Counts and lives of one sequence, and where their time axis begins and how wide it is, in percent."""
    name, bars = tracked.loaded.source.name, bars_of(tracked)
    counts, axes = counts_panel(tracked)
    blocks = f'<div class="wide">{counts.html(background=_CURSOR)}'
    which = "no track was confirmed"
    if bars:
        words = f"When each track of {name} was seen"
        lives, axes, rows = timeline.timeline_panel(bars, duration_s(tracked), words, most)
        blocks += lives.html(background=_CURSOR)
        which = f"the {rows} longest of {len(bars):,} tracks" if rows < len(bars) else f"all {rows} tracks"
    unsure = int((tracked.outcomes == 1).sum()) - len(bars)
    rest = f"; {unsure:,} more began and were never confirmed" if unsure > 0 else ""
    keys = "".join(f'<span class="key area {kind}"></span> {kind}' for kind in _KINDS)
    html = (
        f'<article class="sequence" aria-label="{esc(name)}"><h3>{esc(name)}</h3><figure class="card">{blocks}</div>'
        f'<figcaption>Above, detections a frame:{keys}, and <span class="key reported"></span> tracks reported. '
        f"Below, {which}, thin where a track went unseen, pale before it was confirmed{rest}{timeline.legend(bars)}. "
        "Point at a track to find it in the picture; click to go there.</figcaption></figure></article>"
    )
    return html, 100.0 * axes.left / counts.width, 100.0 * axes.width / counts.width


# --- account ---------------------------------------------------------------------------------------------------------


def _account(run: TrackRun, shown: int) -> str:
    head = (
        "Sequence", "Frames", "Detections", "Matched", "New", "Tentative", "Rejected", "Tracks", "Boxes", "Frames/s",
        "Shares",
    )  # fmt: skip
    rows = [
        _row(f'<a href="#player" data-sequence="{index}">{esc(name)}</a>' if index < shown else esc(name), account)
        for index, (name, account) in enumerate(run.accounts.items())
    ]
    html = table(head, rows, css="account")
    if len(rows) > 1:
        total = "".join(f"<td>{cell}</td>" for cell in _row("", run.total)[1:])
        html = html.replace("</tbody>", f'<tr class="sum"><th scope=row>all</th>{total}</tr></tbody>')
    words = (
        "Every detection is in one column: <b>matched</b> continued a confirmed track, <b>new</b> began one, "
        "<b>tentative</b> continued one that was yet to be confirmed, <b>rejected</b> took part in none, for the "
        "reason below it. Tracks are those that were confirmed, boxes what was written of them."
    )
    return f'<div class="card">{html}<p class="quiet">{words}</p>{_beside(run.total)}</div>'


def _row(name: str, account: Account) -> list[str]:
    reasons = "".join(f"<small>{esc(reason)}: {n:,}</small>" for reason, n in sorted(account.rejected.items()))
    rejected = account.rejected.total()
    numbers = (account.frames, account.detections, account.matched, account.new, account.tentative)
    return [
        name,
        *(f"{value:,}" for value in numbers),
        f'<span class="bad">{rejected:,}</span>{reasons}' if rejected else "0",
        f"{account.tracks:,}",
        f"{account.boxes:,}",
        f"{account.frames_per_s:,.0f}",
        _shares(account),
    ]


def _shares(account: Account) -> str:
    if not account.detections:
        return "–"
    values = dict(zip(_KINDS, (account.matched, account.new, account.tentative, account.rejected.total()), strict=True))
    shares = {kind: 100.0 * value / account.detections for kind, value in values.items()}
    words = ", ".join(f"{kind} {share:.1f} %" for kind, share in shares.items() if share)
    parts = "".join(f'<i class="{kind}" style="width:{share:.2f}%"></i>' for kind, share in shares.items() if share)
    return f'<span class="shares" role="img" title="{words}" aria-label="{words}">{parts}</span>'


def _beside(total: Account) -> str:
    """What was in the files and was no detection to be tracked."""
    lines = [f"{count:,} of class {esc(name)} were left out" for name, count in sorted(total.left_out.items())]
    if total.unreadable:
        lines.append(f"{total.unreadable:,} lines could not be read")
    return f'<p class="quiet">Beside them: {"; ".join(lines)}.</p>' if lines else ""


# --- words -----------------------------------------------------------------------------------------------------------


def _facts(run: TrackRun) -> list[str]:
    rates = sorted({tracked.loaded.source.rate_hz for tracked in run.tracked.values()})
    facts = [f"tracker <b>{esc(run.tracker)}</b>"]
    facts += [", ".join(f"{esc(key)} {esc(value)}" for key, value in run.settings.items())] if run.settings else []
    facts.append(f"{number(rates[0], 2)} Hz" if len(rates) == 1 else f"{number(rates[0])} to {number(rates[-1])} Hz")
    return facts


def _verdict(total: Account) -> str:
    if not total.detections:
        return "There was not one detection."
    rejected = total.rejected.total()
    lost = f"{rejected:,} were rejected, each for a reason" if rejected else "none was rejected"
    share = total.matched / total.detections
    return (
        f"Of {total.detections:,} detections {total.matched:,} ({share:.1%}) continued a track, "
        f"{total.new:,} began one, {total.tentative:,} continued one not yet confirmed, and {lost}."
    )


def _tiles(run: TrackRun) -> list[tuple[str, str, str]]:
    total = run.total
    tiles = [(f"{len(run.accounts):,}", "sequences", "")] if len(run.accounts) > 1 else []
    tiles += [
        (f"{total.frames:,}", "frames", ""),
        (f"{total.detections:,}", "detections", ""),
        (f"{total.tracks:,}", "tracks", ""),
        (f"{total.matched / max(1, total.detections):.1%}", "of detections matched", ""),
        (f"{total.rejected.total():,}", "rejected", ""),
        (f"{total.frames_per_s:,.0f}", "frames/s, tracker alone", ""),
    ]
    if total.unreadable:
        tiles.append((f"{total.unreadable:,}", "lines unreadable", "bad"))
    return tiles


def _numbers(run: TrackRun) -> str:
    lines = "".join(f"<li>{esc(line)}</li>" for line in [*run.notes, *run.problems[:20]])
    more = f"<li>and {len(run.problems) - 20} problems more</li>" if len(run.problems) > 20 else ""
    told = f'<ul class="lost">{lines}{more}</ul>' if lines else '<p class="good">Every line of the files was read.</p>'
    made = f'<p>Made by <code class="command">{esc(run.options.command)}</code></p>' if run.options.command else ""
    raw = esc(json.dumps(_without_problems(run.summary()), indent=2))
    folded = f"<details><summary>all numbers</summary><pre tabindex=0>{raw}</pre></details>"
    return f'<div class="card">{told}{made}{folded}</div>'


def _without_problems(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key != "problems"}
