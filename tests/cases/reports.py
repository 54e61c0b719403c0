"""Made-up runs for the tests of the reports."""

import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars

from bilevel.checking import Report, Row
from bilevel.cleaning.result import ClassEstimates, Cleaning, Estimates
from bilevel.report.contact_sheet import picture_png
from bilevel.report.tables import Cell, Column, Table
from bilevel_claims.types import Claim, Finding, Picture, Run, Search, at_least, at_most, shown

HOSTILE = '<script>alert("$x")</script>'
DIVERGED = "outer_loss is not finite at step 100; lower the step sizes"
# Figures for tests of a page's text: drawing figures takes most of the time.
PIXEL = picture_png(np.zeros((1, 1, 3), np.uint8))
UNDRAWN: dict[str, bytes] = dict.fromkeys(
    ("probabilities", "noise", "learning_curves", "test_accuracy", "precision_recall", "corrections"), PIXEL
)
EPISODES: dict[str, bytes] = dict.fromkeys(("curves", "ways", "episode_1", "episode_2"), PIXEL)
COMPARISON = {
    f"{quantity}_by_{axis}": PIXEL
    for quantity in ("outer_loss", "accuracy", "inner_residual")
    for axis in ("step", "seconds", "oracle_calls")
}


def example_cleaning(
    rows=240,
    truth=True,
    tested=True,
    image_shape=(8, 8),
    classes=None,
    data=None,
    trusted=50,
    learnt=False,
    threshold=0.5,
    **summary,
):
    """Return a run that finds most wrong labels.

    Args:
      rows: number of rows.
      truth: whether the truth is known.
      tested: whether there are test rows.
      image_shape: shape of a random image, or None.
      classes: names of the classes; default: ten.
      data: "table", "text" or "pandas" for columns of the data, or None.
      trusted: number of trusted rows; with none, twelve rows are to be checked.
      learnt: whether weights were learnt, with a history.
      threshold: probability above which a row is flagged.
      **summary: changed entries of the summary.
    """
    random = np.random.default_rng(0)
    classes = classes or [f"class {digit}" for digit in range(10)]
    count = len(classes)
    right = random.integers(0, count, rows)
    wrong = random.random(rows) < 0.4
    given = np.where(wrong, (right + random.integers(1, count, rows)) % count, right)
    score = np.where(wrong, 3.0, -3.0) + 1.5 * random.standard_normal(rows)
    probability = 1 / (1 + np.exp(-score))
    flagged = probability > threshold
    step = np.arange(0, 101, 10)
    accuracy = {
        "as_given": 0.8, "trusted_only": 0.85 if trusted else None, "confident_learning": 0.9,
        "cleaned": 0.93, "oracle": 0.95 if truth else None,
    }  # fmt: skip
    estimates = example_estimates(given, probability, flagged, classes, trusted)
    numbers = {
        "source": "digits",
        "rows": rows,
        "trusted": trusted,
        "classes": count,
        "flagged": int(flagged.sum()),
        "wrong": estimates.wrong,
        "rate": estimates.rate,
        "precision": estimates.precision,
        "recall": estimates.recall,
        "signal": True,
        "no_signal": "",
        "notes": ["the separator ';' was detected; --sep decides otherwise"],
        "model": "gradient boosting",
        "model_reason": "It is right on more of the held-out trusted rows than the others.",
        "paragraph": "A model predicted the label of each row without having seen it. The trusted rows "
        "taught how far these predictions can be trusted.",
        "models": {"linear": 0.81, "gradient boosting": 0.86, "mlp": None},
        "threshold": threshold,
        "cost": 1.0,
        "seed": 0,
        "seconds": 9.83,
        "stages": {"models": 8.1, "canaries": 1.7},
        "residual": float("nan"),
        "warnings": ["few trusted rows"],
        "test_accuracy": accuracy if tested else dict.fromkeys(accuracy),
    }
    if truth:
        numbers["detection"] = {"precision": 0.95, "recall": 0.94, "f1": 0.945, "auroc": 0.98}
        numbers["baseline_detection"] = {
            "confident_learning": {"precision": 0.92, "recall": 0.81, "f1": 0.861, "auroc": 0.91},
            "influence": {"precision": 0.7, "recall": 0.6, "f1": 0.646, "auroc": 0.7},
            "disagreement": {"precision": 0.9, "recall": 0.8, "f1": 0.85, "auroc": 0.9},
            "trusted_only": {"precision": 0.8, "recall": 0.7, "f1": 0.75, "auroc": 0.8},
        }
    return Cleaning(
        given=given,
        classes=classes,
        probability=probability,
        flagged=flagged,
        suggested=right,
        checked=np.arange(rows) % 50 == 7,
        estimates=estimates,
        summary=numbers | summary,
        influence=0.01 * score if trusted else None,
        to_check=None if trusted else random.permutation(rows)[:12],
        truth=right if truth else None,
        images=None if image_shape is None else random.random((rows, *image_shape)),
        columns=None if data is None else example_columns(rows, data),
        keys=() if data is None else ("id",),
        history={
            "step": step,
            "outer_loss": np.exp(-step / 30),
            "held_out_loss": 0.1 + np.exp(-step / 30),
            "best_step": 70,
        }
        if learnt
        else None,
    )


def example_estimates(given, probability, flagged, classes, trusted):
    """Return the estimates that follow from the probabilities, with uniform noise."""
    count = len(classes)

    def ratio(above, below):
        return float(above / below) if below else float("nan")

    entries = []
    for label, name in enumerate(classes):
        of_class = given == label
        flags, wrong = flagged & of_class, float(probability[of_class].sum())
        hits = float(probability[flags].sum())
        entries.append(
            ClassEstimates(
                name=name,
                rows=int(of_class.sum()),
                trusted=trusted // count,
                flagged=int(flags.sum()),
                wrong=wrong,
                precision=ratio(hits, flags.sum()),
                recall=ratio(hits, wrong),
                false_alarms=ratio(flags.sum() - hits, of_class.sum() - wrong),
            )
        )
    hits, wrong = float(probability[flagged].sum()), float(probability.sum())
    return Estimates(
        wrong=wrong,
        rate=wrong / len(given),
        precision=ratio(hits, flagged.sum()),
        recall=ratio(hits, wrong) if flagged.any() else float("nan"),
        classes=entries,
        noise=0.6 * np.eye(count) + 0.4 / count,
    )


def example_columns(rows, data):
    """Return the columns of a table, of a pandas table with an index of its own, or of texts."""
    random = np.random.default_rng(1)
    columns = {"id": [f"user-{row:05}" for row in range(rows)]}
    if data == "text":
        words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", HOSTILE]
        texts = [" ".join(random.choice(words, random.integers(3, 300))) for _ in range(rows)]
        return polars.DataFrame(columns | {"text": texts})
    columns |= {
        "age": random.integers(18, 90, rows).tolist(),
        "income": [None if row % 7 == 0 else float(x) for row, x in enumerate(random.normal(3e4, 1e4, rows))],
        "given": random.choice(["first class ", "=cmd()", "é", ""], rows).tolist(),
        "joined": [datetime.date(2020, 1, 1 + row % 28) for row in range(rows)],
        **{f"measurement number {place}": random.random(rows).tolist() for place in range(20)},
    }
    if data == "pandas":
        import pandas

        return pandas.DataFrame(columns, index=[f"line {row}" for row in range(rows)])
    return polars.DataFrame(columns)


def example_records(algorithms=("aid_bio", "soba"), seeds=3, diverged=()):
    """Return records whose outer loss is `(1 + seed) exp(-step / 20)`.

    The history of a diverged run ends one point earlier than the others.
    """
    records = []
    for algorithm in algorithms:
        for seed in range(seeds):
            broken = (algorithm, seed) in diverged
            step = np.arange(0, 100 if broken else 101, 10)
            loss = (1 + seed) * np.exp(-step / 20)
            history = {
                "step": step.tolist(),
                "seconds": (step / 50).tolist(),
                "gradients": (3 * step).tolist(),
                "hessian_products": step.tolist(),
                "cross_products": step.tolist(),
                "outer_loss": loss.tolist(),
                "inner_residual": (loss**2).tolist(),
                "accuracy": (1 - loss / 10).tolist(),
            }
            records.append(
                {
                    "task": "quadratic",
                    "dataset": "synthetic",
                    "algorithm": algorithm,
                    "seed": seed,
                    "hyperparameters": {"inner_steps": 10, "step_size": 0.1},
                    "history": history,
                    "final": {name: values[-1] for name, values in history.items()},
                    "compile_seconds": 1.5,
                    "diverged": DIVERGED if broken else None,
                    "environment": {"device": "cpu", "cores": 2},
                }
            )
    return records


def example_run(text="plain", search=None, **changes):
    """Return a claim that holds in part, with everything that its page can show."""
    numbers = {"gap": at_most(0.25, 0.5), "slope": at_least(1.5, 2), text: shown(3), "lost": shown(np.nan)}
    axes = {"inner_optimizer": (0.5, 5.0), "outer_optimizer": (0.01, 0.1, 1.0)}
    scores = np.array([[3.0, 1.0, 2.0], [4.0, np.inf, 1e44]])
    best = {"inner_optimizer": 0.5, "outer_optimizer": 0.1}
    finding = Finding(
        words=f"The first sentence. And the rest. {text}",
        numbers=numbers,
        figures=[
            Picture(f"{place} picture", PIXEL, f"caption {text}") for place in ("First", "Second", "Third")
        ],
        tables=[
            ("What it cost", Table([Column("method", False), Column("calls")], [[Cell("soba"), Cell.of(4)]]))
        ],
        searches=[
            search
            or Search(
                method="soba",
                axes=axes,
                scores=scores,
                best=best,
                edge=(),
                score=f"loss {text}",
                budget="1,234 steps",
            )
        ],
    )
    claim = Claim(
        name="an-example",
        title=f"A title {text}",
        paper=f"Nobody, Nothing {text}, ICML 2020, arXiv:0000.00000",
        statement=f"what the paper says {text}",
        known={"outer step": "0.05 (official code)", text: text},
        ours={"outer step": "searched", "rows": 1000},
        run=lambda size: finding,
    )
    environment = {"device": text, "cores": 2, "float": "float64"}
    command = "bilevel reproduce an-example"
    return Run(claim, "small", finding._replace(**changes), 12.3, environment, command)


def example_episode(ways=5, shots=1, queries=15, shape=(28, 28, 1), wrong=2, seed=0) -> Any:
    """Return a random episode with one wrong answer in each of the last `wrong` classes."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(ways), queries)
    predictions = labels.copy()
    missed = (ways - 1 - np.arange(wrong)) * queries
    predictions[missed] = (predictions[missed] + 1) % ways
    return SimpleNamespace(
        support=random.integers(0, 256, (ways, shots, *shape), np.uint8),
        query=random.integers(0, 256, (labels.size, *shape), np.uint8),
        labels=labels,
        predictions=predictions,
        confidence=random.uniform(1 / ways, 1, labels.size),
    )


def example_fewshot(
    ways=5, shots=1, text="plain", examples=None, history=None, train_ways=None, **summary
) -> Any:
    """Return a few-shot run that learns well, with every number that a report can show."""
    step = np.arange(0, 3001, 300)
    accuracy = 0.97 - (0.97 - 1 / ways) * np.exp(-step / 400)
    numbers = {
        "dataset": "omniglot",
        "algorithm": "maml",
        "ways": ways,
        "shots": shots,
        "queries": 15,
        "network": f"4 blocks of convolution, 64 channels {text}",
        "parameters": 111936,
        "batch_tasks": 16,
        "settings": {
            "inner_steps": 5,
            "inner_step_size": 0.4,
            "outer_step_size": 1e-3,
            "train_ways": train_ways or ways,
            text: text,
        },
        "steps": 3000,
        "seconds": 482.3,
        "compile_seconds": 21.4,
        "seconds_per_step": 0.1608,
        "peak_mib": 811.6,
        "best_step": 2700,
        "validation_accuracy": 0.9689,
        "validation_interval": 0.0044,
        "test_accuracy": 0.9712,
        "test_interval": 0.0031,
        "test_episodes": 600,
        "chance": 1 / ways,
        "accuracy_by_ways": [
            {"ways": count, "accuracy": 0.99 - 0.004 * count, "interval": 0.004} for count in (5, 10, 20, 2)
        ],
        "seed": 0,
        "stopped": None,
        "diverged": False,
        "environment": {"device": "cpu", "cores": 2, "jax_version": text},
        "command": f"bilevel fewshot omniglot --ways {ways} {text}",
    }
    measured = {
        "step": step.tolist(),
        "seconds": (0.1608 * step).tolist(),
        "outer_loss": (0.1 + np.log(ways) * np.exp(-step / 400)).tolist(),
        "validation_accuracy": accuracy.tolist(),
        "validation_interval": (0.03 * accuracy * (1 - accuracy) + 0.003).tolist(),
    }
    if examples is None:
        examples = [example_episode(ways, shots, seed=seed) for seed in range(2)]
    return SimpleNamespace(
        summary=numbers | summary, history=measured | (history or {}), examples=examples, file=b"learner"
    )


CLEANINGS = {
    "images, truth": {},
    "images, no truth": {"truth": False},
    "one channel": {"image_shape": (8, 8, 1)},
    "colour": {"image_shape": (12, 16, 3)},
    "large colour": {"image_shape": (200, 300, 4), "rows": 20},
    "no images": {"image_shape": None},
    "no images, no truth": {"image_shape": None, "truth": False},
    "hostile names": {"classes": [HOSTILE] * 10},
    "no test rows, no truth": {"truth": False, "tested": False, "warnings": []},
    "table": {"image_shape": None, "data": "table", "learnt": True},
    "texts": {"image_shape": None, "data": "text", "truth": False},
    "no trusted rows": {
        "trusted": 0,
        "truth": False,
        "tested": False,
        "command": "bilevel clean my.csv --label y",
    },
    "images with keys, no trusted rows": {"trusted": 0, "data": "table"},
    "nothing flagged": {"threshold": 1.0},
    "no signal": {
        "threshold": 1.0,
        "signal": False,
        "no_signal": "the scores say nothing",
        "trusted": 0,
        "truth": False,
    },
    "one flagged row": {"threshold": 0.9965},
    "two classes": {"classes": ["no", "yes"], "image_shape": None},
    "forty classes": {"classes": [f"comp.sys.ibm.pc.hardware.{n}" for n in range(40)], "data": "text"},
    "pair of digits": {"classes": ["0", "1"], "data": "table", "image_shape": None},
}


def example_report(text="mine", findings=()):
    """Return a report of two responses, the second with an error above the tolerance."""
    rows = (
        Row("implicit(cg)", 1e-6, 1.0, 1e-7, 1e-8, 0.0012, 20_000, 120),
        Row(text, 0.4, None, 0.2, float("nan"), 0.003, None, 36),
    )
    return Report(
        findings=tuple(findings),
        notes=(f"Reference: dense. {text}",),
        rows=rows,
        reference={"method": "dense", "solved": True, "gradient_norm": 1.5},
        spectrum={"smallest": 0.1, "largest": 1.0, "exact": True, "condition": 10.0},
        curves={"inner_steps": {"unrolled": [(1, 0.5), (10, 0.0)]}, "linear_steps": {}},
        settings={"inner_steps": 100, "tolerance": 0.01},
        environment={"device": text, "command": f"bilevel check {text}", "subject": text},
    )
