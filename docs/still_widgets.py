"""Notebooks as they can be printed: an explorer becomes its picture, a progress bar goes, alt texts stay."""

import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
EXPLORER = "The figure of this explorer, as its controls are set at first"


def read(text):
    """The notebook with every widget's view replaced by the picture in it, or removed where it has none; the alt text
    of a picture is where myst-nb looks for it, and links lead to the pages of the docs."""
    notebook = nbformat.reads(text, 4)
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("](../docs/", "](/")
        for output in list(cell.get("outputs", ())):
            said = output.get("metadata", {}).get("image/png", {}).get("alt")
            if view := output.get("data", {}).pop(VIEW, None):
                if picture := picture_in(models, view["model_id"]):
                    output.data["image/png"], said = picture, EXPLORER
                else:
                    cell.outputs.remove(output)
            if said:
                cell.metadata["mystnb"] = {"image": {"alt": said}}
    return notebook


def picture_in(models, name):
    """The first image in a widget and its children, as base64; None if there is none."""
    model = models.get(name, {})
    if model.get("model_name") == "ImageModel":
        return next(buffer["data"] for buffer in model["buffers"] if buffer["path"] == ["value"])
    children = (child.removeprefix("IPY_MODEL_") for child in model.get("state", {}).get("children", ()))
    return next(filter(None, (picture_in(models, child) for child in children)), None)
