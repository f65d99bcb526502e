"""What of a MyST page is prose: everything else is blanked out, with offsets and line ends kept."""

from __future__ import annotations

import re
from dataclasses import dataclass

CITED = "\x01"  # stands where a citation stood, so that its sentence is known

_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)*(?P<fence>`{3,}|~{3,}|:{3,})(?P<info>[^\n]*)$")
_DIRECTIVE = re.compile(r"\s*\{(?P<name>[\w:.+-]+)\}")
_VERBATIM = re.compile(
    r"(?:math|code|code-block|code-cell|sourcecode|literalinclude|parsed-literal|doctest|raw"
    r"|mermaid|image|toctree|bibliography|include|api-room)\Z"
)
_OPTION = re.compile(r"^[ \t>]*:[\w-]+:")
_METADATA = re.compile(r"^(?:[ \t]*\([\w.:-]+\)=|%|\+\+\+|[ \t]*\{[^}]*\}[ \t]*$)")
_INLINE = r"(?:(?!\n[ \t]*\n).)"
_OPAQUE = re.compile(
    rf"(?P<comment><!--.*?-->)"
    rf"|(?P<element><(?P<tag>script|style|pre|code|svg|math)\b.*?</(?P=tag)\s*>)"
    rf"|(?P<given><span\b[^<>]*\bclass=[\"'][^\"'<>]*\bgiven\b[^<>]*>{_INLINE}*?</span\s*>)"
    rf"|(?P<code>(?P<role>\{{[\w:.+-]+\}})?(?<!`)(?P<ticks>`+)(?!`){_INLINE}+?(?<!`)(?P=ticks)(?!`))"
    rf"|(?P<display>(?<!\\)\$\$.+?\$\$)"
    rf"|(?P<inline>(?<![\\$])\$(?![\s$]){_INLINE}+?(?<![\s\\$])\$(?![\d$]))"
    rf"|(?P<ams>\\begin\{{(?P<env>[a-z]+\*?)\}}.+?\\end\{{(?P=env)\}})"
    rf"|(?P<span>\[[^\[\]]*\]\{{[^}}\n]*\.given\b[^}}\n]*\}})"
    rf"|(?P<html></?[a-zA-Z][\w-]*(?:\s[^<>]*)?/?>|<https?://[^<>\s]+>)",
    re.DOTALL,
)
_IMAGE = re.compile(r"!\[(?:\\.|[^\[\]\\])*\]\([^()]*\)(?:\{[^{}\n]*\})?")
_ATTRIBUTES = re.compile(r"(?<=\])\{[^{}\n]*\}")
_ADDRESS = re.compile(r"\bhttps?://[^\s)>\]]+")
_LINK = re.compile(r"(?<!!)\[((?:\\.|[^\[\]\\])*)\]\(\s*<?([^()\s<>]*)>?(?:\s+[\"'][^)]*)?\)(?:\{[^{}\n]*\})?")


@dataclass(frozen=True)
class Link:
    """A link in prose: `text` as written, `target`, and where the text starts and ends."""

    text: str
    target: str
    start: int
    end: int


def blank(match: re.Match[str]) -> str:
    """As many spaces as the match has characters, line ends kept."""
    return re.sub(r"[^\n]", " ", match.group())


def mask_opaque(text: str) -> str:
    """`text` with everything that is not prose blanked out; offsets and line ends stay."""
    masked = _OPAQUE.sub(_blank_opaque, _mask_blocks(text))
    return _IMAGE.sub(blank, masked)


def _blank_opaque(match: re.Match[str]) -> str:
    empty = blank(match)
    cites = (match["role"] or "").startswith("{cite")
    return CITED + empty[1:] if cites else empty


def _mask_blocks(text: str) -> str:
    """Blank front matter, code blocks, directive heads and options, labels and comment lines."""
    lines, masked = text.split("\n"), []
    open_fences: list[tuple[str, bool]] = []  # (fence, is its body verbatim)
    in_options = False
    body = _end_of_front_matter(lines)
    for number, line in enumerate(lines):
        if number < body:
            masked.append(" " * len(line))
            continue
        fence = _FENCE.match(line)
        if open_fences and fence and _closes(fence, open_fences[-1][0]):
            open_fences.pop()
            masked.append(" " * len(line))
        elif open_fences and open_fences[-1][1]:
            masked.append(" " * len(line))
        elif fence and not (fence["fence"][0] == "`" and "`" in fence["info"]):
            open_fences.append((fence["fence"], _is_verbatim(fence)))
            masked.append(_mask_head(line, fence))
            in_options = True
            continue
        elif (in_options and _OPTION.match(line)) or _METADATA.match(line):
            masked.append(" " * len(line))
            continue
        else:
            masked.append(line)
        in_options = False
    return "\n".join(masked)


def _end_of_front_matter(lines: list[str]) -> int:
    if lines[0].rstrip() != "---":
        return 0
    return next((i + 1 for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), 0)


def _closes(fence: re.Match[str], opened: str) -> bool:
    return not fence["info"].strip() and fence["fence"].startswith(opened)


def _is_verbatim(fence: re.Match[str]) -> bool:
    directive = _DIRECTIVE.match(fence["info"])
    if directive is None:
        return fence["fence"][0] != ":"
    return bool(_VERBATIM.match(directive["name"]))


def _mask_head(line: str, fence: re.Match[str]) -> str:
    """The title of an admonition is prose; the path of a figure and the language of a code block are not."""
    directive = _DIRECTIVE.match(fence["info"])
    if directive is None or _is_verbatim(fence) or directive["name"] == "figure":
        return " " * len(line)
    title = fence.start("info") + directive.end()
    return " " * title + line[title:]


def links(text: str) -> list[Link]:
    """All links of a page or cell, those in code and math left out."""
    return [
        Link(text[m.start(1) : m.end(1)], text[m.start(2) : m.end(2)], m.start(1), m.end(1))
        for m in _LINK.finditer(mask_opaque(text))
    ]


def prose_of(text: str) -> str:
    """`text` with links, too, blanked out: what is left stands on its own word. CITED marks a citation."""
    masked = mask_opaque(text)
    for pattern in (_LINK, _ATTRIBUTES, _ADDRESS):
        masked = pattern.sub(blank, masked)
    return masked
