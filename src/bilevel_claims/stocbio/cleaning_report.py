"""What the cleaning runs say: numbers, words, figures."""

from bilevel_claims.experiment import Axis
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.problems.trusted_images import ends_of
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Finding, Picture, at_least, at_most, near, shown

FIXED, CLEAN = "weights fixed", "only right rows"
FULL, WARM = ("AID-FP", "AID-CG", "ITD"), "AID-CG, warm v"
ORDER = ("stocBiO", *FULL, "BSA", "TTSA", FIXED, CLEAN)  # of the colours


def report(known, noted, tuned, searches, budget, more) -> Finding:
    """Numbers, words and figures of the noted and of the tuned runs."""

    def read(run, known=known):
        return run.steps * known[run.label].rows

    given = {run.label: run for run in noted}
    end = {noise: {run.label: run.last("test loss") for run in runs} for noise, runs in tuned.items()}
    full = {noise: min(ends[label] for label in FULL) for noise, ends in end.items()}
    loud, quiet = end[0.4], end[0.1]

    def over(ends, other):
        return at_most(ends["stocBiO"] / ends[other], 1)

    cut = given["stocBiO"].last("test loss") / given[FIXED].last("test loss")
    numbers = {
        "notes' settings, noise 0.4: test loss, stocBiO over weights fixed": at_most(cut, 0.75),
        "notes' settings, noise 0.4: AUC of stocBiO's weights": at_least(given["stocBiO"].last("AUC"), 0.82),
        "notes' settings, noise 0.4: test loss, ITD over AID-FP": near(
            given["ITD"].last("test loss") / given["AID-FP"].last("test loss"), 1, 0.01
        ),
        "tuned, noise 0.4: test loss, stocBiO over weights fixed": over(loud, FIXED),
        "tuned, noise 0.4: test loss, stocBiO over BSA": over(loud, "BSA"),
        "tuned, noise 0.4: test loss, stocBiO over TTSA": over(loud, "TTSA"),
        "tuned, noise 0.4: test loss, stocBiO over the best on full batches": at_most(
            loud["stocBiO"] / full[0.4], 1
        ),
        "noise 0.1: test loss, stocBiO over weights fixed": over(quiet, FIXED),
        "noise 0.1: test loss, stocBiO over the best on full batches": at_most(
            quiet["stocBiO"] / full[0.1], 1
        ),
    }
    for level in (1.0, 0.8):
        reached = {
            run.label: run.reaches("test loss", level, run.steps * known[run.label].rows) for run in noted
        }
        numbers[
            f"notes' settings, noise 0.4: rows read to a test loss of {level}, stocBiO over the first other"
        ] = shown(reached["stocBiO"] / min(reached[label] for label in (*FULL, WARM)))
    if more is not None:
        many = {run.label: run.last("test loss") for run in more[1]}
        numbers["20,000 rows, noise 0.4: test loss, stocBiO over AID-FP"] = over(many, "AID-FP")
    others = {label: loud[label] for label in ("BSA", "TTSA", *FULL)}
    ahead = [label for label, loss in others.items() if loss < loud["stocBiO"]]
    behind = [label for label in others if label not in ahead]
    standing = " ".join(
        f"{verb} it {'is' if len(labels) == 1 else 'are'} "
        f"{', '.join(f'{label} ({others[label]:.3f})' for label in labels)}."
        for verb, labels in (("Below", ahead), ("Above", behind))
        if labels
    )
    lowest = min(others, key=lambda label: others[label])
    soon: dict[str, float] = {
        run.label: run.reaches("test loss", 1.0, run.steps * known[run.label].rows)
        for run in tuned[0.4]
        if run.label not in (FIXED, CLEAN)
    }
    sooner, soonest = soon["stocBiO"], min(others, key=lambda label: soon[label])
    numbers["tuned, noise 0.4: rows read to a test loss of 1.0, stocBiO over the soonest other"] = shown(
        sooner / soon[soonest]
    )
    best = min((run for run in noted if run.label in FULL), key=lambda run: run.last("test loss"))
    fuller = read(best)[-1] / read(given["stocBiO"])[-1]
    words = (
        f"Tuned alike, stocBiO comes to a test loss of 1 after {sooner:,.0f} rows and the "
        f"soonest other, {soonest}, after {soon[soonest]:,.0f}; after "
        f"{budget:,} rows each, stocBiO is at {loud['stocBiO']:.3f} and the lowest other, {lowest}, at "
        f"{others[lowest]:.3f}. {standing} Fixed weights end at {loud[FIXED]:.3f}, a run without the wrong "
        f"rows at {loud[CLEAN]:.3f}. A step of stocBiO moves the weights of one minibatch, a step on the "
        f"full batch all of them. At noise 0.1, with the same steps, stocBiO ends at {quiet['stocBiO']:.3f}, "
        f"fixed weights at {quiet[FIXED]:.3f}, the best on full batches at {full[0.1]:.3f}. With the notes' "
        f"settings, equal for all, stocBiO ends at {given['stocBiO'].last('test loss'):.3f} after 100 outer "
        f"steps, fixed weights at {given[FIXED].last('test loss'):.3f}; on full batches, after 50 steps that "
        f"read {fuller:.1f} times the rows, the lowest is {best.label} at {best.last('test loss'):.3f}."
    )
    if more is not None:
        words = (
            f"{words} With 20,000 rows, of which a full step of AID-FP reads {more[0]['AID-FP'].rows:,}, and "
            f"as many read as three of these do, stocBiO ends at {many['stocBiO']:.3f}, AID-FP at "
            f"{many['AID-FP']:.3f}, fixed weights at {many[FIXED]:.3f}."
        )

    def drawn(runs, known=known):
        return [
            Line(
                run.label,
                read(run, known),
                run.values["test loss"],
                colour=ORDER.index("AID-CG" if run.label == WARM else run.label),
                dash={FIXED: 2, CLEAN: 2, WARM: 1}.get(run.label, 0),
            )
            for run in runs
        ]

    figures = [
        Picture(
            f"Tuned, noise {noise}",
            line_figure(
                f"Tuned alike, noise {noise}",
                "training and trusted rows read",
                "test loss",
                drawn(runs),
                log="x",
                limits=(0.9 * min(ends.values()), 1.4 * ends[FIXED]),
            ),
            "Cross entropy on test images of right labels, by gradients and products of single rows. "
            "Median of three seeds, the band their range; dotted: no method at work.",
        )
        for (noise, runs), ends in zip(tuned.items(), end.values(), strict=True)
    ]
    figures += [
        Picture(
            "The settings of the notes",
            line_figure(
                "The same steps for all, noise 0.4",
                "training and trusted rows read",
                "test loss",
                drawn(noted),
                log="x",
                limits=(0.6, 1.5),
            ),
            "Inner step and step of the series 0.02, outer step 1000 for all; 100 outer steps, 50 on full "
            "batches, which read 13 to 20 times the rows in each.",
        )
    ]
    if more is not None:
        figures += [
            Picture(
                "Ten times the rows",
                line_figure(
                    "20,000 rows, noise 0.4",
                    "training and trusted rows read",
                    "test loss",
                    drawn(more[1], more[0]),
                    log="x",
                    limits=(0.4, 1.6),
                ),
                "Inner steps as found on 2,000 rows, outer steps searched anew. One seed.",
            )
        ]
        searches = [*searches, *more[2]]
    places = [budget // 8, budget // 4, budget // 2, budget]
    along = Axis("rows read", read)
    tables = [
        ("Tuned, noise 0.4, at the end", ends_of(tuned[0.4])),
        ("Tuned at noise 0.4, run at noise 0.1, at the end", ends_of(tuned[0.1])),
        (
            "Test loss by rows read, tuned, noise 0.4",
            value_table(tuned[0.4], "test loss", places, along),
        ),
        ("The settings of the notes, at the end", ends_of(noted)),
        ("What it cost, tuned, noise 0.4", cost_table(tuned[0.4])),
        ("What it cost, the settings of the notes", cost_table(noted)),
    ]
    if more is not None:
        tables += [("20,000 rows, at the end", ends_of(more[1]))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)
