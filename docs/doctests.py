"""Extension of mkdocstrings: doctests as code, the list of algorithms, and late imports.

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

    def on_package(self, *, pkg: griffe.Module, **_) -> None:
        """Show the functions `clean` and `influence`, and not the modules of the same names."""
        if pkg.path == "bilevel":
            for name in ("clean", "influence"):
                function = pkg["cleaning"][name][name]
                pkg["cleaning"].set_member(name, function)
                pkg.set_member(name, griffe.Alias(name, function, parent=pkg))
