"""Parts of the UFO-BLO entries."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import full
from bilevel.datasets import ImageClasses
from bilevel.fewshot import Episode, Images
from bilevel.types import Cost
from bilevel_claims.experiment import Trajectory
from bilevel_claims.problems import image_tasks
from bilevel_claims.types import Search
from bilevel_claims.ufo_blo import debiased_tasks
from bilevel_claims.ufo_blo import miniimagenet as ufo_miniimagenet
from bilevel_claims.ufo_blo import omniglot as ufo_omniglot
from bilevel_claims.ufo_blo.debiased_tasks import (
    DEBIASED,
    DEBIASED_KEPT,
    DRAWS,
    ERROR,
    EXACT,
    FO,
    KEPT,
    LABELS,
    Benchmark,
)
from cases.claims import prototype_episodes as episodes
from cases.fewshot import Plain, noisy_prototypes, plain_network

pytestmark = pytest.mark.usefixtures("as_users_have_it")


def made(label, inner_steps=5):
    return debiased_tasks.method(plain_network(), 4, label, 0.3, inner_steps, 0.5)


def small_benchmark(data, ways, axes):
    return Benchmark(
        data=data, module=Plain(), ways=ways, inner_steps=2, axes=axes, budget=48, seeds=2, tested=6
    )


@pytest.mark.slow
def test_steps_are_the_same_whether_iterates_are_kept_or_made_again():
    batch, moved = full(episodes(4, debiased_tasks.TASKS), None), {}
    for label in LABELS:
        algorithm, start = made(label)[:2]
        state = algorithm.init(*start(jax.random.key(0)))
        moved[label] = optax.tree.sub(algorithm.step(state, batch, jax.random.key(1))[0].x, state.x)

    def apart(one, other):
        return float(optax.tree.norm(optax.tree.sub(moved[one], moved[other])))

    size = float(optax.tree.norm(moved[KEPT]))
    # The same coins fall for both debiased ones.
    assert max(apart(EXACT, KEPT), apart(DEBIASED, DEBIASED_KEPT)) < 1e-5 * size
    assert min(apart(FO, KEPT), apart(DEBIASED, KEPT), apart(FO, DEBIASED)) > 1e-2 * size


@pytest.mark.parametrize("inner_steps", [2, 7, 9])
def test_prices_are_those_of_the_algorithms(inner_steps):
    calls = {}
    for label in LABELS:
        cost = made(label, inner_steps).algorithm.cost
        calls[label] = cost.gradients + cost.hessian_products
    prices = {label: debiased_tasks.price(label, inner_steps) for label in LABELS}
    assert all(prices[label] == calls[label] for label in (FO, EXACT, KEPT))
    for debiased, exact in ((DEBIASED, EXACT), (DEBIASED_KEPT, KEPT)):
        assert prices[debiased] == pytest.approx(0.8 * calls[FO] + 0.2 * calls[exact])
        # Their own cost is a whole number of each kind of call.
        assert abs(prices[debiased] - calls[debiased]) <= 1


@pytest.mark.slow
def test_no_method_is_planned_beyond_the_budget_and_coins_are_counted():
    axes = {"inner_optimizer": (0.3,), "outer_optimizer": (0.1, 0.5)}
    data = noisy_prototypes(side=8, sizes=(12, 8, 8))
    finding = debiased_tasks.run(small_benchmark(data, (3,), axes))
    assert [search.budget for search in finding.searches] == ["48 gradients and products a task"] * 5
    rows = finding.tables[0][1].rows
    assert len(finding.figures) == 1 and [row[1].text for row in rows] == list(LABELS)
    # 3, 3 + 0.2 times 3 or 2, 6 and 5 gradients and products a step.
    assert [row[3].text for row in rows] == ["16", "13", "14", "8", "9"]
    planned, real = (np.array([row[place].value for row in rows]) for place in (2, 4))
    steps = np.array([16, 13, 14, 8, 9])
    assert np.all(planned * steps <= 48) and np.all(planned * (steps + 1) > 48)
    np.testing.assert_allclose(real[[0, 3, 4]], [48, 48, 45])
    # So many coins of 5 tasks: between none and all of them, and neither.
    assert 39 < real[1] < 78 and 42 < real[2] < 70
    assert sum(number["holds"] is not None for number in finding.numbers.values()) == 2


def test_realised_cost_follows_the_draws():
    values = {ERROR: np.zeros((2, 2)), DRAWS: np.array([[0, 5], [0, 15]])}
    run = Trajectory(label=DEBIASED, steps=np.array([0, 10]), values=values, cost=Cost(1), seconds=1.0)
    # 10 steps of 10, and of 5 tasks each drew 2 of 45 more.
    assert debiased_tasks.spent(run, 9) == 190
    assert debiased_tasks.spent(replace(run, label=DEBIASED_KEPT), 9) == 118


def test_too_many_ways_are_refused_before_the_first_run(monkeypatch):
    monkeypatch.setattr(debiased_tasks, "outcome", lambda *given: pytest.fail("ran"))
    data = noisy_prototypes(side=8, sizes=(12, 4, 8))
    with pytest.raises(ValueError, match="ways must be at most 4, the number of validation classes, got 5"):
        debiased_tasks.run(small_benchmark(data, (3, 5), {}))


def found(*outcomes, tested=100, start=0.99):
    """The report on last errors by ways, in the order of `LABELS`; one number, or one for each seed."""

    def run(label, errors):
        values = [[start, error] for error in np.broadcast_to(errors, 3)]
        return Trajectory(
            label=label,
            steps=np.array([0, 8]),
            values={ERROR: np.array(values), DRAWS: np.zeros((3, 2))},
            cost=Cost(1),
            seconds=1.0,
        )

    search = Search(
        method="",
        axes={},
        scores=None,
        best={"inner_optimizer": 0.1, "outer_optimizer": 0.1},
        edge=(),
        score="",
        budget="",
    )
    benchmark = Benchmark(
        data=noisy_prototypes(side=8, sizes=(2, 2, 2)),
        module=Plain(),
        ways=(),
        inner_steps=9,
        axes={},
        budget=100,
        seeds=3,
        tested=tested,
    )
    outcomes = {
        ways: ([search] * 5, [run(*pair) for pair in zip(LABELS, errors, strict=True)])
        for ways, errors in outcomes
    }
    return debiased_tasks.report(benchmark, outcomes)


def test_a_verdict_says_at_how_many_ways_the_debiased_steps_are_ahead():
    finding = found((20, (0.3, 0.4, 0.3, 0.5, 0.2)), (60, (0.6, 0.5, 0.3, 0.5, 0.4)))
    assert finding.verdict == "holds in part"
    assert "first-order ones at 60 ways" in finding.words and "that recompute at 20 ways" in finding.words
    # Cost of a step of each method.
    assert [row[2].value for row in finding.tables[0][1].rows[:5]] == pytest.approx([10, 19, 11.8, 55, 19])
    assert "than exact ones at 60 ways" in finding.words
    assert found((20, (0.6, 0.5, 0.5, 0.6, 0.5))).verdict == "holds"


@pytest.mark.parametrize(
    "errors",
    [
        (0.8, 0.8, 0.8, 0.8, 0.8),  # all at the chance of five ways
        (0.4, 0.39, 0.4, 0.4, 0.4),  # less than a twentieth
        (0.8, 0.75, 0.75, 0.8, 0.8),  # ahead, yet hardly better than chance
        (0.0, 0.0, 0.0, 0.0, 0.0),
        (0.4, np.nan, 0.4, 0.4, 0.4),
        (np.nan, np.nan, np.nan, np.nan, np.nan),
    ],
)
def test_ties_chance_and_diverged_runs_do_not_hold(errors):
    finding = found((5, errors))
    assert finding.verdict == "does not hold" and finding.words.count("nowhere") == 3
    assert ("diverged" in finding.words) == bool(np.isnan(errors).any())
    assert "nan" not in finding.words


def test_a_gain_over_methods_that_learn_nothing_does_not_count():
    errors = (0.75, 0.7, 0.7, 0.75, 0.75)
    assert found((5, errors), start=0.9).verdict == "holds"
    assert found((5, errors), start=0.76).verdict == "does not hold"


def test_a_zero_error_counts_as_one_image_and_a_diverged_rival_is_beaten():
    finding = found((5, (0.01, 0.0, 0.0, np.nan, 0.0)), tested=100)
    assert finding.verdict == "holds"
    assert finding.numbers[f"5-way: last error of '{DEBIASED}' over '{FO}'"]["value"] == pytest.approx(0.2)
    # The median counts a seed that diverged as infinite.
    assert "60.0 % (first order)" in found((5, ((0.2, 0.4, np.nan), 0.1, 0.1, 0.4, 0.4))).words


@pytest.mark.slow
def test_outputs_that_are_not_finite_are_no_guess():
    outputs, labels = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([0, 0])
    assert float(image_tasks.wrong(outputs, labels)) == 0.5
    assert np.isnan(image_tasks.wrong(outputs.at[1, 0].set(jnp.nan), labels))
    learner = made(FO)
    state = learner.algorithm.init(*learner.start(jax.random.key(0)))
    measure, held = debiased_tasks.measure_of(learner, 4), episodes(4, 6)
    assert 0 <= float(measure(state, held)[ERROR]) <= 1
    broken = state._replace(x=jax.tree.map(lambda leaf: leaf * jnp.nan, state.x))
    assert np.isnan(measure(broken, held)[ERROR])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "sizes", "image", "exact_steps"),
    [
        (ufo_omniglot, (4400, 100, 423), (28, 28, 1), 200_000),
        (ufo_miniimagenet, (64, 16, 20), (32, 32, 3), 100_000),
    ],
)
def test_sizes_of_the_paper_fit_the_data(monkeypatch, claim, sizes, image, exact_steps):
    def empty(classes):
        return np.broadcast_to(np.zeros((), np.uint8), (classes, 20, *image))

    channels = (0.5,) * image[-1]
    train, validation, test = map(empty, sizes)
    data = ImageClasses("toy", train, validation, test, channels, channels)
    seen = []
    monkeypatch.setattr(claim, "load_classes", lambda name: data)
    monkeypatch.setattr(debiased_tasks, "outcome", lambda benchmark, net, ways: seen.append((net, ways)))
    monkeypatch.setattr(debiased_tasks, "report", lambda benchmark, outcomes: benchmark)
    benchmark = claim.run("paper")
    assert [ways for _, ways in seen] == list(benchmark.ways)
    assert benchmark.budget == exact_steps * debiased_tasks.price(EXACT, benchmark.inner_steps)
    net, ways = seen[-1]
    shape = jax.ShapeDtypeStruct((ways, *image), jnp.float32), jax.ShapeDtypeStruct((ways,), jnp.int32)

    def step(support, labels):
        learner = debiased_tasks.method(net, ways, DEBIASED, 0.1, benchmark.inner_steps, 0.1)
        task = Episode(Images(support, labels), Images(support, labels))
        state = learner.algorithm.init(*learner.start(jax.random.key(0)))
        batch = full(jax.tree.map(lambda leaf: leaf[None], task), None)
        return learner.algorithm.step(state, batch, jax.random.key(1))[0].x, learner.answer(
            state.x, task, ways
        )

    x, outputs = jax.eval_shape(step, *shape)
    assert outputs.shape == (ways, ways) and x["head"]["kernel"].shape == (net.width, ways)
