"""Explorers: ipywidgets around a pure `render(...) -> Figure`.

The render function gets all its state by argument, so what a slider shows is what a headless run draws.  The figure is
an image widget, not captured output: it does not flicker, stays visible in a saved notebook, and a headless run cannot
wait for a front end.
"""

from collections.abc import Callable, Sequence
from html import escape
from io import BytesIO

import ipywidgets
from matplotlib.figure import Figure

from dreamprm_lib.errors import DreamPRMError


def explorer(render: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Controls above a figure that is redrawn at each change; the controls' names are `render`'s arguments.

    An error of the suite is shown in the figure's place; any other is a fault, and is raised.
    """
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.style.description_width = "initial"
    picture = ipywidgets.Image(format="png", layout={"max_width": "100%", "align_self": "flex-start"})
    trouble = ipywidgets.HTML()

    def draw(_change=None) -> None:
        try:
            figure = render(**{name: control.value for name, control in controls.items()})
        except DreamPRMError as error:
            trouble.value = f"<b>{escape(str(error))}</b>"
            return
        trouble.value = ""
        picture.value = png_of(figure)

    for control in controls.values():
        control.observe(draw, "value")
    draw()
    row = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([row, trouble, picture])


def png_of(figure: Figure) -> bytes:
    """The figure as a widget or a page shows it."""
    with BytesIO() as file:
        figure.savefig(file, format="png", dpi=100, bbox_inches="tight")
        return file.getvalue()


def choice(options, description: str, value=None) -> ipywidgets.Dropdown:
    """A drop-down list."""
    options = list(options)
    return ipywidgets.Dropdown(options=options, value=options[0] if value is None else value, description=description)


def slider(low: int, high: int, description: str, value: int | None = None) -> ipywidgets.IntSlider:
    """A whole-number slider that acts when it is let go."""
    return ipywidgets.IntSlider(
        value=low if value is None else value,
        min=low,
        max=high,
        description=description,
        continuous_update=False,
        layout={"width": "24rem"},
    )


class Interactive(ipywidgets.VBox):
    """A box of widgets, and HTML that replaces it wherever no widget lives: an executed notebook, a book."""

    def __init__(self, children: Sequence[ipywidgets.Widget], still: str):
        super().__init__(children)
        self.still = still

    def _repr_mimebundle_(self, **options) -> dict:
        return super()._repr_mimebundle_(**options) | {"text/html": self.still}
