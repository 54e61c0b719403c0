"""Extension of mkdocstrings: doctests as code, and the list of algorithms.

Markdown alone would show `>>>` as a quotation.
"""

import re

import griffe

PARAGRAPH = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Fences each paragraph of a docstring that begins with a prompt."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = PARAGRAPH.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)

    def on_module_members(self, *, mod: griffe.Module, **_) -> None:
        """Name the exports of `bilevel.algorithms`, whose `__all__` only a run can compute."""
        if mod.path == "bilevel.algorithms":
            mod.exports = [name for name, path in mod.imports.items() if path == f"{mod.path}.{name}.{name}"]
