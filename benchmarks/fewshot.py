"""Time and memory of one meta-step of MAML: this library against eager PyTorch.

    python benchmarks/fewshot.py [--inner-steps 5 20] [--repeats 7]

The arithmetic is the same on both sides: 8 tasks, 5 ways, 1 support and 15 query images a class, the
4-layer net with 64 filters on 28x28 pixels, batch statistics, Adam as outer optimiser, float32, all cores.
PyTorch (`pip install --group peers`) runs a hand-written loop with `create_graph=True`, as its users do.
Every program has its own process. The results are ratios of medians, and the rise of the peak of resident
memory from before the first step. All threads share one arena of malloc, since several arenas keep memory
that threads have freed. Programs take turns, so that a busy machine is busy for all of them.

    python benchmarks/fewshot.py --methods conv4-64 resnet12

times one meta-step of every method, 5 ways 5 shots at 32x32 pixels, with 4 tasks.

    python benchmarks/fewshot.py --memory

shows the memory of the step of MAML by inner steps and levels of checkpointing (`recompute`), and of a
gradient through 1,000 inner steps on a million parameters.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

WAYS, SHOTS, QUERIES, TASKS, FILTERS, SIDE = 5, 1, 15, 8, 64, 28
INNER_STEP, OUTER_STEP = 0.4, 1e-3


def resident_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(step, repeats):
    """Return the median seconds of a step, after two steps to warm up."""
    for _ in range(2):
        step()
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begin)
    return float(np.median(seconds))


def random_episodes(tasks, shots, queries, side, channels):
    """Return episodes of noise, with a leading axis of tasks."""
    import jax
    import jax.numpy as jnp

    from bilevel.fewshot import Episode, Images

    def images(seed, each):
        pixels = jax.random.normal(jax.random.key(seed), (tasks, WAYS * each, side, side, channels))
        return Images(pixels, jnp.tile(jnp.repeat(jnp.arange(WAYS), each), (tasks, 1)))

    return Episode(images(0, shots), images(1, queries))


def ours(inner_steps, repeats, recompute=0):
    import jax
    import optax

    from bilevel import models
    from bilevel.fewshot import METHODS

    net = models.network("conv4-64", (SIDE, SIDE, 1))
    learner = METHODS["maml"](
        net,
        WAYS,
        optax.adam(OUTER_STEP),
        inner_step=INNER_STEP,
        inner_steps=inner_steps,
        recompute=recompute,
    )

    episodes = random_episodes(TASKS, SHOTS, QUERIES, SIDE, 1)
    state = learner.algorithm.init(*learner.start(jax.random.key(2)))
    return measured(learner.algorithm, state, episodes, repeats)


def measured(algorithm, state, episodes, repeats):
    import jax

    from bilevel import full

    begin = time.perf_counter()

    @jax.jit
    def step(state, episodes):
        return algorithm.step(state, full(episodes, None), jax.random.key(0))[0]

    compiled = step.lower(state, episodes).compile()
    compile_seconds = time.perf_counter() - begin
    # The memory of the program itself does not count, as PyTorch's program does not.
    before = resident_mib()
    box = [state]

    def go():
        box[0] = jax.block_until_ready(compiled(box[0], episodes))

    return {
        "seconds": timed(go, repeats),
        "compile_seconds": compile_seconds,
        "temporary_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "resident_mib": resident_mib() - before,
    }


def million(inner_steps, repeats, recompute):
    """Measure a gradient through the training of a layer of a million weights."""
    import jax
    import jax.numpy as jnp

    import bilevel as b

    images = jax.random.normal(jax.random.key(0), (32, 1000))

    def loss(y):
        return jnp.mean((jnp.tanh(images @ y) - images) ** 2)

    problem = b.Problem(lambda x, y, batch: loss(y), lambda x, y, batch: loss(y) + jnp.sum(x * y * y))
    response = b.unrolled(b.descend(problem, 0.1, inner_steps, recompute=recompute))
    algorithm = b.nested(problem, response, 0.1, warm=False)
    state = algorithm.init(jnp.full((1000, 1000), 1e-3), jnp.zeros((1000, 1000)))
    return measured(algorithm, state, None, repeats)


def pytorch(inner_steps, repeats):
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    weights = []
    for channels in (1, *[FILTERS] * 3):
        scale = (2 / (9 * channels)) ** 0.5
        weights += [torch.randn(FILTERS, channels, 3, 3) * scale, torch.ones(FILTERS), torch.zeros(FILTERS)]
    weights += [torch.randn(FILTERS, WAYS) / FILTERS**0.5, torch.zeros(WAYS)]
    weights = [w.requires_grad_() for w in weights]

    def net(weights, images):
        for kernel, scale, shift in zip(*[iter(weights[:-2])] * 3, strict=True):
            images = F.conv2d(images, kernel, padding=1)
            images = F.batch_norm(images, None, None, scale, shift, training=True)
            images = F.max_pool2d(F.relu(images), 2)
        return images.flatten(1) @ weights[-2] + weights[-1]

    support = torch.randn(TASKS, WAYS * SHOTS, 1, SIDE, SIDE)
    query = torch.randn(TASKS, WAYS * QUERIES, 1, SIDE, SIDE)
    labels = [torch.arange(WAYS).repeat_interleave(each) for each in (SHOTS, QUERIES)]
    optimizer = torch.optim.Adam(weights, OUTER_STEP)
    before = resident_mib()

    def step():
        optimizer.zero_grad()
        for task in range(TASKS):
            fast = weights
            for _ in range(inner_steps):
                loss = F.cross_entropy(net(fast, support[task]), labels[0])
                slopes = torch.autograd.grad(loss, fast, create_graph=True)
                fast = [w - INNER_STEP * slope for w, slope in zip(fast, slopes, strict=True)]
            (F.cross_entropy(net(fast, query[task]), labels[1]) / TASKS).backward()
        optimizer.step()

    return {"seconds": timed(step, repeats), "resident_mib": resident_mib() - before}


def method(name, network, repeats):
    """Measure one meta-step of a method on random images."""
    import jax
    import optax

    from bilevel import models
    from bilevel.fewshot import METHODS

    tasks, shots, side = 4, 5, 32
    net = models.network(network, (side, side, 3))
    learner = METHODS[name](net, WAYS, optax.adam(OUTER_STEP))

    episodes = random_episodes(tasks, shots, shots, side, 3)
    state = learner.algorithm.init(*learner.start(jax.random.key(2)))
    return measured(learner.algorithm, state, episodes, repeats)


def child(*arguments, cache=None):
    """Run a program in its own process and return the numbers that it prints."""
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    kept = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"} | (kept if cache else {})
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


def twice(*arguments):
    """Measure in a second process, which has no memory of compiling."""
    with tempfile.TemporaryDirectory() as cache:
        first, second = (child(*arguments, cache=cache) for _ in range(2))
    return second | {"compile_seconds": first["compile_seconds"], "cached_seconds": second["compile_seconds"]}


def row(*cells):
    print("".join(f"{cell:>16}" if i else f"{cell:<24}" for i, cell in enumerate(cells)), flush=True)


def against_pytorch(inner_steps, repeats):
    row("program, inner steps", "s a step", "compile s", "from cache s", "temp MiB", "rise MiB")
    for steps in inner_steps:
        results = {"ours": twice("ours", steps, repeats), "pytorch": child("pytorch", steps, repeats)}
        for name, r in results.items():
            keys = ("compile_seconds", "cached_seconds", "temporary_mib")
            cells = [f"{r[key]:.1f}" if key in r else "-" for key in keys]
            row(f"{name}, {steps}", f"{r['seconds']:.3f}", *cells, f"{r['resident_mib']:.0f}")
        own, peer = results["ours"], results["pytorch"]
        time_ratio = peer["seconds"] / own["seconds"]
        memory_ratio = peer["resident_mib"] / max(own["resident_mib"], 1)
        print(f"  PyTorch needs {time_ratio:.2f} times the time and {memory_ratio:.1f} times the memory")


def all_methods(networks, repeats):
    from bilevel.fewshot import METHODS

    row("network, method", "s a step", "compile s", "temp MiB", "rise MiB")
    for network in networks:
        for name in METHODS:
            r = child("method", name, network, repeats)
            cells = [f"{r[key]:.1f}" for key in ("compile_seconds", "temporary_mib", "resident_mib")]
            row(f"{network}, {name}", f"{r['seconds']:.3f}", *cells)


def memory():
    row("inner steps, recompute", "s a step", "temp MiB", "rise MiB")
    for program, steps in (("ours", 5), ("ours", 20), ("ours", 50), ("million", 1000)):
        for levels in (0, 1, 2) if program == "ours" else (1, 2):
            r = twice(program, steps, 1, levels)
            cells = [f"{r[key]:.0f}" for key in ("temporary_mib", "resident_mib")]
            row(f"{program}, {steps}, {levels}", f"{r['seconds']:.2f}", *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inner-steps", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--methods", nargs="+", metavar="NETWORK")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *rest = options.child
        if name == "method":
            print(json.dumps(method(rest[0], rest[1], int(rest[2]))))
        else:
            print(json.dumps({"ours": ours, "pytorch": pytorch, "million": million}[name](*map(int, rest))))
    elif options.memory:
        memory()
    elif options.methods:
        all_methods(options.methods, options.repeats)
    else:
        against_pytorch(options.inner_steps, options.repeats)


if __name__ == "__main__":
    main()
