"""The report of a check: rows, JSON, files, curves and advice."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.checking.advise import recommend
from bilevel.checking.faults import Unsolved, of_unsolved
from bilevel.report import check_page, write_check, write_files
from bilevel.report import figures as figure_module
from cases.problems import flat, quadratic_case
from cases.reports import example_report


@pytest.fixture(scope="module")
def advice():
    """Advice on a quadratic, whose closed form gives the errors."""
    case = quadratic_case()
    return case, b.advise(case.problem, case.x, case.y, case.data)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw figures in low resolution: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


def test_rows_compare_with_the_closed_form_and_count_calls(advice):
    case, found = advice
    rows = {row.response: row for row in found.report.rows}
    assert list(rows) == [
        "implicit(cg)", "implicit(neumann)", "unrolled", "truncated", "first_order", "zeroth_order"
    ]  # fmt: skip
    assert rows["implicit(cg)"].relative_error < 1e-4 and rows["unrolled"].relative_error < 1e-3
    # The first-order hypergradient is f_x at y*: (x - e) + D y.
    solver = b.descend(case.problem, found.report.settings["inner_optimizer"], 2000)
    first = b.hypergradient(case.problem, b.first_order(solver), case.x, case.y, case.data)[0]
    first = flat(first)
    want = case.exact(case.x)[1]
    error = np.linalg.norm(first - want) / np.linalg.norm(want)
    cosine = first @ want / np.linalg.norm(first) / np.linalg.norm(want)
    assert rows["first_order"].relative_error == pytest.approx(float(error), rel=1e-3)
    assert rows["first_order"].cosine == pytest.approx(float(cosine), rel=1e-3)
    steps = found.report.settings["inner_steps"]
    assert rows["first_order"].oracle_calls == steps and rows["unrolled"].oracle_calls == 3 * steps
    assert all(row.seconds > 0 and row.bytes > 0 for row in rows.values())


def test_curves_fall_to_the_reference(advice):
    curves = advice[1].report.curves
    for curve in (*curves["inner_steps"].values(), *curves["linear_steps"].values()):
        steps, errors = zip(*curve, strict=True)
        assert list(steps) == sorted(set(steps)) and errors[0] > 0.05 and errors[-1] < 2e-3
    # Conjugate gradients solve a system of five unknowns in five steps.
    assert dict(curves["linear_steps"]["conjugate gradients"])[5] < 1e-9


def test_advice_is_the_fastest_accurate_response_with_reasons(advice):
    found = advice[1]
    accurate = [row for row in found.report.rows if row.relative_error <= 0.01]
    fastest = min(accurate, key=lambda row: row.seconds)
    assert found.recommended == fastest.response
    assert found.reasons[0].startswith(f"Use {fastest.response}: it is the fastest with an error of at most")
    # One reason for each other response, and the numbers of steps that are enough.
    assert len(found.reasons) == len(found.report.rows) + 1
    assert str(found).startswith(found.reasons[0]) and found.numbers()["advice"]["recommended"]


def test_advice_respects_the_memory_and_says_when_nothing_fits(advice):
    report = advice[1].report
    sizes = sorted(row.bytes for row in report.rows if row.relative_error <= 0.01)
    assert recommend(report, 0.01, sizes[0]).recommended is not None
    nothing = recommend(report, 0.01, sizes[0] - 1)
    assert (
        nothing.recommended is None and "No response with an error of at most 0.01 fits" in nothing.reasons[0]
    )
    assert "No response reaches an error of 1e-12" in recommend(report, 1e-12).reasons[0]


def test_advice_counts_the_faults():
    def last(*faults):
        return recommend(example_report(findings=faults), 0.01).reasons[-1]

    assert last("a") == "The check found 1 fault: mend it first."
    assert last("a", "b") == "The check found 2 faults: mend them first."


def test_a_cosine_of_one_is_not_written():
    def text_of(cosine):
        unsolved = [Unsolved("mine", 0.1, 0.2, cosine)]
        return of_unsolved(unsolved, 1.0, None, None, None)[0]  # pyright: ignore[reportArgumentType]

    assert "cosine 0.97" in text_of(0.97) and "cosine" not in text_of(0.999)


def test_saved_files_are_whole(advice, tmp_path):
    found = advice[1]
    paths = write_check(found, tmp_path / "out")
    assert sorted(path.name for path in paths) == [
        "error_by_inner_steps.pdf", "error_by_inner_steps.png", "error_by_linear_steps.pdf",
        "error_by_linear_steps.png", "report.html", "results.json",
    ]  # fmt: skip
    assert sorted(paths) == sorted((tmp_path / "out").iterdir())
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["ok"] and numbers["findings"] == [] and numbers["advice"]["reasons"] == list(found.reasons)
    assert [row["response"] for row in numbers["rows"]] == [row.response for row in found.report.rows]
    assert numbers["rows"][0]["relative_error"] == found.report.rows[0].relative_error
    assert numbers["reference"]["method"] == "dense" and numbers["spectrum"]["condition"] == pytest.approx(
        1 / 0.3
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No fault found" in page and page.rstrip().endswith("</html>")
    assert page.count("<img ") == 2 and found.reasons[0] in page


def test_page_without_rows_states_the_findings(tmp_path):
    problem = b.Problem(lambda x, y, batch: jnp.sum(y) * x, lambda x, y, batch: jnp.nan * jnp.sum(y**2))
    report = b.check(problem, 1.0, jnp.ones(2), b.full(None, None))
    assert report.findings == ("g is nan at the start, though x, y and the data are finite.",)
    assert not report.ok and not report.rows and "1 fault found" in str(report)
    names = [path.name for path in write_check(report, tmp_path)]
    assert names == ["results.json", "report.html"]
    assert report.findings[0] in (tmp_path / "report.html").read_text()


def test_a_failing_write_leaves_no_half_of_a_report(tmp_path):
    write_files(tmp_path, {"report.html": "old"})
    (tmp_path / "results.json").mkdir()
    with pytest.raises(ValueError, match="must be writable"):
        write_check(example_report(), tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"


def test_page_marks_errors_above_the_tolerance():
    page = check_page(example_report(findings=["It is <b>wrong</b>."]), {})
    assert "It is &lt;b&gt;wrong&lt;/b&gt;." in page and "<em>1</em> fault found" in page
    assert page.count(' alarm"') == 1


def test_minibatches_are_read_whole():
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(30, 3)), rng.normal(size=30)
    problem = b.Problem(
        lambda x, y, batch: jnp.mean((batch[0] @ y - batch[1]) ** 2),
        lambda x, y, batch: jnp.mean((batch[0] @ y - batch[1]) ** 2) + jnp.exp(x) * jnp.sum(y**2),
    )
    data = b.minibatches((rows, targets), (rows, targets), batch_size=8)
    responses = {"mine": b.implicit(problem, b.descend(problem, 0.2, 100), b.cg(3))}
    report = b.check(problem, 0.0, jnp.zeros(3), data, responses=responses, curves=False)
    assert report.ok and report.rows[0].relative_error < 1e-6
    assert "The inner data come by minibatch: every minibatch is the whole set here." in report.notes


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tolerance": 0.0}, "tolerance must be positive, got 0.0"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"linear_steps": 0}, "linear_steps must be at least 1, got 0"),
        ({"batch": None}, "batch must be a Batch of two sources, .* got NoneType"),
        ({"x": 1}, "variables must be floating-point arrays, but x is int"),
        ({"y": jnp.zeros(4)}, "the outer loss fails at x, y and its first minibatch: TypeError"),
        (
            {"problem": b.Problem(lambda x, y, batch: y, lambda x, y, batch: jnp.sum(y))},
            "the outer loss must return a scalar",
        ),
    ],
)
def test_bad_arguments_are_one_line_errors(change, message):
    def inner(x, y, batch):
        return x * jnp.sum((y + jnp.ones(3)) ** 2)

    given = {"problem": b.Problem(inner, inner), "x": 1.0, "y": jnp.zeros(3), "batch": b.full(None, None)}
    with pytest.raises(ValueError, match=message):
        b.check(**(given | change))
