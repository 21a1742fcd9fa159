"""The book: the executed notebooks of the reference run, the README and the library's reference.  `make book`."""

import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import house  # noqa: E402

project = "Process reward models for code, taken apart"
author = "The DreamPRM notebook suite contributors"
release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_extra_path = ["../outputs/reference/report.html"]
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": True, "navbar_persistent": []}
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_custom_formats = {".ipynb": "still_widgets.read"}
nb_ipywidgets_js = {}
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"


ROOMS = {  # from the bottom up: a page that documents a name comes before one that only uses it, or links go astray
    "errors": "What is raised where something is wrong.",
    "engine": "What the chapters work with, and know nothing of: problems, models, training, files.",
    "engine/policy": "Asking language models, here or elsewhere, and keeping what they answer.",
    "engine/sandbox": "Running programs that nobody has read.",
    "evidence": "How a claim is judged: statistics, worlds of known truth, costs.",
    "study": "What passes between the chapters.",
    "chapters": "A module for each notebook, and those that two chapters are helped by.",
    "show/figures": "The figures, by chapter.",
    "show": "Widgets, drawings, findings and the report.",
    "commands": "What `python -m dreamprm_lib` does.",
    "course": "The editions, the exercises and the quizzes.",
}
NO_PAGE = {"engine.sandbox.worker"}  # the program of another process


def modules_page() -> str:
    """A heading and the docstrings of every module of the library, by room, as Markdown."""
    rooms = house.contents() | {"errors": ["errors"]}
    order = [name[3:] for name in rooms.pop("notebooks")]
    rooms["chapters"].sort(key=lambda name: order.index(name) if name in order else len(order))
    del rooms["__main__"]
    text = ""
    for room in sorted(rooms, key=[*ROOMS, *rooms].index):
        text += f"\n## {room.capitalize()}\n\n{ROOMS.get(room, '')}\n"
        folder = "" if room in ("chapters", "errors") else room.replace("/", ".") + "."
        for name in (folder + module for module in rooms[room]):
            if name not in NO_PAGE:
                directive = f".. automodule:: dreamprm_lib.{name}\n   :members:\n   :ignore-module-all:"
                text += f"\n### `{name}`\n\n```{{eval-rst}}\n{directive}\n```\n"
    return text


def prepared(_app, page, source):
    """A page's text before it is read: the library's modules are added, and no line breaks within an interval."""
    if page == "library":
        source[0] += modules_page()
    if page == "results":
        source[0] = re.sub(r"(?<=\d)–(?=\d)", "\u2060–\u2060", source[0])  # word joiners


def mathml(page, node):
    """Formulas as MathML, which browsers set by themselves: no script, no network."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    page.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def without_builtins(app, env):
    """What is made of a built-in type has no source to show, and gets no page among the modules."""
    getattr(env, "_viewcode_modules", {}).pop("builtins", None)
    return []


def setup(app):
    app.connect("source-read", prepared)
    app.connect("env-updated", without_builtins)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))
