"""The methods that choose among candidates: what each one takes, and how figures draw it (`data/methods.yaml`)."""

from dreamprm_lib.engine.files import DATA, from_yaml, read_text

KINDS: dict[str, dict[str, dict[str, str]]] = from_yaml(read_text(DATA / "methods.yaml"), "methods.yaml")
METHODS = {name: about for methods in KINDS.values() for name, about in methods.items()}
