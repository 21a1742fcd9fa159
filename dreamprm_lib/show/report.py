"""The results of a study as people read them: the report, one self-contained HTML file, and a page of the book.

Their prose is in `data/templates`; the sentences with numbers are those of `findings`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.show.findings import METHODS, answer_of, grouped_verdicts, shared_rollouts
from dreamprm_lib.study.folder import STAGES, Study

MAIN_FIGURES = ("06_curve", "06_differences", "05_oracle", "08_cost")
CORRECTIONS = {
    "raw labels": "raw labels",
    "corrected": "corrected, stopped early",
    "corrected, likelihood": "corrected, held by their likelihood",
    "recalibrated": "recalibrated",
}


@dataclass(frozen=True)
class Picture:
    """A figure as the report shows it: `data` is base64, `width` is in CSS pixels, so that text has one size in all."""

    data: str
    caption: str
    width: int


def write_report(study: Study, manifest: dict) -> Path:
    """Write `report.html` from the study's tables and figures; each figure brings its caption in its metadata."""
    folder = study.folder / "figures"
    main = [_picture(path) for name in MAIN_FIGURES if (path := folder / f"{name}.png").exists()]
    text = _filled(
        "report.html",
        study,
        manifest,
        main=main,
        chapters=[(title, pictures) for title, pictures in _chapters(study) if pictures],
        stages=_stages(manifest),
        versions=", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
    )
    path = study.path("report.html")
    write_atomically(path, text.encode())
    return path


def results_markdown(study: Study) -> str:
    """The results of a study as a page of the book: its findings, its tables, and what may be concluded."""
    manifest = json.loads(study.existing("manifest.json").read_text(encoding="utf-8"))
    planted, oracle = study.read_table("planted.csv"), study.read_table("oracle.csv")
    return _filled(
        "results.md",
        study,
        manifest,
        planted=planted_table(planted),
        oracle=oracle_table(oracle),
        rollouts=shared_rollouts(oracle),
        **_setting(planted),
    )


def _filled(template: str, study: Study, manifest: dict, **more: Any) -> str:
    """A template, filled with what both pages say and with what only one of them does."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parents[1] / "data" / "templates"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": _code, "html_table": _html_table, "markdown_table": _markdown_table}
    answer, table = answer_of(study), study.read_table("table.csv")
    shown = set(table.method)
    return environment.get_template(template).render(
        study=study.name,
        profile=manifest["profile"],
        note=manifest.get("note", ""),
        answer=answer,
        tables=wide_tables(table),
        groups=grouped_verdicts(study.read_table("differences.csv")),
        methods={name: meaning for name, meaning in METHODS.items() if name in shown},
        **more,
    )


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
        first = f"After {counted(samples, 'public sample')}" if samples else "Without running any public sample"
        found.append((f"{first}, best of {part.n.max()}:", wide_table(part)))
    return found


def planted_table(planted: pd.DataFrame) -> pd.DataFrame:
    """`planted.csv` as people read it, at its first number of rollouts and its last number of clean outcomes: a row a
    bias, a column a method, cells `ranking (change of the labels' squared error)`."""
    setting = _setting(planted)
    one = planted[(planted.rollouts == setting["planted_rollouts"]) & (planted.meta == setting["planted_meta"])]
    means = one.groupby(["method", "bias"], sort=False)[["ranking", "label_mse"]].mean()
    change = means.label_mse / means.label_mse["raw labels"].reindex(means.index, level="bias") - 1
    means["cell"] = [f"{rank:.3f} ({more:+.0%})" for rank, more in zip(means.ranking, change, strict=True)]
    wide = means.cell.unstack("method").loc[one.bias.unique()]
    shown = [name for name in CORRECTIONS if name in wide]
    return wide[shown].rename(columns=CORRECTIONS).rename_axis(index=None, columns="bias of the completer")


def _setting(planted: pd.DataFrame) -> dict[str, int]:
    return {
        "planted_rollouts": int(planted.rollouts.iloc[0]),
        "planted_meta": int(planted.meta.iloc[-1]),
        "planted_worlds": int(planted.seed.nunique()),
    }


def oracle_table(oracle: pd.DataFrame) -> pd.DataFrame:
    """`oracle.csv` as people read it, at the rollouts that both kinds of labels have: a row a method, a column whose
    labels, cells `squared error, times that of the raw labels (interval)`."""
    part = oracle[(oracle.rollouts == shared_rollouts(oracle)) & oracle.method.isin(CORRECTIONS)]
    cell = [
        f"{r.mse:.3f}, times {1 - r.gain:.2f} ({1 - r.gain_high:.2f}–{1 - r.gain_low:.2f})" for r in part.itertuples()
    ]
    wide = part.assign(cell=cell, whose=part.labels.map({"own": "the policy's labels", "weaker": "a weaker model's"}))
    wide = wide.pivot(index="method", columns="whose", values="cell").loc[part.method.unique()]
    return wide.rename(index=CORRECTIONS).rename_axis(index=None, columns="method")


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


def _chapters(study: Study) -> Iterator[tuple[str, list[Picture]]]:
    """Each chapter's title, and its figures in the order of its text, but those that were shown before."""
    for stage in STAGES:
        notebook = nbformat.read(study.existing(f"notebooks/{stage.notebook}.ipynb"), 4)
        text = "\n".join(cell.source for cell in notebook.cells)
        title = next(line.removeprefix("# ") for line in text.splitlines() if line.startswith("# "))
        files = sorted((study.folder / "figures").glob(f"{stage.notebook[:2]}_*.png"))
        files.sort(key=lambda f: text.find(f'"{f.stem}"') % (len(text) + 1))  # what it does not name comes last
        yield title, [_picture(path) for path in files if path.stem not in MAIN_FIGURES]


def _picture(path: Path) -> Picture:
    with Image.open(path) as image:
        width = round(96 * image.width / image.info.get("dpi", (96, 96))[0])
        return Picture(base64.b64encode(path.read_bytes()).decode(), image.info.get("Description", path.stem), width)


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
