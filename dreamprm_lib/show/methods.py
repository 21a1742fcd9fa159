"""The methods that choose among candidates: what each one takes, and how figures draw it (`data/methods.yaml`)."""

from pathlib import Path

from dreamprm_lib.engine.files import from_yaml, read_text

FILE = Path(__file__).parents[1] / "data" / "methods.yaml"
KINDS: dict[str, dict[str, dict[str, str]]] = from_yaml(read_text(FILE), FILE)
METHODS = {name: about for methods in KINDS.values() for name, about in methods.items()}
