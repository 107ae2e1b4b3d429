"""The site that `make docs` builds: the Markdown pages of this folder, and the API from docstrings."""

import inspect
import re
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Generic, TypeVar

import numpy.typing

project = "avfuse"
release = version = installed_version("avfuse")
author = copyright = "the avfuse contributors"
root = Path(__file__).resolve().parents[1]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
highlight_language = "text"

html_theme = "furo"
html_title = "avfuse"
html_copy_source = html_show_sourcelink = False
html_show_copyright = html_show_sphinx = False

# Pages are read on GitHub too: headings have the anchors that they have there.
myst_heading_anchors = 4

# The notebook is committed without outputs. It runs where `make demo` has been, and is shown as it is elsewhere.
has_demo = (root / "cache" / "manifests" / "demo.parquet").is_file() and (root / "runs" / "demo" / "demo").is_dir()
nb_execution_mode = "cache" if has_demo else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

# Docstrings are plain text in which `this` is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

Scalar = TypeVar("Scalar")


class NDArray(Generic[Scalar]):
    """Stands in for numpy's, which is shown as `ndarray[tuple[Any, ...], dtype[float32]]` and not as it is written."""


NDArray.__module__ = "numpy.typing"
numpy.typing.NDArray = NDArray


attribute_docs = {}


def list_fields(app, what, name, thing, options, lines):
    """Paragraphs of docstrings that say `field: meaning. other: meaning.` become a list, for napoleon to set."""
    if what == "class":
        known, title = getattr(thing, "__annotations__", {}), "Attributes:"
    elif what in ("function", "method"):
        known, title = inspect.signature(thing).parameters, "Args:"
    else:
        attribute_docs[name] = list(lines)
        return
    names = "|".join(sorted(known, key=len, reverse=True)) or "(?!)"
    field = re.compile(rf"(?:^|(?<=[.;] )|(?<=\n))((?:{names})(?:, (?:{names}))*): ")
    paragraphs = "\n".join(lines).split("\n\n")
    for number, text in enumerate(paragraphs):
        if field.match(text):
            _, *parts = field.split(text)
            meanings = (" ".join(meaning.split()) for meaning in parts[1::2])
            entries = (f"    {each}: {meaning}" for each, meaning in zip(parts[::2], meanings, strict=True))
            paragraphs[number] = "\n".join([title, *entries])
    lines[:] = "\n\n".join(paragraphs).split("\n")


def restore_attribute(app, what, name, thing, options, lines):
    """Undo napoleon for attributes, where it would take the words before a colon for the type."""
    if what in ("attribute", "data", "property"):
        lines[:] = attribute_docs.pop(name, lines)


def setup(app):
    app.connect("autodoc-process-docstring", list_fields, priority=100)
    app.connect("autodoc-process-docstring", restore_attribute, priority=900)
