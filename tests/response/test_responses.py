"""Responses: the protocol, and their values against closed forms and central differences."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel.quasi_newton import apply_inverse, quasi_newton
from bilevel.response import Response, orthogonal, stepwise
from bilevel.response.shared_inverse import shared_inverse
from bilevel.sampling import Stacked
from bilevel.testing import check_response
from cases.problems import (
    CASES,
    central_difference,
    flat,
    quadratic_case,
    quartic_case,
    relative_error,
    unread,
)


def responses(case, steps=400):
    solver = b.descend(case.problem, case.step, steps)
    return {
        "unrolled": b.unrolled(solver),
        "truncated": b.unrolled(b.descend(case.problem, case.step, steps, last=steps // 2)),
        "implicit_cg": b.implicit(case.problem, solver, b.cg(10)),
        "implicit_richardson": b.implicit(case.problem, solver, b.richardson(400, case.step)),
        "implicit_neumann": b.implicit(case.problem, solver, b.neumann(400, case.step)),
    }


def objective(case, response):
    solve = b.solution(response)

    def phi(x):
        return case.problem.outer(x, solve(x, case.y, case.data, jax.random.key(0)), None)

    return phi


def descent(problem, steps=3):
    return b.descend(problem, 1.0, steps)


def with_shared_inverse(problem):
    def adjoint(memory, operator, w, v):
        return apply_inverse(memory, w)

    return shared_inverse(problem, quasi_newton(problem, 0.5, 4, memory=4), adjoint)


def debiased(problem):
    return b.unbiased(b.first_order(descent(problem)), b.unrolled(descent(problem)), 1.0)


KEY = {"key": jax.random.key(0)}
# 40 steps contract the inner error by 0.5^40, below 1e-12.
MEMBERS = {
    "unrolled": (lambda p: b.unrolled(descent(p)), {"truth": "path"}),
    "unrolled, truncated": (lambda p: b.unrolled(b.descend(p, 1.0, 5, last=2)), {"truth": None}),
    "stepwise": (lambda p: stepwise(p, 1.0, 3), {"truth": "path"}),
    # On a quadratic the path that is computed again is dead code.
    "stepwise, recompute": (
        lambda p: stepwise(p, 1.0, 3, recompute=True),
        {"truth": "path", "stops_early": True},
    ),
    "stepwise, independent": (lambda p: stepwise(p, 1.0, 3, independent=True), {"truth": "path"}),
    "implicit, cg": (lambda p: b.implicit(p, descent(p, 40), b.cg(3)), {}),
    "implicit, cold": (lambda p: b.implicit(p, descent(p, 40), b.richardson(40, 1.0), warm=False), {}),
    "implicit, neumann": (lambda p: b.implicit(p, descent(p, 40), b.neumann(40, 1.0)), {}),
    "implicit, random": (
        lambda p: b.implicit(p, descent(p), b.random_product(5, 1.0)),
        {"truth": None} | KEY,
    ),
    "shared_inverse": (with_shared_inverse, {"differentiable": False}),
    "first_order": (lambda p: b.first_order(descent(p)), {"truth": None}),
    # The path is affine in x, and 2 orthogonal directions span its 2 entries: no error but rounding.
    "zeroth_order": (
        lambda p: b.zeroth_order(descent(p), 2, smoothing=0.1, law=orthogonal),
        {"truth": "path"} | KEY,
    ),
    "unbiased": (debiased, {"truth": "path"} | KEY),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_obeys_the_protocol(name):
    make, settings = MEMBERS[name]
    check_response(make, **settings)


@pytest.mark.parametrize("name", responses(quartic_case(), 1))
def test_hypergradient_of_a_converged_inner_problem_is_exact(name):
    case = quartic_case()
    response = responses(case)[name]
    exact_y, exact = case.exact(case.x)
    gradient, y, info = b.hypergradient(case.problem, response, case.x, case.y, case.data)
    # 400 steps contract the inner error below rounding; cg(10) has at least as many steps as dimensions.
    np.testing.assert_allclose(flat(y), exact_y, atol=1e-12)
    assert relative_error(gradient, exact) < 1e-10
    assert info.linear_residual < 1e-10
    assert relative_error(jax.grad(objective(case, response))(case.x), exact) < 1e-10


@pytest.mark.parametrize("name", ["unrolled", "implicit_cg", "implicit_richardson", "implicit_neumann"])
@pytest.mark.parametrize("problem", CASES)
def test_second_derivative_through_the_solution(problem, name):
    case = CASES[problem]()
    vector, unravel = ravel_pytree(case.x)
    phi = objective(case, responses(case)[name])
    hessian = jax.jacrev(jax.grad(lambda vector: phi(unravel(vector))))(vector)
    step = 1e-5
    columns = [
        (case.exact(unravel(vector + step * e))[1] - case.exact(unravel(vector - step * e))[1]) / (2 * step)
        for e in jnp.eye(vector.size)
    ]
    # Central differences of a closed form: step^2 plus rounding / step, both about 1e-10.
    np.testing.assert_allclose(hessian, np.stack(columns, axis=1), atol=1e-7)


LINEAR_SOLVERS = {
    "cg": b.cg(3),
    "cg, tolerance": b.cg(3, tolerance=1e-12),
    "richardson": b.richardson(3, 1.0),
    "richardson, fresh": b.richardson(3, 1.0, fresh=True),
    "heavy_ball": b.heavy_ball(3, 1.0, 1.0),
    "nesterov": b.nesterov(3, 1.0, 0.0),
    "neumann": b.neumann(3, 1.0),
    "random_product": b.random_product(1, 1.0),
    "lineax": b.lineax_solver(lx.CG(rtol=1e-12, atol=1e-12)),
}
# One inner step and one term solve the problems of the next two tests.
DIFFERENTIABLE = {
    f"implicit, {name}": lambda p, linear=linear: b.implicit(p, descent(p), linear)
    for name, linear in LINEAR_SOLVERS.items()
} | {
    "implicit, cold": lambda p: b.implicit(p, descent(p), b.cg(3), warm=False),
    "unrolled": lambda p: b.unrolled(descent(p)),
    "truncated": lambda p: b.unrolled(b.descend(p, 1.0, 3, last=2)),
    "accelerated": lambda p: b.unrolled(b.accelerate(p, 1.0, 3, condition=1.0)),
    "stepwise": lambda p: stepwise(p, 1.0, 3),
    "zeroth_order": lambda p: b.zeroth_order(descent(p), 1, smoothing=1e-6, law=orthogonal),
    "first_order": lambda p: b.first_order(descent(p)),
    "unbiased": lambda p: b.unbiased(b.first_order(descent(p)), b.implicit(p, descent(p), b.cg(3)), 1.0),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivative_when_f_reads_a_part_of_y(name):
    problem = b.Problem(
        unread, lambda x, y, batch: 0.5 * jnp.sum((y["a"] - x**2) ** 2) + 0.5 * jnp.sum(y["b"] ** 2)
    )
    fit = b.solution(DIFFERENTIABLE[name](problem))

    def phi(x):
        y = fit(x, {"a": jnp.zeros(()), "b": jnp.zeros(2)}, b.full(None, None), jax.random.key(0))
        return y["a"] ** 2

    # Phi = x^4. The error of a finite difference is of first order in the smoothing.
    want, tolerance = (0, 0) if name == "first_order" else (12, 1e-4 if name == "zeroth_order" else 1e-12)
    assert jax.jit(jax.jacrev(jax.grad(phi)))(jnp.ones(())) == pytest.approx(want, rel=tolerance)


def test_second_derivative_when_f_is_linear_in_a_part_of_y_and_the_hessian_depends_on_x():
    def inner(x, y, batch):
        return 0.5 * x * (y["a"] - x**2) ** 2 + 0.5 * y["b"] ** 2

    problem = b.Problem(unread, inner)
    for data in (b.full(None, None), b.Batch(None, Stacked(jnp.ones(9)))):
        fit = b.solution(b.implicit(problem, descent(problem), b.cg(3)))

        def phi(x, fit=fit, data=data):
            return 3 * fit(x, {"a": jnp.zeros(()), "b": jnp.zeros(())}, data)["a"]

        assert jax.jit(jax.grad(jax.grad(phi)))(1.0) == pytest.approx(6, rel=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_a_loss_that_closes_over_a_differentiated_value_raises_an_error_with_the_remedy(name):
    def phi(theta):
        problem = b.Problem(unread, lambda x, y, batch: 0.5 * jnp.sum((y - theta * x) ** 2))
        fit = b.solution(DIFFERENTIABLE[name](problem))
        return fit(jnp.ones(()), jnp.zeros(()), b.full(None, None), jax.random.key(0))

    for derivative in (jax.grad(phi), jax.grad(jax.jit(phi)), jax.grad(jax.grad(phi))):
        with pytest.raises(ValueError, match="a value that its loss closes over; put the quantity .* in `x`"):
            derivative(2.0)
    np.testing.assert_allclose(jax.vmap(phi)(jnp.array([1.0, 2.0])), [1, 2])


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_through_a_vmap_over_a_value_that_the_loss_closes_over(name):
    def fitted(x, theta):
        problem = b.Problem(unread, lambda x, y, batch: 0.5 * jnp.sum((y - theta * x) ** 2))
        fit = b.solution(DIFFERENTIABLE[name](problem))
        return fit(x, jnp.zeros(()), b.full(None, None), jax.random.key(0))

    def total(x):
        return jax.vmap(lambda theta: fitted(x, theta))(jnp.array([1.0, 2.0])).sum()

    want = 0 if name == "first_order" else 3
    # A finite difference of a linear path: rounding errors are divided by the smoothing.
    assert jax.jit(jax.grad(total))(1.0) == pytest.approx(want, rel=1e-8)


def test_an_implicit_solution_at_a_saddle_reports_that_its_adjoint_is_not_solved():
    def inner(x, y, batch):
        return -0.5 * 0.5 * (y - x) ** 2

    problem = b.Problem(lambda x, y, batch: 1.4 * y, inner)
    gradients, residuals = [], []
    for linear in (b.cg(5), b.cg(5, damping=1.0)):
        response = b.implicit(problem, b.descend(problem, 0.1, 0), linear)
        gradient, _, info = b.hypergradient(problem, response, 1.0, 1.0, b.full(None, None))
        gradients.append(float(gradient))
        residuals.append(float(info.linear_residual))
    assert residuals == pytest.approx([1, 0], abs=1e-12)
    # Without damping v stays at zero; with damping it solves the damped system, 0.5 v = 1.4.
    assert gradients == pytest.approx([0, -1.4], abs=1e-12)


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_unrolled_is_the_derivative_of_the_path(steps):
    case = quartic_case()
    response = b.unrolled(b.descend(case.problem, 0.3, steps))
    phi = objective(case, response)
    gradient = b.hypergradient(case.problem, response, case.x, case.y, case.data)[0]
    np.testing.assert_allclose(gradient, central_difference(phi, case.x), atol=1e-8)


def test_unrolled_equals_the_sum_over_steps_of_back_propagation():
    case, alpha, steps = quartic_case(), 0.3, 7
    inner, outer = case.problem.inner, case.problem.outer
    path = [case.y]
    for _ in range(steps):
        path.append(path[-1] - alpha * jax.grad(inner, argnums=1)(case.x, path[-1], None))
    w, total = jax.grad(outer, argnums=1)(case.x, path[-1], None), 0.0
    for y in reversed(path[:-1]):
        J = jax.jacfwd(jax.grad(inner), argnums=1)(case.x, y, None)
        H = jax.hessian(inner, argnums=1)(case.x, y, None)
        total, w = total + J @ w, w - alpha * H @ w
    want = jax.grad(outer)(case.x, path[-1], None) - alpha * total
    response = b.unrolled(b.descend(case.problem, alpha, steps))
    got = b.hypergradient(case.problem, response, case.x, case.y, case.data)[0]
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_unrolled_through_other_optimisers(optimizer):
    import optax

    case = quartic_case()
    # Without eps_root the square root has an infinite derivative where a gradient is zero.
    chosen = {"adam": optax.adam(0.1, eps_root=1e-8), "momentum": optax.sgd(0.1, momentum=0.9)}[optimizer]
    response = b.unrolled(b.descend(case.problem, chosen, 9))
    # optax's Adam raises a float to an integer power, which strict promotion forbids.
    with jax.numpy_dtype_promotion("standard"):
        gradient = b.hypergradient(case.problem, response, case.x, case.y, case.data)[0]
        want = central_difference(objective(case, response), case.x)
    np.testing.assert_allclose(gradient, want, atol=1e-7)


def test_unrolled_has_the_derivative_with_respect_to_the_starting_point():
    case = quartic_case()
    solver = b.descend(case.problem, 0.3, 3)

    def phi(y0, response):
        return jnp.sum(b.solution(response)(case.x, y0, case.data) ** 2)

    path = jax.grad(phi)(case.y + 0.5, b.unrolled(solver))
    np.testing.assert_allclose(
        path, central_difference(lambda y0: phi(y0, b.unrolled(solver)), case.y + 0.5), atol=1e-8
    )


def test_truncated_at_the_solution_equals_the_neumann_sum():
    case = quadratic_case()
    exact_y, _ = case.exact(case.x)
    y = ravel_pytree(case.y)[1](jnp.asarray(exact_y))
    truncated = b.unrolled(b.descend(case.problem, 0.5, 9, last=4))
    series = b.implicit(case.problem, b.descend(case.problem, 0.5, 9), b.neumann(3, 0.5))
    got = b.hypergradient(case.problem, truncated, case.x, y, case.data)[0]
    want = b.hypergradient(case.problem, series, case.x, y, case.data)[0]
    assert relative_error(got, want) < 1e-12


def test_truncated_to_no_step_equals_first_order():
    case = quartic_case()
    truncated = b.unrolled(b.descend(case.problem, 0.3, 6, last=0))
    got = b.hypergradient(case.problem, truncated, case.x, case.y, case.data)
    first = b.first_order(b.descend(case.problem, 0.3, 6))
    want = b.hypergradient(case.problem, first, case.x, case.y, case.data)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_allclose(want[0], jax.grad(case.problem.outer)(case.x, want[1], None))
    assert not np.any(jax.grad(lambda x: b.solution(first)(x, case.y, case.data).sum())(case.x))


def test_implicit_gradient_of_an_unconverged_solve_can_have_the_wrong_sign_and_a_large_residual():
    def inner(x, y, batch):
        return 0.5 * jnp.sum((y - jnp.array([1.0, 2.0])) ** 2) + 0.5 * jnp.exp(x) * jnp.sum(y**2)

    def outer(x, y, batch):
        return jnp.sum((y - 0.5) ** 2)

    problem = b.Problem(outer, inner)

    def gradient_after(step_size, steps):
        response = b.implicit(problem, b.descend(problem, step_size, steps), b.cg(2))
        return b.hypergradient(problem, response, jnp.asarray(0.3), jnp.zeros(2), b.full(None, None))[0]

    algorithm = b.nested(problem, b.implicit(problem, b.descend(problem, 0.05, 3), b.cg(2)), 0.0)
    state = algorithm.init(jnp.asarray(0.3), jnp.zeros(2))
    assert gradient_after(0.05, 3) == pytest.approx(0.128, abs=5e-4)
    _, metrics = algorithm.step(state, b.full(None, None), jax.random.key(0))
    assert metrics["inner_residual"] > 1
    assert gradient_after(0.4, 200) == pytest.approx(-0.306936, abs=5e-7)


def unit_directions(key, x, count):
    return jnp.sqrt(count) * jnp.eye(count)


def test_zeroth_order_along_all_axes_is_the_unrolled_gradient():
    case = quartic_case()
    solver = b.descend(case.problem, 0.3, 7)
    want = b.hypergradient(case.problem, b.unrolled(solver), case.x, case.y, case.data)[0]
    axes = b.zeroth_order(solver, 4, smoothing=1e-6, law=unit_directions)
    got = b.hypergradient(case.problem, axes, case.x, case.y, case.data, jax.random.key(0))[0]
    # One-sided differences: an error of first order in the smoothing.
    assert relative_error(got, want) < 1e-5
    through = jax.grad(objective(case, axes))(case.x)
    np.testing.assert_allclose(through, got, rtol=1e-10)


def test_zeroth_order_is_unbiased_on_affine_paths_with_error_p_plus_one_over_q():
    p, directions, draws = 20, 5, 40_000
    rng = np.random.default_rng(0)
    B, w = jnp.asarray(rng.normal(size=(7, p))), jnp.asarray(rng.normal(size=7))
    problem = b.Problem(lambda x, y, batch: w @ y, lambda x, y, batch: 0.5 * jnp.sum((y - B @ x) ** 2))
    response = b.zeroth_order(b.descend(problem, 1.0, 1), directions, smoothing=0.5)

    @jax.jit
    @jax.vmap
    def estimate(key):
        return b.hypergradient(problem, response, jnp.ones(p), jnp.zeros(7), b.full(None, None), key)[0]

    truth = B.T @ w
    estimates = estimate(jax.random.split(jax.random.key(0), draws))
    square = jnp.sum(truth**2)
    # Mean: within three standard errors, sqrt(4.2 / 40,000) = 0.010 each.
    assert relative_error(estimates.mean(0), truth) < 0.03
    mse = jnp.mean(jnp.sum((estimates - truth[None]) ** 2, axis=1)) / square
    assert mse == pytest.approx((p + 1) / directions, rel=0.03)


def test_zeroth_order_paths_see_the_same_minibatches():
    """With common minibatches the error does not grow as the smoothing shrinks."""
    noise = Stacked(jnp.asarray(np.random.default_rng(0).normal(size=(20, 5))))
    H = jnp.diag(jnp.linspace(0.5, 1.0, 5))
    B, w = jnp.asarray(np.random.default_rng(1).normal(size=(5, 10))), jnp.ones(5)

    def inner(x, y, batch):
        return 0.5 * y @ H @ y - y @ (B @ x + 0.1 * batch)

    problem = b.Problem(lambda x, y, batch: w @ y, inner)
    batch = b.Batch(b.full(None, None).outer, noise)
    solver = b.descend(problem, 1.0, 20)
    want = b.hypergradient(problem, b.unrolled(solver), jnp.zeros(10), jnp.zeros(5), batch)[0]
    response = b.zeroth_order(solver, 10, smoothing=1e-4, law=unit_directions)
    got = b.hypergradient(problem, response, jnp.zeros(10), jnp.zeros(5), batch, jax.random.key(0))[0]
    assert relative_error(got, want) < 1e-8


@pytest.mark.parametrize(
    "make, rule",
    [
        (lambda s: b.zeroth_order(s, 0), "directions must be at least 1, got 0"),
        (lambda s: b.zeroth_order(s, 1, smoothing=0.0), "smoothing must be positive, got 0.0"),
        (lambda s: b.descend(quartic_case().problem, 0.1, -1), "inner steps must be at least 0, got -1"),
        (
            lambda s: b.descend(quartic_case().problem, 0.1, 3, last=4),
            "last must be between 0 and 3, the number of inner steps, got 4",
        ),
    ],
)
def test_bad_arguments_raise_an_error_with_the_rule(make, rule):
    with pytest.raises(ValueError, match=rule):
        make(b.descend(quartic_case().problem, 0.1, 1))


def test_a_vmap_over_x_equals_one_call_each():
    case = quartic_case()
    for response in responses(case, 20).values():
        assert isinstance(response, Response)

        def gradient(x, response=response):
            return b.hypergradient(case.problem, response, x, case.y, case.data, jax.random.key(0))[0]

        xs = jnp.stack([case.x, 2 * case.x])
        np.testing.assert_allclose(jax.jit(jax.vmap(gradient))(xs)[1], jax.jit(gradient)(xs[1]), rtol=1e-9)
