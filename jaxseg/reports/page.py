"""The frame of a page: one file that opens offline, makes no requests and needs no library.

The Content-Security-Policy allows inline style and script and pictures inside the page alone. All text goes through `text`, all
data through `embedded`: names come from files, and may hold anything.
"""

import html
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jaxseg

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
# Okabe and Ito's palette, which colour-blind readers tell apart
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#b8a900")


def document(title: str, parts: Sequence[str], *, scripts: Sequence[str] = ()) -> str:
    """Return a complete page.

    Args:
      title: the title, as plain text.
      parts: HTML of the body, in order; empty parts are left out.
      scripts: names of files beside this one that run after page.js.
    """
    script = "\n".join(asset(name) for name in ("page.js", *scripts))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{asset('page.css')}</style></head>\n<body>\n"
        + "\n".join(filter(None, parts))
        + f"\n<footer>Made by jaxseg {jaxseg.__version__}. Not a medical device.</footer>\n"
        + f"<script>{script}</script></body></html>\n"
    )


def asset(name: str) -> str:
    """Return the text of a style or script file beside this module."""
    return resources.files("jaxseg.reports").joinpath(name).read_text(encoding="utf-8")


def section(name: str, title: str, *parts: str) -> str:
    """Return a section with a heading to which the navigation links; "" if it is empty."""
    inside = "\n".join(filter(None, parts))
    return f'<section id="{name}"><h2>{text(title)}</h2>{inside}</section>' if inside else ""


def navigation(sections: Mapping[str, str]) -> str:
    """Return links to sections: name -> words."""
    links = "".join(f'<li><a href="#{name}">{text(words)}</a></li>' for name, words in sections.items())
    return f'<nav aria-label="Sections"><ul>{links}</ul></nav>'


def tiles(figures: Sequence[tuple[str, str]]) -> str:
    """Return large figures with their names below them."""
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{text(v)}</b><span>{text(w)}</span></div>' for v, w in figures)
        + "</div>"
    )


def table(rows: Sequence[Mapping[str, Any]], caption: str, *, tall: bool = False) -> str:
    """Return rows as a table that can be sorted by any column.

    Columns are the keys in order of first appearance; those that are empty in every row are left out.

    Args:
      caption: plain text, for screen readers.
      tall: let the rows scroll in a box of limited height.
    """
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if shown(value) != ""))
    words = {c: _words([row.get(c, "") for row in rows]) for c in columns}
    kind = lambda c: f' class="{words[c]}"' if words[c] else ""
    head = "".join(
        f'<th scope="col"{" class=words" if words[c] else ""}><button type="button">{_broken(c)}</button></th>' for c in columns
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind(c)}>{text(shown(row.get(c, '')))}</td>" for c in columns) + "</tr>" for row in rows
    )
    whole = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll{" tall" * tall}"><table class="sortable" aria-label="{text(caption)}">{whole}</table></div>'


def legend(names: Sequence[str], colours: Sequence[str] = COLOURS) -> str:
    """Return a legend: names with their colours."""
    items = (f'<li><i style="background:{colours[i % len(colours)]}"></i>{text(name)}</li>' for i, name in enumerate(names))
    return f'<ul class="legend">{"".join(items)}</ul>'


def figure(drawing: str, caption: str, below: str = "") -> str:
    """Return a chart with a sentence about it; "" without a chart."""
    return f"<figure>{drawing}{below}<figcaption>{text(caption)}</figcaption></figure>" if drawing else ""


def embedded(name: str, value: Any) -> str:
    """Return JSON for the page under an id; "<" is escaped, so that no name can end the element."""
    return f'<script type="application/json" id="{name}">{json.dumps(value).replace("<", chr(92) + "u003c")}</script>'


def is_number(value: Any) -> bool:
    """Return whether a cell holds a number."""
    return value not in ("", None) and not math.isnan(float(value))


def shown(value: Any) -> str:
    """Return the text of a cell: numbers with four decimals, missing values as an empty text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4f}" if abs(value) < 1e5 else f"{value:.0f}"
    return str(value)


def text(value: Any) -> str:
    """Return a value as text, escaped for HTML and attributes."""
    return html.escape(str(value), quote=True)


def _broken(name: str) -> str:
    """Return a column's name, which may be broken after "_" where a line is too short."""
    return text(name).replace("_", "_<wbr>")


def _words(cells: Sequence[Any]) -> str:
    """Return the CSS class of a column of words (aligned left); "" for a column of numbers."""
    words = [cell for cell in cells if isinstance(cell, str) and cell and not cell.replace(".", "", 1).lstrip("-").isdigit()]
    if not words:
        return ""
    return "words long" if max(map(len, words)) > 40 else "words"
