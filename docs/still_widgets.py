"""Notebooks as they can be printed: an explorer becomes its picture, a progress bar goes."""

import nbformat

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def read(text):
    """The notebook with every widget's view replaced by the picture in it, or removed where it has none."""
    notebook = nbformat.reads(text, 4)
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in list(cell.get("outputs", ())):
            view = output.get("data", {}).pop(VIEW, None)
            if view is None:
                continue
            if picture := picture_in(models, view["model_id"]):
                output.data["image/png"] = picture
            else:
                cell.outputs.remove(output)
    return notebook


def picture_in(models, name):
    """The first image in a widget and its children, as base64; None if there is none."""
    model = models.get(name, {})
    if model.get("model_name") == "ImageModel":
        return next(buffer["data"] for buffer in model["buffers"] if buffer["path"] == ["value"])
    children = (child.removeprefix("IPY_MODEL_") for child in model.get("state", {}).get("children", ()))
    return next(filter(None, (picture_in(models, child) for child in children)), None)
