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
# | `quick` | Zipf-10, trained now | any processor | about two minutes | see the receipt | none |
# | `laptop` | CIFAR-10, the book's recorded runs | one processor core | [0.113 min](#predict.run_minutes) | [0.894 GB](#predict.run_peak_memory) | none |
# | `gpu` | the same | no GPU needed | as `laptop` | as `laptop` | none |
#
# With `runs = "new"` the profiles `laptop` and `gpu` train all networks again ([299 runs](#predict.runs_all)): [1.79 h](#predict.core_hours) of one core where these were made.
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
import textwrap
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from tqdm import tqdm

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
print(textwrap.fill(plan.lr_rule.reason, 70))

# %% [markdown]
# ### A rate for each width
#
# A sweep with one learning rate for all widths compares networks that are tuned with networks that are not, and its law describes the tuning.
# Here the head divides its input by the number of channels, so the same rate moves a wide network's answers less; the rate of the head therefore grows with the width, and that rule stands in the plan with its reason.
# The other rates act on filters that a norm follows, whose step does not depend on the width {cite:p}`yang2021`.
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


# %% tags=["hide-input"]
tables = {}


def table_of(name):
    """One row a finished run of this plan."""
    records = records_of(name)
    table = pd.DataFrame(sweep.run_table(records))
    table = table.astype({"params": int, "examples": int})
    done = [one for one in records if "loss" in one.values]
    table["width"] = [one.parameters["width"] for one in done]
    table["seconds"] = [one.values["seconds"].value for one in done]
    tables[name] = table
    return table


# %%
small = table_of("small")
means = small.groupby(["params", "examples"]).loss.mean()
means.unstack().map("{:.3f}".format).replace("nan", "")

# %% mystnb={"image": {"alt": "Loss on held-out images against number of training images on log-log axes, one falling line a network; small networks flatten out early, large ones go on falling, and all begin near the same height."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.8)
steps = np.linspace(0, 0.9, small.width.nunique())
shades = plt.get_cmap("viridis")(steps)
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
print(textwrap.fill(fresh.why, 70))

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
named = {"E": "floor", "alpha": "alpha", "beta": "beta", "top": "ceiling"}
for name, called in named.items():
    ends = law.intervals[name]
    keep(called, law.parameters[name], "", ends.low, ends.high, len(kept))
print(f"ceiling {law.parameters['top']:.2f}; ln 10 = {np.log(10):.2f}")

# %% mystnb={"image": {"alt": "The fitted law as a surface: shades of loss over parameters and training images on logarithmic axes, with contour lines; dots mark the small runs in the lower left, crosses the larger runs to be predicted in the upper right."}} tags=["hide-input"]
n = np.geomspace(small.params.min(), max(at["params"]), 80)
d = np.geomspace(small.examples.min(), max(at["examples"]), 80)
grid_n, grid_d = np.meshgrid(n, d)
over = {"params": grid_n.ravel(), "examples": grid_d.ravel()}
surface = law.predict(over)
figure, axes = figures.panels(1, 1, height=3.8)
shown = axes.contourf(
    n, d, surface.reshape(grid_n.shape), 14, cmap="viridis_r", alpha=0.85
)
figure.colorbar(shown, label="loss (nats)")
axes.plot(small.params, small.examples, "o", color="white",
          markeredgecolor=figures.INK, label="small runs", clip_on=False)
axes.plot(at["params"], at["examples"], "X", color=orange, markersize=9,
          markeredgecolor="white", label="to be predicted", clip_on=False)
axes.set(xscale="log", yscale="log")
axes.set(xlabel="parameters", ylabel="training images")
axes.legend(loc="lower right", frameon=True, framealpha=0.9)
plt.show()

# %% [markdown]
# > **Takeaway.**
# > On the hidden runs the laws together erred by [1.65 %](#predict.backtest_combined), Rosenfeld's alone by [3.03 %](#predict.backtest_rosenfeld), the additive one by [4.05 %](#predict.backtest_additive).
# > The ceiling came out at [2.33 (2.17 to 2.56)](#predict.ceiling), where a guess has <span class="given">2.303</span>.

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
    [row.loss for row in prediction.rows],
    [row.loss for row in fresh.rows], rtol=1e-4,
)
claims.check(
    "Made again from the small runs, the prediction is the same.", same
);

# %% tags=["hide-input"]
def ends(pair, times=1):
    return f"{times * pair[0]:.3g} to {times * pair[1]:.3g}"


pd.DataFrame(
    {
        "parameters": f"{row.params:,.0f}",
        "images": f"{row.examples:,.0f}",
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

# %% tags=["hide-input"]
def told(held):
    inside = [f"in {one} %" for one in held if held[one]]
    return inside[0] if inside else "outside"


table = pd.DataFrame(
    {
        "parameters": f"{v.prediction.params:,.0f}",
        "images": f"{v.prediction.examples:,.0f}",
        "predicted": f"{v.prediction.loss:.3f}", "loss": f"{v.loss:.3f}",
        "miss": f"{100 * v.loss_miss:+.1f} %, {told(v.loss_held)}",
        "accuracy": f"{100 * v.accuracy:.1f} %",
        "miss ": f"{100 * v.accuracy_miss:+.1f}, {told(v.accuracy_held)}",
    }
    for v in verdict
)
table

# %% mystnb={"image": {"alt": "Two panels, one row a large run: predicted loss and predicted accuracy as dots with their 80 and 95 percent intervals, and the results as crosses. Several losses lie outside their intervals, to both sides; the accuracies lie inside."}} tags=["hide-input"]
figure, panels = figures.panels(1, 2, height=3.6, sharey=True)
rows = np.arange(len(verdict))
for axes, what, times in zip(panels, ("loss", "accuracy"), (1, 100)):
    for level, line in (("95", 2), ("80", 6)):
        name = f"{what}_intervals"
        held = [getattr(v.prediction, name) for v in verdict]
        low, high = times * np.array([one[level] for one in held]).T
        axes.hlines(
            rows, low, high, color=blue, linewidth=line, alpha=0.45
        )
    middle = [times * getattr(v.prediction, what) for v in verdict]
    seen_now = [times * getattr(v, what) for v in verdict]
    axes.plot(middle, rows, "o", color=blue, label="predicted, 80, 95 %")
    axes.plot(
        seen_now, rows, "X", color=orange, markersize=9, label="result"
    )
names = [f"{v.prediction.params / 1e6:.2g} M, {v.prediction.examples:,.0f}"
         for v in verdict]
panels[0].set_yticks(rows, names)
panels[0].set_ylim(len(rows) - 0.5, -0.5)
panels[0].set(xlabel="loss (nats)", ylabel="parameters, images")
panels[1].set(xlabel="accuracy (%)")
figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside upper left",
    ncols=2, fontsize=8,
)
plt.show()

# %% tags=["hide-input"]
misses = 100 * np.array([v.loss_miss for v in verdict])
keep("worst_better", -misses.min(), "%")
keep("worst_worse", misses.max(), "%")
points = 100 * np.array([v.accuracy_miss for v in verdict])
count = len(verdict)
for level in ("80", "95"):
    inside = sum(v.loss_held[level] for v in verdict)
    keep(f"held_{level}", 100 * inside / count, "%", n=count)
    inside = sum(v.accuracy_held[level] for v in verdict)
    keep(f"accuracy_held_{level}", 100 * inside / count, "%", n=count)
print("median miss of loss:", keep("miss", np.median(abs(misses)), "%"))
typical = np.median(abs(points))
print("of accuracy:", keep("accuracy_miss", typical, "points"))

# %% [markdown]
# ### Which of the laws would have done better?
#
# Each law alone, fitted to the same small runs:

# %% tags=["hide-input"]
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
hidden_error = 100 * min(tested.combined, *tested.rmse.values())
claims.check(
    "The large runs missed by more than the back-test had said.",
    np.median(abs(misses)) > hidden_error,
    margin=np.median(abs(misses)) - hidden_error, unit="%",
);

# %% [markdown]
# ### What a miss teaches
#
# Look at the signs.
# The networks that were trained on all images did better than predicted, by up to [13.6 %](#predict.worst_better) of the loss; the largest network on a sixth of them did worse, by [8.10 %](#predict.worst_worse).
# A sum of a term in parameters and a term in images cannot turn both ways: in these runs a large network makes more of much data, and overfits little data.
#
# The intervals of the loss were too narrow, and for a reason that can be seen beforehand.
# A back-test can only look as far ahead as the small runs reach, and what it did not see it could not add to the width.

# %%
largest_fitted = np.log(kept.params * kept.examples).max()
sizes = np.prod([at["params"], at["examples"]], axis=0)
largest_asked = np.log(sizes.max())
asked_reach = largest_asked - largest_fitted
keep("reach_asked", asked_reach)
keep("reach_tested", tested.beyond.max())
print(f"the back-test looked {tested.beyond.max():.1f} e-folds ahead,")
print(f"the prediction had to look {asked_reach:.1f}")

# %%
claims.check(
    "The predictions looked farther ahead than the back-test could.",
    asked_reach > tested.beyond.max(),
    margin=asked_reach - tested.beyond.max(),
);

# %% [markdown]
# ### What the library learned
#
# The printed intervals counted each hidden run as a witness of its own, and so found no drift at all.
# But all runs that one fit predicts share that fit's error: three horizons are three witnesses.
# Since this miss the library counts them so, and averages over every drift that three witnesses cannot exclude.
# The same small runs now give these intervals; they were not in print before the runs, so they prove nothing yet.

# %%
now = scaling.verdicts(fresh.rows, pairs.loss.tolist())
for level in ("80", "95"):
    share = 100 * np.mean([v.loss_held[level] for v in now])
    held = keep(f"now_held_{level}", share, "%", n=count)
    print(f"{level} %: held {held}")
wide = [v.prediction.loss_intervals["95"] for v in now]
print("the farthest, 95 %:", ends(wide[-1]))

# %% [markdown]
# ### Right for the wrong reason
#
# The accuracies were predicted far better than the losses they were computed from.
# Put the observed losses into the line from loss to accuracy, and see what it would have said.

# %%
def logit(share):
    return np.log(share / (1 - share))


slope, level = np.polyfit(
    np.log(small.loss), logit(small.accuracy / 100), 1
)
by_line = 100 / (1 + np.exp(-(level + slope * np.log(pairs.loss))))
off = (pairs.accuracy - by_line).to_numpy()
print("from the observed loss:", np.round(off, 1), "points")
keep("line_miss", np.median(abs(off)), "points");

# %% [markdown]
# At a given loss the large runs have a lower accuracy than the line says: the small ones were trained on few images, are surer of themselves than they should be, and pay for it in loss.
# Two errors, one of the law and one of the line, cancelled.
# A hit is worth looking into as much as a miss.

# %% [markdown]
# ### A second print
#
# While the largest network was still training, the prediction was made once more, from the small runs and the four large ones that had ended by then, and committed again.
# (The second largest ended within the minute of that commit, so it is not counted here.)

# %% tags=["hide-input"]
if p.runs == "book":
    second = printed("predict.second").rows[-1]
else:
    known = pd.concat([small, large.sort_values("flops")[:-1]])
    second = scaling.predict_runs(
        known[columns].to_dict("list"),
        {name: values[-1:] for name, values in at.items()},
        accuracy=known.accuracy / 100, least_examples=starts,
    ).rows[0]

# %%
(again,) = scaling.verdicts(
    [second], pairs.loss.tolist()[-1:],
    (pairs.accuracy / 100).tolist()[-1:],
)
print(f"predicted {second.loss:.3f} ({ends(second.loss_intervals['95'])})")
print(f"result {again.loss:.3f}, {told(again.loss_held)}")
print("miss:", keep("second_miss", 100 * again.loss_miss, "%"))
keep("first_miss", misses[-1], "%");

# %% [markdown]
# > **Takeaway.**
# > Of the six large runs the intervals that promised <span class="given">95 %</span> held [33.3 %](#predict.held_95) by loss and [100 %](#predict.accuracy_held_95) by accuracy, those that promised <span class="given">80 %</span> [16.7 %](#predict.held_80) and [83.3 %](#predict.accuracy_held_80); the median miss was [8.34 %](#predict.miss) of the loss, and [1.14 points](#predict.accuracy_miss) of accuracy.
# > The additive law alone would have missed by up to [27.2 %](#predict.worst_additive), Rosenfeld's by up to [10.5 %](#predict.worst_rosenfeld).
# > With four larger runs added, the miss on the largest one fell from [−8.58 %](#predict.first_miss) to [−2.04 %](#predict.second_miss).

# %% [markdown]
# ## Time is an axis too
#
# Small networks were also trained for other numbers of passes.
# Seeing the same image again is worth less each time, and the law of Muennighoff and others {cite:p}`muennighoff2023` says how fast that worth fades.

# %%
passes = table_of("time")
both = pd.concat([small, passes])
both = both[both.examples >= fresh.least_examples]
timed = {
    "params": both.params, "examples": both.examples * both.epochs,
    "unique_examples": both.examples, "loss": both.loss,
}
repeated = scaling.fit(timed, "repeated", delta=0.01)
fades = repeated.parameters["R_D"]
print("the worth of a pass fades after", keep("fades", fades, "passes"))

# %% mystnb={"image": {"alt": "Loss against the number of passes over the same images on logarithmic axes, one line for each network and number of images; the lines fall and flatten, and for the larger networks on few images the last one turns up."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.4)
joined = pd.concat([passes, small[small.seed == 0]])
wanted = passes.groupby(["params", "examples"]).size().index
for number, (size, images) in enumerate(wanted):
    one = joined[(joined.params == size) & (joined.examples == images)]
    one = one.sort_values("epochs")
    axes.plot(one.epochs, one.loss, "o-", markersize=4,
              label=f"{size:,.0f} on {images:,.0f}")
axes.set(xscale="log", yscale="log", xlabel="passes", ylabel="loss (nats)")
axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
inside = [t for t in (0.5, 0.7, 1, 1.4, 2) if t < joined.loss.max()]
axes.set_yticks(inside, [f"{t:g}" for t in inside])
axes.minorticks_off()
axes.legend(fontsize=8, ncols=2, title="parameters, images")
plt.show()

# %% [markdown]
# ## The plan against three habits
#
# Now spend one budget four ways, each with the same FLOP, three seeds, scored on the test set.
# What does the fit advise?

# %%
equal = plan_of("equal")
budget, pool = equal.flops[0], equal.sizes()[0][1]
cost = (small.flops / small.examples / small.epochs).groupby(small.width)


def promised(width, an_image):
    """Loss of this width when the whole budget goes into it."""
    shown = budget / an_image
    at_once = {"params": [params_at(width)], "examples": [shown],
               "unique_examples": [min(shown, pool)]}
    return float(repeated.predict(at_once)[0])


prices = cost.median().items()
advice = {width: promised(width, an_image) for width, an_image in prices}
best = min(advice, key=advice.get)
print(f"the best of these widths is {best:g}, at loss {advice[best]:.3f}")

# %% tags=["hide-input"]
ways = (
    "the plan", "a popular recipe", "all data once", "the largest model"
)
spent = table_of("equal")
order = [params_at(width) for width, _ in equal.sizes()]
groups = [spent[spent.params == size] for size in order]
found = [
    Value.of(g.accuracy.tolist(), "%") if len(g) > 1
    else Value(g.accuracy.iloc[0], "%") for g in groups
]
for name, value in zip(("plan", "recipe", "once", "largest"), found):
    keep(f"equal_{name}", value)
pd.DataFrame(
    {
        "parameters": [f"{size:,}" for size in order],
        "images": [f"{g.examples.iloc[0]:,.0f}" for g in groups],
        "passes": [f"{g.epochs.iloc[0]:.1f}" for g in groups],
        "loss": [f"{g.loss.mean():.3f}" for g in groups],
        "accuracy": [format_value(v, "value") for v in found],
    },
    index=ways,
)

# %% mystnb={"image": {"alt": "Test accuracy of four ways to spend the same compute, one row each with an interval: the plan, a popular recipe of eight passes, all data once, and the largest model."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=2.2)
figures.dots_with_intervals(axes, ways, found)
axes.set(xlabel="test accuracy at equal compute (%)")
plt.show()

# %%
claims.check(
    "At equal compute the plan beats the largest model.",
    found[0].value > found[3].value,
    margin=found[0].value - found[3].value, unit="points",
)

# %%
claims.check(
    "At equal compute the plan beats the popular recipe.",
    found[0].value > found[1].value,
    margin=found[0].value - found[1].value, unit="points",
);

# %% [markdown]
# > **Takeaway.**
# > With the same compute the plan reached [74.6 ± 0.9 %](#predict.equal_plan), the popular recipe [72.4 ± 0.6 %](#predict.equal_recipe), all data once [67.9 ± 0.2 %](#predict.equal_once), and the largest model [61.5 ± 0.7 %](#predict.equal_largest).
# > The law that missed the loss of large runs by a tenth still chose well between ways to spend: for that it need not know the loss, only which of two is lower.

# %% [markdown]
# ## What noise in the labels moves
#
# The same networks were trained on labels of which <span class="given">a fifth</span> had been replaced by a wrong class, and scored on clean ones.

# %%
noisy = table_of("noise")
keys = ["params", "examples"]
clean_loss = small[small.seed == 0].set_index(keys).loss
ratio = (noisy.set_index(keys).loss / clean_loss).dropna()
ratio.unstack().round(2)

# %% tags=["hide-input"]
ratios = np.log(ratio.to_numpy())
half = 1.96 * ratios.std(ddof=1) / np.sqrt(len(ratios))
middle = np.exp(ratios.mean())
print("loss on noisy labels, times that on clean ones:",
      keep("noise_ratio", middle, "×", middle * np.exp(-half),
           middle * np.exp(half), len(ratios)))

# %%
claims.check(
    "A fifth of wrong labels raises the loss on average.",
    middle > 1, margin=middle - 1, unit="×",
);

# %% [markdown]
# Then the audit judged the noisy labels, without seeing the right ones, and left out those that it suspected (`book/clean_labels.py`).
# How much of the harm did that undo?

# %% tags=["hide-input"]
if p.runs == "book":
    cleaned = table_of("cleaned").set_index(keys).loss
    three = pd.concat(
        [clean_loss, noisy.set_index(keys).loss, cleaned], axis=1,
        keys=["clean", "noisy", "cleaned"],
    ).dropna()
    harm = three.noisy - three.clean
    undone = 100 * (three.noisy - three.cleaned) / harm
    draw = np.random.default_rng(p.seed)
    rows = draw.integers(0, len(three), (max(p.draws, 100), len(three)))
    totals = harm.to_numpy()[rows].sum(1)
    shares = (undone * harm).to_numpy()[rows].sum(1) / totals
    low, high = np.quantile(shares, [0.025, 0.975])
    print("of the harm, cleaning undid", keep(
        "undone", (undone * harm).sum() / harm.sum(), "%", low, high,
        len(three),
    ))
    display(three.assign(undone=undone).round(3))

# %% [markdown]
# > **Takeaway.**
# > A fifth of wrong labels multiplied the loss by [1.107 ± 0.016×](#predict.noise_ratio) on average; with as many images cleaned by the audit, [106 (99 to 112) %](#predict.undone) of the harm is undone.
# > More than all of it is no mistake: the audit also takes out images that are hard to tell, and a set without them is easier; what the comparison leaves out is the images that were lost.

# %% [markdown]
# ## Against a curve that is known
#
# On Zipf-10 the best possible error is known in closed form, so here one can see how far from it networks are, and where.

# %%
if plan.data.startswith("zipf10"):
    curves = {"clean": (small, ZipfLaw())}
else:
    curves = {"clean": (table_of("zipf"), ZipfLaw()),
              "noisy": (table_of("zipf_noise"), ZipfLaw(noise=0.1))}

# %%
def best_possible(truth, table):
    """Error (%) of the ideal learner, by number of images."""
    numbers = sorted(table.examples.unique())
    best = [100 * truth.expected_error(int(one)) for one in numbers]
    return pd.Series(best, numbers)


# %% mystnb={"image": {"alt": "Error against number of training images on log-log axes, a panel each for clean and for noisy labels: one falling line for each network, and below them all the closed form of the best possible learner; the wide networks come near it at the right end."}} tags=["hide-input"]
figure, panels = figures.panels(1, len(curves), height=3.6, squeeze=False)
for axes, (name, (table, truth)) in zip(panels[0], curves.items()):
    widths = table.groupby("params")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(widths)))
    for shade, (size, group) in zip(shades, widths):
        mean = (100 - group.accuracy).groupby(group.examples).median()
        axes.plot(mean.index, mean, "o-", color=shade, markersize=4,
                  label=f"{size:,.0f}")
    ideal = best_possible(truth, table)
    axes.plot(ideal.index, ideal, "--", color=orange, label="closed form")
    axes.set(xscale="log", yscale="log", xlabel="training images")
    axes.set_title(f"{name} labels")
    axes.set_yticks([5, 10, 20, 40], ["5", "10", "20", "40"])
    axes.minorticks_off()
panels[0, 0].set_ylabel("error (%)")
axes.legend(title="parameters", fontsize=7, ncols=2)
plt.show()

# %% tags=["hide-input"]
def against_truth(name):
    """Slopes and floor of the error in N and D, beside the true ones."""
    table, truth = curves[name]
    error = 1 - table.accuracy / 100
    rows = {"params": table.params, "examples": table.examples,
            "loss": error, "seed": table.seed.astype(int).astype(str)}
    fit = scaling.fit(
        rows, "additive", delta=0.02, bootstrap=p.draws, seed=p.seed
    )
    for key in ("E", "alpha", "beta"):
        called = {"E": "floor"}.get(key, key)
        ends = fit.intervals[key]
        keep(f"zipf_{name}_{called}", fit.parameters[key], "",
             ends.low, ends.high, len(table))
    best = best_possible(truth, table)
    fall = np.log(best.iloc[0] / best.iloc[-1])
    span = np.log(best.index[-1] / best.index[0])
    keep(f"zipf_{name}_true_beta", fall / span)
    wide = table[table.params == table.params.max()]
    gap = (100 - wide.accuracy).groupby(wide.examples).median() / best
    keep(f"zipf_{name}_gap_few", gap.dropna().iloc[0], "×")
    keep(f"zipf_{name}_gap_many", gap.dropna().iloc[-1], "×")
    return fit.parameters


pd.DataFrame({name: against_truth(name) for name in curves}).round(3)

# %%
table, truth = curves["clean"]
least = table.examples.map(best_possible(truth, table))
claims.check(
    "Every network errs more than the ideal learner of the closed form.",
    bool((100 - table.accuracy > least).all()),
);

# %% [markdown]
# > **Takeaway.**
# > The ideal learner's error has no floor and a slope of [0.404](#predict.zipf_clean_true_beta) in the number of images; the law fitted to networks has a floor of [0.016 (4 × 10⁻⁸ to 0.029)](#predict.zipf_clean_floor) and a slope of [0.68 (0.55 to 0.84)](#predict.zipf_clean_beta).
# > The slope is too steep because networks catch up: with the fewest images the widest errs [1.67×](#predict.zipf_clean_gap_few) as often as the ideal learner, with the most [1.23×](#predict.zipf_clean_gap_many).
# > The ideal learner knows a pattern once seen; a network has to see it shifted and recoloured before it knows it again.
# > (One run of the smallest network on most images failed, and stays in the figure.)
# > With a tenth of the labels wrong the slope is [0.60 (0.46 to 0.75)](#predict.zipf_noisy_beta), where the ideal is [0.398](#predict.zipf_noisy_true_beta): noise moves both little.

# %% [markdown]
# ## Yours beside ours
#
# A larger run of your own, on a Colab GPU for instance, is one command: `scaletut sweep book/sweeps/colab.yaml --out mine`.
# Then set `yours = "mine"` above and run this chapter again: the same law predicts your run from its size, and your result is drawn beside.
# Until then the large runs stand in.

# %%
mine = large
if p.yours:
    own_runs = sweep.Store(Path(p.yours)).records()
    mine = pd.DataFrame(sweep.run_table(own_runs))
ours = predicted(mine[["params", "examples"]].to_dict("list"))

# %% mystnb={"image": {"alt": "Predicted against observed loss: a diagonal line, points of the small runs along it, and the runs that are called yours with their 95 percent intervals as vertical bars."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.8)
low, high = np.array([row.loss_intervals["95"] for row in ours.rows]).T
line = [min(mine.loss.min(), low.min()), small.loss.max()]
axes.plot(line, line, color=figures.QUIET, linewidth=1)
axes.plot(
    kept.loss, law.predict(fitted), ".", color=blue, label="small runs"
)
axes.vlines(mine.loss, low, high, color=orange, linewidth=3, alpha=0.5)
axes.plot(mine.loss, [row.loss for row in ours.rows], "X", color=orange,
          label="yours" if p.yours else "the large runs")
axes.set(xscale="log", yscale="log", xlabel="observed loss (nats)",
         ylabel="predicted loss (nats)")
for put in (axes.set_xticks, axes.set_yticks):
    put([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"])
axes.minorticks_off()
axes.legend()
plt.show()

# %% [markdown]
# ## At full scale
#
# The four steps are the same at any size: `scaletut sweep PLAN.yaml --executor ray --address auto` for the small runs, `scaletut fit runs.csv --predict larger.csv` for the prediction, a commit, the large run.
# `scaletut plan fit.json --flops 1e21` says how to spend a budget.
# Leave a factor of ten between the dearest small run and the target at most, or add runs between: the misses above grew with the distance.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: hide the largest networks
#
# Predict the largest of the small networks from those of half its size and less.

# %% tags=["hide-cell"]
largest = small.params.max()
few = small[small.params <= largest / 2]
rest = small[small.params == largest].groupby(["params", "examples"]).loss
target = rest.mean().reset_index()
guess = scaling.predict_runs(
    few[columns].to_dict("list"), target[keys].to_dict("list")
)
for row, loss in zip(guess.rows, target.loss, strict=True):
    print(f"{row.examples:,.0f} images: {row.loss:.3f}, was {loss:.3f}")
assert len(guess.rows) == len(target)

# %% [markdown]
# ### Exercise 2: break the rule of the rates
#
# Train the small networks of the quick plan with one head rate for all widths, and again with the rule.
# What happens to the exponent of the model size?

# %% tags=["hide-cell"]
def exponent(name, head):
    content = sweep.load_plan(book / "book/sweeps/quick_small.yaml")
    content = content.model_dump(exclude_unset=True) | {"seeds": [0]}
    content["lr_rule"] = {**content["lr_rule"], "head_exponent": head}
    broken = sweep.checked_plan(content)
    rows = sweep.run_table(
        sweep.gather(broken, book / "_build" / "sweeps" / name)
    )
    ruled = {name: rows[name] for name in ("params", "examples", "loss")}
    return scaling.fit(ruled, "product", delta=0.01).parameters["alpha"]


with_rule, without = exponent("ruled", 1), exponent("unruled", 0)
print(f"with the rule {with_rule:.3f}, with one rate {without:.3f}")
assert with_rule != without

# %% [markdown]
# ### Exercise 3: drop the floor
#
# Take the floor out of Rosenfeld's law.
# What does it promise for ten times the largest network on ten times the images?

# %% tags=["hide-cell"]
floorless = scaling.fit(
    fitted, "rosenfeld", delta=0.01, fixed={"E": 1e-6}
)
beyond = {"params": [10 * max(at["params"])], "examples": [10 * pool]}
print(f"with a floor    {law.predict(beyond)[0]:.3f}")
print(f"without a floor {floorless.predict(beyond)[0]:.3f}")
assert floorless.predict(beyond)[0] <= law.predict(beyond)[0] + 1e-3

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
# * Small runs told the accuracy of large ones within [1.14 points](#predict.accuracy_miss), and their loss within [8.34 %](#predict.miss), at ten to ninety times their compute.
# * The intervals of the loss held too seldom, because the back-test looked [1.48](#predict.reach_tested) e-folds ahead and the prediction [4.82](#predict.reach_asked) e-folds.
# * Intervals that count witnesses rightly would have held [100 %](#predict.now_held_95), and were wide: small runs tell less than they seem to.
# * A few runs between the small and the large ones mended most of it.
# * To choose between ways to spend, the law was good enough: the plan won.
# * Next: the chapter on spending a budget asks how a plan changes when a model is served to many.

# %%
everything = pd.concat(tables.values())
keep("runs_all", len(everything), "runs")
keep("core_hours", everything.seconds.sum() / 3600, "h")
record = new_record(
    "predict", profile=p.profile, parameters=p.model_dump(),
    data_digest=scaling.as_table(seen).digest, seeds=[p.seed],
    values=numbers, claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
)
saved = chapters.save_record(record).name
print(f"record {saved}, {record.wall_seconds / 60:.1f} min")
