# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,mystnb,-all
#     notebook_metadata_filter: kernelspec,jupytext,-all
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Serving it
#
# A trained network answers nobody.
# A service does: it takes pictures as they come, from people who do not wait for each other, some of whom mean harm.
# How many can it answer, how long does each wait, and what happens when there are more?
#
# **You will be able to**
#
# * say from two numbers how busy a service is, and how long its queue will be;
# * measure what a batch costs, and what batches buy;
# * load a service without fooling yourself, and find its knee;
# * check what you measured with a law that has no assumptions: $L = \lambda W$;
# * make a service that refuses what it must, and loses nothing when a part of it dies.
#
# **Before you start** read the chapter on fine-tuning.
#
# | profile | network | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | ResNet-20, twice as wide, hardly trained | two processor cores | about a minute | see the receipt | none |
# | `laptop` | the same, on a part of CIFAR-10 | two processor cores | [6.98 min](#serving.run_minutes) | [1.92 GB](#serving.run_peak_memory) | <span class="given">170 MB</span> |
# | `gpu` | the same, on more of it | one GPU for the training, **not yet run on one** | | | <span class="given">170 MB</span> |
#
# A number with a dotted line under it leads to the run that produced it.
# Times depend on the machine: those here are of the one that the ledger names, and yours appear when you run the chapter.

# %% [markdown]
# ## Set-up
#
# In Colab the next cell installs the library; everywhere else it only looks whether something is missing.

# %%
import importlib.util
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    wheel = os.environ.get("SCALETUT_WHEEL")  # built from a checkout
    home = "git+https://github.com/scale-measured/scale-measured"
    source = Path(wheel).resolve().as_uri() if wheel else home
    # %pip install --quiet "scaletut[compress,serve] @ {source}"

needed = ("scaletut", "torch", "onnxruntime", "onnxscript")
needed += ("fastapi", "uvicorn", "httpx", "pandas", "matplotlib")
missing = [one for one in needed if importlib.util.find_spec(one) is None]
if missing:
    remedy = "run  pip install 'scaletut[compress,serve]'"
    names = ", ".join(missing)
    raise ModuleNotFoundError(f"not installed: {names}; {remedy}")

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
data = ""           # cifar10, zipf10, folder:PATH or an npz file; empty: the profile's
network = ""        # a name of scaletut.models; empty: the profile's
images = 0          # images, 0 to 1000000; 0: the profile's
epochs = 0          # epochs, 0 to 200; 0: the profile's
seconds = 0.0       # seconds, 0.0 to 3600.0; 0: the profile's
rounds = 0          # rounds, 0 to 100; 0: the profile's
seed = 0            # 0 to 2147483647

# %%
import contextlib
import io
import json
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from scaletut import chapters, compress, figures, serve
from scaletut.data import load
from scaletut.models import build
from scaletut.records import Claims, Value, format_value
from scaletut.records import new_record, peak_memory
from scaletut.resources.throughput import summary
from scaletut.train import Recipe, fit

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "serving", profile=profile, data=data, network=network, images=images,
    epochs=epochs, seconds=seconds, rounds=rounds, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %% tags=["hide-input"]
claims, numbers = Claims("serving"), {}
blue, orange, teal, violet = figures.PALETTE[:4]
services = contextlib.ExitStack()


def keep(name, value, unit=""):
    """Note a value, or readings, for the record, and show it as text."""
    if isinstance(value, list):
        value = summary(value, unit)
    made = value if isinstance(value, Value) else Value(float(value), unit)
    numbers[name] = made
    return format_value(made, "value" if made.low is None else "interval")


# %% [markdown]
# ## A queue by hand
#
# One worker, who needs <span class="given">5 ms</span> for each request.
# Requests come at random, at a rate of $\lambda$ a second.
# The share of time for which the worker is busy is the *utilisation*
#
# $$\rho = \lambda\, s,$$
#
# with $s$ the time of service.
# Below 1 the worker keeps up, on average.
#
# > **Guess first.**
# > At a utilisation of <span class="given">50 %</span> the worker sits idle half of the time.
# > How long does a request wait, on average, before its turn: nothing, a quarter, a half, or a whole time of service?
# > And at <span class="given">90 %</span>?
#
# A request waits for what its predecessor still had to wait and to be served, less the gap between the two:

# %%
def waits(arrivals, service):
    """Seconds that each request waits, first come first served."""
    waited = [0.0]
    for gap in np.diff(arrivals):
        waited.append(max(0.0, waited[-1] + service - gap))
    return np.array(waited)


# %%
service, many = 0.005, 200_000
rng = np.random.default_rng(p.seed)
runs = {}
for busy in (0.2, 0.5, 0.7, 0.8, 0.9):
    arrivals = np.cumsum(rng.exponential(service / busy, many))
    runs[busy] = arrivals, waits(arrivals, service)

# %% [markdown]
# There is a formula for this, found by Pollaczek in 1930 and Khinchine in 1932 {cite:p}`harcholbalter2013`.
# If every service takes the same time,
#
# $$W_q = \frac{\rho}{1 - \rho} \cdot \frac{s}{2},$$
#
# and twice that if times of service are exponential.

# %%
by_hand = {busy: w.mean() for busy, (_, w) in runs.items()}
formula = {busy: serve.mean_wait(busy / service, service)
           for busy in runs}
table = pd.DataFrame({"simulated": by_hand, "formula": formula})
(1e3 * table).round(2).add_suffix(", ms")

# %%
off = max(abs(by_hand[busy] / formula[busy] - 1) for busy in runs)
claims.check(
    "A queue by hand waits as long as the formula says, within 10 %.",
    off < 0.1, margin=0.1 - off,
);

# %% [markdown]
# The library's `simulate` is the same recursion, and knows more workers and batches:

# %%
arrivals, waited = runs[0.8]
latency = serve.simulate(arrivals, fixed=service)
claims.check(
    "The library's simulation is the recursion by hand.",
    np.allclose(latency, waited + service),
);

# %% mystnb={"image": {"alt": "Mean wait in multiples of the time of service against utilisation: it stays below one half until a utilisation of one half, and rises steeply towards one. Points simulated by hand lie on the curve of the formula."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.2)
x = np.linspace(0.01, 0.95, 200)
curve = [serve.mean_wait(busy / service, service) / service for busy in x]
axes.plot(x, curve, color=blue, label="formula")
axes.plot(list(by_hand), np.array(list(by_hand.values())) / service, "o",
          color=orange, label="by hand")
axes.set(xlabel="utilisation", ylabel="mean wait (times of service)")
axes.legend()
plt.show()

# %% [markdown]
# ### A law without assumptions
#
# How many requests are in the system, waiting or being served?
# Little proved in 1961 that on average it is the rate of arrivals times the time that each stays {cite:p}`little1961`,
#
# $$L = \lambda W,$$
#
# whatever the arrivals, the times of service and the order.
# So count, at random moments, who is inside, and compare:

# %%
def inside(arrivals, leaving, moments):
    """Requests that have come and not gone, at each of the moments."""
    come = np.searchsorted(arrivals, moments)
    return come - np.searchsorted(np.sort(leaving), moments)


# %%
moments = rng.uniform(0, arrivals[-1], 50_000)
counted = inside(arrivals, arrivals + latency, moments).mean()
product = many / arrivals[-1] * latency.mean()
print(f"counted {counted:.3f}, rate times time {product:.3f}")

# %%
claims.check(
    "Counted inside the queue are as many as rate times time.",
    abs(counted / product - 1) < 0.05,
);

# %% [markdown]
# ### Where to stop: the knee
#
# More load buys more throughput and costs more latency.
# Kleinrock's *power* is the one over the other, and the load with the most power is the knee of the curve {cite:p}`kleinrock1979`.
# For one worker and random arrivals it has a simple sign: at the knee, one request is inside on average.

# %%
rates = x / service
stay = np.array([service + serve.mean_wait(rate, service)
                 for rate in rates])
at = serve.knee(rates, stay)
print(f"the knee: utilisation {x[at]:.2f}, "
      f"inside {rates[at] * stay[at]:.2f}")

# %% [markdown]
# > **Takeaway.**
# > At half of its capacity a worker with even times of service keeps requests waiting for half a time of service; at <span class="given">90 %</span> for four and a half.
# > A service that is to answer promptly must be idle for a good part of its time.

# %% [markdown]
# ## What does a batch cost?
#
# A network may compute several images at once in less time than one after the other.
# By how much decides whether a service should collect requests.
# First a network, trained and exported to a program as in the chapter on compression:

# %%
n_test = 500 if p.profile == "quick" else 2000
sets = load(p.data, n_train=p.images, n_test=n_test, seed=p.seed)
train, test = sets.train, sets.test
net = build(p.network, width=2, num_classes=len(train.class_names),
            seed=p.seed)

# %%
recipe = Recipe(epochs=p.epochs, batch_size=64, lr=0.05)
trained = fit(net, train, recipe, p.seed)
right = trained.predict(test).argmax(1) == test.labels
print("accuracy", keep("accuracy", 100 * right.mean(), "%"))

# %%
folder = Path(tempfile.mkdtemp())
program = compress.export(
    trained.model, folder / "network.onnx", images=test.images[:200],
    normalisation=trained.normalisation, class_names=test.class_names,
)
print(f"{program.path.name}, {program.bytes / 1e6:.2f} MB")

# %% [markdown]
# Now batches of several sizes, in turns, on one thread:

# %%
run = program.predictor(threads=1)
sizes = [1, 2, 4, 8, 16, 32]
times = {size: [] for size in sizes}
for _ in range(4 + 4 * p.rounds):
    for size in sizes:
        begun = time.perf_counter()
        run(test.images[:size])
        times[size].append(time.perf_counter() - begun)

# %%
median = {size: np.median(times[size][1:]) for size in sizes}
speed = {size: size / median[size] for size in sizes}
best = max(speed, key=speed.get)
gain, at_32 = speed[best] / speed[1], speed[32] / speed[1]
print("the best batch:", keep("batch_best", best), "images, gives",
      keep("gain_batch", gain, "×"), "as many, and one of 32",
      keep("gain_32", at_32, "×"))

# %%
used = [size for size in sizes if size <= max(best, 2)]
fixed, per_image = serve.batch_cost(used, [median[n] for n in used])
print("a batch takes", keep("batch_fixed", 1e3 * fixed, "ms"), "and",
      keep("batch_image", 1e3 * per_image, "ms"), "an image")

# %% mystnb={"image": {"alt": "Left: milliseconds of a batch against its size, points near a straight line. Right: images a second against the size of the batch on a logarithmic axis."}} tags=["hide-input"]
figure, axes = figures.panels(1, 2, height=3.0)
measured = np.array(list(median.values()))
axes[0].plot(sizes, 1e3 * measured, "o", color=blue)
axes[0].plot([0, used[-1]],
             [1e3 * fixed, 1e3 * (fixed + used[-1] * per_image)],
             color=orange, linewidth=1.2)
axes[0].set(xlabel="images in a batch", ylabel="time (ms)", ylim=(0, None))
axes[1].plot(sizes, list(speed.values()), "o-", color=blue)
axes[1].set(xlabel="images in a batch", ylabel="images a second",
            xscale="log", ylim=(0, 1.1 * max(speed.values())))
axes[1].set_xticks(sizes, [str(size) for size in sizes])
axes[1].minorticks_off()
plt.show()

# %% [markdown]
# The line has two parts: what a call costs whatever is in it, and what an image costs.
# On a GPU the first part is large, and batches multiply the throughput {cite:p}`crankshaw2017`.
# A processor core is as good as full with one image, if the network is not tiny, and a batch that no longer fits its cache is slower than a smaller one.
# So the largest batch is not the best by nature; it is a setting, and this is how to choose it.
#
# With these two numbers the simulation predicts the service.
# A worker takes up to the best batch, and the first of them waits <span class="given">2 ms</span> for others:

# %%
def predicted(rate, workers=1):
    """Mean seconds in a service that costs nothing but computing."""
    arrivals = serve.poisson_arrivals(rate, 40, p.seed)
    return serve.simulate(
        arrivals, fixed=fixed, per_image=per_image, most=best, wait=0.002,
        workers=workers,
    ).mean()


most = best / (fixed + best * per_image)
print("at most", keep("most_computed", most, "images/s"))

# %% [markdown]
# ## The service
#
# In a shell it is one command:
#
# ```bash
# scaletut serve network.onnx --workers 1 --max-batch 32 --max-wait 2ms
# ```
#
# It is a web server (FastAPI and uvicorn) in front of processes that run the program, with one bounded queue between.
# `http://127.0.0.1:8000` then shows a page: choose a picture, see the class, the probabilities and the milliseconds.
# Here the command runs in a process of its own:

# %%
service = services.enter_context(serve.running(
    program.path, max_batch=best
))
health = service.health()
print(service.url, "ready:", health["ready"],
      "classes:", len(health["model"]["classes"]))

# %%
def png(pixels):
    """A picture as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


bodies = [png(one) for one in test.images[:64]]
ask = httpx.Client(base_url=service.url, timeout=60)
PNG = {"content-type": "image/png"}

# %%
answer = ask.post("/predict", content=bodies[0], headers=PNG).json()
print(answer["predictions"][0]["class"], answer["milliseconds"])

# %% [markdown]
# Does the service say what the network says?

# %%
def served(body):
    """The class that the service tells."""
    found = ask.post("/predict", content=body, headers=PNG).json()
    return found["predictions"][0]["class"]


said = [served(body) for body in bodies]
classes = trained.predict(test).argmax(1)[:64]
known = [test.class_names[label] for label in classes]
claims.check(
    "The service says what the network says, for every image.",
    said == known,
);

# %% [markdown]
# ## Load
#
# A load generator in another process sends requests over the loopback address.
# There are two kinds, and they answer different questions {cite:p}`schroeder2006`.
# In a *closed* loop some clients each wait for their answer before they ask again.
# In an *open* one requests come when they come, as from many people who do not know of each other.
#
# ### The slow moment that a closed loop hides
#
# Let the worker stop for half a second while each kind of load runs for two.
#
# > **Guess first.**
# > Of the requests, what share was slow, according to each?

# %%
def through_a_stall(measure):
    """A load during which the worker stops for half a second."""
    (worker,) = service.worker_pids()
    for after, what in ((1.0, signal.SIGSTOP), (1.5, signal.SIGCONT)):
        threading.Timer(after, os.kill, (worker, what)).start()
    return measure(service.url, bodies, seconds=2.0)


# %%
def closed(*to, **how):
    return serve.closed_loop(*to, clients=1, **how)


def opened(*to, **how):
    return serve.open_loop(*to, rate=0.2 * most, **how)


hidden, told = through_a_stall(closed), through_a_stall(opened)

# %%
pd.DataFrame({
    name: {
        "requests": str(one.n),
        "slower than 100 ms": f"{(one.latencies > 0.1).mean():.1%}",
        "p50, ms": f"{1e3 * one.quantile(0.5):.1f}",
        "p90, ms": f"{1e3 * one.quantile(0.9):.1f}",
        "p99, ms": f"{1e3 * one.quantile(0.99):.1f}",
    } for name, one in {"closed loop": hidden, "open loop": told}.items()
}).T

# %%
claims.check(
    "An open load counts a stall that a closed loop hides.",
    told.quantile(0.9) > 2 * hidden.quantile(0.9),
);

# %% [markdown]
# In the closed loop one request met the stall, and the client politely asked nothing meanwhile.
# In the open one all who came in that half second waited, and latency is counted from when they came, not from when the generator got around to sending them.
#
# ### Throughput and latency
#
# What the whole service can do at most, a closed loop of many clients tells:

# %%
full = serve.closed_loop(
    service.url, bodies, clients=16, seconds=p.seconds
)
print("at most", keep("most_served", full.throughput, "requests/s"))

# %% [markdown]
# And then open loads at shares of it, each <span class="given">several</span> times where the profile has rounds, in interleaved order:

# %%
shares = (0.2, 0.4, 0.6, 0.75, 0.9, 2.0)
if p.profile == "quick":
    shares = (0.2, 0.5, 0.8, 2.0)
loads = serve.sweep(
    service.url, bodies, [share * full.throughput for share in shares],
    seconds=p.seconds, rounds=p.rounds, seed=p.seed,
)
joined = serve.join(loads)

# %% tags=["hide-input"]
pd.DataFrame([{
    "offered/s": f"{one.offered:,.0f}",
    "answered/s": f"{one.throughput:,.0f}",
    "p50, ms": f"{1e3 * one.quantile(0.5):.1f}",
    "p95, ms": f"{1e3 * one.quantile(0.95):.1f}",
    "p99, ms": f"{1e3 * one.quantile(0.99):.1f}",
    "inside": f"{one.in_system:.2f}",
    "rate × time": f"{one.rate_times_latency:.2f}",
    "requests": f"{one.n:,}",
    "told to come again": f"{one.statuses.get(503, 0):,}",
} for one in joined], index=[f"{share:.0%}" for share in shares])

# %%
calm = [one for one in joined[:-1]
        if one.throughput > 0.9 * one.n / one.seconds]
counted = sum(one.in_system for one in calm)
product = sum(one.rate_times_latency for one in calm)
claims.check(
    "Inside the service are as many as its rate times its latency.",
    abs(counted / product - 1) < 0.2,
);

# %% [markdown]
# The two columns come from different measurements: one looks at the number of open requests every <span class="given">5 ms</span>, the other adds up latencies.
# Where they part, one of them is wrong, or the load was not steady: beyond its capacity a service has no mean.
# So the claim looks at loads whose requests were nearly all answered while they were measured.

# %%
below = [one for one in joined if one.offered < full.throughput]
knee = serve.knee_of(below)
print("the knee:", keep("knee", knee.offered, "requests/s"), "with",
      keep("inside_knee", knee.in_system), "inside, p99",
      keep("knee_p99", 1e3 * knee.quantile(0.99), "ms"))

# %%
last = [one for one in loads if one.offered == joined[-1].offered]
flood = keep("flood_p99", 1e3 * np.median(
    [one.quantile(0.99) for one in last]), "ms")
print("p99 at twice the capacity:", flood)
claims.check(
    "Beyond its capacity the service is slower than at its knee.",
    numbers["flood_p99"].value > numbers["knee_p99"].value,
);

# %% mystnb={"image": {"alt": "Left: median, 95th and 99th percentile of the latency against offered load on a logarithmic axis, low and level up to the knee and rising steeply towards the capacity; the simulated mean lies below the median. Right: answered against offered requests a second, on the diagonal until the capacity and level beyond it."}} tags=["hide-input"]
figure, axes = figures.panels(1, 2, height=3.4)
offered = [one.offered for one in joined]
for share, mark, color in ((0.5, "o", blue), (0.95, "s", orange),
                           (0.99, "D", violet)):
    axes[0].plot(offered, [1e3 * one.quantile(share) for one in joined],
                 mark + "-", color=color, label=f"p{100 * share:.0f}")
able = [rate for rate in offered if rate < 0.95 * most]
axes[0].plot(able, [1e3 * predicted(rate) for rate in able], "--",
             color=teal, label="simulated mean")
axes[0].axvline(knee.offered, color=figures.QUIET, linewidth=1)
axes[0].set(yscale="log", xlabel="offered (requests/s)",
            ylabel="latency (ms)")
axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
axes[1].plot(offered, [one.throughput for one in joined], "o-", color=blue)
axes[1].plot([0, max(offered)], [0, max(offered)], color=figures.QUIET,
             linewidth=1)
axes[1].set(xlabel="offered (requests/s)", ylabel="answered (requests/s)")
plt.show()

# %% [markdown]
# The thin line marks the knee.
# The simulation knows only the network; what lies between it and the measurement is everything else that a request needs: a web server that reads it, a picture that is decoded, two changes of process, and a load generator that shares the same cores.
# That share is also why the service as a whole reached [290 requests/s](#serving.most_served) where the network alone could compute [298 images/s](#serving.most_computed).
#
# > **Takeaway.**
# > The knee lay at [58.0 requests/s](#serving.knee), with [0.753](#serving.inside_knee) requests inside and 99 of 100 answered within [44.0 ms](#serving.knee_p99).
# > At <span class="given">twice</span> the capacity that became [2,250 ms](#serving.flood_p99), for little more throughput, and part of the requests were told to come again.

# %% [markdown]
# ## One worker, two workers
#
# A second process computes on the second core.
# It should double the throughput, were it not for the web server and the load generator, which need a core too.
#
# > **Guess first.**
# > With two cores for everything, how many times the throughput do two workers give?

# %%
two = services.enter_context(serve.running(
    program.path, max_batch=best, workers=2
))
urls, reached = (service.url, two.url), {1: [], 2: []}
for turn in range(max(3, p.rounds)):
    for number in ((1, 2), (2, 1))[turn % 2]:
        reached[number].append(serve.closed_loop(
            urls[number - 1], bodies, clients=16, seconds=p.seconds
        ).throughput)

# %%
pairs = [b / a for a, b in zip(reached[1], reached[2])]
print("two workers:", keep("gain_workers", pairs, "×"))

# %% [markdown]
# > **Takeaway.**
# > On two cores a second worker gave [0.99 (0.93 to 1.07)×](#serving.gain_workers) the throughput.
# > The workers were never alone on the machine, and that is how services live.

# %% [markdown]
# ## When there are too many
#
# A queue without a bound answers everybody, in the end, and nobody in time.
# So the queue is bounded, and who finds it full is told at once to come again: status 503, with `Retry-After`.
#
# To see it without a race, stop the worker, ask <span class="given">24</span> times at once of a service whose queue holds <span class="given">8</span>, and then let the worker go on.

# %%
small = services.enter_context(serve.running(
    program.path, queue=8, max_batch=4, max_images=4, max_bytes="1MB",
    slow="1s",
))


def status(number):
    with httpx.Client(base_url=small.url, timeout=60) as one:
        body = bodies[number % len(bodies)]
        return one.post("/predict", content=body, headers=PNG).status_code


# %% tags=["hide-input"]
def arrived():
    """Requests that the small service holds or has answered."""
    seen = small.metrics()
    told = "scaletut_requests_total"
    done = [seen[one] for one in seen if one.startswith(told)]
    return seen["scaletut_requests_inside"] + sum(done)


def crowd(many, then):
    """Ask at once while the worker is stopped; then do that to it."""
    (worker,) = small.worker_pids()
    before = arrived()
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(many) as threads:
        asked = [threads.submit(status, number) for number in range(many)]
        while arrived() < before + many:
            time.sleep(0.05)
        os.kill(worker, then)
        return Counter(one.result() for one in asked)


# %%
found = crowd(24, signal.SIGCONT)
print(dict(found))
claims.check(
    "A full queue says 503, and what it accepted is answered.",
    set(found) == {200, 503} and found[200] >= 8,
);

# %% [markdown]
# ## When a worker dies
#
# Workers are processes of their own, so that one can die alone: for want of memory, by a fault in a library, by an impatient administrator.
# The server keeps each request until it is answered; a batch whose worker is gone goes back to the head of the queue, and a new worker is started.
# Here eight requests are inside when the worker is killed in the hardest way there is:

# %%
before = small.worker_pids()
found = crowd(8, signal.SIGKILL)
after = small.worker_pids()
print(dict(found), "workers replaced:", before != after)

# %%
claims.check(
    "A killed worker loses no accepted request.",
    found == {200: 8} and before != after,
);

# %% [markdown]
# A request on which worker after worker dies is given up after <span class="given">three</span>, so that one poisonous picture cannot stop the service.
#
# > **Takeaway.**
# > What was accepted is answered, whatever happens to workers; what cannot be answered in time is not accepted.

# %% [markdown]
# ## When they mean harm
#
# A service reads what strangers send.
# Each of these should get an answer that says what is wrong, a 4xx, and take nothing from anybody else:

# %% tags=["hide-input"]
def encoded(picture, form, **how):
    file = io.BytesIO()
    picture.save(file, form, **how)
    return file.getvalue()


grey = Image.new("L", (400, 300), 128)
frames = [Image.new("RGB", (8, 8), one) for one in ("red", "blue")]
film = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
JSON = {"content-type": "application/json"}
hostile = {
    "nothing": (b"", PNG),
    "a program": (b"MZ" + bytes(400), PNG),
    "half a picture": (encoded(grey, "JPEG")[:700], PNG),
    "30 million pixels in a few kB": (
        encoded(Image.new("1", (6000, 5000)), "PNG"), PNG),
    "an animation": (film, PNG),
    "more than a megabyte": (bytes(1_000_001), PNG),
    "a hundred pictures": (
        json.dumps({"images": [[[[0, 0, 0]]]] * 100}).encode(), JSON),
    "brackets, 100,000 deep": (b"[" * 100_000, JSON),
    "pixels that are words": (b'{"images": [[[["a"]]]]}', JSON),
}


def crawl():
    """A client that sends a byte now and then; what it is told."""
    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plug:
        plug.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\n")
        plug.sendall(b"content-length: 5000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(30):
                plug.sendall(b"x")
                time.sleep(0.1)
        head, _, body = plug.recv(65536).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


# %%
rows = {"a byte at a time": crawl()}
with httpx.Client(base_url=small.url, timeout=60) as one:
    for name, (body, headers) in hostile.items():
        got = one.post("/predict", content=body, headers=headers)
        rows[name] = got.status_code, got.json().get("error")

# %% tags=["hide-input"]
with pd.option_context("display.max_colwidth", 90):
    display(pd.DataFrame(rows, index=["status", "reason"]).T)

# %%
honest = status(0)
claims.check(
    "Hostile requests get a 4xx; the next honest one is answered.",
    all(400 <= code < 500 for code, _ in rows.values())
    and honest == 200,
);

# %% [markdown]
# Three rules do most of that work.
# *Look at the header before the content*: the size of a body or of a picture is known before a byte of it is unpacked.
# *Bound everything*: bytes, pixels, pictures, seconds, connections.
# *When there are too many at once, close the one that has been sending for longest*: an honest request is sent in milliseconds, so it is never that one.
#
# What this service does not have is a lock on its door.
# Who may ask, and how often, is the business of a proxy before it; on `127.0.0.1`, the default, only this machine may.

# %%
services.close()
ask.close()

# %% [markdown]
# ## At full scale
#
# The numbers in the text are those of the recorded `laptop` run: [6.98 min](#serving.run_minutes), loads of <span class="given">8</span> seconds, <span class="given">three</span> rounds.
# The network in it is right for [45.8 %](#serving.accuracy) of the test images; its best batch is of [32](#serving.batch_best) images, which gives [1.13×](#serving.gain_batch) the images a second of one after the other (and one of <span class="given">32</span> gives [1.13×](#serving.gain_32)); up to the best, a batch costs [0.423 ms](#serving.batch_fixed) and [3.35 ms](#serving.batch_image) an image.
#
# To load a service of your own from a shell:
#
# ```bash
# scaletut load http://127.0.0.1:8000 --image cat.png --rate 50,100,200,400 --rounds 3
# ```

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: how many workers?
#
# A service needs <span class="given">20 ms</span> for an image, in batches of one.
# It is to take <span class="given">100</span> requests a second and answer 99 of 100 within <span class="given">100 ms</span>.
# How many workers, on as many cores, does that take?
# Work out the least by the utilisation, then simulate.

# %% tags=["hide-cell"]
arrivals = serve.poisson_arrivals(100, 200, seed=0)
tails = {}
for workers in (2, 3, 4):
    latency = serve.simulate(arrivals, fixed=0.02, workers=workers)
    tails[workers] = np.quantile(latency, 0.99)
    print(workers, "workers: utilisation",
          f"{serve.utilisation(100, 0.02, workers):.2f},",
          f"p99 {1e3 * tails[workers]:.0f} ms")
assert tails[2] > 0.1 > tails[3]

# %% [markdown]
# ### Exercise 2: is it worth waiting for others?
#
# On a GPU a batch may take <span class="given">10 ms</span> whatever is in it, up to 32 images.
# Compare `wait=0` with <span class="given">10 ms</span> at <span class="given">20</span> and at <span class="given">800</span> requests a second.
# When does waiting for others help, when does it harm, and why does a full queue make batches by itself?

# %% tags=["hide-cell"]
means = {}
for rate in (20, 800):
    arrivals = serve.poisson_arrivals(rate, 100, seed=0)
    for wait in (0.0, 0.01):
        latency = serve.simulate(
            arrivals, fixed=0.01, most=32, wait=wait
        )
        means[rate, wait] = 1e3 * latency.mean()
print({key: f"{value:.1f} ms" for key, value in means.items()})
assert means[20, 0.01] > means[20, 0.0] + 5  # waited for nobody
assert means[800, 0.0] < 30  # while a batch runs, the next one gathers

# %% [markdown]
# ### Exercise 3: uneven work
#
# Half of all requests take <span class="given">1 ms</span>, half <span class="given">9 ms</span>.
# The mean is that of the queue by hand.
# Is the wait?
# Change `waits` so that each request has its own time of service, and compare with the formula, whose variation you give as the variance over the squared mean.

# %% tags=["hide-cell"]
rng = np.random.default_rng(1)
work = rng.choice([0.001, 0.009], 200_000)
gaps = rng.exponential(work.mean() / 0.8, len(work))
waited = [0.0]
for gap, before in zip(gaps, work):
    waited.append(max(0.0, waited[-1] + before - gap))
variation = work.var() / work.mean() ** 2
expected = serve.mean_wait(0.8 / work.mean(), work.mean(), variation)
print(f"{1e3 * np.mean(waited):.2f} ms, formula {1e3 * expected:.2f} ms")
assert abs(np.mean(waited) / expected - 1) < 0.15
assert expected > 1.5 * serve.mean_wait(160, 0.005)

# %% [markdown]
# ## Claims
#
# Each line is a comparison that the cells above have made, just now.

# %%
# NBVAL_CHECK_OUTPUT
claims.table()

# %% [markdown]
# ## What we saw, and where next
#
# Two numbers, a rate and a time of service, say how busy a service is; how long its queue is follows, and it follows steeply.
# Measure with requests that come whether or not you are ready, count from when they came, and let Little's law check you.
# Run below the knee, bound everything, and keep what you accepted until it is answered.

# %%
record = new_record(
    "serving", profile=p.profile, parameters=p.model_dump(),
    data_digest=train.digest, seeds=[p.seed],
    values=numbers, claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(), dtype="float32",
)
saved = chapters.save_record(record).name
print(f"record {saved}, {record.wall_seconds / 60:.1f} min")
