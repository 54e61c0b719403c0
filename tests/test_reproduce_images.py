"""Entries of `bilevel reproduce` on images by class: UFO-BLO at equal cost, PZOBO with ResNet-12."""

import jax
import numpy as np
import optax
import pytest

from bilevel import full
from bilevel.fewshot import Episode, Images, Shape, fixed_episodes
from bilevel.report import figures
from bilevel.reproduce import debiased_tasks
from bilevel.reproduce.claims import pzobo_resnet12
from bilevel.reproduce.curves import Curve
from bilevel.reproduce.debiased_tasks import DEBIASED, ERROR, EXACT, FO, KEPT, LABELS, Experiment, Outcome
from bilevel.reproduce.types import Search
from bilevel.types import Cost
from few_shots import Plain, noisy_prototypes, plain_network


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.setattr(figures, "RESOLUTION", 50)
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def episodes(ways, count, shots=1, queries=1):
    data = noisy_prototypes(side=8, sizes=(20, 12, 12))
    scale = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    return fixed_episodes(data.train, *scale, Shape(ways, shots, queries), count)


def test_exact_steps_are_the_same_whether_iterates_are_kept_or_made_again():
    batch, moved = full(episodes(4, debiased_tasks.TASKS), None), {}
    for label in LABELS:
        learner = debiased_tasks.method(plain_network(), 4, label, 0.3, 5, 0.5)
        state = learner.algorithm.init(*learner.start(jax.random.key(0)))
        after = learner.algorithm.step(state, batch, jax.random.key(1))[0]
        moved[label] = optax.tree.sub(after.x, state.x)
    apart = {label: float(optax.tree.norm(optax.tree.sub(moved[label], moved[KEPT]))) for label in LABELS}
    size = float(optax.tree.norm(moved[KEPT]))
    assert apart[EXACT] < 1e-5 * size < 1e-2 * size < min(apart[FO], apart[DEBIASED])


def test_methods_spend_the_same_and_find_a_verdict(monkeypatch):
    axes = {"inner_optimizer": (0.3,), "outer_optimizer": (0.1, 0.5)}
    data = noisy_prototypes(side=8, sizes=(12, 8, 8))
    experiment = Experiment(data, Plain(), (3,), 2, axes, 48, 2, 6)
    finding = debiased_tasks.run(experiment)
    assert [search.budget for search in finding.searches] == ["48 gradients and products a task"] * 4
    assert len(finding.figures) == 1 and len(finding.tables[0][1].rows) == 4
    # 3, 3 + 0.2 times 3, 6 and 5 gradients and products a step.
    assert [row[3].text for row in finding.tables[0][1].rows] == ["16", "13", "8", "10"]
    assert sum(number["holds"] is not None for number in finding.numbers.values()) == 2


def test_a_verdict_says_at_how_many_ways_the_debiased_steps_are_ahead():
    def run(label, error):
        return Curve(label, np.array([0, 8]), {ERROR: np.array([[0.9, error]] * 3)}, Cost(1), 1.0)

    def outcome(ways, *errors):
        search = Search("", {}, None, {"inner_optimizer": 0.1, "outer_optimizer": 0.1}, (), "", "")
        return Outcome(ways, [search] * 4, [run(*pair) for pair in zip(LABELS, errors, strict=True)])

    data = noisy_prototypes(side=8, sizes=(2, 2, 2))
    experiment = Experiment(data, Plain(), (20, 60), 9, {}, 100, 3, 1)
    finding = debiased_tasks.report(
        experiment, [outcome(20, 0.3, 0.4, 0.5, 0.2), outcome(60, 0.6, 0.5, 0.5, 0.4)]
    )
    assert finding.verdict == "holds in part"
    assert "first-order ones at 60 ways" in finding.words and "paths at 20 and 60 ways" in finding.words
    assert finding.words.count("nowhere") == 1 and "costs 19 and not 55" in finding.words


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


def test_resnet12_is_timed_whole_and_trained_narrow(monkeypatch):
    built = []

    def network(*filters):
        built.append(filters)
        return Plain()

    data = noisy_prototypes(side=8, sizes=(20, 8, 8))
    monkeypatch.setattr(pzobo_resnet12, "ResNet12", network)
    monkeypatch.setattr(pzobo_resnet12, "load_classes", lambda name: data)
    finding = pzobo_resnet12.run("small")
    assert built == [(), (pzobo_resnet12.NARROW,)]
    rows = finding.tables[0][1].rows
    assert [row[0].text for row in rows] == ["direct term only", "PZOBO, Q = 1", "ITD", "AID-CG"]
    assert all(float(row[1].value or 0) > 0 for row in rows) and len(finding.figures) == 1
