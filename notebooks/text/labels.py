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
# # Labels, augmentation and choice of data
#
# A network is only as good as what it is shown.
# If labels are wrong, few, or dear: what can be done about it, and what does each remedy buy?
#
# **You will be able to**
#
# * measure how the error falls with the number of examples, and estimate the floor below which it will not fall;
# * combine the answers of several unreliable labellers into labels that are better than any of theirs;
# * apply six kinds of augmentation and find out which of them pay for your data and your budget;
# * choose which images to have labelled next, and say whether the choice was worth its trouble;
# * pre-train on images without labels, so that few labels go further;
# * prune a training set, and know when to keep its easy and when its hard images.
#
# **Before you start** you should know how a training run works (the chapter on fine-tuning shows one).
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | Zipf-10, made on the spot | any processor | about a minute | see the receipt | none |
# | `laptop` | CIFAR-10, shrunk to 16 pixels | one processor core | [17.4 min](#labels.run_minutes) | [1.36 GB](#labels.run_peak_memory) | <span class="given">170 MB</span> |
# | `gpu` | CIFAR-10 | a Colab T4 | not recorded yet | not recorded yet | <span class="given">170 MB</span> |
#
# A number with a dotted line under it leads to the run that produced it.
# An interval is the 95 % Student *t* interval of a mean over seeds, unless the text says otherwise.

# %% [markdown]
# ## Set-up
#
# In Colab the next cell installs the library, and leaves Colab's own PyTorch as it is.
# Everywhere else it only looks whether something is missing.

# %%
import importlib.util
import os
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    wheel = os.environ.get("SCALETUT_WHEEL")  # a wheel of a checkout
    home = "git+https://github.com/scale-measured/scale-measured"
    source = Path(wheel).resolve().as_uri() if wheel else home
    # %pip install --quiet "scaletut @ {source}"

needed = ("scaletut", "torch", "sklearn", "pandas", "matplotlib")
absent = [one for one in needed if importlib.util.find_spec(one) is None]
if absent:
    remedy = "pip install 'scaletut[train]'  and restart the kernel"
    raise ModuleNotFoundError(f"missing: {', '.join(absent)}; run  {remedy}")

# %% [markdown]
# Change a parameter and run all cells to ask the same questions of another set-up.
# `data = "folder:my-images"` puts your own images in the place of CIFAR-10.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
data = ""           # cifar10, zipf10, zipf10:option=value,... or folder:PATH; empty: the profile's
train_examples = 0  # images, 0 to 50000; 0: the profile's
epochs = 0          # epochs, 0 to 200; 0: the profile's
width = 0           # channels, 0 to 256; 0: the profile's
side = 0            # pixels, 0 to 32; 0: the profile's
seeds = 0           # runs, 0 to 20; 0: the profile's
seed = 0            # 0 to 2147483647

# %% tags=["prepare"]
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

# %% tags=["prepare"]
from scaletut import chapters, figures, scaling
from scaletut.audit.select import doubt, el2n, k_center, keep
from scaletut.audit.votes import dawid_skene, majority
from scaletut.data import Batches, human_labels, load
from scaletut.models import adapt
from scaletut.records import Claims, Value, format_value
from scaletut.train import fit, predict
from scaletut.train.presets import PRESETS, run_preset
from scaletut.train.selfsupervised import pretrain, quarter_turns

# %% tags=["prepare"]
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "labels", profile=profile, data=data, train_examples=train_examples,
    epochs=epochs, width=width, side=side, seeds=seeds, seed=seed,
)
SEEDS = range(p.seed, p.seed + p.seeds)
FEW = SEEDS[: (p.seeds + 1) // 2]  # where many arms are compared
print(p)

# %% tags=["prepare"]
claims, numbers = Claims("labels"), {}


def keep_value(name, samples, unit="%"):
    """Mean and interval of `samples`, one a seed, noted for the record."""
    numbers[name] = Value.of(np.atleast_1d(samples), unit)
    return numbers[name]


# %% tags=["prepare"]
def shown(value):
    """A value as text, with its interval where there is one."""
    return format_value(value, "value" if value.low is None else "interval")


def gap(better, worse):
    """Mean gain of one arm over another, seed by seed, in points."""
    return float(np.mean(np.subtract(better, worse)))


# %% [markdown]
# ## The data, made small
#
# Every question here needs dozens of networks, so each of them has to be cheap.
# Images of 16 pixels cost a quarter of those of 32; `side = 32` gives the full ones.
# How far the findings change with size is a question that you can answer by running the chapter twice.

# %%
def shrunk(images):
    """An image set at `p.side` pixels: the mean of each square of pixels."""
    n, height, width, _ = images.images.shape
    k, m = height // p.side, width // p.side
    blocks = images.images.reshape(n, p.side, k, p.side, m, 3)
    small = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
    return replace(images, images=small)


# %% [markdown]
# Three sets with three jobs: the **pool** is what may be labelled and trained on, **test** is for the reported figures, and the rows of the pool are kept, because other people's labels come in the order of the whole set.

# %%
whole = load(p.data)
order = np.random.default_rng(0).permutation(len(whole.train))
rows = order[: p.train_examples]
pool = shrunk(whole.train.take(rows))
exam = np.arange(min(2000, len(whole.test), len(pool)))
test = shrunk(whole.test.take(exam))
K = pool.num_classes
pool.images.shape, test.images.shape

# %% mystnb={"image": {"alt": "Grid of the pool's images at the size that the networks see: one row a class, twelve images a row."}}
figure, axes = figures.panels(1, 1, height=5.6)
shelf = [pool.images[pool.labels == k][:12] for k in range(K)]
figures.image_rows(axes, shelf, pool.class_names)
axes.set_title(f"What the networks see: {p.side} × {p.side} pixels")
plt.show()

# %% [markdown]
# All networks are the small speed net of the chapter on fine-tuning, all recipes its own, without augmentation unless that is the question.
# A batch is about a tenth of the images, so that small sets get steps enough.

# %%
FAST = PRESETS["fast"]
PLAIN = replace(FAST.recipe, crop=0, flip="none")


def sized(recipe, n, epochs=p.epochs):
    """The recipe with a batch that fits `n` images."""
    batch = min(256, max(16, 2 ** round(np.log2(n / 10))))
    return replace(recipe, epochs=epochs, batch_size=batch)


# %%
def trained(images, s, recipe=PLAIN, epochs=p.epochs, like=0):
    """A network trained with seed `s`, in batches as for `like` images."""
    recipe = sized(recipe, like or len(images), epochs)
    preset = replace(FAST, width=p.width / 32, recipe=recipe)
    return run_preset(preset, images, s)


# %%
def accuracy(run, images=test):
    """Share (%) of `images` whose largest logit is their label."""
    return 100 * (run.predict(images).argmax(1) == images.labels).mean()


# %% [markdown]
# ## How many examples?
#
# The first remedy for a poor network is more data.
# How far does it carry?
#
# > **Guess first.**
# > You double the number of labelled images.
# > By what share does the error fall, and does it do so each time?
#
# Sets are drawn at random from the pool, one inside the next.
# These runs, without any remedy, are what every later section is compared with.

# %%
SIZES = [len(pool) // 8, len(pool) // 4, len(pool) // 2, len(pool)]


def drawn(n, s):
    """Rows of `n` images drawn at random; a larger draw holds the smaller."""
    return np.random.default_rng(s).permutation(len(pool))[:n]


# %%
plain = {
    (n, s): trained(pool.take(drawn(n, s)), s) for n in SIZES for s in SEEDS
}
base = {n: [accuracy(plain[n, s]) for s in SEEDS] for n in SIZES}

# %%
curve = {n: keep_value(f"error_{n}", 100 - np.array(base[n])) for n in SIZES}
pd.DataFrame({"test error": {n: shown(v) for n, v in curve.items()}})

# %% [markdown]
# A law that fits many learning curves {cite:p}`rosenfeld2020` is a falling power with a floor,
#
# $$ L(n) = E + A\, n^{-\alpha} . $$
#
# Fitting it takes three lines: minimise the squared distance of the logarithms.

# %%
from scipy.optimize import least_squares

n = np.repeat(SIZES, p.seeds)
error = 1 - np.concatenate([base[size] for size in SIZES]) / 100


def law(q, n):
    """E + A n^-alpha; q: log E, log of the rest at the first size, alpha."""
    return np.exp(q[0]) + np.exp(q[1]) * (n / SIZES[0]) ** -q[2]


def distance(q):
    """How far the law is from each run, as a logarithm."""
    return np.log(law(q, n) / error)


by_hand = least_squares(distance, [-3, -1, 0.5]).x

# %% [markdown]
# The library fits the same law, certifies the minimum, and draws the interval of the floor from resampled runs.

# %%
table = {"examples": n, "loss": error, "seed": np.tile(SEEDS, len(SIZES))}
fitted = scaling.fit(table, "power_floor", loss="squared", bootstrap=300)
ours, theirs = law(by_hand, np.array(SIZES)), fitted.predict(SIZES)
pd.DataFrame({"by hand": ours, "library": theirs}, index=SIZES).round(4)

# %%
claims.check(
    "Error falls each time that the number of examples is doubled.",
    all(curve[b].value < curve[a].value for a, b in zip(SIZES, SIZES[1:])),
)
claims.check(
    "The law fitted in three lines and the library's are one curve.",
    np.abs(ours / theirs - 1).max() < 0.01,
);

# %%
floor = fitted.intervals["E"]
low, high = 100 * np.array([floor.low, floor.high])
numbers["floor"] = Value(100 * fitted.parameters["E"], "%", low, high)
keep_value("exponent", fitted.parameters["alpha"], "")
before, after = (curve[n].value for n in SIZES[-2:])
keep_value("doubling", 100 * (1 - after / before))
print(f"floor {low:.1f} to {high:.1f} %, by resampling the runs")

# %% mystnb={"image": {"alt": "Test error in percent against number of training examples, both on logarithmic axes: mean with a 95 percent band over seeds, the fitted falling power with a floor, continued to eight times the examples, and the interval of the floor as a grey band."}}
figure, axes = figures.panels(1, 1)
figures.line_with_band(axes, SIZES, list(curve.values()), "measured")
reach = np.geomspace(SIZES[0], 8 * SIZES[-1], 60)
orange, look = figures.PALETTE[1], {"color": figures.QUIET, "alpha": 0.15}
axes.plot(reach, 100 * fitted.predict(reach), "--", color=orange, label="law")
axes.axhspan(max(low, 1e-3), high, label="floor, 95 %", **look)
axes.set(xscale="log", yscale="log", ylim=(0.5 * after, None))
ticks, marks = [*SIZES, 8 * SIZES[-1]], [round(v.value) for v in curve.values()]
axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
axes.set_yticks(marks, marks, minor=False)
axes.minorticks_off()
axes.set(xlabel="training examples", ylabel="test error (%)")
axes.set_title("Error against examples")
axes.legend()
plt.show()

# %% [markdown]
# On logarithmic axes the points lie nearly on a line.
# From half of the pool to the whole of it the error falls from [55.2 ± 1.2 %](#labels.error_1500) to [49.8 ± 0.8 %](#labels.error_3000).
#
# And the floor?
# The fit puts it at [16 %](#labels.floor), and its interval, the grey band, begins at zero: four sizes within a factor of eight cannot tell a floor from a line that goes on falling.
# Whoever wants to know the floor has to measure further out; whoever wants to know the next doubling can read it off.
#
# > **Takeaway.**
# > The last doubling of the labelled images took away [9.66 %](#labels.doubling) of the error: the law foretells the next step, not the end.

# %% [markdown]
# ## Labels from unreliable people
#
# Three people label the whole pool.
# One is careful, one mixes up each class with the next, one often guesses; each has a *confusion matrix*, the chance to answer $l$ where $k$ is right.
# Here we make them up, so that we know the truth.

# %%
eye, following = np.eye(K), np.roll(np.eye(K), 1, axis=1)
guess = (1 - eye) / (K - 1)
PEOPLE = {
    "careful": 0.75 * eye + 0.25 * guess,
    "mixes up": 0.55 * eye + 0.45 * following,
    "guesses": 0.5 * eye + 0.5 * guess,
}


# %%
def answers(labels, seed):
    """What the three answer, int (n, 3)."""
    draw = np.random.default_rng(seed)
    odds = np.stack([chances[labels] for chances in PEOPLE.values()], axis=1)
    number = draw.random((*odds.shape[:2], 1))
    return (number > odds.cumsum(axis=2)).sum(axis=2)


# %%
votes = answers(pool.labels, p.seed)
pd.DataFrame(votes[:4], columns=list(PEOPLE)).assign(right=pool.labels[:4])

# %% [markdown]
# > **Guess first.**
# > The best of the three is right three times in four.
# > Can the three together be better than the best, though the other two are right only every second time?
#
# **A majority** counts answers.
# **Dawid and Skene** {cite:p}`dawid1979` weigh them: were the confusion matrices known, Bayes' rule would give each class its probability; were the classes known, counting would give the matrices.
# So the two are estimated in turn, from the majority on.

# %%
given = np.eye(K)[votes]  # (n, 3, K)
q = given.mean(axis=1)  # the share of the votes to start with
for _ in range(60):
    counts = np.einsum("nk,njl->jkl", q, given)
    chances = counts / np.maximum(counts.sum(2, keepdims=True), 1e-300)
    logs = np.log(np.maximum(chances, 1e-300))
    joint = np.log(q.mean(0)) + np.einsum("njl,jkl->nk", given, logs)
    q = np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))

# %%
ds, most = dawid_skene(votes, K), majority(votes, K, seed=p.seed)
same = (ds.labels == q.argmax(1)).mean()
sources = dict(zip(PEOPLE, votes.T)) | {
    "majority": most.labels, "Dawid–Skene": ds.labels,
}
right = {who: (labels == pool.labels).mean() for who, labels in sources.items()}
pd.DataFrame({"labels right (%)": 100 * pd.Series(right)}).round(1)

# %%
best_alone = max(right[who] for who in PEOPLE)
keep_value("best_labeller", 100 * best_alone)
keep_value("majority_labels", 100 * right["majority"])
keep_value("ds_labels", 100 * right["Dawid–Skene"])
ahead = 100 * (right["Dawid–Skene"] - max(right["majority"], best_alone))

# %%
claims.check(
    "The ten lines and the library's Dawid–Skene agree on nearly all labels.",
    same > 0.97, margin=100 * (same - 0.97), unit="points",
)
claims.check(
    "Dawid–Skene's labels are better than the majority's, "
    "and than those of the best labeller alone.",
    ahead > 0, margin=ahead, unit="points",
);

# %% [markdown]
# What did it learn about the second labeller?
# On the left how the matrix was made, on the right what was estimated without a single right label.

# %% mystnb={"image": {"alt": "Two heat maps of the confusion matrix of the labeller who mixes up each class with the next, in percent: the true one, and the one that Dawid and Skene's method estimated from the answers alone. Both have a strong diagonal and a strong line beside it."}}
figure, pair = figures.panels(1, 2, height=4.2)
matrices = {"as made": PEOPLE["mixes up"], "as estimated": ds.confusion[1]}
for axes, (name, matrix) in zip(pair, matrices.items()):
    figures.heat_map(axes, 100 * matrix, pool.class_names)
    axes.set_title(name)
pair[1].set_yticklabels([])
plt.show()

# %% [markdown]
# Better labels are a means.
# What are they worth to a network that is trained on them?

# %%
LABELLED = SIZES[2]


def taught(labels, s):
    """Test accuracy (%) of a network trained on these labels of the pool."""
    told = replace(pool, labels=labels).take(drawn(LABELLED, s))
    return accuracy(trained(told, s))


# %%
scores = {who: [taught(told, s) for s in FEW] for who, told in sources.items()}
scores["the truth"] = base[LABELLED][: len(FEW)]

# %%
keys = ("careful", "mixes", "guesses", "majority", "ds", "truth")
lessons = {
    who: keep_value(f"taught_{key}", got)
    for key, (who, got) in zip(keys, scores.items())
}
pd.DataFrame({"test accuracy": {who: shown(v) for who, v in lessons.items()}})

# %% mystnb={"image": {"alt": "Test accuracy in percent, a dot with an interval for each source of the labels: the three labellers alone, their majority, Dawid and Skene's combination, and the true labels on top of all."}}
figure, axes = figures.panels(1, 1, height=3.0)
figures.dots_with_intervals(axes, list(lessons), list(lessons.values()))
axes.set(xlabel="test accuracy (%), mean and 95 % interval over seeds")
axes.set_title("Whose labels taught the network?")
plt.show()

# %%
worst = min(gap(scores["Dawid–Skene"], scores[who]) for who in PEOPLE)
claims.check(
    "A network learns more from the combined labels than from any "
    "of the three labellers alone.",
    worst > 0, margin=worst, unit="points",
);

# %% [markdown]
# Made-up people err as they were made to.
# Real ones labelled CIFAR-10 again {cite:p}`wei2022`: `random1` is one person's answer, `aggregate` the majority of three, `worst` a wrong answer wherever there was one.
# The authors publish these labels for non-commercial use (CC BY-NC 4.0), so they are not part of this book; the next cell uses them if they are in your data folder.

# %%
from scaletut.data.cifar10n import locate

there = whole.train.name == "cifar10" and locate()
people = ("worst", "random1", "aggregate") if there else ()
people = {kind: human_labels(kind)[rows] for kind in people}

# %%
told = {}
for kind, labels in people.items():
    good = 100 * (labels == pool.labels).mean()
    good = keep_value(f"people_{kind}_right", good)
    score = keep_value(f"people_{kind}", [taught(labels, s) for s in FEW])
    told[kind] = {"labels right": shown(good), "test accuracy": shown(score)}
pd.DataFrame(told, dtype=object).T

# %% [markdown]
# One real person labelled [82.5 %](#labels.people_random1_right) of these images as CIFAR-10 has them, the majority of three [90.6 %](#labels.people_aggregate_right), and the network that learned from the majority reached [43 ± 4 %](#labels.people_aggregate) against [40.5 ± 0.3 %](#labels.people_random1).
#
# With the three people that we made up, counting votes hardly helps: the majority is right in [73.4 %](#labels.majority_labels), about as often as the careful one alone, [73.1 %](#labels.best_labeller), for two poor votes can outdo a good one.
# Weighing them gives [89.2 %](#labels.ds_labels), because the second labeller's mistakes are of one kind, and so his answers, though wrong every second time, say a great deal.
#
# Note what the method cannot do: if all labellers shared the same mistake, no answers of theirs could show it.
# It takes their errors to be independent once the right class is given.
#
# > **Takeaway.**
# > Weighed by Dawid and Skene's rule, three unreliable labellers taught the network nearly as much as the truth: [42.7 ± 1.3 %](#labels.taught_ds) against [45.2 ± 1.2 %](#labels.taught_truth), where the best of them alone gave [36 ± 9 %](#labels.taught_careful).

# %% [markdown]
# ## Augmentation
#
# A shifted cat is a cat.
# Each epoch may show another version of an image, and the network then has to find what all versions share.
# Six kinds are tried: random **crop**, **flip**, **rotation**, **scaling**, **cut-out** {cite:p}`devries2017` and **mix-up** {cite:p}`zhang2018`.
#
# Mix-up is the odd one out: it blends two images, and their labels with the same share $\lambda$, drawn from a Beta distribution.

# %%
images = torch.randn(8, p.side, p.side, 3)
targets = F.one_hot(torch.arange(8) % K, K).float()
share = torch.distributions.Beta(0.2, 0.2).sample((8,))

# %%
a, b = share.view(8, 1, 1, 1), share.view(8, 1)
mixed_images = a * images + (1 - a) * images.roll(1, 0)
mixed_targets = b * targets + (1 - b) * targets.roll(1, 0)

# %%
from scaletut.data.batches import mixed

x, y = mixed(images, targets, share)
off = [(x - mixed_images).abs().max(), (y - mixed_targets).abs().max()]
claims.check(
    "Mix-up in two lines and the library's are equal.",
    max(off).item() < 1e-5,
);

# %%
KINDS = {
    "crop": {"crop": p.side // 8},
    "flip": {"flip": "random"},
    "rotation": {"rotation": 15},
    "scaling": {"zoom": 0.2},
    "cut-out": {"cutout": 3 * p.side // 8},
    "mix-up": {"mixup": 0.2},
}
KINDS["all six"] = dict(one for kind in KINDS.values() for one in kind.items())

# %%
def look(options, n=12):
    """The first images of the pool after augmentation, uint8 (n, h, w, 3)."""
    how = {"augment": replace(PLAIN, **options).augment, "seed": p.seed}
    how |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}  # cut-out fills with grey
    x, _ = next(Batches(pool.take(range(n)), batch_size=n, **how).epoch(0))
    x = (255 * (x / 2 + 0.5)).clamp(0, 255)
    return x.permute(0, 2, 3, 1).byte().numpy()


# %% mystnb={"image": {"alt": "Rows of the same twelve training images: as they are, and after each of the six kinds of augmentation alone and all together."}}
figure, axes = figures.panels(1, 1, height=4.6)
looks = [look({}), *(look(options) for options in KINDS.values())]
figures.image_rows(axes, looks, ["as it is", *KINDS])
plt.show()

# %% [markdown]
# > **Guess first.**
# > Which kind gains most on few images?
# > And do six gains add up?
#
# A network that has not yet learned its images by heart gains nothing from seeing more versions of them, so these runs are longer: twice the passes, for the plain runs too.

# %%
LONG = 2 * p.epochs
AUGMENTED = SIZES[:1] if p.profile == "quick" else SIZES[:3]


def augmented(options, n, s):
    """Test and training accuracy (%) after a long augmented run."""
    run = trained(pool.take(drawn(n, s)), s, replace(PLAIN, **options), LONG)
    return accuracy(run), 100 * run.history[-1].accuracy


# %%
arms = [("none", n) for n in AUGMENTED]
arms += [(kind, n) for kind in KINDS for n in AUGMENTED]
marks = {
    (kind, n): np.array([augmented(KINDS.get(kind, {}), n, s) for s in FEW])
    for kind, n in arms
}

# %%
def gain(kind, n):
    """Gain in test accuracy (points) over no augmentation, seed by seed."""
    name = f"{kind.replace('-', '').replace(' ', '_')}_{n}"
    ahead = marks[kind, n][:, 0] - marks["none", n][:, 0]
    return keep_value(name, ahead, "points")


effect = {n: {kind: gain(kind, n) for kind in KINDS} for n in AUGMENTED}
pd.DataFrame(effect).map(shown)

# %% mystnb={"image": {"alt": "Gain in test accuracy over no augmentation, in points, for six kinds alone and all together: three dots with intervals a kind, one for each size of the training set, around a line at zero."}}
layout = {"height": 3.4, "sharex": True, "sharey": True, "squeeze": False}
figure, ((*panes,),) = figures.panels(1, len(AUGMENTED), **layout)
for axes, n in zip(panes, AUGMENTED):
    figures.dots_with_intervals(axes, list(effect[n]), list(effect[n].values()))
    axes.axvline(0, color=figures.QUIET, linewidth=1)
    axes.set(title=f"{n:,} images")
panes[len(panes) // 2].set_xlabel("gain in test accuracy (points)")
plt.show()

# %%
smallest = AUGMENTED[0]
small = {kind: value.value for kind, value in effect[smallest].items()}
together, best = small.pop("all six"), max(small.values())
by_heart = keep_value("by_heart_none", marks["none", smallest][:, 1]).value
with_six = keep_value("by_heart_all", marks["all six", smallest][:, 1]).value

# %%
claims.check(
    "Gains do not add up: on the smallest set, all six together gain less "
    "than the best of them alone.",
    together < best, margin=best - together, unit="points",
)
claims.check(
    "With all six, the training images themselves are learned less well.",
    with_six < by_heart, margin=by_heart - with_six, unit="points",
);

# %% [markdown]
# Here, on photographs, each kind gains by itself; crops and flips gain most, and no less at the largest of the three sizes than at the smallest.
# All six together gain less than the best of them: [4 ± 6 points](#labels.all_six_1500) against [9 ± 2 points](#labels.crop_1500).
# The reason stands in the second claim.
# In these passes the plain network comes to know [95 %](#labels.by_heart_none) of its training images, the one with all six [31 %](#labels.by_heart_all): it is still busy with the first lesson, and would need many more passes before the variety pays.
#
# On the generated patterns of `quick` a mirrored pattern is another pattern, and flips do harm.
# An augmentation is a statement about your data, that such a change leaves the class alone, and a statement can be false.
#
# > **Takeaway.**
# > At the smallest size, crops were worth [6 ± 7 points](#labels.crop_375), flips [6 ± 3 points](#labels.flip_375), and all six together [1 ± 8 points](#labels.all_six_375) ([n = 3](#labels.crop_375)): add a kind when the network has learned the last one, and measure each.

# %% [markdown]
# ## Which images to have labelled
#
# Labels cost money, images often do not.
# Suppose an eighth of the pool is labelled, and there is money for a second eighth, and later for two more.
# Random images?
# Or those that the network is unsure of, or those unlike all that it knows?
#
# **Margin** {cite:p}`scheffer2001`: the gap between the two largest probabilities; the smaller, the more the network is torn.

# %%
first = plain[SIZES[0], p.seed]
logits = first.predict(pool)
odds = np.exp(logits - logits.max(1, keepdims=True))
odds = np.sort(odds / odds.sum(1, keepdims=True), axis=1)
torn = 1 - (odds[:, -1] - odds[:, -2])
print(f"largest difference {np.abs(torn - doubt(logits)).max():.1e}")

# %% [markdown]
# **Diversity** {cite:p}`sener2018`: in the space of what the last layer sees, take again and again the image that is farthest from all that are chosen.

# %%
from scaletut.models.adapters import head_name


def features(run, images):
    """What the last layer sees: float32 (n, features)."""
    body = adapt(run.model, "head", 1, seed=0)
    path, _, last = head_name(body).rpartition(".")
    setattr(body.get_submodule(path), last, nn.Identity())
    return predict(body, images, run.normalisation)


# %%
seen, space = drawn(SIZES[0], p.seed), features(first, pool)
far = np.linalg.norm(space[:, None] - space[None, seen[:200]], axis=2).min(1)
picks = []
for _ in range(5):
    picks.append(int(far.argmax()))
    far = np.minimum(far, np.linalg.norm(space - space[picks[-1]], axis=1))
print(picks)

# %%
theirs = k_center(space, 5, chosen=seen[:200]).tolist()
claims.check(
    "Margin and farthest-first in a few lines choose what the library's do.",
    np.allclose(torn, doubt(logits)) and picks == theirs,
);

# %% [markdown]
# Now the whole campaign, for each seed anew: label, train, choose, label.
# Random choice is the learning curve from above.

# %%
def chosen(rule, run, known, k):
    """Rows of the next `k` images to have labelled."""
    rest = np.setdiff1d(np.arange(len(pool)), known)
    if rule == "margin":
        return rest[np.argsort(-doubt(run.predict(pool.take(rest))))[:k]]
    return k_center(features(run, pool), k, known)


# %%
def campaign(rule, s):
    """Accuracy (%) and error (%) on the images to come, a round each."""
    known, run, scores = drawn(SIZES[0], s), plain[SIZES[0], s], []
    for size in SIZES[1:3]:
        new = chosen(rule, run, known, size - len(known))
        wrong = 100 - accuracy(run, pool.take(new))
        known = np.concatenate([known, new])
        run = trained(pool.take(known), s)
        scores.append((accuracy(run), wrong))
    return scores


# %%
RULES = ("margin", "diversity")
campaigns = {
    rule: np.array([campaign(rule, s) for s in SEEDS]) for rule in RULES
}

# %%
active = {"random": np.stack([base[n] for n in SIZES[1:3]], axis=1)}
active |= {rule: campaigns[rule][..., 0] for rule in RULES}
mean = {
    rule: {
        n: keep_value(f"{rule}_{n}", got)
        for n, got in zip(SIZES[1:3], scores.T)
    }
    for rule, scores in active.items()
}
pd.DataFrame(mean).map(shown).T

# %%
for rule in RULES:
    ahead = active[rule][:, 1] - active["random"][:, 1]
    keep_value(f"{rule}_gain", ahead, "points")
    keep_value(f"{rule}_wrong", campaigns[rule][:, 0, 1])
wrong = [100 - accuracy(plain[SIZES[0], s], pool) for s in SEEDS]
keep_value("random_wrong", wrong);

# %% mystnb={"image": {"alt": "Test accuracy in percent against number of labelled images for random choice, margin and diversity, with bands for the 95 percent interval over seeds; all three start at the same point."}}
figure, axes = figures.panels(1, 1)
for number, (rule, values) in enumerate(mean.items()):
    begin = Value.of(base[SIZES[0]], "%")
    heights = [begin, *values.values()]
    figures.line_with_band(axes, SIZES[:3], heights, rule, number)
axes.set(xscale="log", xlabel="labelled images", ylabel="test accuracy (%)")
axes.set_xticks(SIZES[:3], [f"{n:,}" for n in SIZES[:3]], minor=False)
axes.set_title("Chosen labels against random ones")
axes.minorticks_off()
axes.legend()
plt.show()

# %%
harder = numbers["margin_wrong"].value - numbers["random_wrong"].value
claims.check(
    "The images chosen by margin are ones that the network gets wrong "
    "more often than random ones.",
    harder > 0, margin=harder, unit="points",
)

# %% [markdown]
# The network chose what it finds hard: before they were labelled it got [80 %](#labels.margin_wrong) of the images chosen by margin wrong, and [64 %](#labels.random_wrong) of random ones.
# And yet the labels that it asked for taught it no more: against random choice, after two rounds, margin gained [−0.1 ± 1.6 points](#labels.margin_gain) and diversity [-2 ± 3 points](#labels.diversity_gain), and neither interval leaves zero out.
#
# What is hard is not always what teaches.
# With few labels the hard images are the odd ones, and a network that does not know the rule yet gains little from its exceptions; choosing by doubt is known to pay when the network is already good and many images are alike.
# Random choice has one more merit that no rule has: what it labels is a fair sample, which can also be measured on.
#
# > **Takeaway.**
# > At this size active learning was not worth its trouble: [44.7 %](#labels.margin_1500) by margin, [43 %](#labels.diversity_1500) by diversity, [44.8 %](#labels.random_1500) at random ([n = 5](#labels.random_1500)).

# %% [markdown]
# ## Images without labels
#
# The rest of the pool has no labels, but it has images.
# A task that labels itself: turn each image by a random number of quarter turns, and let the network say by how many {cite:p}`gidaris2018`.
# To know which way is up, it has to see what there is.

# %%
four = quarter_turns(pool.take([0, 1, 2, 3]))
turned = [np.rot90(pool.images[i], k) for i in range(4) for k in range(4)]
claims.check(
    "The turned set holds each image in its four orientations.",
    np.array_equal(four.images, turned)
    and four.labels.tolist() == 4 * [0, 1, 2, 3],
);

# %% mystnb={"image": {"alt": "Four training images, one a row, each in four orientations: upright, and turned by one, two and three quarters."}}
figure, axes = figures.panels(1, 1, height=2.8)
titles = [pool.class_names[k] for k in pool.labels[:4]]
figures.image_rows(axes, np.split(four.images, 4), titles)
plt.show()

# %% [markdown]
# Pre-training sees the whole pool without its labels.
# Then both networks, the pre-trained one and one from random weights, learn from the same few labelled images by the same recipe.

# %%
def pretrained(s):
    """A network trained to tell turns, without labels."""
    images = pool.take(drawn(SIZES[3], s))
    recipe = sized(replace(PLAIN, crop=p.side // 16), 4 * len(images))
    net = plain[SIZES[0], s].model  # only its shape and whitening are used
    return pretrain(adapt(net, "scratch", K, s), images, recipe, s)


# %%
sources = {s: pretrained(s) for s in FEW}
told = [100 * sources[s].history[-1].accuracy for s in FEW]
print(f"turns told: {shown(keep_value('turns', told))}; by guessing: 25 %")

# %%
COUNTS = (5,) if p.profile == "quick" else (5, 20)
WAYS = {"pre-trained": "full", "from scratch": "scratch"}
TAME = replace(PLAIN, head_lr=PLAIN.head_lr / 10)  # trained features are large


def tuned(way, count, s):
    """Test accuracy (%) after learning from `count` labels a class."""
    shots, source = pool.per_class(count, seed=s), sources[s]
    net, recipe = adapt(source.model, way, K, s), sized(TAME, len(shots), 20)
    run = fit(net, shots, recipe, s, normalisation=source.normalisation)
    return accuracy(run)


# %%
few_labels = {
    (name, count): np.array([tuned(way, count, s) for s in FEW])
    for name, way in WAYS.items() for count in COUNTS
}
table = {key: shown(Value.of(got, "%")) for key, got in few_labels.items()}
pd.Series(table).unstack(0).rename_axis("labels a class")

# %%
for count in COUNTS:
    ours, theirs = (few_labels[name, count] for name in WAYS)
    keep_value(f"pretrained_{count}", ours)
    keep_value(f"scratch_{count}", theirs)
    keep_value(f"pretraining_gain_{count}", ours - theirs, "points")

# %%
above = np.mean(told) - 25
claims.check(
    "Without a single label, the network learns to tell turns better than "
    "by guessing.",
    above > 10, margin=above - 10, unit="points",
);

# %% [markdown]
# The network tells [64.13 %](#labels.turns) of the turns, so it has learned something about what is in the images.
# What it has learned moves the accuracy by [2 ± 4 points](#labels.pretraining_gain_5) at five labels a class and [2 ± 2 points](#labels.pretraining_gain_20) at twenty; with three seeds neither interval leaves zero out, so this is a hint and no finding.
# The pre-training saw only as many images as the pool holds, for a few passes; with millions of images it becomes the main source of what a network knows.
#
# > **Takeaway.**
# > With five labels a class, pre-training without labels led to [23 %](#labels.pretrained_5) and random weights to [21 %](#labels.scratch_5): cheap, and not yet worth much at this size.

# %% [markdown]
# ## Fewer images, chosen well
#
# Is a training set larger than it needs to be?
# If so, which images can go?
# Sorscher and others {cite:p}`sorscher2022` found that the answer turns over: from a *large* set the easy images can go, which teach little new; from a *small* one the hard images must, or the network never learns the rule.
#
# > **Guess first.**
# > You may keep a fifth of a small set.
# > Easy images, hard images, or random ones?
#
# How hard an image is, is told by networks early in their training: the length of the error vector, averaged over networks {cite:p}`paul2021`.

# %%
logits = first.predict(pool)
odds = np.exp(logits - logits.max(1, keepdims=True))
odds /= odds.sum(1, keepdims=True)
by_hand = np.linalg.norm(odds - np.eye(K)[pool.labels], axis=1)

# %%
claims.check(
    "Difficulty in three lines and the library's are equal.",
    np.allclose(by_hand, el2n(logits, pool.labels)),
);

# %%
def difficulty(images, s):
    """EL2N, the mean over two networks that were trained for a short while."""
    scores = []
    for number in range(2):
        run = trained(images, 100 + 2 * s + number, epochs=2)
        scores.append(el2n(run.predict(images), images.labels))
    return np.mean(scores, axis=0)


# %% mystnb={"image": {"alt": "Two panels of images of the first classes, one row a class: the easiest by the networks' error on the left, the hardest on the right. Easy ones look alike, hard ones are odd."}}
hard = difficulty(pool, p.seed)
figure, pair = figures.panels(1, 2, height=3.2)
for axes, rank, name in zip(pair, (hard, -hard), ("easiest", "hardest")):
    line = pool.take(np.argsort(rank))
    ends = [line.images[line.labels == k][:8] for k in range(min(K, 6))]
    figures.image_rows(axes, ends, pool.class_names[: len(ends)])
    axes.set_title(name)
plt.show()

# %% [markdown]
# Each class keeps its share of images, and all arms of one size take as many steps as the whole set would in half the passes, so that a smaller set is not punished by a shorter training.

# %%
SHARES = (0.2, 0.8) if p.profile == "quick" else (0.2, 0.4, 0.6, 0.8)
PRUNED, ARMS = (SIZES[0], SIZES[2]), ("easiest", "hardest", "random")


def pruned(images, hard, rule, share, s):
    """Test accuracy (%) after training on the share that `rule` keeps."""
    rows = keep(hard, share, rule, labels=images.labels, seed=s)
    passes = p.epochs / 2 / share
    run = trained(images.take(rows), s, epochs=passes, like=len(images))
    return accuracy(run)


# %%
outcome = {(n, rule): [] for n in PRUNED for rule in ARMS}
for n, s in ((n, s) for n in PRUNED for s in FEW):
    images = pool.take(drawn(n, s))
    hard = difficulty(images, s)
    for rule in ARMS:
        scores = [pruned(images, hard, rule, share, s) for share in SHARES]
        outcome[n, rule].append(scores)
outcome = {key: np.array(scores) for key, scores in outcome.items()}

# %%
kept = {
    (n, rule): {
        share: keep_value(f"{rule}_{n}_{round(100 * share)}", scores[:, i])
        for i, share in enumerate(SHARES)
    }
    for (n, rule), scores in outcome.items()
}
pd.DataFrame(kept).map(shown).T

# %% mystnb={"image": {"alt": "Two panels, for a small and a large training set: test accuracy in percent against the share of images kept, for keeping the easiest, the hardest and random ones, with 95 percent bands. Where little is kept the hardest are far below; the lines draw together as more is kept."}}
figure, pair = figures.panels(1, 2, sharey=True)
for axes, n in zip(pair, PRUNED):
    for number, rule in enumerate(ARMS):
        x, y = 100 * np.array(SHARES), list(kept[n, rule].values())
        figures.line_with_band(axes, x, y, rule, number)
    axes.set(xlabel="images kept (%)", title=f"from {n:,} images")
pair[0].set_ylabel("test accuracy (%)")
pair[1].legend(loc="lower right")
plt.show()

# %% [markdown]
# Where does the better rule turn over?
# Between two shares the lead of the hardest over the easiest is taken as a straight line.

# %%
def turnover(shares, leads):
    """Share at which the lead turns positive for good; nan if it never does."""
    below = np.flatnonzero(leads <= 0)
    if not len(below) or below[-1] == len(leads) - 1:
        return np.nan if len(below) else shares[0]
    i = below[-1]
    step = leads[i] / (leads[i] - leads[i + 1])
    return shares[i] + (shares[i + 1] - shares[i]) * step


# %%
leads = {n: outcome[n, "hardest"] - outcome[n, "easiest"] for n in PRUNED}
mean_leads = {n: lead.mean(axis=0) for n, lead in leads.items()}
turns = {n: turnover(SHARES, lead) for n, lead in mean_leads.items()}
table = pd.DataFrame(mean_leads, index=SHARES)
table.T.round(1).assign(turns=turns)

# %%
for n in PRUNED:
    keep_value(f"lead_{n}_20", leads[n][:, 0], "points")
    keep_value(f"lead_{n}_80", leads[n][:, -1], "points")
rises = min(np.mean(lead[:, -1] - lead[:, 0]) for lead in leads.values())
behind = -leads[PRUNED[0]][:, 0].mean()

# %%
claims.check(
    "The less is kept, the worse it is to keep the hardest: from either "
    "size, its lead over the easiest grows with the share that is kept.",
    rises > 0, margin=rises, unit="points",
)
claims.check(
    "Of a small set, an easy fifth teaches more than a hard fifth.",
    behind > 0, margin=behind, unit="points",
);

# %% [markdown]
# From either set, keeping a hard fifth is the worst that one can do: from the larger one it leads to [14.5 %](#labels.hardest_1500_20), where an easy fifth leads to [29 %](#labels.easiest_1500_20) and a random one to [26.2 %](#labels.random_1500_20).
# The lead of the hardest rises with the share that is kept, from [-15 points](#labels.lead_1500_20) to [−5.0 points](#labels.lead_1500_80) in the larger set and from [-5 points](#labels.lead_375_20) to [0.3 points](#labels.lead_375_80) in the smaller one, where the two lines meet near the right edge.
# In the larger set they do not meet within the shares that were tried.
#
# So we see the first half of what Sorscher and others describe, that from few images the easy ones must stay, and not the second, that from many images the hard ones must.
# On photographs, thousands of images for a network of this size are still few.
# The generated patterns of `quick` repeat themselves far more, and there the rule turns over within the figure.
#
# How many would be many?
# In the setting of their theory the whole turn is seconds of work (`benchmarks/audit_pruning.py perceptron`): a linear student learns from a linear teacher in <span class="given">100</span> dimensions, and an example is hard when it lies near the teacher's plane.
# Of <span class="given">4</span> examples a dimension the hard fifth leaves an error of [43.8 ± 0.4 %](#labels.perceptron.hardest_4_20), the easy fifth [14.7 ± 0.4 %](#labels.perceptron.easiest_4_20); of <span class="given">64</span> it is [0.74 ± 0.04 %](#labels.perceptron.hardest_64_20) against [2.06 ± 0.08 %](#labels.perceptron.easiest_64_20), and a random fifth leaves [3.6 ± 0.2 %](#labels.perceptron.random_64_20).
# The rule turns over at [16.8 ± 0.9](#labels.perceptron.turnover_20) examples a dimension when a fifth is kept, and at [7.8 ± 0.7](#labels.perceptron.turnover_50) when half is.
# The chapter's network has more parameters than its sets have images: by this measure they lie on the side where easy images win, and there we found them.
# Up to <span class="given">24,000</span> images, for which the chapter has no time, it stays so (`benchmarks/audit_pruning.py images`), and the lead shrinks as the theory says: keeping the hardest four fifths instead of the easiest changes the accuracy by [−4 ± 2 points](#labels.images.lead_6000_80) from <span class="given">6,000</span> images and by [−1.3 ± 1.0 points](#labels.images.lead_24000_80) from <span class="given">24,000</span>, keeping two fifths by [−24 ± 3 points](#labels.images.lead_6000_40) and [−17 ± 5 points](#labels.images.lead_24000_40).
# A size at which the hardest win on photographs was not reached.
#
# > **Takeaway.**
# > Keep the easy images when you keep few: [29 %](#labels.easiest_1500_20) against [14.5 %](#labels.hardest_1500_20) at a fifth of the larger set; and run the comparison on your own data before you believe either rule.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: how many labellers?
#
# Ask three, five and nine people who are each right three times in five and err evenly.
# How does the share of right labels of the majority grow?

# %% tags=["hide-cell"]
odds = (0.6 * eye + 0.4 * guess).cumsum(1)[pool.labels]
number, found = np.random.default_rng(p.seed).random((9, len(pool), 1)), {}
said = (number > odds).sum(axis=2).T
for asked in (3, 5, 9):
    agreed = majority(said[:, :asked], K).labels
    found[asked] = (agreed == pool.labels).mean()
    print(f"{asked} people: {100 * found[asked]:.1f} % right")
# Wrong answers scatter over the other classes, right ones meet in one,
# so even poor labellers soon agree on the truth.
assert found[3] < found[5] < found[9]

# %% [markdown]
# ### Exercise 2: does Dawid–Skene know how sure it is?
#
# `ds.probabilities` says how likely each label is.
# Throw away the half of the images that it is least sure of: how many labels are right in the half that stays?

# %% tags=["hide-cell"]
sure = ds.probabilities.max(1)
top = sure >= np.median(sure)
surer = (ds.labels == pool.labels)[top].mean()
print(f"{100 * right['Dawid–Skene']:.1f} % of all", end=", ")
print(f"{100 * surer:.1f} % of the surer half")
# The probabilities are a price list: they say which labels to buy again.
assert surer > right["Dawid–Skene"]

# %% [markdown]
# ### Exercise 3: what does a random choice miss?
#
# Compare the classes of the images chosen by margin with those of random ones.
# Does the network ask for some classes more than for others?

# %% tags=["hide-cell"]
known = drawn(SIZES[0], p.seed)
asked = chosen("margin", first, known, SIZES[0])
fair = drawn(2 * SIZES[0], p.seed)[SIZES[0]:]
counts = {"margin": pool.take(asked), "random": pool.take(fair)}
counts = {name: images.class_counts() for name, images in counts.items()}
print(pd.DataFrame(counts, index=pool.class_names).T)
# It asks for what it confuses.
# A set built this way is no longer a fair sample: never measure on it.
assert len(np.intersect1d(asked, known)) == 0 and counts["margin"].std() > 0

# %% [markdown]
# ### Exercise 4: prune with wrong labels
#
# Give a fifth of the pool wrong labels and score the difficulty again.
# What would "keep the hardest" keep?

# %% tags=["hide-cell"]
draw = np.random.default_rng(p.seed)
wrong = draw.random(len(pool)) < 0.2
other = (pool.labels + draw.integers(1, K, len(pool))) % K
dirty = replace(pool, labels=np.where(wrong, other, pool.labels))
fifth = keep(difficulty(dirty, p.seed), 0.2, "hardest", labels=dirty.labels)
shares = 100 * wrong.mean(), 100 * wrong[fifth].mean()
print("wrong labels: {:.0f} % of all, {:.0f} % of the hardest".format(*shares))
# The hardest images of a dirty set are its mistakes:
# clean before you prune, or keep the hardest to look at them.
assert shares[1] > 1.5 * shares[0]

# %% [markdown]
# ## What was claimed
#
# Each line is a comparison that the cells above have made, on this data, just now.
# They are worded so that they hold on generated patterns as well as on photographs.

# %%
# NBVAL_CHECK_OUTPUT
claims.table()

# %% [markdown]
# And by how much, for those that can be told in numbers:

# %%
claims.margins()

# %% [markdown]
# ## What we saw, and where next
#
# * The error falls by a power of the number of examples; a few sizes foretell the next one, not the floor.
# * Several poor labellers together can be nearly as good as the truth, if each one's errors are modelled and not only counted.
# * Augmentation pays where the network has learned its images by heart, and kinds that each gain do not add up.
# * What a network finds hard is not what teaches it most: at this size neither choosing labels by doubt nor keeping hard images beat a random draw.
# * Images without labels helped a little at best, at this size.
#
# Each of these is a statement about a small network, small images and a short training.
# Change `side`, `width`, `train_examples` and `epochs`, and see which of them change with size: that is the question of this book.

# %%
from scaletut.records import new_record, peak_memory

record = new_record(
    "labels", profile=p.profile, parameters=p.model_dump(), values=numbers,
    data_digest=pool.digest, seeds=list(SEEDS), claims=claims.results,
    wall_seconds=time.perf_counter() - started, dtype=first.execution,
    peak_memory_bytes=peak_memory(),
)
saved = chapters.save_record(record)
print(f"record {saved.name}, {record.wall_seconds / 60:.1f} min")
