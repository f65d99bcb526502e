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
# # Fit a scaling law
#
# A law fitted to small runs tells what a large one will reach, and how to spend the budget for it.
# How is such a law fitted so that the answer is the data's and not the optimiser's?
# How sure is it?
# And which handful of runs decides the headline?
#
# **You will be able to**
#
# * see on a log-log plot what a missing floor, too few points and wrong test labels do to a prediction;
# * write least squares for a law in ten lines, break it with three bad runs, and make it robust;
# * fit the same law to its exact minimum, and read the certificate that says so;
# * tell for published parameters whether they are the minimum of their own objective;
# * find the runs that a headline hangs on;
# * put intervals on everything, and check by simulation that they hold what they promise;
# * choose between two laws by what they predict, not by how they look.
#
# **Before you start** you should know what a loss is and what a logarithm does to a power.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | simulated runs | any processor | under a minute | see the receipt | none |
# | `laptop` | 245 published runs | one processor core | [1.96 min](#fitting.run_minutes) | [0.315 GB](#fitting.run_peak_memory) | <span class="given">23 kB</span> |
# | `gpu` | the same | no GPU needed | as `laptop` | as `laptop` | <span class="given">23 kB</span> |
#
# A number with a dotted line under it leads to the run that produced it.

# %% [markdown]
# ## Set-up
#
# In Colab the next cell installs the library.
# Everywhere else it only looks whether something is missing.

# %%
import importlib.util
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    wheel = os.environ.get("SCALETUT_WHEEL")  # built from a checkout
    home = "git+https://github.com/scale-measured/scale-measured"
    source = Path(wheel).resolve().as_uri() if wheel else home
    # %pip install --quiet "scaletut @ {source}"

needed = ("scaletut", "scipy", "pandas", "matplotlib")
missing = [one for one in needed if importlib.util.find_spec(one) is None]
if missing:
    remedy = "run  pip install 'scaletut[train]'  and restart the kernel"
    names = ", ".join(missing)
    raise ModuleNotFoundError(f"not installed: {names}; {remedy}")

# %% [markdown]
# `table = "my-runs.csv"` puts your own runs in the place of the published ones: columns `params`, `examples` (or `tokens`) and `loss`.
# The published table is read from `$SCALETUT_DATA/scaling`; `download = True` fetches it once and verifies it.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
table = ""          # published, simulated, or a CSV; empty: the profile's
download = False    # True or False
drop_highest = 5    # runs, 0 to 1000
delta = 0.001       # log residual, 1e-06 to 1.0
draws = 0           # resamples, 0 to 100000; 0: the profile's
simulations = 0     # tables, 0 to 10000; 0: the profile's
seed = 0            # 0 to 2147483647

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.optimize import minimize

from scaletut import chapters, figures, scaling
from scaletut.chapters import published
from scaletut.records import Claims, Value, format_value, new_record
from scaletut.records import peak_memory
from scaletut.scaling.fitting import prepare, scaled_gradient

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "fitting", profile=profile, table=table, download=download,
    drop_highest=drop_highest, delta=delta, draws=draws,
    simulations=simulations, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %%
claims, numbers = Claims("fitting"), {}


def keep(name, value, unit="", low=None, high=None, n=1):
    """Note a value for the record, and show it as text."""
    numbers[name] = Value(float(value), unit, low, high, n)
    shown = "value" if low is None else "interval"
    return format_value(numbers[name], shown)


# %% [markdown]
# ## What a law is
#
# A scaling law says how the loss $L$ falls with the number of parameters $N$ and of training examples $D$ {cite:p}`hoffmann2022`:
#
# $$L(N, D) = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}.$$
#
# $E$ is the floor that no scale removes, the other terms are what a finite model and finite data add to it.
# It is a summary of runs that were made, and a bet on runs that were not.
# Nothing says that the bet holds ten thousand times further out.

# %% [markdown]
# ## Three traps on a log-log plot
#
# ### No floor
#
# Take a curve whose truth is known: a floor of <span class="given">0.3</span>, and a term that falls as $x^{-0.4}$.

# %%
truth = {"E": 0.3, "A": 3.0, "alpha": 0.4}
seen, far = np.geomspace(100, 1e4, 30), 1e7
really = truth["E"] + truth["A"] * far ** -truth["alpha"]

# %%
def curve(number, noise=0.01):
    """A learning curve that follows the truth, with log-normal noise."""
    return scaling.simulate(
        "power_floor", truth, {"x": seen},
        noise="normal", scale=noise, seed=number,
    )


# %% [markdown]
# > **Guess first.**
# > A straight line through these thirty points looks perfect.
# > How far off is it a thousand times further out?

# %%
points = curve(p.seed)
straight = scaling.fit(points, "power", delta=0.01)
floored = scaling.fit(
    points, "power_floor", delta=0.01, bootstrap=300, seed=p.seed
)

# %%
off = {
    law.law: 100 * (law.predict([far])[0] / really - 1)
    for law in (straight, floored)
}
print({name: f"{value:+.0f} %" for name, value in off.items()})

# %% mystnb={"image": {"alt": "Thirty points of a learning curve on log-log axes; the line without a floor falls far below the truth to the right, the one with a floor passes through it, within a narrow band."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1)
line = np.geomspace(100, far, 200)
blue, orange, teal = figures.PALETTE[:3]
ink = figures.INK
axes.plot(seen, points.loss, "o", color=ink, markersize=4, label="runs")
axes.plot(line, straight.predict(line), color=orange, label="no floor")
shown = floored.predict(line)
axes.plot(line, shown, color=blue, label="with floor, 95 %")
axes.fill_between(line, *floored.interval(line), color=blue, alpha=0.2)
axes.plot(far, really, "D", color=teal, label="truth")
axes.set(xscale="log", yscale="log")
axes.set(xlabel="examples", ylabel="loss (nats)")
axes.set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
axes.minorticks_off()
axes.legend()
plt.show()

# %%
keep("no_floor_miss", abs(off["power"]), "%")

# %%
claims.check(
    "A law without the curve's floor misses a far loss by over a third.",
    abs(off["power"]) > 33, margin=abs(off["power"]) - 33, unit="%",
);

# %% [markdown]
# ### Three points
#
# A power law goes through any three points, almost.
# Here it is given every help: the truth is a power law without a floor.
# The bootstrap draws the points again, with replacement, and shows what else they would have allowed.

# %%
power = {"A": 3.0, "alpha": 0.4}
beyond = 1e8
expected = power["A"] * beyond ** -power["alpha"]

# %%
def through(count, number):
    """A power law through `count` noisy points, with its bootstrap."""
    x = np.geomspace(1e3, 1e5, count)
    runs = scaling.simulate(
        "power", power, {"x": x}, noise="normal", scale=0.05, seed=number
    )
    return scaling.fit(
        runs, "power", loss="squared", bootstrap=100, seed=number
    )

# %%
for count in (3, 30):
    law = through(count, p.seed)
    low, high = law.interval([beyond], 0.9)
    codes = [note.code for note in law.notes]
    print(f"{count} points: {low[0]:.5f} to {high[0]:.5f}")
    print("  notes:", ", ".join(codes) or "none")
print(f"truth: {expected:.5f}")

# %% [markdown]
# Of the <span class="given">27</span> ways to draw three points from three, three hold one point only, and through one point goes any line: the library leaves out what has no minimum, and says so in a note.
# An interval from so few points is narrow when they happen to lie on a line, and wide when they do not.
# Does it hold what it promises?
# Make many tables, each with noise of its own, and count.

# %%
tables = max(40, p.simulations)
predicted, ends, holds = {}, {}, {}
for count in (3, 30):
    laws = [through(count, p.seed + i) for i in range(tables)]
    intervals = [law.interval([beyond], 0.9) for law in laws]
    low, high = np.array(intervals).T[0]
    holds[count] = (low <= expected) & (expected <= high)
    predicted[count] = np.array([law.predict([beyond])[0] for law in laws])
    ends[count] = np.array([low, high])
held = {count: 100 * one.mean() for count, one in holds.items()}
for count, share in held.items():
    print(f"{count} points: {share:.0f} % hold the truth")

# %% mystnb={"image": {"alt": "Two panels of forty intervals of predictions, each relative to the truth: through three points they are of very different lengths, from tiny to beyond the panel, and many miss the truth; through thirty points they are of like length and few miss it."}} tags=["hide-input"]
figure, panels = figures.panels(1, 2, height=3.4, sharey=True)
for axes, count in zip(panels, (3, 30), strict=True):
    low, high = ends[count][:, :40] / expected
    middle, good = predicted[count][:40] / expected, holds[count][:40]
    rows = np.arange(good.size)
    for colour, some in ((blue, good), (orange, ~good)):
        axes.vlines(rows[some], low[some], high[some], color=colour)
        axes.plot(rows[some], middle[some], ".", color=colour)
    axes.axhline(1, color=ink, linewidth=1)
    axes.set(yscale="log", ylim=(0.4, 2.5), xlabel="table")
    axes.set_title(f"{count} points; orange: missed")
    axes.set_yticks([0.5, 1, 2], ["1/2", "1", "2"])
    axes.minorticks_off()
panels[0].set_ylabel("prediction, times the truth")
plt.show()

# %%
three, thirty = (
    np.ptp(np.quantile(one, [0.05, 0.95])) for one in predicted.values()
)
ratio = three / thirty

# %%
keep("three_points", ratio, "×", n=tables)
keep("three_points_held", held[3], "%", n=tables)
keep("thirty_points_held", held[30], "%", n=tables)

# %%
claims.check(
    "Predictions through 3 points scatter twice as much as through 30.",
    ratio > 2, margin=ratio - 2,
)

# %%
claims.check(
    "A 90 % bootstrap interval of three points holds less than 85 %.",
    held[3] < 85, margin=85 - held[3], unit="%",
);

# %% [markdown]
# > **Takeaway.**
# > Through three points instead of thirty, predictions scatter [2.35×](#fitting.three_points) as widely, and an interval that promises <span class="given">90 %</span> holds the truth in [73.0 %](#fitting.three_points_held) of tables, against [86.0 %](#fitting.thirty_points_held).

# %% [markdown]
# ### The test set's own floor
#
# Let the true error fall as $x^{-1/2}$, without any floor, and measure it on <span class="given">10,000</span> test images of which <span class="given">2 %</span> carry a wrong label of ten.

# %%
wrong, images = 0.02, 10_000
sizes = np.geomspace(100, 1e6, 25)
true = 4 * sizes**-0.5
share = (1 - wrong) * true + wrong * (1 - true / 9)
counted = np.random.default_rng(p.seed).binomial(images, share)
tested = scaling.as_table({"examples": sizes, "loss": counted / images})

# %%
shaped = {
    name: scaling.fit(
        tested, name, delta=0.01, bootstrap=300, seed=p.seed
    )
    for name in ("power", "power_floor")
}

# %%
slope = {name: law.parameters["alpha"] for name, law in shaped.items()}
print("exponents:", {name: f"{one:.3f}" for name, one in slope.items()})

# %% mystnb={"image": {"alt": "Error on a test set against training examples, log-log: the measured error levels off at two percent while the true one goes on falling; the law with a floor follows the measurement, the one without falls below it."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1)
line = np.geomspace(100, 1e8, 100)
bar = 1.96 * np.sqrt(tested.loss * (1 - tested.loss) / images)
axes.errorbar(
    sizes, tested.loss, bar, fmt="o", color=ink, markersize=3,
    elinewidth=1, label="measured, 95 %",
)
axes.plot(line, 4 * line**-0.5, ":", color=teal, label="true error")
coloured = zip((orange, blue), shaped.items(), strict=True)
for colour, (name, law) in coloured:
    axes.plot(line, law.predict(line), color=colour, label=name)
    band = law.interval(line)
    axes.fill_between(line, *band, color=colour, alpha=0.2)
axes.set(xscale="log", yscale="log", xlabel="examples")
axes.set_ylabel("error (share)")
axes.legend(fontsize="small")
plt.show()

# %%
floor = shaped["power_floor"].intervals["E"]
estimate = shaped["power_floor"].parameters["E"]
print("wrong labels:", keep(
    "test_floor", 100 * estimate, "%", 100 * floor.low, 100 * floor.high
))

# %%
keep("exponent_without_floor", slope["power"])
keep("exponent_with_floor", slope["power_floor"])

# %%
claims.check(
    "The fitted floor's interval holds the share of wrong test labels.",
    floor.low < wrong < floor.high,
)

# %%
claims.check(
    "Wrong test labels and no floor make the exponent a fifth too low.",
    slope["power"] < 0.4, margin=0.4 - slope["power"],
);

# %% [markdown]
# Nothing is wrong with the scaling here: the model learns on, and the test set cannot see it.
# A law without a floor turns the wrong labels into a slower fall, for every size.
#
# > **Takeaway.**
# > Without its floor the first law misses by [61.3 %](#fitting.no_floor_miss); with the test set's floor the exponent is [0.498](#fitting.exponent_with_floor), as it should be, and without it [0.320](#fitting.exponent_without_floor).

# %% [markdown]
# ## Least squares in ten lines, broken and mended
#
# How were those laws fitted?
# Least squares of the log residual needs ten lines and an optimiser.
# The sum of floor and power is taken by log-sum-exp, so that no start overflows.

# %%
def squares(residual):
    return residual**2 / 2

# %%
def ten_lines(runs, cost):
    """E, A, alpha at the lowest summed `cost` of the log residuals."""
    log_x, log_loss = np.log(runs.examples), np.log(runs.loss)

    def total(theta):
        e, a, alpha = theta
        return cost(np.logaddexp(e, a - alpha * log_x) - log_loss).sum()

    e, a, alpha = minimize(total, (-1.0, 1.0, 0.5), method="BFGS").x
    return np.exp(e), np.exp(a), alpha


# %% [markdown]
# Now spoil three of the thirty runs: they ended with one and a half times the loss that they should have had, as a run does whose learning rate was too high.

# %%
SPOILED = [19, 24, 28]


def spoil(runs):
    """The same runs, three of which went wrong."""
    loss = runs.loss.copy()
    loss[SPOILED] *= 1.5
    return scaling.as_table({"examples": runs.examples, "loss": loss})


# %% [markdown]
# > **Guess first.**
# > Three of thirty runs are half as high again.
# > How far does least squares follow them?

# %%
def huber(residual, delta=0.01):
    """Quadratic up to delta, a straight line beyond: a bounded pull."""
    clipped = np.clip(residual, -delta, delta)
    return clipped * (residual - clipped / 2)

# %%
spoiled = spoil(points)
fitted = {
    "squares": ten_lines(points, squares),
    "squares, three spoiled": ten_lines(spoiled, squares),
    "Huber, three spoiled": ten_lines(spoiled, huber),
}

# %%
exact = scaling.fit(spoiled, "power_floor", delta=0.01)
fitted["exact, three spoiled"] = tuple(exact.vector)
pd.DataFrame(fitted, index=["E", "A", "alpha"]).T.round(4)

# %% [markdown]
# One table is an anecdote, so here are twenty, each with noise of its own: the prediction far out, against the truth.

# %%
def far_miss(E, A, alpha):
    """Percent by which a law misses the truth at `far`."""
    return 100 * ((E + A * far**-alpha) / really - 1)

# %%
misses = {name: [] for name in fitted}
for number in range(20):
    clean = curve(p.seed + number)
    bad = spoil(clean)
    laws = (
        ten_lines(clean, squares), ten_lines(bad, squares),
        ten_lines(bad, huber),
        scaling.fit(bad, "power_floor", delta=0.01).vector,
    )
    for name, law in zip(fitted, laws, strict=True):
        misses[name].append(far_miss(*law))

# %%
spread = {
    name: Value(
        np.median(one), "%", *np.quantile(one, [0.025, 0.975]), n=20
    )
    for name, one in misses.items()
}

# %%
worst = np.abs(misses["squares, three spoiled"]).min()
best = np.abs(misses["exact, three spoiled"]).max()
print(f"squares miss by {worst:.0f} % or more,", end=" ")
print(f"Huber by {best:.0f} % or less")

# %% mystnb={"image": {"alt": "Left: thirty points, three of them high; the least-squares curve bends up to them, the robust curve passes below through the others. Right: far misses over twenty tables, near zero for clean and robust fits, about thirty percent for least squares with spoiled runs."}} tags=["hide-input"]
figure, (left, right) = figures.panels(1, 2, height=3.4)
line = np.geomspace(100, far, 200)
left.plot(seen, spoiled.loss, "o", color=ink, markersize=4)
left.plot(far, really, "D", color=teal, label="truth")
for colour, style, name in (
    (orange, "-", "squares, three spoiled"),
    (blue, "-", "Huber, three spoiled"),
    (figures.PALETTE[3], "--", "exact, three spoiled"),
):
    E, A, alpha = fitted[name]
    label = name.split(",")[0]
    shown = E + A * line**-alpha
    left.plot(line, shown, style, color=colour, label=label)
left.set(xscale="log", yscale="log")
left.set(xlabel="examples", ylabel="loss (nats)")
left.set_yticks([0.3, 0.4, 0.6, 0.8], ["0.3", "0.4", "0.6", "0.8"])
left.minorticks_off()
left.legend(fontsize="small")
short = [one.replace(", three spoiled", ",\nspoiled") for one in spread]
figures.dots_with_intervals(right, short, list(spread.values()))
right.axvline(0, color=figures.QUIET, linewidth=1)
right.set(xlabel="miss at 10 million examples (%)")
right.set_title("twenty tables, 95 % of them")
plt.show()

# %%
for key, name in (
    ("squares_miss", "squares, three spoiled"),
    ("huber_miss", "exact, three spoiled"),
):
    one = np.abs(misses[name])
    low, high = np.quantile(one, [0.025, 0.975])
    keep(key, np.median(one), "%", low, high, n=20)

# %%
claims.check(
    "With three bad runs, squares miss more than robust fits ever do.",
    worst > best, margin=worst - best, unit="%",
)

# %%
claims.check(
    "The ten lines with Huber's loss and the library find one minimum.",
    bool(np.allclose(
        misses["Huber, three spoiled"], misses["exact, three spoiled"],
        atol=0.05,
    )),
);

# %% [markdown]
# > **Takeaway.**
# > Three bad runs of thirty move the prediction of least squares by [31 %](#fitting.squares_miss); a bounded pull leaves a miss of [2 %](#fitting.huber_miss), that of the noise.
# > With three parameters and a good start the optimiser is no worry; with five it is, as the next sections show.

# %% [markdown]
# ## The runs
#
# At `laptop` these are the runs of Hoffmann and others {cite:p}`hoffmann2022`, read back from their figure by Besiroglu and others {cite:p}`besiroglu2024`.
# At `quick` they are as many simulated ones, with five short runs that lie above the law, as the published ones do.

# %%
if p.table == "published":
    every = published.chinchilla_runs(p.download)
elif p.table == "simulated":
    every = published.simulated_runs(p.seed)
else:
    every = scaling.as_table(p.table, cost="6ND")

# %%
runs = every.drop_highest(p.drop_highest)
print(f"{len(every)} runs, {len(runs)} without the highest losses")
columns = ("params", "examples", "loss")
shown = pd.DataFrame({name: runs.column(name) for name in columns})
shown.describe().loc[["min", "50%", "max"]]

# %% [markdown]
# ## Five parameters, and where ten lines break
#
# The same ten lines for the law in $N$ and $D$, with Huber's loss of the log residual and a small threshold $\delta$.

# %%
log_n, log_d = np.log(runs.params), np.log(runs.examples)
log_loss = np.log(runs.loss)


def objective(theta, delta=p.delta):
    """Sum of Huber losses of the log residuals.

    theta: log A, log B, log E, alpha, beta.
    """
    a, b, e, alpha, beta = theta
    terms = [a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)]
    residual = np.logaddexp.reduce(terms) - log_loss
    return huber(residual, delta).sum()


# %% [markdown]
# Published fits start a quasi-Newton method from a grid of thousands of points, for it depends on the start.
# Here are twenty of them, at random from the grid of Hoffmann and others.

# %%
generator = np.random.default_rng(p.seed)
scales, floors = np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5)
slopes = np.arange(0, 2.5, 0.5)
grid = [scales, scales, floors, slopes, slopes]

# %%
starts = [[generator.choice(axis) for axis in grid] for _ in range(20)]
ends = np.array([
    minimize(objective, start, method="BFGS").fun for start in starts
])
lowest = " ".join(f"{value:.6f}" for value in np.sort(ends)[:5])
print(f"objectives reached: {lowest} ...")

# %% [markdown]
# ## Exact
#
# `scaling.fit` starts from a grid of exponents, for each of which the three coefficients follow by least squares (variable projection), and finishes with Newton steps on the exact Hessian.
# It returns a certificate: the largest entry of the gradient, scaled so that 1 is as far from a minimum as can be and rounding leaves about $10^{-12}$; the smallest curvature; and the share of starts that agree.

# %%
law = scaling.fit(
    runs, "additive", delta=p.delta, bootstrap=p.draws, seed=p.seed
)

# %%
print(f"objective          {law.objective:.14f}")
print(f"best of the twenty {ends.min():.14f}")
for name, value in vars(law.certificate).items():
    print(f"{name:<10} {value}")

# %%
pd.DataFrame(
    {"value": law.parameters, "standard error": law.standard_errors}
)

# %% mystnb={"image": {"alt": "Objectives that twenty starts of the ten lines reached, in ascending order, relative to the exact minimum, on a log axis: two lie on it, the others far above."}}
figure, axes = figures.panels(1, 1, height=3.0)
ratio = np.sort(ends) / law.objective
axes.plot(range(1, 21), ratio, "o", color=orange, label="20 starts")
axes.axhline(1, color=blue, label="exact minimum")
axes.set(yscale="log", xlabel="start, in order of its end")
axes.set_ylabel("objective, times the minimum")
axes.set_xticks([1, 5, 10, 15, 20])
axes.legend()
plt.show()

# %%
E, A, B, alpha, beta = law.vector
by_hand = objective((np.log(A), np.log(B), np.log(E), alpha, beta))
reached = np.mean(ends <= law.objective * (1 + 1e-6))
keep("starts_that_reach", 100 * reached, "%")
keep("exponent_of_params", alpha)

# %%
claims.check(
    "The library has the ten lines' objective, and no start ends lower.",
    np.isclose(by_hand, law.objective, rtol=1e-9)
    and ends.min() >= law.objective * (1 - 1e-9),
)

# %%
claims.check(
    "Fewer than half of twenty starts from the published grid suffice.",
    reached < 0.5, margin=0.5 - reached,
)

# %%
claims.check(
    "The library's fit is certified as a minimum.",
    law.certificate.converged,
);

# %% [markdown]
# > **Takeaway.**
# > [10.0 %](#fitting.starts_that_reach) of the starts reach the minimum; a fit that does not show its gradient may be any of the others.

# %% [markdown]
# ## Published parameters, examined
#
# A certificate can be asked of any parameters; here of published ones, before rounding.
# Hoffmann and others gave one set; Besiroglu and others fitted the same law to the runs in the figure, found another, and gave the reasons {cite:p}`besiroglu2024`.
#
# > **Guess first.**
# > Is either of them the minimum of this objective on these runs?

# %%
names = ("E", "A", "B", "alpha", "beta")
logs = [0.5267228, 6.0073404, 6.0179186]
hoffmann = (*np.exp(logs), 0.33917084, 0.2849083)
besiroglu = (1.81686, 482.00572, 2085.43420, 0.34781, 0.36585)
candidates = {
    "Hoffmann et al. 2022": dict(zip(names, hoffmann, strict=True)),
    "Besiroglu et al. 2024": dict(zip(names, besiroglu, strict=True)),
    "this fit": law.parameters,
}

# %%
ready = prepare(runs, "additive", delta=p.delta)


def examine(parameters):
    """Objective and scaled gradient at public parameters."""
    vector = np.array([[parameters[name] for name in ready.law.names]])
    phi = ready.problem.coordinates.from_public(vector)
    weights = ready.weights[None]
    value = ready.problem.value(phi, weights)[0]
    return value, scaled_gradient(ready, phi, weights)[0]


# %%
examined = {name: examine(values) for name, values in candidates.items()}
columns = ["objective", "scaled gradient"]
shown = pd.DataFrame(examined, index=columns).T
shown.assign(above=shown.objective / law.objective - 1)

# %%
above = {
    name: 100 * (value / law.objective - 1)
    for name, (value, _) in examined.items()
}
keep("hoffmann_above", above["Hoffmann et al. 2022"], "%")
keep("besiroglu_above", above["Besiroglu et al. 2024"], "%")

# %%
gradients = [gradient for _, gradient in examined.values()]
claims.check(
    "Neither published set is a minimum: gradients 1e6 times this fit's.",
    min(gradients[:2]) > 1e6 * gradients[2],
);

# %% [markdown]
# The first objective lies [20.9 %](#fitting.hoffmann_above) above the minimum, the second [0.0463 %](#fitting.besiroglu_above).
# The second difference is small against the error of the parameters, and still it is no minimum: the published run of the optimiser stopped with a warning about precision.
# That can only be seen where the gradient is shown.

# %% [markdown]
# ## Which runs decide?
#
# At a budget of $C = 6ND$ the best ratio of examples to parameters follows from the law in closed form.
# What becomes of it when the highest losses are left out, one after the other?

# %%
BUDGET = 5.88e23


def best_ratio(values):
    """Compute-optimal D / N at BUDGET.

    values: public parameters (fits, 5): E, A, B, alpha, beta.
    """
    _, A, B, alpha, beta = values.T
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    params = scale * (BUDGET / 6) ** (beta / (alpha + beta))
    return BUDGET / 6 / params**2


# %%
found = scaling.influence(
    every, "additive", best_ratio, highest=8, delta=p.delta
)
print("D / N without the highest 0, 1, 2, ... losses:")
print(found.highest.round(1))

# %% [markdown]
# Each of these ratios has an error of its own, which the bootstrap tells; and each run can be left out alone as well.

# %%
def bootstrapped(dropped):
    """95 % interval of the best ratio without the highest losses."""
    law = scaling.fit(
        every, "additive", drop_highest=dropped, delta=p.delta,
        bootstrap=200, seed=p.seed,
    )
    return np.quantile(best_ratio(law.samples), [0.025, 0.975])

# %%
ends = np.array([bootstrapped(count) for count in range(9)])
order = np.argsort(-np.abs(found.shifts))[:9]
lone = [f"{every.params[i]:.2g}, {every.examples[i]:.2g}" for i in order]

# %% mystnb={"image": {"alt": "Left: bars of how the compute-optimal ratio of examples to parameters moves when one run is left out, for the nine most influential; one or a few stand out. Right: bars of the ratio after leaving out none to eight of the highest losses, with intervals; it rises steeply up to five and is steady from there."}} tags=["hide-input"]
figure, (left, right) = figures.panels(1, 2, height=3.6)
left.barh(range(9), found.shifts[order], color=blue)
left.set_yticks(range(9), lone, fontsize="x-small")
left.invert_yaxis()
left.set_xlabel("change of the ratio")
left.set_ylabel("N, D of the run left out")
reach = np.abs(ends.T - found.highest)
right.bar(range(9), found.highest, color=blue)
right.errorbar(
    range(9), found.highest, reach, fmt="none", color=ink,
    elinewidth=1, capsize=3,
)
right.set(xlabel="highest losses left out, 95 %")
right.set_ylabel("best examples per parameter")
figure.suptitle("A headline that hangs on five runs", fontsize=12)
plt.show()

# %%
with_all, without = found.highest[0], found.highest[5]
keep("ratio_all", with_all)
keep("one_run", np.abs(found.shifts).max())
keep("ratio_without_five", without)

# %%
claims.check(
    "Without the five highest losses the ratio is half as large again.",
    without > 1.5 * with_all, margin=without / with_all - 1.5,
);

# %% [markdown]
# With all runs the advice is [6.80](#fitting.ratio_all) examples a parameter, without five of them [17.9](#fitting.ratio_without_five); no single run moves it by more than [3.25](#fitting.one_run).
# So leaving out one at a time does not find them: the five lie together, and four remain to hold the fifth's place.
# The five are short runs of large models; whether a law should hold there is a question about the world, which no optimiser answers.
# What a fit can do is to show that the answer hangs on them.
#
# > **Takeaway.**
# > Before a headline is believed, ask what it becomes without its highest losses: here [6.80](#fitting.ratio_all) becomes [17.9](#fitting.ratio_without_five).

# %% [markdown]
# ## How sure?
#
# Draw as many runs as there are, with replacement, fit, and repeat: the spread of the fits is the error of the fit.
# The refits are rows of weights in one batch, so thousands of them take about a second.

# %%
ratios = best_ratio(law.samples)
low, high = np.quantile(ratios, [0.025, 0.975])
ratio = best_ratio(law.vector[None])[0]
print("D / N:", keep("ratio_with_interval", ratio, "", low, high))

# %%
pair = ("E", "alpha")
points = 11 if p.profile == "quick" else 31
profiled = scaling.profile_region(
    runs, "additive", pair, points=points, delta=p.delta
)

# %%
inside = profiled.ratio <= profiled.limit
print(f"{inside.sum()} of {inside.size} grid points lie in the region")

# %% mystnb={"image": {"alt": "Contours of the likelihood ratio over the floor E and the exponent alpha: a long narrow valley, tilted, with the bootstrap draws along it."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1)
levels = [profiled.limit / 4, profiled.limit]
first, second, ratio = profiled.first, profiled.second, profiled.ratio.T
draws = law.samples[:300, [0, 3]].T
axes.plot(*draws, ".", color=blue, markersize=3, label="bootstrap")
axes.contour(first, second, ratio, levels=levels, colors=orange)
name = "95 % region, and a quarter of it"
axes.plot([], [], color=orange, label=name)
axes.set(xlabel="floor E (nats)", ylabel="exponent alpha")
axes.set_title("Floor and exponent trade places")
axes.legend(fontsize="small")
plt.show()

# %% [markdown]
# The valley is narrow and tilted: a higher floor with a faster fall fits almost as well as a lower one with a slower.
# So neither number means much without the other, and a table of parameters with separate errors hides it.
# The bootstrap scatters wider than the likelihood's region, for it does not take one law of noise for all runs.

# %% [markdown]
# ## Do the intervals hold what they promise?
#
# Simulate tables with known truth on the same sizes, fit each, and count how often the nominal <span class="given">90 %</span> interval holds the truth, for three laws of noise.

# %%
design = {"params": runs.params, "examples": runs.examples}
covered = {
    noise: scaling.coverage(
        "additive", published.PUBLISHED, design, noise=noise, scale=0.01,
        tables=p.simulations, draws=200, seed=p.seed,
    ).share
    for noise in ("normal", "laplace", "student")
}
(100 * pd.DataFrame(covered).T).round(0)

# %%
pooled = {
    noise: 100 * np.mean(list(share.values()))
    for noise, share in covered.items()
}
for noise, share in pooled.items():
    keep(f"coverage_{noise}", share, "%", n=p.simulations)

# %%
# of a share counted over so many tables
error = 100 * np.sqrt(0.9 * 0.1 / p.simulations)
outside = max(max(87 - share, share - 93) for share in pooled.values())
claims.check(
    "90 % intervals cover 87 to 93 %, within twice the count's error.",
    outside < 2 * error, margin=2 * error - outside, unit="%",
);

# %% [markdown]
# > **Takeaway.**
# > Nominal 90 % intervals cover [91.8 %](#fitting.coverage_normal) under normal noise, [91.2 %](#fitting.coverage_laplace) under Laplace's, [91.4 %](#fitting.coverage_student) under Student's; they know of noise only, not of a law that is wrong.

# %% [markdown]
# ## Which law?
#
# Popular articles multiply powers, $L = A N^{-\alpha} D^{-\beta}$.
# Such a law has no floor, and lets data replace parameters without limit.
# Hide the largest runs, let both laws predict them, and compare run by run.

# %%
hidden = len(runs) // 6
test = scaling.backtest(
    runs, ["additive", "product"], hold_out=f"largest:{hidden}",
    delta=p.delta,
)

# %%
errors = {name: 100 * error for name, error in test.rmse.items()}
pd.DataFrame({"error on hidden runs (%)": errors, "BIC": test.bic})

# %%
def miss(errors):
    """Root mean square in percent, and its 95 % bootstrap interval."""
    generator = np.random.default_rng(p.seed)
    drawn = generator.choice(errors, size=(2000, errors.size)) ** 2
    ends = np.quantile(np.sqrt(drawn.mean(axis=1)), [0.025, 0.975])
    value = np.sqrt(np.mean(errors**2))
    return Value(100 * value, "%", *(100 * ends), n=errors.size)

# %%
missed = {name: miss(test.errors[name]) for name in test.laws}
spent = 6 * runs.params * runs.examples
largest = np.sort(np.argsort(spent, kind="stable")[-hidden:])

# %% mystnb={"image": {"alt": "Left: percent by which each hidden run is missed against its compute; the additive law scatters about zero, the product of powers drifts below it. Right: the root mean square misses with intervals, that of the product far larger."}} tags=["hide-input"]
figure, (left, right) = figures.panels(
    1, 2, height=3.2, width_ratios=(3, 2)
)
looks = zip(test.laws, (blue, orange), "os", strict=True)
for name, colour, marker in looks:
    left.plot(
        spent[largest] / 1e21, 100 * test.errors[name], marker,
        color=colour, markersize=4, label=name,
    )
left.axhline(0, color=figures.QUIET, linewidth=1)
left.set(xlabel="6 N D of a hidden run (1e21 FLOP)")
left.set_ylabel("predicted less observed (%)")
left.legend()
figures.dots_with_intervals(right, test.laws, list(missed.values()))
right.set_xlabel("root mean square miss (%), 95 %")
right.set_xlim(left=0)
plt.show()

# %%
mean, low, high = test.differences["product"]
for name, one in missed.items():
    keep(f"{name}_error", one.value, "%", one.low, one.high, one.n)

# %%
claims.check(
    "The additive law predicts large runs better than the product.",
    test.best == "additive" and low > 0,
);

# %% [markdown]
# The additive law misses the hidden runs by [1.2 %](#fitting.additive_error), the product by [3.7 %](#fitting.product_error), and the paired interval of the difference excludes zero.
#
# > **Takeaway.**
# > Let laws predict what they have not seen; here the product of powers is off by [3.7 %](#fitting.product_error) where the additive law is off by [1.2 %](#fitting.additive_error).

# %% [markdown]
# ## At full scale
#
# Nothing here needs more than a core: the recorded run of this page is the full one.
# For your own runs the same is one line, `scaletut fit runs.csv --law additive --bootstrap 4000`, and its JSON carries certificate, intervals, notes and a checklist of what was done.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: the threshold
#
# Fit the runs again with `delta=0.01`, and with squared loss.
# By how much does the best ratio of examples to parameters move, against its interval?

# %% tags=["hide-cell"]
others = [
    scaling.fit(runs, "additive", delta=0.01),
    scaling.fit(runs, "additive", loss="squared"),
]
print([f"{best_ratio(other.vector[None])[0]:.1f}" for other in others])
# A choice that nobody reports moves the headline as much as the noise.
assert all(other.certificate.converged for other in others)

# %% [markdown]
# ### Exercise 2: equal exponents
#
# Tie the two exponents.
# Does the objective tell against it, and what becomes of the best ratio?

# %% tags=["hide-cell"]
tied = scaling.fit(
    runs, "additive", tied=[("alpha", "beta")], delta=p.delta
)
ratio = best_ratio(tied.vector[None])[0]
print(f"{tied.objective / law.objective:.4f} times the objective")
print(f"D / N {ratio:.1f}")
# With one exponent the best N and D grow alike, as the root of compute.
assert tied.objective >= law.objective

# %% [markdown]
# ### Exercise 3: one size less
#
# Which single model size moves the exponent of the data most when all of its runs are left out?

# %% tags=["hide-cell"]
by_size = scaling.influence(
    runs, "additive", lambda values: values[:, 4], by="params",
    delta=p.delta,
)
worst = np.argmax(np.abs(by_size.shifts))
print(f"without {by_size.labels[worst]:.3g} parameters")
print(f"beta moves by {by_size.shifts[worst]:+.4f}")
assert np.isfinite(by_size.without).all()

# %% [markdown]
# ## What was claimed
#
# Each line is a comparison that the cells above have made, on these runs, just now.

# %%
# NBVAL_CHECK_OUTPUT
claims.table()

# %% [markdown]
# ## What we saw, and where next
#
# * A law without a floor, or through three points, predicts nothing far out; a test set has a floor of its own.
# * Least squares follows a few bad runs; a bounded pull does not.
# * A fit is finished when its gradient says so; published ones need not be.
# * A handful of runs can decide a headline, and it costs a second to find them.
# * Intervals cover what they promise as long as the law is right; whether it is, only unseen runs tell.

# %%
record = new_record(
    "fitting", profile=p.profile, parameters=p.model_dump(),
    data_digest=every.digest, seeds=[p.seed], values=numbers,
    claims=claims.results, wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
)
saved = chapters.save_record(record).name
print(f"record {saved}, {record.wall_seconds / 60:.1f} min")
