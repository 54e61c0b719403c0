"""Parts of the PZOBO entries."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bilevel import full
from bilevel.fewshot import Episode, Images
from bilevel_claims.experiment import Trajectory
from bilevel_claims.problems import characters
from bilevel_claims.pzobo import fewshot as pzobo_fewshot
from bilevel_claims.pzobo import resnet12 as pzobo_resnet12
from cases.claims import prototype_episodes as episodes
from cases.fewshot import Plain, noisy_prototypes, plain_network

pytestmark = pytest.mark.usefixtures("as_users_have_it")


@pytest.mark.slow
def test_heads_of_a_meta_batch_train_as_if_alone():
    drawings = np.random.default_rng(0).integers(0, 5, (9, 20, 196), np.uint8)
    drawn = characters.tasks_of(drawings, 3, 0)

    def trained(drawn):
        x, solver = characters.two_layers(jax.random.key(0)), pzobo_fewshot.heads()[1]
        return solver.solve(x, pzobo_fewshot.zeros(len(drawn)), full(drawn, drawn))

    together, alone = (jax.device_get(trained(jnp.asarray(part))) for part in (drawn, drawn[1:2]))
    assert np.abs(alone["weight"]).max() > 0.01
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[1], one[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_heads_of_a_meta_batch_on_images_train_as_if_alone():
    net = plain_network()
    together = jax.tree.map(lambda leaf: leaf[0], episodes(10, 1, shots=2, queries=3))
    alone = Episode(
        *(
            Images(part.pixels[len(part.pixels) // 2 :], part.labels[: len(part.labels) // 2])
            for part in together
        )
    )
    x, found = net.init(jax.random.key(0)), []
    for tasks, episode in ((2, together), (1, alone)):
        problem, solver, outputs = pzobo_resnet12.heads(net, tasks)
        y = solver.solve(x, pzobo_resnet12.zeros(net, tasks), full(episode, episode))
        found.append((y["kernel"][-1], outputs(x, y, episode)[-1], problem.outer(x, y, episode)))
    (many, seen, loss), (one, same, last) = found
    np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(seen, same, rtol=1e-4, atol=1e-5)
    assert np.abs(one).max() > 0.01 and abs(loss - last) > 1e-4
    labels = np.repeat(np.arange(5), 3)
    by_hand = optax.softmax_cross_entropy_with_integer_labels(same, labels).mean()
    assert float(last) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.fixture
def resnet12(monkeypatch):
    """The networks that were asked for; a tiny one stands in."""
    built = []

    def network(*filters):
        built.append(filters)
        return Plain()

    data = noisy_prototypes(side=8, sizes=(64, 8, 8), each=10)
    monkeypatch.setattr(pzobo_resnet12, "ResNet12", network)
    monkeypatch.setattr(pzobo_resnet12, "load_classes", lambda name: data)
    return built


@pytest.mark.slow
def test_resnet12_is_timed_whole_and_trained_narrow(resnet12):
    finding = pzobo_resnet12.run("small")
    assert resnet12 == [(), (pzobo_resnet12.NARROW,)]
    rows = finding.tables[0][1].rows
    assert [row[0].text for row in rows] == ["direct term only", "PZOBO, Q = 1", "ITD", "AID-CG"]
    assert all(float(row[1].value or 0) > 0 for row in rows) and len(finding.figures) == 1
    # So few steps decide nothing on what is learned.
    assert [name for name, number in finding.numbers.items() if number["holds"] is not None] == [
        "a step of ResNet-12: seconds of ITD over PZOBO",
        "a step of ResNet-12: seconds of AID-CG over PZOBO",
    ]
    assert "decide nothing" in finding.words


def test_resnet12_at_the_sizes_of_the_paper(resnet12, monkeypatch):
    def trajectory(label, algorithm, experiment, points):
        state = jax.eval_shape(lambda key: algorithm.init(*experiment.start(key)), jax.random.key(0))
        planned = experiment.data.outer.plan(jax.random.key(0), 0, 1)
        task = jax.eval_shape(lambda keys: experiment.data.outer.view(keys)[0], planned)
        assert state.y["kernel"].shape[0] == 12 and task.support.pixels.shape[1] == 12 * 5 * 5
        assert len(experiment.seeds) == 3 and points[-1] == 10_000
        error = np.nan if label == pzobo_resnet12.ONE else 0.0
        return Trajectory(
            label=label,
            steps=points,
            values={pzobo_resnet12.ERROR: np.full((3, len(points)), error)},
            cost=algorithm.cost,
            seconds=1.0,
        )

    monkeypatch.setattr(pzobo_resnet12, "trajectory", trajectory)
    monkeypatch.setattr(pzobo_resnet12, "one_step", lambda *given: (1.0, 1.0))
    finding = pzobo_resnet12.run("paper")
    assert resnet12 == [()]
    assert sum(number["holds"] is not None for number in finding.numbers.values()) == 5
    assert finding.verdict == "does not hold" and "diverged (PZOBO, Q = 1)" in finding.words


def test_published_adam_falls_twice():
    rates = [float(np.asarray(pzobo_resnet12.RATE(step))) for step in (0, 1499, 1501, 3499, 3501)]
    np.testing.assert_allclose(rates, [0.01, 0.01, 1e-3, 1e-3, 1e-4], rtol=1e-5)
