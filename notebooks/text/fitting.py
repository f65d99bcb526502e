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
# * see on a log-log plot what a missing floor and too few points do to a prediction;
# * write the robust fit of a law in ten lines, and show where it goes wrong;
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
# | `laptop` | 245 published runs | one processor core | [2.51 min](#fitting.run_minutes) | [0.305 GB](#fitting.run_peak_memory) | <span class="given">23 kB</span> |
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
    wheel = os.environ.get("SCALETUT_WHEEL")  # a wheel built from a checkout
    home = "git+https://github.com/scale-measured/scale-measured"
    source = Path(wheel).resolve().as_uri() if wheel else home
    # %pip install --quiet "scaletut @ {source}"

needed = ("scaletut", "scipy", "pandas", "matplotlib")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    remedy = "run  pip install 'scaletut[train]'  and restart the kernel"
    raise ModuleNotFoundError(f"not installed: {', '.join(missing)}; {remedy}")

# %% [markdown]
# `table = "my-runs.csv"` puts your own runs in the place of the published ones: columns `params`, `examples` (or `tokens`) and `loss`.
# The published table is read from `$SCALETUT_DATA/scaling`; `download = True` fetches it once and verifies it.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
table = ""          # published, simulated, or the path of a CSV; empty: the profile's
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
from scaletut.chapters.published import PUBLISHED, chinchilla_runs, simulated_runs
from scaletut.records import Claims, Value, format_value, new_record, peak_memory
from scaletut.scaling.fitting import prepare, scaled_gradient

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "fitting", profile=profile, table=table, download=download, drop_highest=drop_highest,
    delta=delta, draws=draws, simulations=simulations, seed=seed,
)
print(p)

# %%
claims, numbers = Claims("fitting"), {}


def keep(name, value, unit="", low=None, high=None):
    """Note a value for the record, and show it as text."""
    numbers[name] = Value(float(value), unit, low, high)
    return format_value(numbers[name], "value" if low is None else "interval")


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
# Take a curve whose truth is known: a floor of <span class="given">0.3</span>, and a term that falls as $x^{-0.4}$.

# %%
truth = {"E": 0.3, "A": 3.0, "alpha": 0.4}
seen, far = np.geomspace(100, 1e4, 30), 1e7


def curve(x, noise, number):
    """A learning curve that follows the truth, with log-normal noise."""
    return scaling.simulate(
        "power_floor", truth, {"x": x}, noise="normal", scale=noise, seed=number
    )


# %% [markdown]
# > **Guess first.**
# > A straight line through these thirty points looks perfect.
# > How far off is it a thousand times further out?

# %%
points = curve(seen, 0.01, p.seed)
straight = scaling.fit(points, "power", delta=0.01)
floored = scaling.fit(points, "power_floor", delta=0.01)
really = truth["E"] + truth["A"] * far ** -truth["alpha"]
off = {law.law: 100 * (law.predict([far])[0] / really - 1) for law in (straight, floored)}
print({name: f"{value:+.0f} %" for name, value in off.items()})

# %% mystnb={"image": {"alt": "Thirty points of a learning curve on log-log axes; the line without a floor falls far below the truth to the right, the one with a floor follows it."}}
figure, axes = figures.panels(1, 1)
line = np.geomspace(100, far, 200)
axes.plot(seen, points.loss, "o", color=figures.INK, markersize=4, label="runs")
axes.plot(line, straight.predict(line), color=figures.PALETTE[1], label="no floor")
axes.plot(line, floored.predict(line), color=figures.PALETTE[0], label="with floor")
axes.plot(far, really, "D", color=figures.PALETTE[2], label="truth")
axes.set(xscale="log", yscale="log", xlabel="examples", ylabel="loss (nats)")
axes.legend()
plt.show()

# %%
keep("no_floor_miss", abs(off["power"]), "%")

# %%
claims.check(
    "A law without a floor, fitted to a curve with one, misses a far loss by more than a third.",
    abs(off["power"]) > 33, margin=abs(off["power"]) - 33, unit="%",
);

# %% [markdown]
# The second trap: a power law goes through any three points, almost.
# Draw the noise again and again, and look at what is predicted.

# %%
def spread(count, draws=100):
    """Middle 90 % of the predictions at `far` by laws with a floor through `count` points."""
    x = np.geomspace(100, 1e4, count)
    tables = [curve(x, 0.01, p.seed + i) for i in range(draws)]
    laws = [scaling.fit(one, "power_floor", delta=0.01) for one in tables]
    return np.quantile([law.predict([far])[0] for law in laws], [0.05, 0.95])


three, thirty = spread(3), spread(30)
print(f"three points: {three.round(3)}, thirty points: {thirty.round(3)}, truth {really:.3f}")

# %%
ratio = np.ptp(three) / np.ptp(thirty)
keep("three_points", ratio, "×")

# %%
claims.check(
    "Predictions through three points scatter at least twice as much as through thirty.",
    ratio > 2, margin=ratio - 2,
);

# %% [markdown]
# With as many points as parameters the residuals are zero and say nothing of the error: what looks like a perfect fit is no evidence at all.
# The third trap is the test set's own floor: mislabelled images keep an error from falling to zero, and a law without a floor calls that a failure of scale.
#
# > **Takeaway.**
# > Without its floor the law misses by [61.3 %](#fitting.no_floor_miss), and through three points instead of thirty its predictions scatter [2.13×](#fitting.three_points) as widely.

# %% [markdown]
# ## The runs
#
# At `laptop` these are the runs of Hoffmann and others {cite:p}`hoffmann2022`, read back from their figure by Besiroglu and others {cite:p}`besiroglu2024`.
# At `quick` they are as many simulated ones, with five short runs that lie above the law, as the published ones do.

# %%
if p.table == "published":
    every = chinchilla_runs(p.download)
elif p.table == "simulated":
    every = simulated_runs(p.seed)
else:
    every = scaling.as_table(p.table, cost="6ND")
runs = every.drop_highest(p.drop_highest)
print(f"{len(every)} runs, {len(runs)} after leaving out the highest losses")
shown = pd.DataFrame({name: runs.column(name) for name in ("params", "examples", "loss")})
shown.describe().loc[["min", "50%", "max"]]

# %% [markdown]
# ## Ten lines, and where they break
#
# The usual objective is Huber's loss of the log residual, with a small threshold $\delta$: quadratic near zero, linear beyond, so that a run that went wrong does not pull the law after it.
# The sum inside the logarithm is taken by log-sum-exp, so that no start overflows.

# %%
log_n, log_d, log_loss = np.log(runs.params), np.log(runs.examples), np.log(runs.loss)


def objective(theta, delta=p.delta):
    """Sum of Huber losses of the log residuals, at theta = (log A, log B, log E, alpha, beta)."""
    a, b, e, alpha, beta = theta
    terms = [a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)]
    residual = np.logaddexp.reduce(terms) - log_loss
    clipped = np.clip(residual, -delta, delta)
    return np.sum(clipped * (residual - clipped / 2))


# %% [markdown]
# Published fits start a quasi-Newton method from a grid of thousands of points, for it depends on the start.
# Here are twenty of them, at random from the grid of Hoffmann and others.

# %%
generator = np.random.default_rng(p.seed)
sizes, floors, slopes = np.arange(0, 30, 5), np.arange(-1, 1.5, 0.5), np.arange(0, 2.5, 0.5)
grid = [sizes, sizes, floors, slopes, slopes]
starts = [[generator.choice(axis) for axis in grid] for _ in range(20)]
ends = np.array([minimize(objective, start, method="BFGS").fun for start in starts])
print("objectives reached:", *(f"{value:.6f}" for value in np.sort(ends)[:8]), "...")

# %% [markdown]
# ## Exact
#
# `scaling.fit` starts from a grid of exponents, for each of which the three coefficients follow by least squares (variable projection), and finishes with Newton steps on the exact Hessian.
# It returns a certificate: the largest entry of the gradient, scaled so that 1 is as far from a minimum as can be and rounding leaves about $10^{-12}$; the smallest curvature; and the share of starts that agree.

# %%
law = scaling.fit(runs, "additive", delta=p.delta, bootstrap=p.draws, seed=p.seed)
print(f"objective {law.objective:.14f}; best of the twenty {ends.min():.14f}")
print(law.certificate)
pd.DataFrame({"value": law.parameters, "standard error": law.standard_errors})

# %%
E, A, B, alpha, beta = law.vector
by_hand = objective((np.log(A), np.log(B), np.log(E), alpha, beta))
reached = np.mean(ends <= law.objective * (1 + 1e-6))
keep("starts_that_reach", 100 * reached, "%")
keep("exponent_of_params", alpha)

# %%
claims.check(
    "The library's objective is the ten lines' objective, and no start of the ten lines ends lower.",
    np.isclose(by_hand, law.objective, rtol=1e-9) and ends.min() >= law.objective * (1 - 1e-9),
)
claims.check("Fewer than half of twenty starts from the published grid reach the minimum.", reached < 0.5)

# %%
claims.check("The library's fit is certified as a minimum.", law.certificate.converged);

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
hoffmann = (np.exp(0.5267228), np.exp(6.0073404), np.exp(6.0179186), 0.33917084, 0.2849083)
besiroglu = (1.81686, 482.00572, 2085.43420, 0.34781, 0.36585)
published = {
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
    return ready.problem.value(phi, weights)[0], scaled_gradient(ready, phi, weights)[0]


# %%
examined = {name: examine(parameters) for name, parameters in published.items()}
columns = ["objective", "scaled gradient"]
pd.DataFrame(examined, index=columns).T.assign(above=lambda t: t.objective / law.objective - 1)

# %%
above = {name: 100 * (value / law.objective - 1) for name, (value, _) in examined.items()}
keep("hoffmann_above", above["Hoffmann et al. 2022"], "%")
keep("besiroglu_above", above["Besiroglu et al. 2024"], "%")

# %%
claims.check(
    "Neither set of published parameters is a minimum here: their gradients are 1e6 times this fit's.",
    all(examined[name][1] > 1e6 * examined["this fit"][1] for name in list(published)[:2]),
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
    """Compute-optimal D / N at BUDGET, from public parameters (fits, 5): E, A, B, alpha, beta."""
    _, A, B, alpha, beta = values.T
    scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
    return BUDGET / 6 / (scale * (BUDGET / 6) ** (beta / (alpha + beta))) ** 2


# %%
found = scaling.influence(every, "additive", best_ratio, highest=8, delta=p.delta)
print("D / N without the highest 0, 1, 2, ...:", found.highest.round(1))

# %% mystnb={"image": {"alt": "Bars: the compute-optimal ratio of examples to parameters after leaving out none to eight of the highest losses; it rises steeply up to five and is steady from there."}}
figure, axes = figures.panels(1, 1, height=3.0)
axes.bar(range(len(found.highest)), found.highest, color=figures.PALETTE[0])
axes.set(xlabel="highest losses left out", ylabel="best examples per parameter")
axes.set_title("A headline that hangs on five runs")
plt.show()

# %%
with_all, without = found.highest[0], found.highest[5]
keep("ratio_all", with_all)
keep("ratio_without_five", without)

# %%
claims.check(
    "Without the five highest losses the best ratio of examples to parameters is more than half as large again.",
    without > 1.5 * with_all, margin=without / with_all - 1.5,
);

# %% [markdown]
# With all runs the advice is [6.80](#fitting.ratio_all) examples a parameter, without five of them [17.9](#fitting.ratio_without_five).
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
print("D / N:", keep("ratio_with_interval", best_ratio(law.vector[None])[0], "", low, high))

# %%
pair = ("E", "alpha")
profiled = scaling.profile_region(runs, "additive", pair, points=25, delta=p.delta)
inside = profiled.ratio <= profiled.limit
print(f"{inside.sum()} of {inside.size} grid points lie in the joint {profiled.level:.0%} region")

# %% mystnb={"image": {"alt": "Contours of the likelihood ratio over the floor E and the exponent alpha: a long narrow valley, tilted, with the bootstrap draws along it."}}
figure, axes = figures.panels(1, 1)
levels = [profiled.limit / 4, profiled.limit]
first, second, ratio = profiled.first, profiled.second, profiled.ratio.T
axes.plot(*law.samples[:300, [0, 3]].T, ".", color=figures.PALETTE[0], markersize=3)
axes.contour(first, second, ratio, levels=levels, colors=figures.PALETTE[1])
axes.set(xlabel="floor E (nats)", ylabel="exponent alpha", title="Floor and exponent trade places")
plt.show()

# %% [markdown]
# The valley is narrow and tilted: a higher floor with a faster fall fits almost as well as a lower one with a slower.
# So neither number means much without the other, and a table of parameters with separate errors hides it.

# %% [markdown]
# ## Do the intervals hold what they promise?
#
# Simulate tables with known truth on the same sizes, fit each, and count how often the nominal <span class="given">90 %</span> interval holds the truth, for three laws of noise.

# %%
design = {"params": runs.params, "examples": runs.examples}
covered = {
    noise: scaling.coverage(
        "additive", PUBLISHED, design, noise=noise, scale=0.01, tables=p.simulations,
        draws=200, seed=p.seed,
    ).share
    for noise in ("normal", "laplace", "student")
}
(100 * pd.DataFrame(covered).T).round(0)

# %%
pooled = {noise: 100 * np.mean(list(share.values())) for noise, share in covered.items()}
for noise, share in pooled.items():
    keep(f"coverage_{noise}", share, "%")

# %%
error = 100 * np.sqrt(0.9 * 0.1 / p.simulations)  # of a share counted over so many tables
beyond = {noise: max(87 - share, share - 93) for noise, share in pooled.items()}
claims.check(
    "Under each noise law, nominal 90 % intervals cover 87 to 93 %, within twice the count's error.",
    max(beyond.values()) < 2 * error, margin=2 * error - max(beyond.values()), unit="%",
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
test = scaling.backtest(runs, ["additive", "product"], hold_out=f"largest:{hidden}", delta=p.delta)
errors = {name: 100 * error for name, error in test.rmse.items()}
pd.DataFrame({"error on hidden runs (%)": errors, "BIC": test.bic})

# %%
mean, low, high = test.differences["product"]
keep("additive_error", 100 * test.rmse["additive"], "%")
keep("product_error", 100 * test.rmse["product"], "%")

# %%
claims.check(
    "The additive law predicts the largest runs better than the product of powers, beyond the noise.",
    test.best == "additive" and low > 0,
);

# %% [markdown]
# The additive law misses the hidden runs by [1.17 %](#fitting.additive_error), the product by [3.71 %](#fitting.product_error), and the paired interval of the difference excludes zero.
#
# > **Takeaway.**
# > Let laws predict what they have not seen; here the product of powers is off by [3.71 %](#fitting.product_error) where the additive law is off by [1.17 %](#fitting.additive_error).

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
others = [scaling.fit(runs, "additive", delta=0.01), scaling.fit(runs, "additive", loss="squared")]
print([f"{best_ratio(other.vector[None])[0]:.1f}" for other in others])
# A choice that nobody reports moves the headline about as much as the noise does.
assert all(other.certificate.converged for other in others)

# %% [markdown]
# ### Exercise 2: equal exponents
#
# Tie the two exponents.
# Does the objective tell against it, and what becomes of the best ratio?

# %% tags=["hide-cell"]
tied = scaling.fit(runs, "additive", tied=[("alpha", "beta")], delta=p.delta)
print(f"{tied.objective / law.objective:.4f} times the objective; D / N {best_ratio(tied.vector[None])[0]:.1f}")
# With one exponent the best N and D grow alike, as the square root of compute.
assert tied.objective >= law.objective

# %% [markdown]
# ### Exercise 3: one size less
#
# Which single model size moves the exponent of the data most when all of its runs are left out?

# %% tags=["hide-cell"]
by_size = scaling.influence(runs, "additive", lambda values: values[:, 4], by="params", delta=p.delta)
worst = np.argmax(np.abs(by_size.shifts))
print(f"without {by_size.labels[worst]:.3g} parameters beta moves by {by_size.shifts[worst]:+.4f}")
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
# * A law without a floor, or through three points, predicts nothing far out.
# * A fit is finished when its gradient says so; published ones need not be.
# * A handful of runs can decide a headline, and it costs a second to find them.
# * Intervals cover what they promise as long as the law is right; whether it is, only unseen runs tell.

# %%
record = new_record(
    "fitting", profile=p.profile, parameters=p.model_dump(), data_digest=every.digest, seeds=[p.seed],
    values=numbers, claims=claims.results, wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
)
print(f"record {chapters.save_record(record).name}, {record.wall_seconds / 60:.1f} min")
