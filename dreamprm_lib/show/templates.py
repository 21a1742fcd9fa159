"""Texts of `data/templates`, filled in, and how sentences and tables are written in them."""

import re
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from dreamprm_lib.engine.files import DATA
from dreamprm_lib.evidence.statistics import counted


def filled(template: str, **words: Any) -> str:
    """A template with its words filled in; in HTML they are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(DATA / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {f.__name__: f for f in (counted, code, html_table, markdown_table)}
    return environment.get_template(template).render(**words)


def code(sentence: str) -> Markup:
    """Back-quoted words as <code>; a line may break after the underscore of a method's name."""
    parts = str(escape(sentence)).split("`")
    marked = [f"<code>{part.replace('_', '_<wbr>')}</code>" if k % 2 else part for k, part in enumerate(parts)]
    return Markup("".join(marked))


def html_table(table: pd.DataFrame, **options: Any) -> Markup:
    """A table in which a line may break after the underscore of a method's name, and nowhere in an interval."""
    text = table.to_html(border=0, **options).replace("–", "&#8288;–&#8288;")  # word joiners
    return Markup(re.sub(r"_(?=[\w ]*</th>)", "_<wbr>", text))


def markdown_table(table: pd.DataFrame) -> str:
    """A table whose rows have names of methods or the like."""
    lines = [[table.columns.name, *table.columns], ["---"] * (1 + len(table.columns))]
    lines += [[f"`{name}`", *cells] for name, cells in zip(table.index, table.values, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
