"""One self-contained HTML page: style, script and images inside, escaped text, no request."""

import base64
import functools
import hashlib
import struct
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).parent


def render(template: str, folder: Path = FOLDER, **values: Any) -> str:
    """The page of a template that extends `page.html.jinja`.

    The page's own security policy lets a browser run the one script below and fetch nothing, so that
    even text that slipped through the escaping could do no harm.

    Args:
      template: file name, in `folder` or beside this module.
      folder: where the template lies.
      **values: what the template reads; `title` and `warnings` are for every page.
    """
    script = (FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment(folder).get_template(template)
    return page.render(script=script, script_hash=f"sha256-{digest}", version=_version(), **values).lstrip()


def data_uri(png: bytes) -> str:
    """The image as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG file, from its header."""
    return struct.unpack(">II", png[16:24])


@functools.cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": data_uri, "size": png_size}
    return environment


def _version() -> str:
    try:
        return version("bilevel")
    except PackageNotFoundError:
        return ""
