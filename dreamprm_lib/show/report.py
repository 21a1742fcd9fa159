"""The report of a study: one self-contained HTML file, readable on a phone, printable."""

from __future__ import annotations

import base64
import html
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from PIL import Image

from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.study.folder import STAGES, Study

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ study }}: a process reward model study</title>
<style>
 body { font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 0 auto; padding: 1rem; color: #1b1b1f; }
 h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 2px solid #d8dee9; padding-bottom: .2rem; }
 .scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
 th, td { padding: .3rem .7rem; border-bottom: 1px solid #e3e6ee; text-align: right; }
 th:first-child, td:first-child { text-align: left; }
 figure { margin: 1.5rem 0; break-inside: avoid; } img { width: var(--size); max-width: 100%; height: auto; }
 figcaption { color: #50545e; font-size: .92rem; } code { background: #f0f2f7; padding: .1em .3em; border-radius: 3px; }
 .note { background: #f6f8fc; border-left: 4px solid #4c72b0; padding: .6rem 1rem; }
 @media screen and (max-width: 36rem) {
  ul { padding-left: 1.1rem; } code { overflow-wrap: anywhere; }
  table { font-size: .72rem; line-height: 1.3; white-space: normal; } th, td { padding: .3rem .18rem; }
  img { max-width: none; width: max(100%, calc(.75 * var(--size))); }
 }
 @media print {
  @page { margin: 15mm; } body { font-size: 10pt; max-width: none; padding: 0; } .scroll { overflow: visible; }
  h2 { break-after: avoid; } li, tr { break-inside: avoid; } img { max-height: 220mm; object-fit: contain; }
  table, figcaption { font-size: 9pt; } th, td { padding: .2rem .4rem; }
  body { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
 }
</style></head><body>
<h1>A process reward model for code, measured</h1>
{% if note %}<p class="note"><strong>{{ note }}</strong></p>{% endif %}
<p class="note">Study <code>{{ study }}</code>, profile <code>{{ profile }}</code>. Every number below was computed in
this run, from the tables beside this file; <code>manifest.json</code> has parameters, digests and versions.</p>
<h2>What may be concluded</h2>
<ul>{% for sentence in verdict %}<li>{{ sentence }}</li>{% endfor %}</ul>
<p>Problems are the sample: the intervals say how far another draw of such problems might differ. They do not cover
another policy, another backbone or harder problems.</p>
<h2>Problems solved by difficulty</h2>
{% for caption, table in tables %}<p>{{ caption }}</p><div class="scroll">{{ table }}</div>{% endfor %}
{% for chapter, figures in chapters %}<h2>{{ chapter }}</h2>
{% for image, caption, size in figures %}<figure><div class="scroll">
<img alt="{{ caption }}" style="--size: {{ size }}px" src="data:image/png;base64,{{ image }}"></div>
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}{% endfor %}
<h2>How it was run</h2><div class="scroll">{{ stages }}</div>
<p>{{ versions }}</p>
</body></html>
"""


def write_report(study: Study, manifest: dict) -> Path:
    """Write `report.html` from the study's tables and figures; each figure brings its caption in its metadata."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_TEMPLATE).render(
        study=study.name,
        profile=manifest["profile"],
        note=manifest.get("note", ""),
        verdict=[_code(s) for s in study.read_table("differences.csv").verdict],
        tables=[
            (caption, jinja2.utils.markupsafe.Markup(_unbroken(table.to_html(border=0))))
            for caption, table in wide_tables(study.read_table("table.csv"))
        ],
        chapters=[(title, figures) for title, figures in _chapters(study) if figures],
        stages=jinja2.utils.markupsafe.Markup(_stages(manifest).to_html(index=False, border=0)),
        versions=", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    )
    path = study.path("report.html")
    write_atomically(path, text.encode())
    return path


def _code(sentence: str):
    """Back-quoted words as <code>."""
    parts = html.escape(sentence).split("`")
    marked = "".join(f"<code>{part}</code>" if k % 2 else part for k, part in enumerate(parts))
    return jinja2.utils.markupsafe.Markup(marked)


def _unbroken(text: str) -> str:
    """Intervals that no line break parts: a word joiner on both sides of the dash."""
    return text.replace("–", "&#8288;–&#8288;")


def wide_table(table: pd.DataFrame) -> pd.DataFrame:
    """`table.csv` as people read it: a row a method, a column a difficulty, cells `rate (low–high)` in percent."""
    cell = [f"{100 * r.pass_rate:.1f} ({100 * r.ci_low:.0f}–{100 * r.ci_high:.0f})" for r in table.itertuples()]
    table = table.assign(cell=cell, group=[f"{r.difficulty} ({r.problems})" for r in table.itertuples()])
    wide = table.pivot(index="method", columns="group", values="cell")
    return wide.loc[table.method.unique(), table.group.unique()].rename_axis(index=None, columns="best-of-N in %")


def wide_tables(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A `wide_table` for each number of samples that selectors ran first, with what to say above it."""
    found = []
    for samples, part in table.groupby("samples"):
        first = f"after {counted(samples, 'public sample')}" if samples else "without running any public sample"
        found.append((f"Selectors {first}:", wide_table(part)))
    return found


def results_markdown(study: Study) -> str:
    """The results of a study as Markdown: the tables by difficulty and the verdict's sentences."""
    rows = []
    for caption, wide in wide_tables(study.read_table("table.csv")):
        rows += [
            caption,
            "",
            f"| best-of-N in % | {' | '.join(wide.columns)} |",
            "|" + "---|" * (len(wide.columns) + 1),
        ]
        rows += [f"| `{method}` | {' | '.join(cells)} |" for method, cells in zip(wide.index, wide.values, strict=True)]
        rows.append("")
    said = [f"- {sentence}" for sentence in study.read_table("differences.csv").verdict]
    return "\n".join([*rows, *said]) + "\n"


def _chapters(study: Study):
    """Each chapter's title, and its figures in the order of its text."""
    for stage in STAGES:
        notebook = nbformat.read(study.existing(f"notebooks/{stage.notebook}.ipynb"), 4)
        text = "\n".join(cell.source for cell in notebook.cells)
        title = next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
        files = sorted((study.folder / "figures").glob(f"{stage.notebook[:2]}_*.png"))
        files.sort(key=lambda f: text.find(f'"{f.stem}"') % (len(text) + 1))  # what it does not name comes last
        yield title, [(base64.b64encode(f.read_bytes()).decode(), *_caption_and_size(f)) for f in files]


def _caption_and_size(path: Path) -> tuple[str, int]:
    """What the figure says of itself, and its width at 96 pixels an inch, so that text has one size in all."""
    with Image.open(path) as image:
        return image.info.get("Description", path.stem), round(96 * image.width / image.info.get("dpi", (96, 96))[0])


def _stages(manifest: dict) -> pd.DataFrame:
    """A row a stage; what models were asked and what that cost is shown only if any was asked."""
    table = pd.DataFrame(
        [
            {"notebook": name, "seconds": entry["seconds"], "tokens in its tables": entry["tokens"]}
            for name, entry in manifest["stages"].items()
        ]
    )
    asked = [entry.get("asked") or {} for entry in manifest["stages"].values()]
    if any(row.get("answers") for row in asked):
        table["completions asked for"] = [row.get("completions", 0) for row in asked]
        table["tokens in"] = [row.get("prompt_tokens", 0) for row in asked]
        table["tokens out"] = [row.get("tokens", 0) for row in asked]
        prices = [row.get("dollars") for row in asked]
        table["dollars"] = ["" if price is None else f"{price:.4f}" for price in prices]
        paid = sum(price or 0 for price in prices)
        table.loc[len(table)] = ["all", *table.sum(numeric_only=True).round(1), f"{paid:.4f}"]
    return table
