"""Shows the doctests of docstrings as code: Markdown alone would read `>>>` as a quotation."""

import re

import griffe

PARAGRAPH = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(griffe.Extension):
    """Fences each paragraph of a docstring that begins with a prompt."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = PARAGRAPH.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
