"""Sources of minibatches: every row, without bias, without copies; each estimator on each source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental.sparse import BCOO

import bilevel as b
from bilevel import sampling, tasks
from bilevel.newton import fixed_sides, gradient_steps, newton_loop
from bilevel.sampling import Full, Shifted, Stacked
from bilevel.types import Point
from cases.sources import Endless, RandomRows

KEY = jax.random.key(3)


def rows_seen(source, first, count):
    view = source.view(source.plan(KEY, first, count))
    return np.stack([np.asarray(view[i]) for i in range(count)])


@pytest.mark.parametrize("rows, size", [(12, 4), (13, 4), (7, 7), (5, 1), (9, 8)])
def test_every_row_is_visited_in_every_epoch_a_ragged_one_included(rows, size):
    source = b.minibatches(np.arange(rows), np.arange(rows), batch_size=size).inner
    blocks = -(-rows // size)
    for epoch in range(5):
        seen = rows_seen(source, epoch * blocks, blocks)
        assert set(seen.ravel()) == set(range(rows))


def test_every_row_is_as_likely_as_any_other():
    source = b.minibatches(np.arange(10), np.arange(10), batch_size=4).outer
    counts = np.bincount(rows_seen(source, 0, 3000).ravel(), minlength=10)
    # 12,000 rows in 1,000 epochs of 12: the extra two of each epoch start at a random row.
    assert counts.min() > 1150 and counts.max() < 1250


def test_epochs_differ():
    source = b.minibatches(np.arange(64), np.arange(64), batch_size=4).inner
    starts = source.plan(KEY, 0, 160).reshape(10, 16)
    assert len({tuple(row) for row in np.asarray(starts)}) == 10


def test_a_plan_does_not_depend_on_how_it_is_cut_into_chunks():
    source = b.minibatches(np.arange(50), np.arange(50), batch_size=8).inner
    whole = source.plan(KEY, 0, 30)
    np.testing.assert_array_equal(whole[11:], source.plan(KEY, 11, 19))


def test_products_of_strides_do_not_overflow():
    rng = np.random.default_rng(0)
    for modulus in (7, 4097, 2**24 + 3, 2**27 - 1):
        a, stride = rng.integers(0, modulus, 1000), rng.integers(1, 4097, 1000)
        got = sampling._product_modulo(jnp.asarray(a, jnp.int32), jnp.asarray(stride, jnp.int32), modulus)
        np.testing.assert_array_equal(got, a * stride % modulus)


def test_a_level_without_data_may_be_none():
    data = b.minibatches(None, np.arange(5), batch_size=2)
    assert data.outer[0] is None and data.outer.is_full


def test_large_sets_are_planned_without_overflow():
    strides, shuffle = jnp.array([4095, 1], jnp.int32), sampling.Shuffle(0)
    source = sampling.Blocks(None, None, strides, rows=500_000_000, size=100, shuffle=shuffle)
    starts = np.asarray(source.plan(KEY, 4_900_000, 1000))
    assert starts.min() >= 0 and starts.max() < 500_000_000 and len(set(starts)) == 1000


def test_the_two_levels_are_shuffled_differently():
    data = b.minibatches(np.arange(100), np.arange(100), batch_size=10)
    assert np.any(data.outer.arrays != data.inner.arrays)
    again = b.minibatches(np.arange(100), np.arange(100), batch_size=10)
    np.testing.assert_array_equal(data.inner.arrays, again.inner.arrays)


def test_rows_of_all_leaves_stay_together():
    arrays = {"features": np.arange(20.0)[:, None] * np.ones((1, 3)), "labels": np.arange(20)}
    source = b.minibatches(arrays, arrays, batch_size=6).inner
    block = source.view(source.plan(KEY, 0, 1))[0]
    np.testing.assert_array_equal(block["features"][:, 0], block["labels"])


def test_full_data_are_not_copied():
    array = jnp.arange(5)
    data = b.full(array, array)
    assert isinstance(data.outer, Full) and data.outer[17] is array


def test_host_sources_are_stacked_and_padded():
    source = b.Host(lambda i: {"n": np.array([i, 10 * i])})
    stacked = source.stack(5, 2, 4)
    assert isinstance(stacked, Stacked)
    np.testing.assert_array_equal(stacked.arrays["n"][:, 0], [5, 6, 6, 6])


@pytest.mark.parametrize(
    "arrays, size, rule",
    [
        ((np.zeros(3), np.zeros(4)), 2, r"same number of rows, got \[3, 4\]"),
        (np.zeros(3), 4, r"batch_size must be between 1 and 3, the rows of the outer data, got 4"),
        (np.zeros(3), 0, "got 0"),
        (np.zeros(()), 1, "arrays with a leading row axis, but outer is a single number"),
    ],
)
def test_bad_arguments(arrays, size, rule):
    with pytest.raises(ValueError, match=rule):
        b.minibatches(arrays, arrays, batch_size=size)


# Kinds of leaves: each is read without loss, or refused in one line.


class Frame:
    """A stand-in for a data frame or a tensor: not an array, but convertible."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(6.0).reshape(3, 2)


LEAVES = {
    "bool": np.array([True, False, True]),
    "int8": np.array([1, -2, 3], np.int8),
    "bfloat16": jnp.arange(3, dtype=jnp.bfloat16),
    "numpy bfloat16": np.arange(3).astype(jnp.bfloat16),
    "complex": np.array([1j, 2, 3]),
    "keys": jax.random.split(jax.random.key(0), 3),
    "frame": Frame(),
    "infinite": np.array([np.inf, -np.inf, np.nan]),
}


@pytest.mark.parametrize("leaf", LEAVES.values(), ids=LEAVES)
def test_leaves_of_every_kind_are_read_by_row_and_whole(leaf):
    def plain(rows):
        rows = jax.random.key_data(rows) if jnp.issubdtype(rows.dtype, jax.dtypes.prng_key) else rows
        return np.asarray(rows)

    want = plain(leaf if isinstance(leaf, jax.Array) else np.asarray(leaf))
    source = b.minibatches(None, {"a": leaf}, batch_size=1).inner
    read = jax.jit(lambda source: source.view(source.plan(KEY, 0, 3))[1]["a"])(source)
    assert any(np.array_equal(plain(read)[0], row, equal_nan=True) for row in want.astype(plain(read).dtype))
    np.testing.assert_array_equal(plain(b.full(None, leaf).inner[0]), want)
    stacked = b.Host(lambda i: {"a": leaf}).stack(0, 1, 2).arrays["a"]
    np.testing.assert_array_equal(plain(stacked)[1], want)


REFUSED = {
    "text": (
        np.array(["a", "b"]),
        r"outer\['a'\] has the type <U1, which JAX does not have; encode its values",
    ),
    "objects": (np.array([None, 1], object), "has the type object"),
    "dates": (np.array(["2020-01-01", "2021-01-01"], "datetime64[D]"), r"has the type datetime64\[D\]"),
    "spans": (np.array([1, 2], "timedelta64[s]"), r"has the type timedelta64\[s\]"),
    "records": (np.zeros(2, [("a", int)]), "has the type "),
    "long": (np.zeros(2, np.longdouble), "has the type float128"),
    "huge": (2**70 * np.ones(2, object), "has the type object"),
    "csr": (
        scipy.sparse.csr_array(np.eye(2)),
        r"is a SciPy matrix \(csr_array\), which JAX cannot read; give",
    ),
    "bcoo": (BCOO.fromdense(jnp.eye(2)), r"is a sparse JAX matrix \(BCOO\), whose rows cannot be cut; give"),
    "coo": (scipy.sparse.coo_matrix(np.eye(2)), r"is a SciPy matrix \(coo_matrix\)"),
    "masked": (
        np.ma.masked_equal([1, 2], 2),
        "is a masked array, and JAX would read its masked values; fill",
    ),
}
NARROW = {
    "ids": (
        np.array([1, 2**31]),
        r"outer\['a'\] holds 2147483648, which int32 cannot hold; scale or renumber",
    ),
    "below": (np.array([-(2**40), 1]), "holds -1099511627776, which int32"),
    "uint64": (np.array([1, 2**32], np.uint64), "holds 4294967296, which uint32"),
    "float64": (np.array([1.0, np.inf, -1e39]), r"holds 1e\+39, which float32"),
    "complex128": (np.array([1, 1e300j]), r"holds 1e\+300, which complex64"),
}


@pytest.mark.parametrize("level", ["minibatches", "full", "host"])
@pytest.mark.parametrize("case", [*REFUSED, *NARROW])
def test_leaves_that_jax_cannot_hold_are_refused_in_one_line(case, level):
    leaf, rule = (REFUSED | NARROW)[case]
    load = {
        "minibatches": lambda: b.minibatches({"a": leaf}, None, batch_size=1),
        "full": lambda: b.full({"a": leaf}, None),
        "host": lambda: b.Host(lambda i: {"a": leaf}).stack(3, 1, 1),
    }[level]
    if level == "host":
        rule = rule.replace("outer", "minibatch 3")
    with jax.enable_x64(False), pytest.raises(ValueError, match=rule) as caught:
        load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", NARROW)
def test_64_bits_hold_what_32_bits_cannot(case):
    leaf, _ = NARROW[case]
    order = np.asarray(b.minibatches(None, np.arange(len(leaf)), batch_size=1).inner.arrays)
    np.testing.assert_array_equal(b.minibatches(None, leaf, batch_size=1).inner.arrays, leaf[order])


def test_a_list_of_numbers_is_no_set_of_rows_and_a_list_of_arrays_is():
    with pytest.raises(
        ValueError, match=r"but inner\['a'\] is a list or tuple of single numbers; make an array"
    ):
        b.minibatches(None, {"a": [1.0, 2.0]}, batch_size=1)
    with pytest.raises(ValueError, match="inner is a list or tuple of single numbers"):
        b.minibatches(None, [1, 2], batch_size=1)
    assert b.minibatches(None, [np.arange(3), np.ones((3, 2))], batch_size=1).inner.rows == 3
    assert b.full([1.0, 2.0], None).outer[0] == [1.0, 2.0]


# Every estimator on every source: it works, or refuses in one line.

TASK = tasks.quadratic(rows=10, outer_dim=2, inner_dim=3)
X, Y = TASK.start(KEY)
ESTIMATORS = {
    "plain": b.plain(),
    "storm": b.storm(0.5),
    "spider": b.spider(2),
    "page": b.page(0.5),
    "saga": b.saga(),
    "momentum of saga": b.momentum(0.5, of=b.saga()),
}
LOOPS = {
    "implicit": lambda estimator: b.single_loop(
        TASK.problem, b.implicit_direction(TASK.problem), estimator, Point(0.01, 0.1, 0.1)
    ),
    "neumann": lambda estimator: b.single_loop(
        TASK.problem, b.neumann_direction(TASK.problem, b.neumann(2, 0.1)), estimator, Point(0.01, 0.1, 0.1)
    ),
    "newton": lambda estimator: newton(estimator, estimator),
}
WHOLE, ROWS = TASK.data, TASK.minibatches(4)
DATA = {
    "full": WHOLE,
    "blocks": ROWS,
    "host": b.Batch(*(b.Host(lambda i, s=s: jax.tree.map(lambda a: a[:4], s[0])) for s in WHOLE)),
    "user": b.Batch(*(RandomRows(s[0], 4) for s in WHOLE)),
    "endless": b.Batch(*(Endless(s[0], 4) for s in WHOLE)),
}


def newton(sides, hypergradient):
    return newton_loop(
        TASK.problem,
        gradient_steps(1, fixed_sides(TASK.problem)),
        (sides, hypergradient),
        inner_optimizer=0.1,
        outer_optimizer=0.01,
        draws=b.Draws(2, 2),
        cost=b.Cost(),
        name="newton",
    )


def refusal(loop, estimator, data):
    """Return the first words of the only error that the combination may raise, or None."""
    if "saga" in estimator and loop == "neumann":
        return "an estimator that keeps a table needs an oracle that reads one outer and one inner"
    if "saga" in estimator and data in ("host", "user", "endless"):
        return r"\w+ keeps a table of minibatches and needs a `bilevel.BlockSource`, but data.outer"
    if ("spider" in estimator or "page" in estimator) and data in ("host", "endless"):
        return "a refresh needs the full data set, and a host loader" if data == "host" else "rows never end"
    return None


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("loop", LOOPS)
def test_every_estimator_works_with_every_source_or_refuses_it_in_one_line(loop, estimator, data):
    def two_steps():
        algorithm = LOOPS[loop](ESTIMATORS[estimator])
        state = jax.eval_shape(lambda: b.initial_state(algorithm, X, Y, DATA[data]))
        now = DATA[data]
        if data == "host":  # as `run` does
            now = b.Batch(*(source.stack(0, 8, 8) for source in now))
        # The loop of `advance` refuses a state that changes its structure.
        jax.eval_shape(lambda state, now: b.advance(algorithm, state, now, KEY, start=0, steps=2), state, now)

    rule = refusal(loop, estimator, data)
    if rule is None:
        two_steps()
    else:
        with pytest.raises(ValueError, match=rule) as caught:
            two_steps()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("estimator", ["storm", "spider", "page", "saga"])
def test_newton_steps_on_full_data_are_the_same_with_every_estimator_without_memory(estimator):
    noiseless = {"storm": b.storm(1.0), "spider": b.spider(3), "page": b.page(0.3), "saga": b.saga()}

    def end(sides, hypergradient):
        algorithm = newton(sides, hypergradient)
        state = b.initial_state(algorithm, X, Y, WHOLE)
        return b.advance(algorithm, state, WHOLE, KEY, start=0, steps=6)

    want, got = end(b.plain(), b.plain()), end(noiseless[estimator], noiseless[estimator])
    for name in ("x", "y", "v"):
        # Sums in another order.
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-13)


def test_a_table_for_the_hypergradient_alone_gets_its_blocks():
    algorithm = newton(b.plain(), b.saga())
    assert algorithm.draws.fixed and not algorithm.seeds_in_sequence
    state = b.initial_state(algorithm, X, Y, ROWS)
    assert [table.entries.x.shape for table in state.estimator[1]] == [(3, 2), (3, 2)]
    assert newton(b.plain(), b.page(0.5)).seeds_in_sequence


def test_a_shifted_source_skips_its_first_minibatches():
    rows = jnp.arange(10)
    source = b.minibatches(None, rows, batch_size=4).inner
    view = source.view(source.plan(KEY, 0, 6, True))
    later = Shifted(view, 2)
    np.testing.assert_array_equal(later[1], view[3])
    assert later.entry(1)[0] == view.entry(3)[0] and later.count == 3 and not later.is_full
    tail, rest = view.tail(), later.tail()
    assert tail is not None and rest is not None
    np.testing.assert_array_equal(rest[0], tail[0])
    np.testing.assert_array_equal(later.whole()[0], view.whole()[0])
    again = Shifted(source, 2)
    np.testing.assert_array_equal(again.view(again.plan(KEY, 0, 4, True))[1], view[3])


# Refusal of wrong data.


class NotRegistered:
    is_full = False
    plan = view = whole = __getitem__ = len


@pytest.mark.parametrize(
    "data, rule",
    [
        (
            (ROWS.outer, ROWS.inner),
            "data must be a Batch of two sources, got tuple; make the data by `full` or",
        ),
        (
            b.Batch(ROWS.outer, Y),
            "data.inner must be a `bilevel.Source`, but ArrayImpl has no `is_full`; make",
        ),
        (b.Batch(object(), ROWS.inner), "data.outer must be a `bilevel.Source`, but object has no `is_full`"),
        (
            b.Batch(ROWS.outer, NotRegistered()),
            "data.inner must be a pytree, but NotRegistered is not registered",
        ),
    ],
)
def test_wrong_data_are_refused(data, rule):
    soba = b.soba(TASK.problem)
    for call in (
        lambda: b.run(soba, X, Y, data, steps=1, key=KEY),
        lambda: b.run(soba, X, Y, data, steps=1, key=KEY, state=soba.init(X, Y)),
        lambda: b.advance(soba, soba.init(X, Y), data, KEY, start=0, steps=1),
        lambda: b.initial_state(soba, X, Y, data),
    ):
        with pytest.raises(ValueError, match=rule):
            call()


def test_a_missing_member_is_named():
    for name in ("is_full", "plan", "view", "__getitem__", "whole"):
        members = {key: value for key, value in vars(RandomRows).items() if key in MEMBERS and key != name}
        source = jax.tree_util.register_dataclass(type("Mine", (), members), [], [])()
        with pytest.raises(ValueError, match=f"Mine has no `{name}`; make .*, or give Mine this member"):
            b.initial_state(b.soba(TASK.problem), X, Y, b.Batch(ROWS.outer, source))


MEMBERS = ("is_full", "plan", "view", "__getitem__", "whole")


def test_advance_refuses_data_from_the_host():
    soba = b.soba(TASK.problem)
    with pytest.raises(ValueError, match="must lie on the device, but data.outer is a Host; call `run`"):
        b.advance(soba, soba.init(X, Y), DATA["host"], KEY, start=0, steps=1)
