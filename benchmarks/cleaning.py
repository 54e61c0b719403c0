"""Benches of wrong labels: `bilevel.clean` and its peers, cleanlab and pyDVL.

python benchmarks/cleaning.py --out runs.jsonl                            # all lines and methods: hours
python benchmarks/cleaning.py --out runs.jsonl --lines wine churn --methods bilevel --seeds 0 1 2
python benchmarks/cleaning.py --table runs.jsonl                          # Markdown tables of the runs

Every run is one JSON line, and a run that the file has already is skipped. `pip install --group peers`
installs the peers. `OMP_NUM_THREADS=1` makes the seconds comparable on a machine that does other work.
"""

import argparse
import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn import datasets as embedded
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bilevel
from bilevel import datasets
from bilevel.cleaning import corrupt


class Bench(NamedTuple):
    """Noisy rows whose truth is known, trusted rows and test rows.

    Attributes:
      features: (n, d) array or CSR matrix.
      given: (n,) class indices, some of them wrong.
      truth: (n,) class indices.
      trusted_features, trusted_labels: rows whose labels are right.
      test_features, test_labels: rows that no method sees before its accuracy is taken.
    """

    features: Any
    given: np.ndarray
    truth: np.ndarray
    trusted_features: Any
    trusted_labels: np.ndarray
    test_features: Any
    test_labels: np.ndarray


def cut(features, labels, rows, trusted, rate, kind, seed, test=None) -> Bench:
    """Return a bench of shuffled rows: trusted rows first, then noisy rows, and the rest for the test.

    Args:
      features, labels: rows whose labels are right.
      rows, trusted: numbers of noisy and of trusted rows.
      rate, kind: share and kind of wrong labels: "uniform", "pair" or "instance".
      seed: seed of the shuffle and of the noise.
      test: features and labels of the test rows, in place of the rest.
    """
    labels = np.asarray(labels, np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    safe, noisy, rest = np.split(order, [trusted, trusted + rows])
    truth, classes = labels[noisy], int(labels.max()) + 1
    if kind == "instance":
        given = corrupt_by_instance(features[noisy], truth, rate, seed=seed + 1)
    else:
        given = corrupt(truth, classes, rate, kind=kind, seed=seed + 1)
    test = (features[rest], labels[rest]) if test is None else test
    return Bench(features[noisy], given, truth, features[safe], labels[safe], *test)


def corrupt_by_instance(features: Any, truth: np.ndarray, rate: float, *, seed: int) -> np.ndarray:
    """Return labels with a share of them turned into the runner-up class of a weak model.

    The weak model is a strongly penalised logistic regression, cross-fitted in two parts. The runner-up
    is its most probable class besides the true one. Exactly `round(rate n)` rows are drawn without
    replacement, with weights equal to the probability of their runner-up against their true class.
    """
    weak = LogisticRegression(C=1e-3, max_iter=200)
    probability = cross_val_predict(weak, features, truth, cv=2, method="predict_proba")
    rows = np.arange(len(truth))
    true = probability[rows, truth]
    others = probability.copy()
    others[rows, truth] = -1
    runner_up = others.argmax(axis=1)
    weight = others[rows, runner_up] / (others[rows, runner_up] + true)
    # The largest of log weight + Gumbel noise: draws without replacement.
    keys = np.log(weight) + np.random.default_rng(seed).gumbel(size=len(truth))
    wrong = keys.argsort().argsort() >= len(truth) - round(rate * len(truth))
    return np.where(wrong, runner_up, truth).astype(truth.dtype)


def texts(number: int, topics: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Return made-up texts and their topics.

    Every topic has 60 words of its own, 60 words that it shares with the next topic, and the common words
    of all topics, whose frequencies fall as in natural language. A text has 8 to 60 words; the share
    of its words that tell its topic differs from text to text.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, topics, number)
    common = 1 / np.arange(1, 1501)
    common /= common.sum()
    written = []
    for topic in labels:
        length = random.integers(8, 61)
        kinds = random.random(length)
        telling = random.beta(2, 9)
        neighbour = (topic + random.integers(-1, 1, length)) % topics
        own, shared = random.integers(0, 60, length), random.integers(0, 60, length)
        words = random.choice(len(common), length, p=common)
        written.append(
            " ".join(
                f"own{topic}x{own[i]}"
                if kinds[i] < telling
                else f"shared{neighbour[i]}x{shared[i]}"
                if kinds[i] < 2 * telling
                else f"common{words[i]}"
                for i in range(length)
            )
        )
    return written, labels


def _embedded(load, rows, trusted, rate, kind, seed):
    features, labels = load(return_X_y=True)
    return cut(features, labels, rows, trusted, rate, kind, seed)


def _public(name, rows, trusted, rate, kind, seed):
    data = datasets.load(name)
    features, test = data.features, data.test_features
    if isinstance(features, np.ndarray):
        features, test = features.reshape(len(features), -1), test.reshape(len(test), -1)
    return cut(features, data.labels, rows, trusted, rate, kind, seed, (test, data.test_labels))


def _made(rows, trusted, test, rate, first_seed, seed, **options):
    features, labels = embedded.make_classification(
        rows + trusted + test, flip_y=0, random_state=first_seed + seed, **options
    )
    return cut(features.astype(np.float32), labels, rows, trusted, rate, "uniform", seed)


def _text(seed):
    written, labels = texts(3200, 6, seed + 500)
    return cut(TfidfVectorizer().fit_transform(written), labels, 2000, 200, 0.2, "uniform", seed)


_digits = partial(_embedded, embedded.load_digits, 1200)
_churn = partial(
    _made, 2500, 300, 1000, 0.15, 100, n_features=20, n_informative=8, n_redundant=4, weights=[0.9]
)
_five = partial(
    _made,
    *(4000, 300, 1000, 988 / 4000, 200),
    n_features=20,
    n_informative=10,
    n_classes=5,
    n_clusters_per_class=3,
)

# Every bench is a function of the seed.
LINES: dict[str, Callable[[int], Bench]] = {
    "wine": partial(_embedded, embedded.load_wine, 110, 40, 20 / 110, "uniform"),
    "breast cancer": partial(_embedded, embedded.load_breast_cancer, 350, 100, 37 / 350, "uniform"),
    "digits 5 %": partial(_digits, 200, 0.05, "uniform"),
    "digits 20 %": partial(_digits, 200, 0.2, "uniform"),
    "digits pair 40 %": partial(_digits, 200, 0.4, "pair"),
    "digits 60 %": partial(_digits, 200, 0.6, "uniform"),
    "digits 0 %": partial(_digits, 200, 0.0, "uniform"),
    "digits 2 %": partial(_digits, 200, 0.02, "uniform"),
    "digits 20 %, 50 trusted": partial(_digits, 50, 0.2, "uniform"),
    "digits pair 40 %, 50 trusted": partial(_digits, 50, 0.4, "pair"),
    "churn": partial(_churn, class_sep=1.0),
    "churn, wider apart": partial(_churn, class_sep=1.3),
    "five classes": partial(_five, class_sep=1.5),
    "five classes, wider apart": partial(_five, class_sep=1.9),
    "three classes": partial(
        _made, 5000, 300, 1000, 0.15, 300, n_features=20, n_informative=8, n_classes=3, n_clusters_per_class=2
    ),
    "text 20 %": _text,
    "newsgroups 20 %": partial(_public, "newsgroups", 4000, 500, 0.2, "uniform"),
    "newsgroups pair 40 %": partial(_public, "newsgroups", 4000, 500, 0.4, "pair"),
    **{
        f"{title} {label}": partial(_public, name, 5000, 500, rate, kind)
        for title, name in (("MNIST", "mnist"), ("Fashion-MNIST", "fashion_mnist"))
        for label, rate, kind in (
            ("20 %", 0.2, "uniform"),
            ("40 %", 0.4, "uniform"),
            ("60 %", 0.6, "uniform"),
            ("pair 40 %", 0.4, "pair"),
            ("instance 20 %", 0.2, "instance"),
            ("instance 40 %", 0.4, "instance"),
        )
    },
    "100,000 x 50": partial(
        _made,
        *(100_000, 1000, 10_000, 0.15, 400),
        n_features=50,
        n_informative=20,
        n_clusters_per_class=2,
    ),
}


@lru_cache(maxsize=1)
def bench_of(line: str, seed: int) -> Bench:
    """Return a bench by its name; the last one is kept for the next method."""
    return LINES[line](seed)


# Methods. Each is a function of the name of a bench and the seed, and returns what it measured.


def clock() -> np.ndarray:
    """Return the seconds on the wall and those of the processor, which other work slows down less."""
    return np.array([time.perf_counter(), time.process_time()])


def seconds_since(begin: np.ndarray) -> dict[str, float]:
    """Return the seconds since a reading of `clock`."""
    return dict(zip(("seconds", "cpu_seconds"), (clock() - begin).tolist(), strict=True))


def scores(bench: Bench, suspicion: np.ndarray | None, flagged: np.ndarray | None = None) -> dict[str, Any]:
    """Return the quality of the flags and of the order of suspicion."""
    wrong = bench.given != bench.truth
    found: dict[str, Any] = {}
    if flagged is not None:
        hits, flags = int(np.sum(flagged & wrong)), int(flagged.sum())
        found["flags"], found["hits"] = flags, hits
        found["precision"] = hits / flags if flags else None
        found["recall"] = hits / wrong.sum() if wrong.any() else None
        # Without a wrong label there is nothing to find: f1 has no value.
        found["f1"] = 2 * hits / (flags + int(wrong.sum())) if wrong.any() else None
    if suspicion is not None and wrong.any():
        found["auroc"] = float(roc_auc_score(wrong, suspicion))
    return found


def logistic(features: Any, seed: int) -> Any:
    """Return a logistic regression; dense columns are standardised."""
    model = LogisticRegression(max_iter=1000)
    return model if scipy.sparse.issparse(features) else make_pipeline(StandardScaler(), model)


MODELS: dict[str, Callable[[Any, int], Any]] = {
    "LR": logistic,
    "RF": lambda features, seed: RandomForestClassifier(random_state=seed),
    "HGB": lambda features, seed: HistGradientBoostingClassifier(random_state=seed),
}
FILTERS = {"": "prune_by_noise_rate", ", margin": "low_normalized_margin"}


@lru_cache(maxsize=1)
def cross_fitted(line: str, seed: int, model: str, with_trusted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the out-of-sample probabilities of a model in five folds, and the time they took.

    With `with_trusted`, the trusted rows are added to the training rows of every fold.
    """
    bench = bench_of(line, seed)
    begin = clock()
    probability = np.zeros((len(bench.given), int(bench.given.max()) + 1))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    for train, held in folds.split(np.zeros(len(bench.given)), bench.given):
        features, labels = bench.features[train], bench.given[train]
        if with_trusted:
            stack = scipy.sparse.vstack if scipy.sparse.issparse(features) else np.concatenate
            features = stack([features, bench.trusted_features])
            labels = np.concatenate([labels, bench.trusted_labels])
        fitted = MODELS[model](features, seed).fit(features, labels)
        probability[np.ix_(held, fitted.classes_)] = fitted.predict_proba(bench.features[held])
    return probability, clock() - begin


def cleanlab(line: str, seed: int, *, model: str, with_trusted: bool, filter_by: str) -> dict[str, Any]:
    """Return how well cleanlab's `find_label_issues` does with a model.

    Its defaults, as documented: five folds, the filter "prune_by_noise_rate", self-confidence as quality
    of a label. The other filter flags the labels of lowest margin, as many as cleanlab estimates.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    bench = bench_of(line, seed)
    probability, fitting = cross_fitted(line, seed, model, with_trusted)
    begin = clock()
    issues = find_label_issues(
        bench.given,
        probability,
        filter_by=filter_by,
        return_indices_ranked_by="self_confidence",
        n_jobs=1,
    )
    taken = seconds_since(begin - fitting)
    flagged = np.zeros(len(bench.given), bool)
    flagged[issues] = True
    by_margin = filter_by == "low_normalized_margin"
    quality = get_label_quality_scores(
        bench.given, probability, method="normalized_margin" if by_margin else "self_confidence"
    )
    predicted = float(np.mean(probability.argmax(axis=1) == bench.truth))
    return {**scores(bench, -quality, flagged), **taken, "accuracy_on_truth": predicted}


def pydvl(line: str, seed: int, *, valuation: str) -> dict[str, Any]:
    """Return the AUROC of pyDVL's values of the rows; it flags nothing.

    "KNN-Shapley" takes the trusted rows as its test rows. "Data-OOB" values a row by the votes of bagged
    trees that did not see it, and needs no trusted rows.
    """
    # pyDVL 0.9.2 uses names that NumPy 2 removed, and pyDVL 0.10.0 refuses NumPy 2.
    for name, kept in (("float_", np.float64), ("NaN", np.nan)):
        if not hasattr(np, name):
            setattr(np, name, kept)
    logging.getLogger("pydvl").setLevel(logging.ERROR)  # a line for every tree otherwise
    from pydvl.utils import Dataset, Utility
    from pydvl.value.oob import compute_data_oob
    from pydvl.value.shapley.knn import knn_shapley
    from sklearn.tree import DecisionTreeClassifier

    bench = bench_of(line, seed)
    begin = clock()
    scale = StandardScaler().fit(bench.features)
    parts = scale.transform(bench.features), bench.given
    parts += scale.transform(bench.trusted_features), bench.trusted_labels
    data = Dataset(*parts)
    if valuation == "KNN-Shapley":
        values = knn_shapley(Utility(KNeighborsClassifier(10), data), progress=False)
    else:
        tree = DecisionTreeClassifier(random_state=seed)
        values = compute_data_oob(Utility(tree, data), n_est=200, seed=seed)
    taken = seconds_since(begin)
    value = np.empty(len(bench.given))
    value[values.indices] = values.values
    return {**scores(bench, -value), **taken}


def ours(line: str, seed: int, *, with_trusted: bool = True, checked: int = 0) -> dict[str, Any]:
    """Return how well `bilevel.clean` does.

    With `checked`, it runs without trusted rows, a person (the truth) checks the rows that it asks for,
    and it runs again with them. The flags of the second run and the wrong labels that the person found
    count together; `f1_unchecked` counts the other rows alone.
    """
    bench = bench_of(line, seed)
    test = (bench.test_features, bench.test_labels)
    begin = clock()
    clean = partial(bilevel.clean, bench.features, test=test, seed=seed)
    if checked:
        first = bilevel.clean(bench.features, bench.given, seed=seed, to_check=checked)
        rows = np.asarray(first.to_check)[:checked]
        mask = np.zeros(len(bench.given), bool)
        mask[rows] = True
        cleaning = clean(np.where(mask, bench.truth, bench.given), trusted=mask)
    else:
        mask = np.zeros(len(bench.given), bool)
        trusted = (bench.trusted_features, bench.trusted_labels) if with_trusted else None
        cleaning = clean(bench.given, trusted=trusted)
    taken = seconds_since(begin)

    wrong = bench.given != bench.truth
    flagged = np.where(mask, wrong, cleaning.flagged)
    found = scores(bench, np.where(mask, wrong, cleaning.probability), flagged) | taken
    if checked:
        rest = Bench(*(part[~mask] for part in bench[:3]), *bench[3:])
        found["f1_unchecked"] = scores(rest, None, cleaning.flagged[~mask])["f1"]
        found["checked"], found["checked_wrong"] = int(mask.sum()), int(wrong[mask].sum())
    # The estimates are about the rows that nobody checked.
    hits, flags = int(np.sum(cleaning.flagged & wrong & ~mask)), int(np.sum(cleaning.flagged & ~mask))
    total = int(np.sum(wrong & ~mask))
    found["true_precision"] = hits / flags if flags else None
    found["true_recall"] = hits / total if total else None
    found["true_wrong"] = total
    for name in ("precision", "recall", "wrong"):
        found[f"estimated_{name}"] = float(getattr(cleaning.estimates, name))
    found["test_accuracy"] = cleaning.summary.get("test_accuracy")
    found["model"] = cleaning.summary.get("model")
    if cleaning.influence is not None:
        found["influence_auroc"] = scores(bench, cleaning.influence).get("auroc")
    return found


class Method(NamedTuple):
    """A method by name.

    Attributes:
      run: function of the name of a bench and the seed.
      lines: names of the benches that the method can do in acceptable time.
    """

    run: Callable[[str, int], dict[str, Any]]
    lines: tuple[str, ...]


_PIXELS = tuple(line for line in LINES if "MNIST" in line)
_NEWS = tuple(line for line in LINES if line.startswith("newsgroups"))
_LARGE = ("100,000 x 50",)
SMALL = tuple(line for line in LINES if line not in (*_PIXELS, *_NEWS, *_LARGE))
_DENSE = tuple(line for line in SMALL if not line.startswith("text"))
# Left out: forests on newsgroups and on 100,000 rows, boosting on sparse rows and on 784 pixels,
# logistic regression on pixels, where the forest is better.
_LINES_OF = {"LR": (*SMALL, *_NEWS, *_LARGE), "RF": (*SMALL, *_PIXELS), "HGB": (*_DENSE, *_LARGE)}
_TRUSTED = {False: "", True: " + trusted"}
METHODS: dict[str, Method] = {
    f"cleanlab {model}{_TRUSTED[with_trusted]}{suffix}": Method(
        partial(cleanlab, model=model, with_trusted=with_trusted, filter_by=filter_by), _LINES_OF[model]
    )
    for model in MODELS
    for with_trusted in (False, True)
    for suffix, filter_by in FILTERS.items()
}
METHODS |= {
    f"pyDVL {valuation}": Method(partial(pydvl, valuation=valuation), _DENSE)
    for valuation in ("KNN-Shapley", "Data-OOB")
}
METHODS["bilevel"] = Method(ours, tuple(LINES))
METHODS["bilevel without trusted rows"] = Method(partial(ours, with_trusted=False), tuple(LINES))
METHODS |= {
    # Wine has 110 rows.
    f"bilevel, {number} checked rows": Method(
        partial(ours, checked=number), tuple(line for line in LINES if line != "wine" or number == 50)
    )
    for number in (50, 100, 200)
}
SEEDS = (30, 31, 32, 33, 34)


def read(path: Path) -> list[dict[str, Any]]:
    """Return the runs of a file; lines that a stopped program left unfinished are passed over."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def run(path: Path, lines: list[str], methods: list[str], seeds: list[int]) -> int:
    """Add the runs that a file lacks, one JSON line each, and return how many failed."""
    done = {(one["bench"], one["method"], one["seed"]) for one in read(path)}
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("a") as file:
            file.write("\n")
    failures = 0
    for line in lines:
        for seed in seeds:
            for name in methods:
                if (line, name, seed) in done or line not in METHODS[name].lines:
                    continue
                bench = bench_of(line, seed)
                try:
                    found = METHODS[name].run(line, seed)
                except Exception:
                    print(f"{name} failed on {line}, seed {seed}:", file=sys.stderr)
                    traceback.print_exc()
                    failures += 1
                    continue
                about = {"bench": line, "method": name, "seed": seed, "rows": len(bench.given)}
                about["wrong"] = int(np.sum(bench.given != bench.truth))
                about["trusted"] = len(bench.trusted_labels)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(about | _finite(found)) + "\n")
                f1 = found.get("f1")
                shown = f"f1 {f1:.3f}" if f1 is not None else f"{found.get('flags', 'no')} flags"
                print(f"{line}, {name}, seed {seed}: {shown}, {found['seconds']:.1f} s", flush=True)
    return failures


def _finite(value):
    """Return the value with None in place of numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value


class Runs:
    """The runs of a file by bench, method and seed."""

    def __init__(self, records: list[dict[str, Any]]):
        self.records = records
        self._by = {(one["bench"], one["method"], one["seed"]): one for one in records}

    def values(self, line: str, method: str, key: str) -> dict[int, float]:
        """Return the number by seed, where it exists."""
        return {
            seed: one[key]
            for (bench, name, seed), one in self._by.items()
            if bench == line and name == method and one.get(key) is not None
        }

    def best(self, line: str, methods: list[str], key: str = "f1") -> tuple[str, dict[int, float]]:
        """Return the method of the largest median and its numbers by seed; an empty name for no run.

        A method with fewer seeds than another does not take part: its median is of easier or harder runs.
        """
        found = {name: self.values(line, name, key) for name in methods}
        most = max((len(values) for values in found.values()), default=0)
        if not most:
            return "", {}
        found = {name: values for name, values in found.items() if len(values) == most}
        name = max(found, key=lambda name: median(found[name].values()))
        return name, found[name]


def _peers(with_trusted):
    return [name for name in METHODS if name.startswith("cleanlab") and ("trusted" in name) == with_trusted]


def _three(values, worst=min):
    """Return the median and the worst of the seeds as a table cell."""
    numbers = list(values.values())
    return f"{median(numbers):.3f} ({worst(numbers):.3f})" if numbers else "-"


def _difference(first, second):
    both = {seed: first[seed] - second[seed] for seed in first if seed in second}
    return f"{median(both.values()):+.3f} ({min(both.values()):+.3f})" if both else "-"


def _spread(flags):
    numbers = list(flags.values())
    if len(numbers) < 2 or not median(numbers):
        return "-"
    return f"{100 * (max(numbers) - min(numbers)) / median(numbers):.0f} %"


def _pairs(runs, line, method, name):
    """Return the medians of an estimate and of the truth, and the largest gap between them, as a cell."""
    estimated = runs.values(line, method, f"estimated_{name}")
    true = runs.values(line, method, f"true_{name}")
    both = [(estimated[seed], true[seed]) for seed in estimated if seed in true]
    if not both:
        return "-"
    gap = max(abs(first - second) for first, second in both)
    first, second = (median(column) for column in zip(*both, strict=True))
    return f"{first:.2f} / {second:.2f} ({gap:.2f})"


def _short(name):
    return name.removeprefix("cleanlab ").replace(" + trusted", "")


def _print_table(title, header, rows):
    if rows:
        print(f"\n**{title}**\n\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
        for row in rows:
            print("| " + " | ".join(row) + " |")


def tables(records: list[dict[str, Any]]) -> None:
    """Print Markdown tables: medians of the seeds, and the worst seed in brackets."""
    runs = Runs(records)
    lines = [line for line in LINES if any(one["bench"] == line for one in records)]
    about = {one["bench"]: one for one in records}
    title = {
        line: f"{line} ({about[line]['rows']:,}, {about[line]['wrong']:,}; {about[line]['trusted']:,})"
        for line in lines
    }
    _print_main(runs, lines, title)
    _print_few_wrong(runs, lines, title)
    _print_checked(runs, lines, title)
    _print_accuracy(runs, lines, title)
    _print_ranking(runs, lines, title)
    _print_methods(runs, lines, title)


def _print_main(runs, lines, title):
    rows = []
    for line in lines:
        peer, alone = runs.best(line, _peers(False))
        trusted_peer, trusted = runs.best(line, _peers(True))
        own = runs.values(line, "bilevel", "f1")
        if alone or own:
            seconds = runs.values(line, "bilevel", "seconds")
            peer_seconds = runs.values(line, peer, "seconds")
            rows.append(
                [
                    title[line],
                    " ".join(str(seed) for seed in sorted(own or alone)),
                    f"{_three(alone)} {_short(peer)}",
                    f"{_three(trusted)} {_short(trusted_peer)}",
                    _three(own),
                    _difference(own, alone),
                    _difference(own, trusted),
                    _spread(runs.values(line, "bilevel", "flags")),
                    _pairs(runs, line, "bilevel", "precision"),
                    _pairs(runs, line, "bilevel", "recall"),
                    f"{median(peer_seconds.values()):.1f}" if peer_seconds else "-",
                    f"{median(seconds.values()):.1f}" if seconds else "-",
                ]
            )
    header = [
        "data (rows, wrong; trusted)",
        "seeds",
        "best of cleanlab",
        "the same + trusted rows",
        "bilevel",
    ]
    header += ["bilevel - cleanlab", "bilevel - cleanlab + trusted", "spread of flags"]
    header += ["precision: estimated / true (largest gap)", "recall: estimated / true (largest gap)"]
    _print_table("f1 of the wrong labels found", [*header, "seconds of cleanlab", "seconds"], rows)


def _print_few_wrong(runs, lines, title):
    rows = []
    for line in lines:
        if line not in ("digits 0 %", "digits 2 %"):
            continue
        for name in ("bilevel", "bilevel without trusted rows", *_peers(False), *_peers(True)):
            flags, hits = (runs.values(line, name, key) for key in ("flags", "hits"))
            if flags:
                text = ", ".join(f"{flags[seed]} ({hits[seed]})" for seed in sorted(flags))
                rows.append([title[line], name, text])
    _print_table("Few or no wrong labels: flags (right ones) by seed", ["data", "method", "flags"], rows)


def _print_checked(runs, lines, title):
    names = [
        name for name in METHODS if name.startswith("bilevel,") or name == "bilevel without trusted rows"
    ]
    rows = []
    for line in lines:
        peer, alone = runs.best(line, _peers(False))
        own = [runs.values(line, name, "f1") for name in names]
        if any(own):
            cells = [_three(values) for values in own]
            gap = _pairs(runs, line, names[0], "precision")
            rows.append([title[line], f"{_three(alone)} {_short(peer)}", *cells, gap])
    header = ["data", "best of cleanlab", *(name.removeprefix("bilevel").strip(", ") for name in names)]
    header.append("without trusted rows, precision: estimated / true (largest gap)")
    _print_table("Without trusted rows: f1 over all rows", header, rows)


def _print_accuracy(runs, lines, title):
    names = ("as_given", "trusted_only", "confident_learning", "cleaned", "oracle")
    rows = []
    for line in lines:
        found = [
            one["test_accuracy"]
            for one in runs.records
            if one["bench"] == line and one["method"] == "bilevel" and one.get("test_accuracy")
        ]
        if found:
            columns = [[one[name] for one in found if one.get(name) is not None] for name in names]
            rows.append([title[line], *(f"{median(column):.3f}" if column else "-" for column in columns)])
    _print_table("Test accuracy", ["data", *names], rows)


def _print_ranking(runs, lines, title):
    rows = []
    for line in lines:
        values = [runs.best(line, _peers(with_trusted), "auroc")[1] for with_trusted in (False, True)]
        values += [runs.values(line, "bilevel", key) for key in ("auroc", "influence_auroc")]
        values += [runs.values(line, name, "auroc") for name in METHODS if name.startswith("pyDVL")]
        if any(values):
            rows.append([title[line], *(_three(one) for one in values)])
    header = ["data", "best of cleanlab", "the same + trusted rows", "bilevel", "bilevel influence"]
    _print_table("AUROC", [*header, *(name for name in METHODS if name.startswith("pyDVL"))], rows)


def _print_methods(runs, lines, title):
    rows = []
    for line in lines:
        for name in METHODS:
            f1 = runs.values(line, name, "f1")
            if f1:
                cells = [_three(runs.values(line, name, key)) for key in ("precision", "recall")]
                flags = median(runs.values(line, name, "flags").values())
                last = [f"{flags:,.0f}", _spread(runs.values(line, name, "flags"))]
                for key in ("seconds", "cpu_seconds"):
                    seconds = runs.values(line, name, key)
                    last.append(f"{median(seconds.values()):.1f}" if seconds else "-")
                rows.append([title[line], name, str(len(f1)), _three(f1), *cells, *last])
    header = ["data", "method", "seeds", "f1", "precision", "recall", "flags", "spread", "seconds"]
    header.append("seconds of the processor")
    _print_table("Every method", header, rows)


def main() -> int:
    """Run what the file lacks, or print the tables of a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON lines to add the runs to")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of this file")
    parser.add_argument("--lines", nargs="+", choices=LINES, default=list(LINES), metavar="LINE")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), metavar="SEED")
    options = parser.parse_args()
    if (options.out is None) == (options.table is None):
        parser.error("give either --out FILE or --table FILE")
    if options.table is not None:
        tables(read(options.table))
        return 0
    return min(1, run(options.out, options.lines, options.methods, options.seeds))


if __name__ == "__main__":
    sys.exit(main())
