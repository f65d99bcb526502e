"""The data sheet of an audited set: one HTML page that carries its pictures with it and asks nothing of the network."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from scaletut.audit.clean import Place, check_audited, removals, splits
from scaletut.data import ImageSet, TrainTest

if TYPE_CHECKING:
    from scaletut.audit.report import Report

MOST = 24  # findings of a kind that are shown; the report's JSON has all
THUMBNAIL = 128  # pixels: larger pictures are shrunk
SKIPPED_SHOWN = 50

# The words are the reader's, so each kind says what it means and what to do about it.
ABOUT = {
    "exact_duplicates": ("Exact duplicates", "Images with the same pixels. One of each group carries all there is."),
    "near_duplicates": (
        "Near duplicates",
        "Pairs that show the same picture: moved, mirrored, recoloured, resized or saved again. "
        "Across the splits they let the test ask what was taught.",
    ),
    "blank": ("Blank", "Hardly any contrast, given how bright the image is."),
    "dark": ("Dark", "Even the brightest parts are dark."),
    "bright": ("Bright", "Nearly everything is close to white."),
    "blurred": ("Blurred", "Fine detail is missing, compared with coarse detail."),
    "noisy": ("Noisy", "Grain even in the quietest parts."),
    "odd size": ("Odd size", "The file's area or shape is far from the usual."),
    "label_issues": (
        "Doubtful labels",
        "A classifier that never saw the image contradicts its label. It errs too, most often on unusual images: "
        "look before you relabel.",
    ),
}


def datasheet(report: Report, data: ImageSet | TrainTest | None = None) -> str:
    """The page of `Report.html`; see there."""
    if data is not None:
        check_audited(report, data)
    picture = _pictures(splits(data)) if data is not None else None
    sections = [
        _section("exact_duplicates", [_exact(report, group, picture) for group in _most(report.exact_duplicates)],
                 len(report.exact_duplicates), "groups"),
        _section("near_duplicates", [_near(report, pair, picture) for pair in _most(report.near_duplicates)],
                 len(report.near_duplicates), "pairs"),
        *_quality(report, picture),
        _section("label_issues", [_label(report, one, picture) for one in _most(report.label_issues)],
                 len(report.label_issues), "labels"),
    ]  # fmt: skip
    body = [
        _header(report),
        _tiles(report),
        _classes(report),
        *(section for section in sections if section),
        _thresholds(report),
        _skipped(report),
        _footer(report),
    ]
    return PAGE.format(title=escape(f"Data sheet of {report.name}"), style=STYLE, body="\n".join(filter(None, body)))


def _most(findings: Sequence[Any]) -> Sequence[Any]:
    return findings[:MOST]


# --- pictures ------------------------------------------------------------------------


Picture = Callable[[Place, str], str]


def _pictures(parts: dict[str, ImageSet]) -> Picture:
    """From a place and an alt text to an HTML image that holds its own PNG."""

    def picture(place: Place, alt: str) -> str:
        split, row = place
        image = parts[split].images[row]
        height, width = image.shape[:2]
        return (
            f'<img src="data:image/png;base64,{_png(image)}" width="{width}" height="{height}" alt="{escape(alt)}"'
            f"{' class=fine' if max(height, width) > THUMBNAIL else ''}>"
        )

    return picture


def _png(image: np.ndarray) -> str:
    from PIL import Image

    shown = Image.fromarray(image)
    shown.thumbnail((THUMBNAIL, THUMBNAIL))
    file = io.BytesIO()
    shown.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


# --- findings ------------------------------------------------------------------------


def _section(kind: str, cards: Sequence[str], found: int, of_what: str) -> str:
    if not found:
        return ""
    title, about = ABOUT[kind]
    count = f"{found:,} {of_what if found > 1 else of_what.removesuffix('s')}"
    shown = f", the first {len(cards)} shown" if len(cards) < found else ""
    return (
        f'<section id="{kind.replace(" ", "-")}"><h2>{title} <small>{count}{shown}</small></h2>'
        f'<p>{about}</p><div class="sheet">{"".join(cards)}</div></section>'
    )


def _card(pictures: Iterable[str], *lines: str) -> str:
    shown = "".join(pictures)
    strip = f'<div class="strip">{shown}</div>' if shown else ""
    return f"<figure>{strip}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _exact(report: Report, group: tuple[Place, ...], picture: Picture | None) -> str:
    shown = [picture(place, f"Image {_said(place)}") for place in group[:3]] if picture else []
    more = f" and {len(group) - 6} more" if len(group) > 6 else ""
    return _card(shown, ", ".join(_named(report, place) for place in group[:6]) + more)


def _near(report: Report, pair: Any, picture: Picture | None) -> str:
    places = (pair.first, pair.second)
    shown = [picture(place, f"Image {_said(place)}, near duplicate") for place in places] if picture else []
    across = ' <b class="tag">across</b>' if pair.first[0] != pair.second[0] else ""
    return _card(shown, f"{' · '.join(_named(report, place) for place in places)}{across}", _score(pair.score))


def _quality(report: Report, picture: Picture | None) -> list[str]:
    sections = []
    for kind in dict.fromkeys(one.kind for one in report.low_quality):
        found = [one for one in report.low_quality if one.kind == kind]
        cards = []
        for one in found[:MOST]:
            place = (one.split, one.index)
            shown = [picture(place, f"Image {_said(place)}, {kind}")] if picture else []
            cards.append(_card(shown, _named(report, place), _score(one.score)))
        sections.append(_section(kind, cards, len(found), "images"))
    return sections


def _label(report: Report, one: Any, picture: Picture | None) -> str:
    place = (one.split, one.index)
    given, suggested = report.class_names[one.given], report.class_names[one.suggested]
    shown = [picture(place, f"Image {_said(place)}, labelled {given}, suggested {suggested}")] if picture else []
    change = f'<b class="from">{escape(given)}</b> → <b class="to">{escape(suggested)}</b>'
    return _card(shown, change, _named(report, place), _score(one.score))


def _said(place: Place) -> str:
    return f"{place[0]} {place[1]}"


def _named(report: Report, place: Place) -> str:
    """Split and row, and the file where it is known."""
    file = report.files.get(place[0], {}).get(place[1])
    return escape(_said(place)) + (f' <span class="file">{escape(file)}</span>' if file else "")


def _score(score: float) -> str:
    return f'<span class="score">score {score:.3g}</span>'


# --- the rest of the page ------------------------------------------------------------


def _header(report: Report) -> str:
    sizes = ", ".join(f"{sum(counts):,} {split}" for split, counts in report.class_counts.items())
    return (
        f"<header><p>Data sheet</p><h1>{escape(report.name)}</h1>"
        f"<p>{sizes} images in {len(report.class_names)} classes, audited on "
        f'<time datetime="{escape(report.created)}">{escape(report.created[:10])}</time></p></header>'
    )


def _tiles(report: Report) -> str:
    facts = report.summary
    counts = [
        ("exact copies", facts.get("exact_duplicates")),
        ("near-duplicate pairs", facts.get("near_duplicates")),
        ("of them across splits", facts.get("near_duplicates_across_splits")),
        ("images of low quality", facts.get("low_quality")),
        ("doubtful labels", facts.get("label_issues")),
    ]
    shares = [
        ("labels not doubted", facts.get("label_accuracy")),
        ("duplicates labelled alike", facts.get("consistency")),
        ("files readable", facts.get("completeness") if report.skipped or report.files else None),
    ]
    cells = [_tile(f"{value:,}", name) for name, value in counts if value is not None]
    cells += [_tile(f"{100 * value:.1f} %", name) for name, value in shares if value is not None]
    return f'<ul class="tiles">{"".join(cells)}</ul>'


def _tile(value: str, name: str) -> str:
    return f"<li><strong>{value}</strong>{name}</li>"


def _classes(report: Report) -> str:
    leaving = {one.index for one in removals(report)}
    names = list(report.class_counts)
    most = max((count for counts in report.class_counts.values() for count in counts), default=1) or 1
    head = "".join(f'<th scope="col">{escape(split)}</th>' for split in names)
    rows = []
    for number, name in enumerate(report.class_names):
        counts = [report.class_counts[split][number] for split in names]
        cells = "".join(
            f'<td><span class="bar" style="width:{94 * count / most:.1f}%"></span>{count:,}</td>' for count in counts
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    train = sum(report.class_counts.get("train", ()))
    return (
        f'<section id="classes"><h2>Classes</h2><div class="wide"><table class="counts"><thead><tr>'
        f'<th scope="col">class</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"<p>A cleaned training set without all that was found has {train - len(leaving):,} of {train:,} images.</p>"
        f"</section>"
    )


def _thresholds(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " ").replace(".", ", "))}</th>'
        f"<td>{'none' if one.value is None else f'{one.value:.4g}'}</td><td>{escape(one.reason)}</td></tr>"
        for name, one in report.thresholds.items()
    )
    head = '<tr><th scope="col">detector</th><th scope="col">threshold</th><th scope="col">why there</th></tr>'
    about = "No threshold is fixed: each comes from this set."
    return (
        f'<section id="thresholds"><h2>Thresholds</h2><p>{about}</p><div class="wide"><table class="reasons">'
        f"<thead>{head}</thead><tbody>{rows}</tbody></table></div></section>"
        if rows
        else ""
    )


def _skipped(report: Report) -> str:
    if not report.skipped:
        return ""
    items = "".join(
        f'<li><span class="file">{escape(path)}</span> {escape(reason)}</li>'
        for path, reason in report.skipped[:SKIPPED_SHOWN]
    )
    more = len(report.skipped) - SKIPPED_SHOWN
    rest = f"<li>and {more:,} more</li>" if more > 0 else ""
    return (
        f'<section id="skipped"><h2>Files left out <small>{len(report.skipped):,}</small></h2>'
        f'<ul class="plain">{items}{rest}</ul></section>'
    )


def _footer(report: Report) -> str:
    digests = "".join(
        f"<dt>{escape(split)}</dt><dd><code>{escape(digest)}</code></dd>" for split, digest in report.digests.items()
    )
    return f"<footer><h2>Digest</h2><p>sha256 of images, labels and class names.</p><dl>{digests}</dl></footer>"


STYLE = """
:root { color-scheme: light dark; --ink: #22303c; --quiet: #5c6b78; --paper: #fff; --card: #f4f7f9; --line: #d8e0e6;
  --accent: #004a6b; --warm: #a84300; --bar: #bcd6e2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ecf0; --quiet: #9fb0bd; --paper: #12191f; --card: #1c262e;
  --line: #34424d; --accent: #7cc7ea; --warm: #ffab6b; --bar: #2b5468; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.15; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .25rem; }
small { font-weight: 400; font-size: .875rem; color: var(--quiet); margin-left: .35rem; }
p { margin: .25rem 0 .75rem; max-width: 44rem; }
header p { color: var(--quiet); }
.tiles { list-style: none; margin: 1.25rem 0 0; padding: 0; display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.tiles li { background: var(--card); border-radius: .5rem; padding: .7rem .8rem; color: var(--quiet);
  font-size: .875rem; line-height: 1.3; }
.tiles strong { display: block; font-size: 1.5rem; color: var(--accent); font-variant-numeric: tabular-nums; }
.sheet { display: grid; gap: .6rem; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); }
figure { margin: 0; background: var(--card); border-radius: .5rem; padding: .6rem; min-width: 0; }
figcaption { font-size: .8125rem; line-height: 1.4; overflow-wrap: anywhere; margin-top: .35rem; }
.strip { display: flex; gap: .35rem; justify-content: center; }
.strip img { width: 100%; max-width: 6rem; height: auto; aspect-ratio: auto; min-width: 0; flex: 0 1 6rem;
  image-rendering: pixelated; border-radius: .2rem; }
.strip img.fine { image-rendering: auto; }
.score, .file { color: var(--quiet); }
.file { font-family: ui-monospace, monospace; font-size: .75rem; overflow-wrap: anywhere; }
.tag, .from { color: var(--warm); } .to { color: var(--accent); } .tag { font-size: .75rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-variant-numeric: tabular-nums; }
thead th { color: var(--quiet); font-weight: 400; }
.counts { max-width: 44rem; } .counts td { position: relative; width: 38%; padding-left: .4rem; }
.bar { position: absolute; left: 0; top: .3rem; bottom: .3rem; background: var(--bar); border-radius: .2rem;
  z-index: -1; }
.counts tbody { position: relative; z-index: 0; }
.reasons td:last-child { min-width: 16rem; }
.plain { padding-left: 1.1rem; font-size: .875rem; }
dl { font-size: .8125rem; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; }
@media print { figure { break-inside: avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="scaletut audit">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
