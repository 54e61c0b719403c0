"""Experiments of the claims: runs measured along their path, their tables and schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel import run, soba, tasks
from bilevel.optimizers import power
from bilevel.types import Cost
from bilevel_claims.experiment import CALLS, Experiment, Trajectory, ends, even_points, log_points, trajectory
from bilevel_claims.figures import Line, _span
from bilevel_claims.schedules import falling, scheduled
from bilevel_claims.tables import cost_table, ends_table, value_table
from cases.claims import EXPERIMENT, follow


def test_a_trajectory_is_the_path_of_run():
    task = tasks.quadratic(rows=16)
    algorithm = soba(task.problem, inner_optimizer=0.3, outer_optimizer=1e-3)
    x, y = task.start(jax.random.key(0))
    experiment = Experiment(
        data=task.minibatches(4),
        start=lambda key: (x, y),
        measure=lambda state, held: {"x": state.x[0]},
        seeds=(3, 5),
    )
    found = trajectory("soba", algorithm, experiment, [0, 1, 7, 20])
    path = {}
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(jnp.array(experiment.seeds))
    run(algorithm, x, y, task.minibatches(4), steps=20, key=keys, log_every=1, progress=False,
        callback=lambda step, state, metrics: path.update({step: state.x[:, 0]}))  # fmt: skip
    # The loop is compiled with the measure inside: the last digits may differ.
    np.testing.assert_allclose(found.values["x"], np.stack([path[k] for k in (0, 1, 7, 20)], 1), rtol=1e-12)
    np.testing.assert_array_equal(found.calls, np.array([0, 1, 7, 20]) * 4)


def test_seeds_in_sequence_or_at_once_give_the_same_trajectory():
    algorithm, experiment = follow(outer_optimizer=0.5), EXPERIMENT._replace(seeds=(0, 1))
    one_by_one = algorithm._replace(seeds_in_sequence=True)
    for asked, expected in ((None, True), (False, False)):
        chosen = experiment._replace(seeds_in_sequence=asked)
        assert chosen.in_sequence(one_by_one) == expected
        found = trajectory("follow", one_by_one, chosen, [0, 2])
        np.testing.assert_array_equal(found.values["size"], [[1, 0.25], [1, 0.25]])


def test_a_seed_that_diverged_counts_as_infinite_everywhere():
    values = {"loss": np.array([[4.0, 2.0, np.nan], [4.0, 3.0, 2.0], [4.0, 1.0, -np.inf]])}
    values["error"] = np.array([[0.9, 0.9, 0.9], [0.9, 0.1, 0.1], [0.9, 0.1, 0.1]])
    found = Trajectory("soba", np.array([0, 1, 2]), values, Cost(1), 1.0)
    assert found.diverged == 2
    np.testing.assert_array_equal(found.median("loss"), [4, 2, np.inf])
    # Python's `max` and `min` drop a NaN that does not come first.
    means = [1.0, float(found.values["loss"][:, -1].mean())]
    assert max(means) / min(means) == np.inf
    # The line is the median of all seeds, the band the range of those that are finite.
    low, middle, high = _span(Line("soba", found.steps, found.values["loss"]))
    np.testing.assert_array_equal(middle, [4, 2, np.nan])
    np.testing.assert_array_equal([low, high], [[4, 1, 2], [4, 3, 2]])
    low, middle, _ = _span(Line("soba", found.steps, 1 - found.values["loss"]))
    np.testing.assert_array_equal([low, middle], [[-3, -2, -1], [-3, -1, np.nan]])
    table, whole = cost_table([found]), cost_table([trajectory("follow", follow(), EXPERIMENT, [0, 2])])
    assert (table.columns[-1].title, table.rows[0][-1].text) == ("seeds that diverged", "2")
    assert whole.columns[-1].title == "seconds"


def test_points_begin_at_zero_and_end_at_the_last_step():
    for points in (log_points(1000, 20), even_points(1000, 20), log_points(3, 60), even_points(3, 60)):
        assert points[0] == 0 and points[-1] in (3, 1000) and (np.diff(points) > 0).all()


def test_tables_of_costs_and_of_values():
    found = trajectory("follow", follow(outer_optimizer=0.5), EXPERIMENT, even_points(8, 4))
    assert [cell.text for cell in cost_table([found]).rows[0]][:6] == ["follow", "2", "1", "1", "8", "32"]
    table = value_table([found], "size", [8, 31, 32], CALLS)
    assert [column.title for column in table.columns] == ["method", "8", "31", "32"]
    np.testing.assert_allclose(
        np.array([cell.value for cell in table.rows[0][1:]], float), [0.5**2, 0.5**6, 0.5**8], rtol=1e-12
    )
    assert [cell.text for cell in ends_table([found], {"end": "size"}, [["by hand", 0.25]]).rows[1]] == [
        "by hand",
        "0.25",
    ]
    assert ends([found], "size") == {"follow": 0.5**8}
    assert found.last("size") == 0.5**8
    np.testing.assert_allclose(found.late("size"), (0.5**4 + 0.5**6 + 0.5**8) / 3, rtol=1e-12)


def last_of(algorithm):
    task = tasks.quadratic()
    x, y = task.start(jax.random.key(0))
    return run(algorithm(task.problem), x, y, task.minibatches(8), steps=20, key=jax.random.key(1)).state


@pytest.mark.slow
def test_falling_steps_are_those_of_an_optax_schedule():
    def ours(problem):
        return falling(lambda **rates: soba(problem, **rates), inner_optimizer=0.1, outer_optimizer=0.01)

    def optax_s(problem):
        schedules = {"inner_optimizer": power(0.5, scale=0.1), "outer_optimizer": power(0.5, scale=0.01)}
        return soba(problem, **schedules)

    for one, two in zip(*((s.x, s.y) for s in map(last_of, (ours, optax_s))), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12)


def test_a_schedule_that_never_changes_is_the_algorithm_itself():
    rates = {"inner_optimizer": 0.1, "outer_optimizer": 0.01}

    def ours(problem):
        return scheduled(lambda **rates: soba(problem, **rates), lambda x, count: rates)

    np.testing.assert_array_equal(last_of(ours).x, last_of(lambda problem: soba(problem, **rates)).x)
