"""The results of a study as people read them: the report, one self-contained HTML file, and a page of the book.

Their prose is in `data/templates`; the sentences with numbers are those of `findings`.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
from PIL import Image

from dreamprm_lib.engine.files import write_atomically
from dreamprm_lib.evidence.statistics import counted
from dreamprm_lib.show.findings import answer_of, asking_in_words, grouped_verdicts, reading_in_words
from dreamprm_lib.show.methods import METHODS
from dreamprm_lib.show.templates import filled
from dreamprm_lib.study.folder import STAGES, Study

MAIN_FIGURES = ("06_curve", "06_differences", "05_worth", "08_cost")
CORRECTIONS = {
    "raw labels": "raw labels",
    "corrected": "corrected, stopped early",
    "corrected, likelihood": "corrected, held by their likelihood",
    "recalibrated": "recalibrated",
}
ASKED = {"completions": "completions asked for", "prompt_tokens": "tokens in", "tokens": "tokens out"}


def write_report(study: Study, manifest: dict) -> Path:
    """Write `report.html` from the study's tables and figures; each figure brings its caption in its metadata."""
    folder = study.folder / "figures"
    text = filled(
        "report.html",
        **_results(study, manifest),
        main=[_picture(path) for name in MAIN_FIGURES if (path := folder / f"{name}.png").exists()],
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
    planted = study.read_table("planted.csv")
    tested = study.read_table("reading_test.csv")
    one = planted[(planted.rollouts == planted.rollouts.iloc[0]) & (planted.meta == planted.meta.iloc[-1])]
    return filled(
        "results.md",
        **_results(study, manifest),
        setting=one.iloc[0],
        worlds=planted.seed.nunique(),
        planted=planted_table(one),
        reading=reading_in_words(study.read_table("reading.csv"), tested),
        reading_test=[reading_table(tested, measure) for measure in ("ranking", "best")],
        asking=asking_in_words(*map(study.read_table, ("written_tests.csv", "asking.csv", "repair.csv"))),
        worth=worth_table(study.read_table("label_worth.csv")),
        by_running=study.read_table("selection_differences.csv").query("samples == 0").verdict,
    )


def _results(study: Study, manifest: dict) -> dict[str, Any]:
    """What both pages say."""
    table = study.read_table("table.csv")
    return {
        "study": study.name,
        "profile": manifest["profile"],
        "note": manifest.get("note", ""),
        "answer": answer_of(study),
        "tables": [(samples, part.n.max(), wide_table(part)) for samples, part in table.groupby("samples")],
        "costs": cost_table(pd.concat(map(study.read_table, ("cost_curve.csv", "asking_curve.csv")))),
        "groups": grouped_verdicts(study.read_table("differences.csv"), study.read_table("confirmed.csv")),
        "methods": {name: about["takes"] for name, about in METHODS.items() if name in set(table.method)},
    }


def wide_table(table: pd.DataFrame) -> pd.DataFrame:
    """`table.csv` as people read it: a row a method, a column a difficulty, cells `rate (low–high)` in percent."""
    cell = [f"{100 * r.pass_rate:.1f} ({100 * r.ci_low:.0f}–{100 * r.ci_high:.0f})" for r in table.itertuples()]
    table = table.assign(cell=cell, group=[f"{r.difficulty} ({r.problems})" for r in table.itertuples()])
    wide = table.pivot(index="method", columns="group", values="cell")
    return wide.loc[table.method.unique(), table.group.unique()].rename_axis(index=None, columns="best-of-N in %")


def cost_table(curve: pd.DataFrame) -> pd.DataFrame:
    """`cost_curve.csv` and `asking_curve.csv` as people read them, with as many candidates as each method looks at: a
    row a method, the percentage of problems that it solves after 0, 1, … public samples (where that can be), and what a
    problem costs with the fewest of them."""
    most = curve.groupby(["method", "samples"], sort=False).tail(1)
    wide = 100 * most.pivot(index="method", columns="samples", values="pass_rate")
    wide = wide.map(lambda share: "" if np.isnan(share) else f"{share:.1f}")
    wide.columns = [f"after {counted(k, 'sample')}" if k else "no sample" for k in wide]
    first = most.drop_duplicates("method").set_index("method")
    wide["tokens"], wide["seconds"] = first.tokens.map("{:,.0f}".format), first.seconds.map("{:,.0f}".format)
    return wide.loc[first.index].rename_axis(index=None, columns="solved in %")


def planted_table(planted: pd.DataFrame) -> pd.DataFrame:
    """Worlds of one size as people read them: a row a bias, a column a method, cells `ranking (change of the labels'
    squared error)`."""
    means = planted.groupby(["method", "bias"], sort=False)[["ranking", "label_mse"]].mean()
    change = means.label_mse / means.label_mse["raw labels"].reindex(means.index, level="bias") - 1
    means["cell"] = [f"{rank:.3f} ({more:+.0%})" for rank, more in zip(means.ranking, change, strict=True)]
    wide = means.cell.unstack("method").loc[planted.bias.unique()]
    shown = [name for name in CORRECTIONS if name in wide]
    return wide[shown].rename(columns=CORRECTIONS).rename_axis(index=None, columns="bias of the completer")


def worth_table(worth: pd.DataFrame) -> pd.DataFrame:
    """`label_worth.csv` as people read it: a row a kind of label, cells `value (interval)`."""
    columns = {"mse": ("squared label error", ""), "held_out": ("held-out ranking", "")}
    columns["held_out_gain"] = "its change", "+"
    wide = pd.DataFrame(index=worth.method)
    for name, (head, sign) in columns.items():
        found = worth[[name, f"{name}_low", f"{name}_high"]].to_numpy()
        wide[head] = [f"{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})" for value, low, high in found]
    return wide.rename_axis(index=None, columns="labels")


def reading_table(tested: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One measure of `reading_test.csv` (by its first word) as people read it: a row a method, a column a set, cells
    `value (gain: low to high)`.  A gain is on `blind`, or on the first of the others that is there; a variant's
    (`A, …`) is on `A`."""
    part = tested[tested.measure.str.startswith(measure)]
    others = ["blind", "mean_logprob", "random"] if measure == "ranking" else ["random"]
    base = next(method for method in others if method in set(part.method))
    part = part[(part.on == base) | (part.method == base) | (part.on == part.method.str.partition(", ")[0])]
    part = part.drop_duplicates(["set", "method"])
    cells = [
        f"{r.value:.3f}" + ("" if r.method == base else f" ({r.gain:+.3f}: {r.gain_low:+.3f} to {r.gain_high:+.3f})")
        for r in part.itertuples()
    ]
    table = part.assign(cell=cells, head=[f"{r.set} ({r.problems})" for r in part.itertuples()])
    wide = table.pivot(index="method", columns="head", values="cell").loc[table.method.unique(), table["head"].unique()]
    return wide.rename_axis(index=None, columns=f"{part.measure.iloc[0]} (gain on {base})")


def _chapters(study: Study) -> Iterator[tuple[str, list[dict]]]:
    """Each chapter's title, and its figures in the order of its text, but those that were shown before."""
    for stage in STAGES:
        notebook = nbformat.read(study.existing(f"notebooks/{stage.notebook}.ipynb"), 4)
        text = "\n".join(cell.source for cell in notebook.cells)
        named = dict.fromkeys(re.findall(rf'"({stage.notebook[:2]}_\w+)"', text)).keys() - MAIN_FIGURES
        files = [study.folder / "figures" / f"{name}.png" for name in sorted(named, key=text.find)]
        title = re.findall("^# (.+)$", text, re.MULTILINE)[0]
        yield title, [_picture(path) for path in files if path.exists()]


def _picture(path: Path) -> dict[str, Any]:
    """A figure as the report shows it: `data` is base64, `width` is in CSS pixels, so that text has one size in all."""
    with Image.open(path) as image:
        width = round(96 * image.width / image.info["dpi"][0])
        caption = image.info["Description"]
    return {"data": base64.b64encode(path.read_bytes()).decode(), "caption": caption, "width": width}


def _stages(manifest: dict) -> pd.DataFrame:
    """A row a stage; what models were asked and what that cost is shown only if any was asked."""
    entries = manifest["stages"].values()
    table = pd.DataFrame({"notebook": list(manifest["stages"]), "seconds": [entry["seconds"] for entry in entries]})
    table["tokens in its tables"] = [entry["tokens"] for entry in entries]
    asked = pd.DataFrame([entry.get("asked") or {} for entry in entries], columns=["answers", *ASKED, "dollars"])
    asked = asked.astype(float)
    if asked.answers.sum():
        for name, head in ASKED.items():
            table[head] = asked[name].fillna(0).astype(int)
        table["dollars"] = asked.dollars.map("{:.4f}".format, na_action="ignore").fillna("")
        table.loc[len(table)] = ["all", *table.sum(numeric_only=True).round(1), f"{asked.dollars.sum():.4f}"]
    return table
