"""Writes what the docs compute: `python docs/generate.py`, after a new reference run or a new module.

These are the results page, the findings in the README, and the picture of the house.  A test compares them with what
is committed.
"""

import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import house  # noqa: E402

from dreamprm_lib.show.findings import answer_of  # noqa: E402
from dreamprm_lib.show.report import results_markdown  # noqa: E402
from dreamprm_lib.study.folder import Study  # noqa: E402

PICTURE = HERE / "_static" / "house.svg"


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def with_findings(readme: str, study: Study) -> str:
    """The README with the headline and the findings of a study between their marks."""
    answer = answer_of(study)
    items = [wrapped(f"{number}. {said}", "   ") for number, said in enumerate(answer.findings, 1)]
    texts = {"headline": wrapped(" ".join(answer.headline)), "findings": "\n".join(items)}
    for name, text in texts.items():
        start, end = f"<!-- {name}: computed -->\n", f"\n<!-- {name} ends -->"
        before, after = readme.split(start)[0], readme.split(end)[1]
        readme = before + start + text + end + after
    return readme


def results(study: Study) -> dict[Path, str]:
    """The files that come from the tables of a study, with their texts."""
    readme = ROOT / "README.md"
    return {
        readme: with_findings(readme.read_text(encoding="utf-8"), study),
        HERE / "results.md": results_markdown(study),
    }


if __name__ == "__main__":
    for path, text in (results(Study(ROOT / "outputs", "reference")) | {PICTURE: house.svg()}).items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
