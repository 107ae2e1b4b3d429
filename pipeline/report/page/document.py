"""The HTML document: style, scripts and data in one file that needs no network."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

_EXPORTS = re.compile(r"export\s*\{([^}]*)\}\s*;?")


def render(template: str, context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Render a page. context: the template's variables; data: JSON islands by name, which the page's script reads.

    Text of a data set never becomes markup or script: jinja2 escapes markup, `json_island` escapes scripts, and a
    content security policy allows three scripts by their hashes and loads nothing.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("avfuse.pipeline.report.page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        **context,
        styles=[Markup(_tables_style()), Markup(_own("page.css"))],
        scripts=[{"module": module, "text": Markup(text)} for module, text in _scripts()],
        policy=_policy(),
        islands={name: json_island(value) for name, value in data.items()},
    )


def json_island(value: Any) -> Markup:
    """JSON for a script element, with `<`, `>` and `&` escaped. NaN is null."""
    text = json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)
    escaped = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(escaped)


def data_address(content: bytes, kind: str) -> str:
    """A file as a data URL. kind: its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(name): _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _scripts() -> list[tuple[bool, str]]:
    """Plotly, DataTables and the page's script: whether each is a module, and its text."""
    from plotly.offline import get_plotlyjs

    return [(False, get_plotlyjs()), (True, _tables_script()), (True, _own("page.js"))]


@cache
def _policy() -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for _, text in _scripts()
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _tables_script() -> str:
    """itables' bundle of DataTables. An inline module cannot be imported, so its exports become a global object."""
    text = _tables_bundle(".js")
    exports = list(_EXPORTS.finditer(text))[-1]
    pairs = [name.strip().partition(" as ") for name in exports.group(1).split(",")]
    exported = ",".join(f"{json.dumps(name or local)}:{local}" for local, _, name in pairs)
    return f"{text[: exports.start()]}window.avfuseTables={{{exported}}};{text[exports.end() :]}"


def _tables_style() -> str:
    return _tables_bundle(".css")


def _tables_bundle(suffix: str) -> str:
    from itables.options import dt_bundle

    return Path(dt_bundle).with_suffix(suffix).read_text(encoding="utf-8")


@cache
def _own(name: str) -> str:
    return files("avfuse.pipeline.report.page").joinpath(name).read_text(encoding="utf-8")
