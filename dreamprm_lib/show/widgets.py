"""Explorers: ipywidgets around a pure `render(...) -> Figure`.

The render function gets all its state by argument, so what a slider shows is what a headless run draws.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure


def explorer(render: Callable[..., Figure], **controls: ipywidgets.Widget) -> ipywidgets.VBox:
    """Controls above a figure that is drawn anew at each change; the controls' names are `render`'s arguments."""
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.style.description_width = "initial"
    output = ipywidgets.interactive_output(lambda **values: display(render(**values)), controls)
    return ipywidgets.VBox([ipywidgets.HBox(list(controls.values())), output])


def choice(options, description: str, value=None) -> ipywidgets.Dropdown:
    """A drop-down list."""
    options = list(options)
    return ipywidgets.Dropdown(options=options, value=options[0] if value is None else value, description=description)


def slider(low: int, high: int, description: str, value: int | None = None) -> ipywidgets.IntSlider:
    """A whole-number slider that acts when it is let go."""
    return ipywidgets.IntSlider(
        value=low if value is None else value, min=low, max=high, description=description, continuous_update=False
    )
