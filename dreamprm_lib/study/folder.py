"""The folder of a study, and the stages that fill it.

Tables are JSON Lines (`study.rows`) or CSV, so that pandas opens any of them.  Each is written to a temporary file and
renamed.  `manifest.json` is written last, by the runner, as the proof that a stage is complete.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from dreamprm_lib.engine.files import DATA, from_yaml, read_text, write_atomically
from dreamprm_lib.errors import InputError, StudyError
from dreamprm_lib.study.rows import Row, read_rows, write_rows


@dataclass(frozen=True)
class Stage:
    """A notebook, the tables that it reads and those that it writes."""

    notebook: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


STAGES = tuple(
    Stage(notebook, tuple(files.get("reads", ())), tuple(files.get("writes", ())))
    for notebook, files in from_yaml(read_text(DATA / "stages.yaml"), "stages.yaml").items()
)


SHIPPED = "SHIPPED.md"  # a study whose folder holds this file is only read


class Study:
    """The folder of one study: `outputs/<name>`.  Raises `InputError` for a name that is no plain one.

    A shipped study is only read: what starts from it writes to `outputs/<name>-mine`, where files are looked for first.
    """

    def __init__(self, outputs: str | Path, name: str):
        if name in ("", "..") or Path(name).name != name or "\0" in name:
            raise InputError(f"A study's name is that of one folder in outputs/, and {name!r} is none.")
        folder = Path(outputs) / name
        self.shipped = folder if (folder / SHIPPED).exists() else None
        self.folder = folder.with_name(f"{name}-mine") if self.shipped else folder
        self.name = name

    def path(self, file: str) -> Path:
        """Where a file of the study is written; its folder is made."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def existing(self, file: str) -> Path:
        """The path of a file that an earlier chapter made.  Raises `StudyError` if it is not there."""
        for folder in (self.folder, self.shipped):
            if folder and (folder / file).exists():
                return folder / file
        maker = next((s.notebook for s in STAGES if file in s.writes), "an earlier notebook")
        raise StudyError(
            f"{self.folder / file} is missing: {maker} makes it. Run that notebook first, or the study with "
            f"`python -m dreamprm_lib run --study {self.name}` (and the --profile that it began with, unless that is "
            "quick), or set `study` to one that is complete (`reference` is shipped)."
        )

    def write(self, file: str, rows: list) -> Path:
        """Write dataclass rows as JSON Lines."""
        path = self.path(file)
        write_rows(path, rows)
        return path

    def read(self, file: str, row_type: type[Row]) -> list[Row]:
        """Read JSON Lines as rows of a dataclass."""
        return read_rows(self.existing(file), row_type)

    def write_table(self, file: str, table: pd.DataFrame) -> Path:
        """Write a result table as CSV."""
        path = self.path(file)
        write_atomically(path, table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode())
        return path

    def read_table(self, file: str) -> pd.DataFrame:
        """Read a result table."""
        return pd.read_csv(self.existing(file))

    def save_figure(self, figure: Figure, name: str, caption: str) -> Figure:
        """Save a figure as `figures/NAME.png`, `.svg` and `.pdf`, the caption in its metadata, and return it, with the
        caption as its label, for display."""
        figure.set_label(caption)
        for suffix, metadata in (
            ("svg", {"Title": name, "Description": caption, "Date": None}),
            ("pdf", {"Title": name, "Subject": caption, "CreationDate": None}),
            ("png", {"Title": name, "Description": caption}),
        ):
            buffer = io.BytesIO()
            with matplotlib.rc_context({"svg.hashsalt": name}):  # the same figure gives the same file
                figure.savefig(buffer, format=suffix, dpi=150, bbox_inches="tight", metadata=metadata)
            write_atomically(self.path(f"figures/{name}.{suffix}"), buffer.getvalue())
        return figure
