"""What the runs of MRBO and VRBO say: numbers, words, figures."""

from bilevel_claims.experiment import Axis
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.problems.trusted_images import ends_of
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Finding, Picture, at_least, at_most, shown

STOCBIO, MRBO, VRBO, PLAIN, FIXED = "stocBiO", "MRBO", "VRBO", "one loop, no momentum", "weights fixed"
HALF = "VRBO, refresh on half"
COLOURS = {STOCBIO: 0, MRBO: 1, VRBO: 2, PLAIN: 3, HALF: 4, FIXED: 6}
MOVES = (1, 5, 20, 50)


def report(read, noted, sweep, tuned, searches, toy_searches, toy, toy_read, momentum) -> Finding:
    """Numbers, words and figures of both problems."""
    given = {run.label: run for run in noted}

    def along(run):
        return run.steps * read[run.label]

    ends = {run.label: run.last("test loss") for run in tuned}
    late_toy = {run.label: run.late("gradient") for run in toy}
    least = min(sweep, key=lambda run: run.last("test loss"))
    numbers = {
        f"notes' settings: {quantity} of {label}": rule(given[label].last(quantity), limit)
        for label in (MRBO, HALF)
        for quantity, rule, limit in (("test loss", at_most, 0.85), ("AUC", at_least, 0.82))
    }
    numbers |= {
        f"tuned, equal rows: test loss, {label} over stocBiO": at_most(ends[label] / ends[STOCBIO], 1)
        for label in (MRBO, VRBO)
    }
    numbers |= {
        "tuned, equal rows: test loss, MRBO over the same without momentum": at_most(
            ends[MRBO] / ends[PLAIN], 1
        ),
        "toy, equal steps: gradient, MRBO over the same without momentum": at_most(momentum, 0.85),
        "toy, tuned, equal rows: last gradient of VRBO": at_most(toy[-1].last("gradient"), 1e-4),
        "toy, tuned, equal rows: late gradient, MRBO over stocBiO": at_most(
            late_toy[MRBO] / late_toy[STOCBIO], 1
        ),
        "toy, tuned, equal rows: late gradient, VRBO over stocBiO": at_most(
            late_toy[VRBO] / late_toy[STOCBIO], 1
        ),
        "toy, tuned, equal rows: late gradient, MRBO over the same without momentum": shown(
            late_toy[MRBO] / late_toy[PLAIN]
        ),
        "test loss of fixed weights, tuned": shown(ends[FIXED]),
        "notes' settings, refresh on all rows: test loss of VRBO": shown(given[VRBO].last("test loss")),
    }
    words = (
        "On hyper-cleaning, tuned alike and with as many rows read, MRBO ends at a test loss of "
        f"{ends[MRBO]:.3f}, VRBO at {ends[VRBO]:.3f} and stocBiO at {ends[STOCBIO]:.3f}; MRBO's loop without "
        f"momentum ends at {ends[PLAIN]:.3f}, fixed weights at {ends[FIXED]:.3f}. With the notes' settings "
        f"and {along(noted[0])[-1] / along(tuned[0])[-1]:.2g} times as many rows MRBO is at "
        f"{given[MRBO].last('test loss'):.3f}, stocBiO at {given[STOCBIO].last('test loss'):.3f}, VRBO at "
        f"{given[HALF].last('test loss'):.3f} when it refreshes on half of the rows and at "
        f"{given[VRBO].last('test loss'):.3f} on all; their weights rank wrong labels with an AUC of "
        f"{given[MRBO].last('AUC'):.2f}, {given[STOCBIO].last('AUC'):.2f}, {given[HALF].last('AUC'):.2f} and "
        f"{given[VRBO].last('AUC'):.2f}. "
        f"VRBO's number m of inner steps does best at {least.label[4:]} of {', '.join(map(str, MOVES))}. On "
        f"the toy VRBO, which refreshes on all rows, comes to a gradient of {toy[-1].last('gradient'):.2g}; "
        f"late in the run stocBiO is at {late_toy[STOCBIO]:.2g}, MRBO at {late_toy[MRBO]:.2g}, its loop "
        f"without momentum at {late_toy[PLAIN]:.2g}. At equal steps, and twice the rows, momentum takes "
        f"MRBO's error to {momentum:.2g} of what it is without."
    )

    def drawn(runs, quantity="test loss", read=read):
        return [
            Line(
                run.label,
                run.steps * read[run.label],
                run.values[quantity],
                colour=COLOURS.get(run.label),
                dash=2 if run.label == FIXED else None,
            )
            for run in runs
        ]

    rows = "training and trusted rows read"
    figures = [
        Picture(
            "Cleaning, tuned",
            line_figure(
                "MNIST, noise 0.4, tuned alike", rows, "test loss", drawn(tuned), log="", limits=(0.6, 1.5)
            ),
            "Cross entropy on test images of right labels, by gradients and products of single rows, "
            "both points of a difference counted. Median and range of three seeds.",
        ),
        Picture(
            "Cleaning, the settings of the notes",
            line_figure(
                "MNIST, noise 0.4, the notes' settings",
                rows,
                "test loss",
                drawn(noted),
                log="",
                limits=(0.6, 1.5),
            ),
            "Inner step 0.02; outer step 1000, and 200 for MRBO, whose x moves at every step. Median and "
            "range of two seeds.",
        ),
        Picture(
            "VRBO by its inner steps",
            line_figure("VRBO: inner steps m", rows, "test loss", drawn(sweep), log="", limits=(0.7, 1.5)),
            "The official figure has seconds on its axis and is U-shaped in m, best at 20. One seed, the "
            "notes' settings.",
        ),
        Picture(
            "Toy, tuned",
            line_figure(
                "Toy, tuned alike",
                "rows read",
                "norm of the exact gradient",
                drawn(toy, "gradient", toy_read),
                log="y",
            ),
            "Quadratics with means over 200 rows, batches of 16. VRBO takes all rows every ten steps, so "
            "nothing of the noise is left. Median and range of three seeds.",
        ),
    ]
    last = int(min(along(run)[-1] for run in tuned))
    tables = [
        ("Tuned, at the end", ends_of(tuned)),
        ("The settings of the notes, at the end", ends_of(noted)),
        ("VRBO by its inner steps m, at the end", ends_of(sweep)),
        (
            "Test loss by rows read, tuned",
            value_table(tuned, "test loss", [last // 4, last // 2, last], Axis("rows read", along)),
        ),
        ("What it cost, tuned", cost_table(tuned)),
        ("What it cost, toy, tuned", cost_table(toy)),
    ]
    return Finding(
        words=words, numbers=numbers, figures=figures, tables=tables, searches=[*searches, *toy_searches]
    )
