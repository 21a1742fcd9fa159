"""Texts of `data/templates`, filled in, and how numbers, comparisons and tables are written in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from dreamprm_lib.evidence.statistics import counted


def filled(template: str, **words: Any) -> str:
    """A template with its words filled in; in HTML they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "data" / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "counted": counted,
        "percent": lambda share: f"{100 * share:.0f} %",
        "relation": _relation,
        "gain": _gain,
        "limits": _limits,
        "points": _points,
        "times": _times,
        "code": _code,
        "html_table": _html_table,
        "markdown_table": _markdown_table,
    }
    return environment.get_template(template).render(**words)


def _relation(row: Any) -> str:
    """What the verdict says of a comparison, between the names of its two methods."""
    return row.verdict.split("`")[2].strip()


def _gain(row: Any) -> str:
    return f"{'gains' if row.difference >= 0 else 'loses'} {abs(100 * row.difference):.1f} points"


def _limits(row: Any) -> str:
    return f"{100 * row.ci_low:+.1f} to {100 * row.ci_high:+.1f}"


def _points(row: Any) -> str:
    return f"{100 * row.difference:+.1f} points ({_limits(row)})"


def _times(row: Any) -> str:
    """How many times as large an error became."""
    return f"{1 - row.gain:.1f} ({1 - row.gain_high:.1f} to {1 - row.gain_low:.1f})"


def _code(sentence: str) -> Markup:
    """Back-quoted words as <code>; a line may break after the underscore of a method's name."""
    parts = str(escape(sentence)).split("`")
    marked = [f"<code>{part.replace('_', '_<wbr>')}</code>" if k % 2 else part for k, part in enumerate(parts)]
    return Markup("".join(marked))


def _html_table(table: pd.DataFrame, **options: Any) -> Markup:
    """A table in which a line may break after the underscore of a method's name, and nowhere in an interval."""
    text = table.to_html(border=0, **options).replace("–", "&#8288;–&#8288;")  # word joiners
    return Markup(re.sub(r"_(?=[\w ]*</th>)", "_<wbr>", text))


def _markdown_table(table: pd.DataFrame) -> str:
    lines = [[table.columns.name, *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[f"`{name}`", *cells] for name, cells in zip(table.index, table.values, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
