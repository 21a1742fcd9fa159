"""The picture of the house, drawn from the imports: which room stands on which, and what is in it."""

import ast
import json
import textwrap
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dreamprm_lib"
TITLES = {"notebooks": "notebooks/", "__main__": "python -m dreamprm_lib", "chapters": "the chapters"}
NOT_DRAWN = {"errors", "__init__"}  # every room uses them
WIDTH, MARGIN, GAP, LINE, BETWEEN = 800, 10, 14, 16, 34  # pixels
STYLE = """
  .paper { fill: #fff; } .room { fill: #eef3fa; stroke: #4c72b0; }
  path { stroke: #6b7280; fill: none; } marker path { fill: #6b7280; }
  text { font: 12px system-ui, sans-serif; fill: #1b1b1f; } .title { font-weight: 700; font-size: 14px; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #16181d; } .room { fill: #222630; stroke: #7f9fd6; } text { fill: #e4e6eb; }
    path { stroke: #a9afbc; } marker path { fill: #a9afbc; }
  }"""


def room_of(module: tuple[str, ...]) -> str:
    """The room of a module, given by its parts.  The chapters lie beside the folders of the other rooms."""
    *folders, name = module
    return "/".join(folders[:2]) or (name if name in {"__main__", *NOT_DRAWN} else "chapters")


@cache
def modules() -> dict[tuple[str, ...], str]:
    """Every module of the library and every notebook, by its parts, with its source."""
    found = {path.relative_to(PACKAGE).with_suffix("").parts: path.read_text() for path in PACKAGE.rglob("*.py")}
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        found["notebooks", path.stem] = "\n".join(code)
    return dict(sorted(found.items()))


def contents() -> dict[str, list[str]]:
    """The modules of each room that is drawn."""
    rooms: dict[str, list[str]] = {}
    for module in modules():
        if module[-1] != "__init__" and room_of(module) not in NOT_DRAWN:
            rooms.setdefault(room_of(module), []).append(module[-1])
    return rooms


def imported(source: str) -> set[tuple[str, ...]]:
    """The library's modules that a text imports, each given by its parts."""
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(ast.parse(source)):
        names = [name.name for name in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        within = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for top, *parts in (f"{within}{name}".split(".") for name in names):
            if top == "dreamprm_lib":
                places = (parts, parts[:-1], [*parts, "__init__"], [*parts[:-1], "__init__"])
                found |= {next(place for place in map(tuple, places) if place in modules())}
    return found


def stands_on() -> dict[str, set[str]]:
    """The rooms that each room imports from; a room within a room counts as part of it."""
    below: dict[str, set[str]] = {room.split("/")[0]: set() for room in contents()}
    for module, source in modules().items():
        own = room_of(module).split("/")[0]
        if own in below:
            below[own] |= {room_of(other).split("/")[0] for other in imported(source)} & below.keys() - {own}
    return below


def floors(below: dict[str, set[str]]) -> dict[str, int]:
    """The floor of each room: one above the highest room that it stands on."""
    found: dict[str, int] = {}
    while len(found) < len(below):
        ready = {room for room in below.keys() - found.keys() if below[room] <= found.keys()}
        if not ready:
            raise ValueError(f"These rooms import each other in a circle: {sorted(below.keys() - found.keys())}")
        found |= {room: 1 + max((found[other] for other in below[room]), default=-1) for room in ready}
    return found


def next_below(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """The rooms on which each room stands directly: those that are not under another one on which it stands."""
    return {room: others - set().union(*(below[other] for other in others)) for room, others in below.items()}


def svg() -> str:
    """The picture: a row of boxes for each floor, and an arrow to each room on which another one stands directly."""
    rooms, below = contents(), stands_on()
    levels = floors(below)
    drawn: list[str] = []
    places: dict[str, tuple[tuple[float, float], int, int]] = {}  # left and right side, top, foot
    top = MARGIN
    for level in range(max(levels.values()), -1, -1):
        row = [room for room in rooms if levels[room.split("/")[0]] == level]
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        texts = {room: textwrap.wrap(", ".join(rooms[room]), int(width / 6.6)) for room in row}
        height = LINE * (2 + max(map(len, texts.values())))
        for number, room in enumerate(row):
            left = MARGIN + number * (width + GAP)
            root = room.split("/")[0]  # its arrows begin and end in the middle of its boxes
            places[root] = ((places[root][0][0] if root in places else left, left + width), top, top + height)
            drawn.append(f'<rect class="room" x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" rx="6"/>')
            lines = [("title", TITLES.get(room, f"{room}/")), *(("", line) for line in texts[room] if line != room)]
            for k, (style, line) in enumerate(lines):
                at = f'x="{left + 10:.0f}" y="{top + 20 + k * LINE}"'
                drawn.append(f'<text class="{style}" {at}>{escape(line)}</text>')
        top += height + BETWEEN
    for room, others in next_below(below).items():
        for other in sorted(others):
            (sides, _, foot), (other_sides, roof, _) = places[room], places[other]
            line = f"M {sum(sides) / 2:.0f} {foot} L {sum(other_sides) / 2:.0f} {roof - 4}"
            drawn.append(f'<path d="{line}" marker-end="url(#tip)"/>')
    height = top - BETWEEN + MARGIN
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img">'
    head = f"<title>The rooms of the house</title><style>{STYLE}\n</style>"
    tip += '<path d="M 0 0 L 8 4 L 0 8 z"/></marker>'
    paper = '<rect class="paper" width="100%" height="100%"/>'
    return "\n".join([start, head, f"<defs>{tip}</defs>", paper, *drawn, "</svg>\n"])
