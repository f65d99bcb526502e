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
# # Spend a compute budget
#
# A budget of compute can buy a larger model or more data, and every choice of one fixes the other.
# Where is the best point, how sure is it, and what does it cost to miss it?
# And what changes when the model is to be served to many, or when data runs out?
#
# **You will be able to**
#
# * derive the best model size and amount of data for a budget from a fitted law, in four lines;
# * put an interval on that plan, and on the loss it promises;
# * move a budget over the surface of the loss, and see what a miss costs;
# * read an isoFLOP valley, and know when its lowest point means nothing;
# * tell what a plan that is wrong by a factor costs;
# * plan for a model that will be served, and for data that must be repeated;
# * ask the inverse questions: the compute for a loss, the worth of twice the data.
#
# **Before you start** read the chapter on fitting a scaling law, or take its law for granted.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | simulated runs | any processor | under a minute | see the receipt | none |
# | `laptop` | 245 published runs | one processor core | [0.117 min](#spending.run_minutes) | [0.199 GB](#spending.run_peak_memory) | <span class="given">23 kB</span> |
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
# Put your own budget into `flops`, and your own runs into `table`: a CSV with `params`, `examples` (or `tokens`) and `loss`.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
table = ""          # published, simulated, or a CSV; empty: the profile's
download = False    # True or False
flops = 0.0         # FLOP, 0.0 to 1e+32; 0: the profile's
served = 0.0        # tokens, 0.0 to 1e+20; 0: the profile's
scarcity = 0.0      # share, 0.0 to 1.0; 0: the profile's
draws = 0           # resamples, 0 to 100000; 0: the profile's
seed = 0            # 0 to 2147483647

# %%
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scaletut import chapters, figures, scaling
from scaletut.chapters import published
from scaletut.records import Claims, Value, format_value, new_record
from scaletut.records import peak_memory
from scaletut.scaling.explorer import explore_budget
from scaletut.scaling.plot import plot_budget

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "spending", profile=profile, table=table, download=download,
    flops=flops, served=served, scarcity=scarcity, draws=draws, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %%
claims, numbers = Claims("spending"), {}


def keep(name, value, unit="", low=None, high=None, n=1):
    """Note a value for the record, and show it as text."""
    numbers[name] = Value(float(value), unit, low, high, n)
    shown = "value" if low is None else "interval"
    return format_value(numbers[name], shown)


# %% [markdown]
# ## The law to plan with
#
# The runs are those of the chapter on fitting: published by Hoffmann and others {cite:p}`hoffmann2022` and read back from their figure {cite:p}`besiroglu2024`, or simulated ones at `quick`.
# The five highest losses are left out, and that chapter shows what this decides.

# %%
if p.table == "published":
    runs = published.chinchilla_runs(p.download).drop_highest(5)
elif p.table == "simulated":
    runs = published.simulated_runs(p.seed).drop_highest(5)
else:
    runs = scaling.as_table(p.table, cost="6ND")

# %%
law = scaling.fit(runs, "additive", bootstrap=p.draws, seed=p.seed)
print("a certified minimum:", law.certificate.converged)
pd.DataFrame(
    {"value": law.parameters, "standard error": law.standard_errors}
)

# %% [markdown]
# ## Four lines
#
# Training costs about $C = 6ND$ FLOP: two for each multiply-add, forward once and backward twice {cite:p}`kaplan2020`.
# So the budget ties $D$ to $N$, and along that line the loss has one lowest point, where $\alpha A N^{-\alpha} = \beta B D^{-\beta}$: another parameter and another example would help alike.
#
# > **Guess first.**
# > Four times the compute: how much of the factor goes into the model, and how much into data?

# %%
E, A, B, alpha, beta = law.vector
scale = (alpha * A / (beta * B)) ** (1 / (alpha + beta))
params = scale * (p.flops / 6) ** (beta / (alpha + beta))
examples = p.flops / 6 / params
print(f"N = {params:.4g}, D = {examples:.4g}")
print(f"D / N = {examples / params:.1f}")

# %%
plan = scaling.plan(law, p.flops)
exponent = beta / (alpha + beta)
print(f"N grows as C^{exponent:.3f}: fourfold compute,")
print(f"{4**exponent:.2f} times the model")

# %%
claims.check(
    "The four lines and the library's search of the budget line agree.",
    bool(np.allclose(
        [params, examples], [plan.params, plan.examples], rtol=1e-5
    )),
);

# %% [markdown]
# ## How sure is the plan?
#
# Each bootstrap draw of the law has a best point of its own.

# %%
table_of_plan = {
    name: (getattr(plan, name), interval.low, interval.high)
    for name, interval in plan.intervals.items()
}
pd.DataFrame(table_of_plan, index=["plan", "low", "high"]).T

# %%
ratio, loss = plan.intervals["ratio"], plan.intervals["loss"]
print("D / N:", keep("ratio", plan.ratio, "", ratio.low, ratio.high))
print("loss:", keep("loss", plan.loss, "nats", loss.low, loss.high))
keep("exponent", exponent)
for note in plan.notes:
    print(*textwrap.wrap(note.text, 76), sep="\n")

# %%
promise = (loss.high - loss.low) / plan.loss
claims.check(
    "The plan's loss is known ten times as well as its ratio D / N.",
    (ratio.high - ratio.low) / plan.ratio > 10 * promise,
);

# %% [markdown]
# The loss is promised within a few percent, the ratio of examples to parameters only within a factor: the valley is flat, so its bottom is hard to find and matters little.
#
# > **Takeaway.**
# > At the budget of this page the law advises [18](#spending.ratio) examples a parameter, and promises [1.97](#spending.loss).

# %% [markdown]
# ## The surface, and a budget to move
#
# The law is a surface over $N$ and $D$, and a budget is a line on it.
# Left, the level lines of the loss; right, the best loss of each budget, with the runs for comparison.

# %% mystnb={"image": {"alt": "Left: level lines of the loss over parameters and examples with the fitted runs, the straight line of the budget, the best point on it with a thick piece for its interval, and the dashed line of best points. Right: the best loss against compute, a falling curve below the runs, with a band that widens to the right."}}
plot_budget(law, p.flops, runs)
plt.show()

# %% [markdown]
# The same figure with two sliders: one moves the budget, the other the size of the model along its line.
# It starts at the budget of this page, with a model twice the best size.
#
# > **Guess first.**
# > Where must the ring go before a tenth of the compute is wasted?

# %%
explore_budget(law, p.flops)

# %% [markdown]
# Only the valley's place and depth move with the budget: what a miss wastes depends on the factor alone.

# %% [markdown]
# ## How wrong may a plan be?

# %%
factors = np.geomspace(0.25, 4, 17)
miss = scaling.cost_of_miss(law, p.flops, factors)
wasted = dict(zip(factors.round(2), 100 * miss.wasted, strict=True))
print({factor: f"{wasted[factor]:.0f} %" for factor in (0.25, 0.5, 1.0)})
print({factor: f"{wasted[factor]:.0f} %" for factor in (1.41, 2.0, 4.0)})

# %% [markdown]
# For this law the waste has a closed form, in which the budget does not occur: only the factor and the two exponents do.
# So each bootstrap draw gives a curve of its own.

# %%
def closed_form(factor, alpha, beta):
    """Share of the compute that a size `factor` times the best wastes."""
    total = alpha + beta
    excess = (beta * factor**-alpha + alpha * factor**beta) / total
    return 1 - excess ** (-total / (alpha * beta))

# %%
ends = [0.025, 0.975]
alphas, betas = law.samples[:, 3], law.samples[:, 4]
drawn = 100 * closed_form(factors[:, None], alphas, betas)
by_hand = closed_form(factors, alpha, beta)

# %% mystnb={"image": {"alt": "Compute wasted against how far the model size lies from the best, with a band: nearly nothing within a factor of one and a half, rising steeply beyond two."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.0)
blue = figures.PALETTE[0]
axes.plot(factors, 100 * miss.wasted, marker="o", color=blue)
axes.fill_between(
    factors, *np.quantile(drawn, ends, axis=1), color=blue, alpha=0.25
)
axes.set(xscale="log", xlabel="model size, times the best")
axes.set_ylabel("compute wasted (%)")
axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
axes.set_xticks([], minor=True)
plt.show()

# %%
half, double, quarter = wasted[0.5], wasted[2.0], wasted[0.25]
for name, factor in (("half", 0.5), ("double", 2.0), ("quarter", 0.25)):
    at = np.argmin(np.abs(factors - factor))
    low, high = np.quantile(drawn[at], ends)
    print(name, keep(f"wasted_by_{name}", wasted[factor], "%", low, high))

# %%
claims.check(
    "What a miss wastes follows from the two exponents alone.",
    bool(np.allclose(by_hand, miss.wasted, atol=1e-3)),
)

# %%
claims.check(
    "A model of half or twice the best size wastes under a quarter.",
    max(half, double) < 25, margin=25 - max(half, double), unit="%",
)

# %%
claims.check(
    "A model of a quarter of the best size wastes more than a third.",
    quarter > 100 / 3, margin=quarter - 100 / 3, unit="%",
)

# %% [markdown]
# > **Takeaway.**
# > Half the best size wastes [15.6 %](#spending.wasted_by_half) of the compute, twice the best [15.7 %](#spending.wasted_by_double), a quarter of it [48.0 %](#spending.wasted_by_quarter): a factor of two is forgiven, a factor of four is not.

# %% [markdown]
# ## Valleys: a plan without a law
#
# At one budget, train models of several sizes, and look for the lowest loss: an isoFLOP valley {cite:p}`hoffmann2022`.
# The published runs do not lie on such lines, so these are made to order from the fitted law, with noise of <span class="given">0.3 %</span>.

# %%
def valley_runs(number=0, offset=0.0, budgets=6, sizes=9):
    """Runs at several budgets, `offset` e-folds off their best sizes."""
    flops = np.repeat(np.geomspace(1e19, 1e21, budgets), sizes)
    steps = np.tile(np.linspace(-1.8, 1.8, sizes), budgets) + offset
    params = scale * (flops / 6) ** exponent * np.exp(steps)
    columns = {"params": params, "examples": flops / 6 / params}
    made = scaling.simulate(
        "additive", law.parameters, columns, noise="normal", scale=0.003,
        seed=p.seed + number,
    )
    return {**columns, "flops": flops, "loss": made.loss}


# %%
found = scaling.isoflop(valley_runs(), seed=p.seed)
ends = found.intervals["exponent_params"]
value = found.exponent_params
print("N grows as C to the", keep(
    "isoflop_exponent", value, "", ends.low, ends.high
))

# %% mystnb={"image": {"alt": "Six valleys of loss against model size, one a budget, each with a diamond at its lowest point; the points move to larger models and lower losses as the budget grows."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1)
for number, valley in enumerate(found.valleys):
    colour = figures.PALETTE[number]
    axes.plot(valley.params, valley.loss, ".", color=colour)
    kept = valley.params[valley.kept]
    near = np.geomspace(kept.min(), kept.max(), 50)
    axes.plot(near, valley.predict(near), color=colour, linewidth=1)
    label = f"{valley.flops:.0e}"
    best = (valley.best_params, valley.best_loss)
    axes.plot(*best, "D", color=colour, label=label)
axes.set(xscale="log", xlabel="parameters", ylabel="loss (nats)")
axes.legend(title="FLOP", fontsize="small", ncols=2)
plt.show()

# %% [markdown]
# A valley whose runs all lie on one side has no lowest point, only a lowest run; the curve through it must not be believed.

# %%
try:
    scaling.isoflop(valley_runs(offset=2.5))
    refused = ""
except scaling.TableError as error:
    refused = str(error)
print(*textwrap.wrap(refused, 76, max_lines=2), sep="\n")

# %% [markdown]
# The runs came from a law, so the true exponent is known; does the interval hold it?
# One table cannot tell, so here are twenty of four budgets, each with noise of its own.

# %%
tables = [
    scaling.isoflop(valley_runs(number, budgets=4)) for number in range(20)
]

# %%
intervals = [one.intervals["exponent_params"] for one in tables]
held = sum(one.low <= exponent <= one.high for one in intervals)
keep("isoflop_held", held, n=20)
print(f"{held} of 20 intervals of {ends.level:.0%}", end=" ")
print(f"hold the law's exponent, {exponent:.3f}")

# %%
claims.check(
    "Sixteen or more of twenty 95 % intervals hold the law's exponent.",
    held >= 16, margin=held - 16,
)

# %%
claims.check(
    "Valleys with runs on one side only are refused.", "edge" in refused
);

# %% [markdown]
# Of the twenty, [19](#spending.isoflop_held) hold it; one table alone may well miss, as an interval of <span class="given">95 %</span> is allowed to.
#
# ## A model that will be served
#
# A model that answers many questions is paid for twice: $6ND$ for training, and $2N$ for each token that it reads or writes.
# Then a smaller model, trained for longer, is the better buy {cite:p}`sardana2024`.

# %%
serving = scaling.plan(law, p.flops, inference_tokens=p.served)
share = 100 * 2 * serving.params * p.served / p.flops
print(f"N = {serving.params:.3g} instead of {plan.params:.3g}")
print(f"D / N = {serving.ratio:.0f}")
print(f"{share:.0f} % of the budget goes into serving")

# %%
def with_interval(name, found, field, unit="", divisor=1.0):
    """Keep a plan's value with its interval, in units of a divisor."""
    ends = found.intervals[field]
    low, high = ends.low / divisor, ends.high / divisor
    return keep(name, getattr(found, field) / divisor, unit, low, high)

# %%
size = serving.params / plan.params
keep("served_size", size, "×")
with_interval("served_ratio", serving, "ratio")

# %%
claims.check(
    "Serving makes the best model smaller, and its ratio D / N larger.",
    size < 1 and serving.ratio > plan.ratio,
);

# %% [markdown]
# > **Takeaway.**
# > With serving in the same budget the best model has [0.218×](#spending.served_size) the size, and sees [170](#spending.served_ratio) examples a parameter.

# %% [markdown]
# ## Data that runs out
#
# What if there is only a part of the data that the plan asks for?
# Repeats are worth less each time: Muennighoff and others fitted how fast {cite:p}`muennighoff2023`, with a worth that fades after about <span class="given">15</span> repeats.

# %%
unique = p.scarcity * plan.examples
scarce = scaling.plan(law, p.flops, unique_examples=unique)
once = {"params": p.flops / 6 / unique, "examples": unique}
single = law.predict(once)[0]
print(f"{scarce.repeats:.1f} passes: loss {scarce.loss:.4f}")
print(f"one pass, larger model: {single:.4f}")

# %%
keep("passes", scarce.repeats)
with_interval("scarce_loss", scarce, "loss", "nats")
low, high = law.interval(once)
keep("one_pass_loss", single, "nats", low[0], high[0])

# %%
claims.check(
    "Repeating a part of the data beats one pass of a larger model.",
    scarce.loss < single, margin=single - scarce.loss, unit="nats",
)

# %%
claims.check(
    "Repeated data is worse than as much fresh data.",
    scarce.loss > plan.loss,
);

# %% [markdown]
# > **Takeaway.**
# > With <span class="given">a tenth</span> of the data, [14.6](#spending.passes) passes reach [2.00](#spending.scarce_loss), where one pass of a larger model reaches [2.03](#spending.one_pass_loss); the worth of repeats was fitted to other runs than these, and is not in any interval here.

# %% [markdown]
# ## The questions turned round
#
# What does it cost to come one percent lower?
# And what is twice the data worth, if the model stays?

# %%
target = 0.99 * plan.loss
dearer = scaling.compute_for(law, target)
times = dearer.flops / p.flops
print("compute, times the budget:", keep("one_percent", times, "×"))

# %%
worth = scaling.worth_of_data(law, plan.params, plan.examples)
print(f"twice the data: {worth.before:.4f} -> {worth.after:.4f}")
equal = keep("data_as_params", worth.equal_params, "×")
print("or a model of this many times the size:", equal)

# %%
claims.check(
    "One percent less loss costs more than a tenth more compute.",
    times > 1.1, margin=times - 1.1,
)

# %%
claims.check(
    "Twice the data is worth more than a model a tenth larger.",
    worth.equal_params > 1.1, margin=worth.equal_params - 1.1,
);

# %% [markdown]
# > **Takeaway.**
# > One percent less loss costs [2.13×](#spending.one_percent) the budget here; twice the data is worth a model of [1.99×](#spending.data_as_params) the size.

# %% [markdown]
# ## At full scale
#
# For your own runs the same is two lines: `scaletut fit runs.csv --law additive --json fit.json`, then `scaletut plan fit.json --flops 1e21`.
# Say which parameters you count, with or without embeddings, and how you count FLOP; a table that mixes two conventions gives an exponent of neither.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: equal exponents
#
# Tie the exponents of the law.
# How does the best ratio of data to parameters move with the budget now?

# %% tags=["hide-cell"]
tied = scaling.fit(runs, "additive_tied")
budgets = (1e19, 1e21, 1e23)
ratios = [scaling.plan(tied, budget).ratio for budget in budgets]
print([f"{ratio:.1f}" for ratio in ratios])
# Both grow as the square root of compute, so their ratio stays.
assert np.ptp(ratios) < 0.01 * np.mean(ratios)

# %% [markdown]
# ### Exercise 2: the habit
#
# A habit says: twenty examples a parameter, always.
# What does the habit waste at a tenth, and at a hundredth, of this budget?

# %% tags=["hide-cell"]
for budget in (p.flops / 100, p.flops / 10, p.flops):
    best = scaling.plan(law, budget)
    habit = np.sqrt(budget / 6 / 20)
    factor = habit / best.params
    waste = scaling.cost_of_miss(law, budget, [factor]).wasted[0]
    print(f"{budget:.1e} FLOP: best {best.ratio:.0f} a parameter,")
    print(f"    the habit wastes {100 * waste:.1f} %")
assert waste < 0.5

# %% [markdown]
# ### Exercise 3: how many tokens until training long pays?
#
# From how many served tokens on is the best model less than half as large as without serving?

# %% tags=["hide-cell"]
for tokens in np.geomspace(1e11, 1e16, 40):
    asked = scaling.plan(law, p.flops, inference_tokens=tokens)
    if asked.params < plan.params / 2:
        break
times = tokens / plan.examples
print(f"about {tokens:.1g} tokens, {times:.1f} times the training data")
assert tokens > 1e11

# %% [markdown]
# ## What was claimed
#
# Each line is a comparison that the cells above have made, just now.

# %%
# NBVAL_CHECK_OUTPUT
claims.table()

# %% [markdown]
# ## What we saw, and where next
#
# * The best size is found in four lines, and is known only within a factor; the loss is known much better.
# * A factor of two in the size is forgiven.
# * Serving calls for smaller models, scarce data for smaller models and several passes.
# * All of it stands on one law, far beyond the runs that it was fitted to: the interval knows of noise, and of nothing else.

# %%
record = new_record(
    "spending", profile=p.profile, parameters=p.model_dump(),
    data_digest=runs.digest, seeds=[p.seed], values=numbers,
    claims=claims.results, wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
)
saved = chapters.save_record(record).name
print(f"record {saved}, {record.wall_seconds / 60:.1f} min")
