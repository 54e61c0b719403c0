"""HTML pages of one file, with style, script and images inside; text is escaped."""

import base64
import functools
import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bilevel.environment import VERSION

FOLDER = Path(__file__).parent


def render(
    template: str,
    *,
    title: str,
    warnings: Sequence[str],
    folder: Path = FOLDER,
    scripts: Sequence[str] = ("page.js",),
    **values: Any,
) -> str:
    """Return the HTML of a template that extends `page.html.jinja`.

    The content security policy of the page lets a browser run only its own script and load nothing:
    text that slipped through the escaping does no harm.

    Args:
      template: file name of the template.
      title: title of the page.
      warnings: warnings at the top of the page.
      folder: folder of the template.
      scripts: file names of the scripts of the page.
      **values: further variables of the template.
    """
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _environment(folder).get_template(template)
    values |= {"title": title, "warnings": warnings, "version": VERSION}
    return page.render(script=script, script_hash=f"sha256-{digest}", **values).lstrip()


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def png_size(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, read from its header."""
    return struct.unpack(">II", png[16:24])


def fragment(template: str, **values: Any) -> str:
    """Return the HTML of a template that is a part of somebody else's page."""
    return _environment(FOLDER).get_template(template).render(**values).strip()


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
