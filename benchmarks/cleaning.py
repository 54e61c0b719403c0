"""Accuracy and detection of `bilevel.cleaning.clean` on noisy copies of known data sets, as Markdown tables.

python benchmarks/cleaning.py            # the tables of docs/results.md, about ten minutes on two cores
python benchmarks/cleaning.py digits     # the lines of one data set
"""

import sys
import time
from typing import NamedTuple

from bilevel import datasets
from bilevel.cleaning import Cleaning, clean, split


class Line(NamedTuple):
    """One line of a table: a data set, its sizes, its noise and the seeds."""

    dataset: str
    rows: int
    trusted_rows: int
    noise: float
    kind: str
    seeds: tuple[int, ...]

    @property
    def title(self) -> str:
        """Return the text of the line's first cell."""
        share = f"{100 * self.noise:.0f} % wrong"
        return f"{self.dataset}, {self.rows:,} rows ({share}) + {self.trusted_rows:,} trusted"


LINES = [
    Line("digits", 1200, 200, 0.4, "uniform", (30, 31, 32)),
    Line("digits", 1200, 200, 0.0, "uniform", (30, 31, 32)),
    Line("digits", 1200, 200, 0.05, "uniform", (30, 31, 32)),
    Line("mnist", 5000, 500, 0.4, "uniform", (30, 31, 32)),
    Line("fashion_mnist", 5000, 500, 0.4, "uniform", (30, 31)),
    Line("digits", 1200, 200, 0.4, "pair", (30, 31, 32)),
    Line("mnist", 5000, 500, 0.4, "pair", (30, 31, 32)),
    Line("fashion_mnist", 5000, 500, 0.4, "pair", (30, 31)),
]
MODELS = ("as_given", "trusted_only", "disagreement", "cleaned", "oracle")


def cells(found: Cleaning, seconds: float) -> list[str]:
    """Return the numbers of one run as table cells."""
    accuracy = found.summary["test_accuracy"]
    detection = [found.summary["detection"], *found.summary["baseline_detection"].values()]
    flagged, right = found.summary["flagged"], found.summary["detection"]["precision"]
    row = [f"{accuracy[model]:.3f}" for model in MODELS]
    row += [f"{scores['f1']:.3f}" for scores in detection]
    return [*row, f"{flagged:,}", f"{right:.2f}", f"{seconds:.0f}"]


def main(names: list[str]) -> None:
    """Run the lines of the named data sets (all by default) and print a row after each run."""
    header = [
        "data",
        "seed",
        *MODELS,
        "f1",
        "f1 disagreement",
        "f1 trusted only",
        "flags",
        "precision",
        "seconds",
    ]
    for kind in ("uniform", "pair"):
        print(f"\n{kind} noise\n\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header), flush=True)
        for line in LINES:
            if line.kind != kind or (names and line.dataset not in names):
                continue
            loaded = datasets.load(line.dataset)
            for seed in line.seeds:
                parts = split(
                    loaded,
                    rows=line.rows,
                    trusted_rows=line.trusted_rows,
                    noise=line.noise,
                    kind=kind,
                    seed=seed,
                )
                begin = time.perf_counter()
                found = clean(*parts, seed=seed, progress=False)
                row = [line.title, str(seed), *cells(found, time.perf_counter() - begin)]
                print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
