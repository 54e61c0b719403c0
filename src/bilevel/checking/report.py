"""The report of a check."""

from dataclasses import dataclass
from typing import Any

from bilevel.checking.rows import Row
from bilevel.text import duration, numeral, text_table


@dataclass(frozen=True)
class Report:
    """The result of `check`: a table of responses, and what is wrong.

    Attributes:
      findings: one sentence for each fault, with its remedy.
      notes: further sentences: how the reference was made, and what is expected.
      rows: one `Row` for each response.
      reference: numbers of the reference: its method, gradient norm, residuals and control.
      spectrum: smallest and largest eigenvalue of the inner Hessian, and its condition number.
      curves: relative error against `inner_steps` and `linear_steps`, by method.
      settings: settings of the usual responses.
      environment: versions and device.
    """

    findings: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    reference: dict[str, Any]
    spectrum: dict[str, Any]
    curves: dict[str, dict[str, list[tuple[int, float]]]]
    settings: dict[str, Any]
    environment: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.findings

    def __str__(self) -> str:
        lines = [f"{len(self.findings)} {'fault' if len(self.findings) == 1 else 'faults'} found"]
        lines = ["No fault found."] if self.ok else [*lines, *[f"  * {text}" for text in self.findings]]
        if self.rows:
            lines += ["", text_table(COLUMNS, [cells(row) for row in self.rows])]
        return "\n".join([*lines, "", *self.notes]).rstrip()

    def numbers(self) -> dict[str, Any]:
        """Return the report as nested dicts and lists, for JSON."""
        return {
            "ok": self.ok,
            "findings": list(self.findings),
            "notes": list(self.notes),
            "rows": [row._asdict() for row in self.rows],
            "reference": self.reference,
            "spectrum": self.spectrum,
            "curves": self.curves,
            "settings": self.settings,
            "environment": self.environment,
        }


COLUMNS = (
    "response",
    "relative error",
    "cosine",
    "inner residual",
    "linear residual",
    "seconds",
    "bytes",
    "oracle calls",
)


def cells(row: Row) -> list[str]:
    """Return the texts of a row, in the order of `COLUMNS`."""
    return [
        row.response,
        f"{row.relative_error:.2g}",
        "–" if row.cosine is None else f"{row.cosine:.4f}",
        f"{row.inner_residual:.2g}",
        "–" if row.linear_residual is None else f"{row.linear_residual:.2g}",
        duration(row.seconds),
        size(row.bytes),
        numeral(row.oracle_calls),
    ]


def size(count: int | None) -> str:
    """Format a number of bytes in a readable unit.

    >>> size(512), size(20_480), size(3_400_000), size(None)
    ('512 B', '20 KiB', '3.2 MiB', '–')
    """
    if count is None:
        return "–"
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
