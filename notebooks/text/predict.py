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
# # Predict, then verify
#
# You have small runs, and a large one in mind that you can pay for once.
# What will it give, and how sure is that?
# This chapter answers in print, before the large runs are made, and then makes them.
# Two of its six predictions of the loss were good, and it says which, by how much, and why.
#
# **You will be able to**
#
# * plan a sweep of small runs, and give each width a learning rate that suits it;
# * choose a law by what it predicts, not by how well it fits;
# * print a prediction with its intervals before the run that tests it;
# * judge predictions by their signed misses, and learn more from a miss than from a hit;
# * compare a plan with three habits at equal compute;
# * put a run of your own beside these.
#
# **Before you start** read the chapter on fitting a scaling law.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | Zipf-10, trained now | any processor | 2 minutes | see the receipt | none |
# | `laptop` | CIFAR-10, the book's recorded runs | one processor core | [? min](#predict.run_minutes) | [? GB](#predict.run_peak_memory) | none |
# | `gpu` | the same | no GPU needed | as `laptop` | as `laptop` | none |
#
# With `runs = "new"` the profiles `laptop` and `gpu` train all [?](#predict.runs_all) networks again: [? core-hours](#predict.core_hours) where these were made.
# A number with a dotted line under it leads to the run that produced it.

# %% [markdown]
# ## Set-up
#
# In Colab the next cell installs the library; the recorded runs come with a clone of the book (`git clone`, then `%cd` into it).
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

needed = ("scaletut", "torch", "scipy", "pandas", "matplotlib")
missing = [one for one in needed if importlib.util.find_spec(one) is None]
if missing:
    remedy = "run  pip install 'scaletut[train]'  and restart the kernel"
    names = ", ".join(missing)
    raise ModuleNotFoundError(f"not installed: {names}; {remedy}")

# %% [markdown]
# A sweep of your own, made with `scaletut sweep`, goes into `yours`.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
runs = ""           # book or new; empty: the profile's
data = ""           # as for `scaletut sweep`; empty: the plan's
yours = ""          # a folder
workers = 0         # processes, 0 to 256; 0: the profile's
draws = 0           # resamples, 0 to 100000; 0: the profile's
seed = 0            # 0 to 2147483647

# %%
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from scaletut import chapters, figures, scaling, sweep
from scaletut.data import ZipfLaw
from scaletut.models import build, count_parameters
from scaletut.records import Claims, Value, find_records, format_value
from scaletut.records import new_record, peak_memory

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "predict", profile=profile, runs=runs, data=data, yours=yours,
    workers=workers, draws=draws, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %% tags=["hide-input"]
claims, numbers = Claims("predict"), {}
blue, orange, teal, violet = figures.PALETTE[:4]


def keep(name, value, unit="", low=None, high=None, n=1):
    """Note a value for the record, and show it as text."""
    made = value if isinstance(value, Value) else None
    numbers[name] = made or Value(float(value), unit, low, high, n)
    shown = "value" if numbers[name].low is None else "interval"
    return format_value(numbers[name], shown)


# %% [markdown]
# ## Small runs
#
# The network is the whitened one of the chapter on fine-tuning, the images are shrunk to <span class="given">16</span> pixels a side, and every run sees its images <span class="given">eight</span> times.
# What varies is the width, from <span class="given">2.5 thousand</span> to <span class="given">3 million</span> learned parameters, and the number of images.
# The plan is a file, checked whole before the first run:

# %%
book = chapters.book_root()
kind = "quick_" if p.profile == "quick" else ""


def plan_of(name):
    """A plan of this chapter."""
    plan = sweep.load_plan(book / f"book/sweeps/{kind}{name}.yaml")
    return plan.model_copy(update={"data": p.data} if p.data else {})


# %%
plan = plan_of("small")
print(f"{len(plan.runs())} runs of {plan.data} at {plan.side} pixels")
print(f"scored on {plan.hold_out:,} images held out of training")
print("rate of the head:", plan.lr_rule.reason)

# %% [markdown]
# ### A rate for each width
#
# A sweep with one learning rate for all widths compares networks that are tuned with networks that are not, and its law describes the tuning.
# Here the head divides its input by the number of channels, so the same rate moves a wide network's answers less; the rate of the head therefore grows with the width, and that rule stands in the plan with its reason.
# The other rates act on filters that a norm follows, whose step does not depend on the width {cite:p}`yang2022`.
# The rates were chosen on held-out images at two widths.

# %% [markdown]
# A plan runs from the command line, on this machine's cores or on a Ray cluster, and goes on where it was stopped: `scaletut sweep book/sweeps/small.yaml --resume`.
# The book's own records lie under `results/sweeps`, one file a run.

# %%
def records_of(name):
    """The plan's records: the book's, or of runs made now."""
    if p.runs == "book":
        return sweep.Store(book / "results" / "sweeps" / name).records()
    folder = book / "_build" / "sweeps" / f"{kind}{name}"
    with tqdm(desc=name, unit="run", disable=None) as bar:
        told = lambda done, total: (bar.reset(total), bar.update(done))
        return sweep.gather(
            plan_of(name), folder, workers=p.workers, progress=told
        )


# %%
def table_of(*names):
    """One row a finished run of these plans."""
    records = [one for name in names for one in records_of(name)]
    table = pd.DataFrame(sweep.run_table(records))
    done = [one for one in records if "loss" in one.values]
    table["width"] = [one.parameters["width"] for one in done]
    table["seconds"] = [one.values["seconds"].value for one in done]
    return table


# %%
small = table_of("small")
small.groupby(["params", "examples"]).loss.mean().unstack().round(3)

# %% mystnb={"image": {"alt": "Loss on held-out images against number of training images on log-log axes, one falling line a network; small networks flatten out early, large ones go on falling, and all begin near the same height."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.8)
shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, small.width.nunique()))
for shade, (size, group) in zip(shades, small.groupby("params")):
    mean = group.groupby("examples").loss.mean()
    axes.plot(group.examples, group.loss, ".", color=shade, markersize=4)
    axes.plot(mean.index, mean, color=shade, label=f"{size:,.0f}")
axes.set(xscale="log", yscale="log")
axes.set(xlabel="training images", ylabel="loss (nats)")
ticks = [0.3, 0.5, 0.7, 1, 1.4, 2]
inside = [t for t in ticks if small.loss.min() < t < small.loss.max()]
axes.set_yticks(inside, [f"{t:g}" for t in inside])
axes.minorticks_off()
axes.legend(title="parameters", fontsize=8, ncols=2)
plt.show()

# %%
by_pair = small.groupby(["params", "examples"]).loss
scatter = 100 * np.sqrt((by_pair.std() / by_pair.mean()).pow(2).mean())
print("scatter between seeds:", keep("seed_scatter", scatter, "%"))
keep("runs_small", len(small), "runs");

# %% [markdown]
# > **Guess first.**
# > The largest network has <span class="given">3 million</span> parameters, and there are <span class="given">45,000</span> images to train it on: ninety times the compute of the dearest run above.
# > What loss will it reach, and what accuracy?
# > Write both down, each with a range that you would bet on.

# %% [markdown]
# ## Choose the law by back-test
#
# Hide the largest of the small runs, fit the rest, and see which law predicts what was hidden.
# Besides the additive law {cite:p}`hoffmann2022`, its tied form, and those of Kaplan and others {cite:p}`kaplan2020` and of popular articles, there is Rosenfeld's {cite:p}`rosenfeld2020`, made for classifiers: its curves begin at the loss of a guess.

# %%
columns = ["params", "examples", "flops", "loss"]
seen = {name: small[name].to_numpy() for name in columns}
starts = (0,) if p.profile == "quick" else (0, 1000, 2000)


def predicted(at):
    """Predictions at params and examples, from the small runs alone."""
    return scaling.predict_runs(
        seen, at, accuracy=small.accuracy / 100, least_examples=starts
    )


# %%
def params_at(width):
    """Learned parameters of the network at this width."""
    network = build("speednet-s", num_classes=10, width=width)
    return count_parameters(network, trainable=True)


asked = plan_of("large").sizes()
at = {
    "params": [params_at(width) for width, _ in asked],
    "examples": [examples for _, examples in asked],
}
fresh = predicted(at)
print(fresh.why)

# %%
kept = small[small.examples >= fresh.least_examples]
fitted = kept[columns].to_dict("list")
tested = scaling.backtest(fitted, delta=0.01)
errors = {name: 100 * one for name, one in tested.rmse.items()}
pd.Series(errors, name="error of the hidden runs, %").round(2).to_frame()

# %%
keep("backtest_rosenfeld", errors["rosenfeld"], "%")
keep("backtest_additive", errors["additive"], "%")
keep("backtest_combined", 100 * tested.combined, "%");

# %% [markdown]
# ### A ceiling that nobody told it
#
# Rosenfeld's law is the additive one, bent so that it starts at a ceiling: $L = (e^{-2} + t^{-2})^{-1/2}$ with $e = E + A N^{-\alpha} + B D^{-\beta}$.
# A network that guesses among ten classes has a loss of $\ln 10$; the fit is not told that.

# %%
law = scaling.fit(
    fitted, "rosenfeld", delta=0.01, bootstrap=p.draws, seed=p.seed
)
pd.DataFrame(
    {"value": law.parameters, "standard error": law.standard_errors}
).round(3)

# %%
for name in ("E", "alpha", "beta", "top"):
    ends = law.intervals[name]
    keep(name, law.parameters[name], "", ends.low, ends.high, len(kept))
print(f"ceiling {law.parameters['top']:.2f}; ln 10 = {np.log(10):.2f}")

# %%
claims.check(
    "The ceiling of the fitted law lies near ln 10, within a quarter.",
    abs(law.parameters["top"] / np.log(10) - 1) < 0.25,
);

# %% mystnb={"image": {"alt": "The fitted law as a surface: shades of loss over parameters and training images on logarithmic axes, with contour lines; dots mark the small runs in the lower left, crosses the larger runs to be predicted in the upper right."}} tags=["hide-input"]
n = np.geomspace(small.params.min(), max(at["params"]), 80)
d = np.geomspace(small.examples.min(), max(at["examples"]), 80)
grid_n, grid_d = np.meshgrid(n, d)
surface = law.predict({"params": grid_n.ravel(), "examples": grid_d.ravel()})
figure, axes = figures.panels(1, 1, height=3.8)
shown = axes.contourf(
    n, d, surface.reshape(grid_n.shape), 14, cmap="viridis_r", alpha=0.85
)
figure.colorbar(shown, label="loss (nats)")
axes.plot(small.params, small.examples, "o", color="white",
          markeredgecolor=figures.INK, label="small runs")
axes.plot(at["params"], at["examples"], "X", color=orange, markersize=9,
          markeredgecolor="white", label="to be predicted")
axes.set(xscale="log", yscale="log")
axes.set(xlabel="parameters", ylabel="training images")
axes.legend(loc="lower right", facecolor="white", framealpha=0.9)
plt.show()

# %% [markdown]
# > **Takeaway.**
# > On the hidden runs the laws together erred by [? %](#predict.backtest_combined), Rosenfeld's alone by [? %](#predict.backtest_rosenfeld), the additive one by [? %](#predict.backtest_additive).
# > The ceiling came out at [? (? to ?)](#predict.top), where a guess has <span class="given">2.303</span>.

# %% [markdown]
# ## The prediction, in print
#
# The laws are averaged with weights from the back-test, and its misses set the width of the intervals.
# Accuracy follows from loss: over the small runs its logit is a straight line in log loss.
# For CIFAR-10 the prediction was written into a record, and that record committed before the first of the large runs was started; `book/predict.py` refuses to write it twice.

# %%
def printed(experiment):
    """The predictions of a record that was committed before the runs."""
    (record,) = [
        one for one in find_records(book / "results", recursive=False)
        if one.experiment == experiment
    ]
    return scaling.Predictions.from_dict(record.parameters["predictions"])


prediction = printed("predict.printed") if p.runs == "book" else fresh

# %%
same = np.allclose(
    [row.loss for row in prediction.rows], [row.loss for row in fresh.rows],
    rtol=1e-4,
)
claims.check("Made again from the small runs, the prediction is the same.", same);

# %%
def ends(pair, times=1):
    return f"{times * pair[0]:.3g} to {times * pair[1]:.3g}"


pd.DataFrame(
    {
        "parameters": f"{row.params:,.0f}", "images": f"{row.examples:,.0f}",
        "loss": f"{row.loss:.3f}", "80 %": ends(row.loss_intervals["80"]),
        "95 %": ends(row.loss_intervals["95"]),
        "accuracy, %": f"{100 * row.accuracy:.1f}",
        "95 % ": ends(row.accuracy_intervals["95"], 100),
    }
    for row in prediction.rows
)

# %% [markdown]
# ## The large runs
#
# Now they are made, each with ten times the compute of any run that was fitted, or more.

# %%
large = table_of("large")
pairs = large.set_index(["params", "examples"]).loc[
    [(row.params, row.examples) for row in prediction.rows]
]
verdict = scaling.verdicts(
    prediction.rows, pairs.loss.tolist(), (pairs.accuracy / 100).tolist()
)
leap = large.flops.min() / small.flops.max()
print(f"compute: {leap:.1f} times the dearest small run, or more")

# %%
claims.check(
    "Each large run took ten times the compute of any fitted, or more.",
    leap >= 10, margin=leap - 10, unit="×",
);

# %%
def told(held):
    return next((f"in the {one} %" for one in held if held[one]), "outside")


table = pd.DataFrame(
    {
        "parameters": f"{v.prediction.params:,.0f}",
        "images": f"{v.prediction.examples:,.0f}",
        "predicted": f"{v.prediction.loss:.3f}", "loss": f"{v.loss:.3f}",
        "miss": f"{100 * v.loss_miss:+.1f} %", "interval": told(v.loss_held),
        "accuracy": f"{100 * v.accuracy:.1f} %",
        "miss ": f"{100 * v.accuracy_miss:+.1f} points",
        "interval ": told(v.accuracy_held),
    }
    for v in verdict
)
table

# %% mystnb={"image": {"alt": "Two panels, one row a large run: predicted loss and predicted accuracy as dots with their 80 and 95 percent intervals, and the results as crosses. Several losses lie outside their intervals, to both sides; the accuracies lie inside."}} tags=["hide-input"]
figure, panels = figures.panels(1, 2, height=3.6, sharey=True)
rows = np.arange(len(verdict))
for axes, what, times in zip(panels, ("loss", "accuracy"), (1, 100)):
    for level, line in (("95", 2), ("80", 6)):
        both = [getattr(v.prediction, f"{what}_intervals")[level] for v in verdict]
        low, high = times * np.array(both).T
        axes.hlines(rows, low, high, color=blue, linewidth=line, alpha=0.45)
    middle = [times * getattr(v.prediction, what) for v in verdict]
    seen_now = [times * getattr(v, what) for v in verdict]
    axes.plot(middle, rows, "o", color=blue, label="predicted, 80 and 95 %")
    axes.plot(seen_now, rows, "X", color=orange, markersize=9, label="result")
names = [f"{v.prediction.params / 1e6:.2g} M, {v.prediction.examples:,.0f}"
         for v in verdict]
panels[0].set_yticks(rows, names)
panels[0].set_ylim(len(rows) - 0.5, -0.5)
panels[0].set(xlabel="loss (nats)", ylabel="parameters, images")
panels[1].set(xlabel="accuracy (%)")
panels[0].legend(loc="upper right", fontsize=8)
plt.show()

# %%
misses = 100 * np.array([v.loss_miss for v in verdict])
points = 100 * np.array([v.accuracy_miss for v in verdict])
count = len(verdict)
for level in ("80", "95"):
    inside = sum(v.loss_held[level] for v in verdict)
    keep(f"held_{level}", inside, "runs", n=count)
    inside = sum(v.accuracy_held[level] for v in verdict)
    keep(f"accuracy_held_{level}", inside, "runs", n=count)
print("median miss of loss:", keep("miss", np.median(abs(misses)), "%"))
print("of accuracy:", keep("accuracy_miss", np.median(abs(points)), "points"))

# %% [markdown]
# ### Which of the laws would have done better?
#
# Each law alone, fitted to the same small runs:

# %%
where = {"params": pairs.index.get_level_values(0).to_numpy(),
         "examples": pairs.index.get_level_values(1).to_numpy()}
alone = {}
for name in ("rosenfeld", "additive", "kaplan", "product"):
    one = scaling.fit(fitted, name, delta=0.01)
    alone[name] = 100 * (pairs.loss.to_numpy() / one.predict(where) - 1)
by_law = pd.DataFrame(alone, index=names)
by_law.round(1)

# %%
worst = by_law.abs().max()
for name in ("rosenfeld", "additive"):
    keep(f"worst_{name}", worst[name], "%", n=count)

# %%
claims.check(
    "The law with a ceiling missed the farthest run less than without.",
    abs(alone["rosenfeld"][-1]) < abs(alone["additive"][-1]),
);
