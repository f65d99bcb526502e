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
# # Fine-tune a CNN on CIFAR-10
#
# How good does a small convolutional net become on a processor core or two?
# Which parts of its recipe are worth their trouble?
# And what are weights that were trained on something else worth, when labels are few?
#
# **You will be able to**
#
# * count what a network costs, layer by layer, and hold the count against PyTorch and against the clock;
# * build a residual net in plain PyTorch and prove it equal to another one;
# * compare recipes fairly: at equal time, over several seeds, with intervals;
# * find out what one ingredient of a recipe buys;
# * write down accuracy, precision, recall, F1, cross-entropy and calibration in a few lines each, and read them;
# * choose between full fine-tuning, the last layer, the norms, LoRA, and starting from scratch.
#
# **Before you start** you should have trained some network in PyTorch once, and know what a convolution does.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | Zipf-10, made on the spot | any processor | under two minutes | see the receipt | none |
# | `laptop` | CIFAR-10 | one processor core | [117 min](#finetune.run_minutes) | [4.47 GB](#finetune.run_peak_memory) | <span class="given">170 MB</span> |
# | `gpu` | CIFAR-10, all of it | a Colab T4 | not recorded yet | not recorded yet | <span class="given">215 MB</span> |
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
    wheel = os.environ.get("SCALETUT_WHEEL")  # a wheel built from a checkout, to try it before it is published
    source = Path(wheel).resolve().as_uri() if wheel else "git+https://github.com/scale-measured/scale-measured"
    # %pip install --quiet "scaletut[transfer] @ {source}"

needed = ("scaletut", "torch", "safetensors", "sklearn", "pandas", "matplotlib")
needed += ("efficientnet_lite_pytorch",)
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    remedy = "run  pip install 'scaletut[train,transfer]'  and restart the kernel"
    raise ModuleNotFoundError(f"not installed: {', '.join(missing)}; {remedy}")

# %% [markdown]
# Change a parameter and run all cells to ask the same questions of another set-up.
# `data = "folder:my-images"` puts your own images in the place of CIFAR-10.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
data = ""           # cifar10, zipf10, zipf10:option=value,... or folder:PATH; empty: the profile's
train_examples = 0  # images, 0 to 50000; 0: the profile's
epochs = 0          # epochs, 0 to 200; 0: the profile's
width = 0           # channels, 0 to 256; 0: the profile's
seeds = 0           # runs, 0 to 20; 0: the profile's
label_budgets = ""  # labels a class, n,n,...; empty: the profile's
seed = 0            # 0 to 2147483647

# %% tags=["prepare"]
import time
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

# %% tags=["prepare"]
from scaletut import chapters, figures
from scaletut.data import load
from scaletut.models import LoRA, adapt, build, complexity, count_parameters, time_layers
from scaletut.records import Claims, Ledger, Value, format_value, new_record, peak_memory
from scaletut.train import Recipe, calibration_bins, fit, report
from scaletut.train.presets import ABLATIONS, PRESETS, run_preset

# %% tags=["prepare"]
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "finetune", profile=profile, data=data, train_examples=train_examples, epochs=epochs,
    width=width, seeds=seeds, label_budgets=label_budgets, seed=seed,
)
SEEDS = range(p.seed, p.seed + p.seeds)
print(p)

# %% [markdown]
# What the chapter finds is kept in two places: `claims` are sentences that can turn out false, `numbers` are the values that the text links to.
# Two helpers keep the cells short.
# The receipt compares `quick` runs of two machines, so what depends on a machine's speed is left out of their records (`compare=False`).

# %%
claims, numbers = Claims("finetune"), {}


def keep(name, samples, unit="", compare=True):
    """Mean and interval of `samples`, one a seed; noted for the record under `name`."""
    value = Value.of(np.atleast_1d(samples), unit)
    if compare or p.profile != "quick":
        numbers[name] = value
    return value


# %% tags=["prepare"]
def shown(value):
    """A value as text, with its interval where there is one."""
    return format_value(value, "value" if value.low is None else "interval")


def listed(values, name):
    """Values by name as a table of one column."""
    return pd.DataFrame({name: {key: shown(value) for key, value in values.items()}}, dtype=object)


# %% [markdown]
# ## The data, looked at
#
# CIFAR-10 {cite:p}`krizhevsky2009` holds photographs of ten kinds of things, 32 pixels wide.
# The `quick` profile replaces it with Zipf-10, coloured patterns that are made from a seed, so that tests need no network.
#
# Three sets with three jobs: the **training** set moves the weights, the **validation** set makes choices, the **test** set is for the final figure alone.
# The validation images are held out of the training images, each class in its proportion.

# %%
whole = load(p.data)
test = whole.test
pool, validation = whole.train.split(len(whole.train) // 10, seed=0)
train = pool.split(p.train_examples, seed=0)[1] if p.train_examples < len(pool) else pool

# %%
sets = {"training": train, "validation": validation, "test": test}
facts = {
    name: (len(one), one.images.shape[1:], one.images.dtype, one.digest[:12])
    for name, one in sets.items()
}
pd.DataFrame(facts, index=["images", "shape", "type", "digest"]).T

# %% [markdown]
# The digest is a fingerprint of the content: whoever sees the same digest has the same images and labels in the same order.
#
# Are the classes equally frequent?
# If they are not, accuracy hides what happens to the rare ones.

# %%
pd.DataFrame({name: one.class_counts() for name, one in sets.items()}, index=train.class_names).T

# %% mystnb={"image": {"alt": "Grid of training images: one row for each of the ten classes, ten images a row, each 32 pixels wide. Within a row the pictures differ in colour, size and viewpoint."}}
figure, axes = figures.panels(1, 1, height=6.6)
rows = [train.images[train.labels == k][:10] for k in range(train.num_classes)]
figures.image_rows(axes, rows, train.class_names)
axes.set_title("Ten training images of each class")
plt.show()

# %% [markdown]
# At 32 pixels a cat and a dog differ by a handful of them.
# Remember them when the confusion matrix comes.
#
# One bound needs no training at all: a blind guess is right once in as many times as there are classes.
# Whatever is reported later has to be held against it.

# %% [markdown]
# ## What a network costs, layer by layer
#
# A convolution with $N_k$ weights uses each of them at every one of the $D_k$ positions of its output.
# So layer $k$ needs $N_k D_k$ multiply-accumulates for one image, and the network needs
#
# $$ C = \sum_k N_k\, D_k . $$
#
# ResNet-20 {cite:p}`he2016` has three stages.
# From each to the next the side of the maps is halved and the number of channels doubled.
#
# > **Guess first.**
# > In which stage does a 3 × 3 convolution cost most: early, with few channels on large maps, or late, with many channels on small ones?
#
# With $c$ channels on maps of side $s$ there are $N = 9c^2$ weights and $D = s^2$ positions.
# Doubling $c$ and halving $s$ leaves $N D$ as it is: by this count, all three cost the same.

# %%
input_shape = (3, *train.images.shape[1:3])
resnet20 = build("resnet20", num_classes=train.num_classes)
cost = complexity(resnet20, input_shape)
layers = cost.frame().set_index("name")
layers.loc[
    ["conv", "stage1.0.conv2", "stage2.0.conv2", "stage3.0.conv2", "fc"],
    ["output_shape", "weights", "uses", "macs"],
]

# %% [markdown]
# The columns `weights`, `uses` and `macs` are $N_k$, $D_k$ and their product, and the three stages agree as predicted.
# The last layer uses each weight once, so it is almost free.
#
# Does the sum agree with PyTorch's own counter, which watches the operators while they run?
# The counter counts floating-point operations, two for each multiply-accumulate.

# %%
from torch.utils.flop_counter import FlopCounterMode

with FlopCounterMode(display=False) as counter:
    resnet20.eval()(torch.zeros(1, *input_shape))
print(f"by layers {2 * cost.macs:>12,} FLOPs\nPyTorch   {counter.get_total_flops():>12,} FLOPs")

# %%
keep("resnet20_macs", cost.macs / 1e6, "M MACs")
claims.check(
    "Multiply-accumulates summed layer by layer, Σ N_k D_k, are what PyTorch's counter finds, "
    "exactly.",
    counter.get_total_flops() == 2 * cost.macs,
);

# %% [markdown]
# Now the clock.
# If time followed the count, each kind of layer would take the share of the time that it has of the multiply-accumulates.
# Norms and activations would then take no time at all, for the count gives them none.

# %%
images = torch.rand(64, *input_shape)
seconds = {layer.name: layer.minimum for layer in time_layers(resnet20, images, repeats=7)}
layers["seconds"] = pd.Series(seconds)

# %%
def part(layer):
    """The group of layers that a layer is counted with."""
    if layer["kind"] == "Conv2d":
        return f"convolutions, {layer['output_shape'][0]} channels"
    return {"BatchNorm2d": "batch norms", "ReLU": "activations"}.get(
        layer["kind"], "pool and last layer"
    )


# %%
parts = layers.groupby(layers.apply(part, axis=1))[["macs", "seconds"]].sum()
shares = 100 * parts / parts.sum()
shares["GFLOP/s"] = 2 * len(images) * parts["macs"] / parts["seconds"] / 1e9
shares.rename(columns={"macs": "% of MACs", "seconds": "% of time"}).round(1)

# %% mystnb={"image": {"alt": "Horizontal bars in pairs for each kind of layer of ResNet-20: share of multiply-accumulates and share of forward time. Convolutions hold nearly all of the count, yet batch norms and activations take a clear share of the time."}}
figure, axes = figures.panels(1, 1)
rows = np.arange(len(shares))
axes.barh(rows - 0.2, shares["macs"], 0.38, label="share of multiply-accumulates")
axes.barh(
    rows + 0.2,
    shares["seconds"],
    0.38,
    label="share of forward time",
    hatch="//",
    edgecolor="white",
)
axes.set_yticks(rows, shares.index)
axes.set(
    xlabel="share of the whole (%)", title="Where the count says nothing, the clock still runs"
)
axes.invert_yaxis()
axes.legend()
plt.show()

# %%
free = shares.loc[shares["macs"] == 0, "seconds"].sum()
rates = shares.loc[shares.index.str.startswith("conv"), "GFLOP/s"]
keep("free_time", free, "%", compare=False)
keep("rate_spread", rates.max() / rates.min(), "×", compare=False)
print(
    f"{free:.0f} % of the time for nothing that is counted; rates differ "
    f"{rates.max() / rates.min():.1f}-fold"
)

# %% [markdown]
# Norms and activations read and write every value once and do next to nothing with it.
# The processor waits for memory, and the count cannot see that: they take [9.31 %](#finetune.free_time) of the forward pass.
# The convolutions do not run at one speed either, though their arithmetic is the same: the fastest group reaches [1.81×](#finetune.rate_spread) the rate of the slowest, because the shape of a layer decides how well it keeps the processor's units busy.
#
# > **Takeaway.**
# > A network's count, here [40.8 M MACs](#finetune.resnet20_macs) an image, says what has to be computed; what it costs has to be measured.

# %% [markdown]
# ## A residual net in plain PyTorch
#
# Why not simply stack more convolutions?
# Deep plain stacks become hard to train; a *shortcut* around each pair of convolutions lets a block start as nearly nothing and learn a correction.
# A block computes $\operatorname{relu}(x + f(x))$; where the shape changes, a 1 × 1 convolution brings $x$ into the new shape.

# %%
class Block(nn.Module):
    """Two 3 × 3 convolutions with norms, and a shortcut around them."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1, self.norm1 = (
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.conv2, self.norm2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = nn.Identity()
        if before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


# %% [markdown]
# The whole net is a first convolution, three stages of blocks, and a linear layer on the average of the last maps.
# Its depth of 20 is 6 · 3 + 2: three stages of three blocks with two convolutions each, and the two layers at the ends.

# %%
def residual_net(depth, num_classes):
    """He et al.'s net for small images: (n, 3, h, w) -> logits (n, num_classes)."""
    widths = [16 * 2**stage for stage in range(3) for _ in range((depth - 2) // 6)]
    pairs = zip([16, *widths[:-1]], widths, strict=True)
    blocks = [Block(before, after, stride=1 if before == after else 2) for before, after in pairs]
    first = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(
        *first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes)
    )


# %%
ours = residual_net(20, train.num_classes)
print(f"{count_parameters(ours):,} parameters, output {tuple(ours(images).shape)}")

# %% [markdown]
# Is this the library's ResNet-20?
# Equal parameter counts would be a hint, not a proof.
# A proof is to copy the weights over, one tensor after the other, and to ask for the same outputs.

# %%
theirs = resnet20.state_dict()
ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
with torch.no_grad():
    difference = (ours.eval()(images) - resnet20.eval()(images)).abs().max().item()
print(f"largest difference {difference:.1e}")

# %%
claims.check(
    "The residual net built here in plain PyTorch and the library's have the same number of "
    "parameters "
    "and, with the same weights, the same outputs.",
    count_parameters(ours) == count_parameters(resnet20) and difference < 1e-5,
);

# %% [markdown]
# > **Takeaway.**
# > A residual net is twenty lines; from here on the library's is used, because it is the same function.

# %% [markdown]
# ## Train it
#
# The strongest recipe in this chapter is a small *speed net* after Jordan {cite:p}`jordan2024`, made to reach a good accuracy soon.
# Its first layer is not learned: it *whitens* small patches, so that what comes after sees decorrelated input from the first step.
#
# Here is its recipe, beside the two that it will be compared with: only the lines in which they differ.

# %%
FAST = PRESETS["fast"]
recipes = pd.DataFrame(
    {name: PRESETS[name].recipe.to_dict() for name in ("fast", "tutorial", "resnet20")}
)
recipes[recipes.nunique(axis=1, dropna=False) > 1]

# %% [markdown]
# Read the first column as a list of decisions: Muon {cite:p}`jordan2024muon` for the filters, a rate that falls to zero, smoothed labels, random crops, flips that alternate from epoch to epoch.
# What each of them buys is measured below.
#
# The preset is made for fifty thousand images in batches of 512.
# Fewer images need smaller batches, or there would be too few steps; here a batch is the power of two that comes nearest to forty steps an epoch, from 64 to 512.

# %%
def speed(preset=FAST, images=train, epochs=p.epochs, batch=0):
    """A speed-net preset at this chapter's width, with about 40 steps an epoch unless `batch`
    says otherwise."""
    batch = batch or min(512, max(64, 2 ** round(np.log2(len(images) / 40))))
    return replace(
        preset, width=p.width / 32, recipe=replace(preset.recipe, epochs=epochs, batch_size=batch)
    )


# %%
result = run_preset(speed(), train, p.seed, validation=validation)
history = pd.DataFrame([asdict(epoch) for epoch in result.history]).set_index("epoch")
history.index += 1
history.drop(columns="rate").astype(float).round(3)

# %% [markdown]
# Before the curves, a bound.
# With smoothing $\varepsilon$ the target puts $1 - \varepsilon + \varepsilon/K$ on the label and $\varepsilon/K$ on each other class.
# No prediction can have a lower cross-entropy against it than the target's own entropy, so the training loss has a floor that is not zero.

# %%
smoothing, K = FAST.recipe.label_smoothing, train.num_classes
target = np.full(K, smoothing / K)
target[0] += 1 - smoothing
floor = -(target * np.log(target)).sum()
print(f"floor of the training loss: {floor:.3f} nats; a blind guess: {np.log(K):.3f} nats")

# %% mystnb={"image": {"alt": "Two panels over epochs. Left: loss in nats on training and validation images, falling, with the floor of smoothed labels as a dashed line under the training curve. Right: accuracy in percent on both, rising."}}
figure, (left, right) = figures.panels(1, 2)
for number, (name, column) in enumerate({"training": "", "validation": "validation_"}.items()):
    look = {"marker": figures.MARKERS[number], "label": name}
    left.plot(history.index, history[f"{column}loss"], **look)
    right.plot(history.index, 100 * history[f"{column}accuracy"], **look)
left.axhline(floor, linestyle="--", color=figures.QUIET, label="floor, training")
left.set(xlabel="epoch", ylabel="loss (nats)", title="Loss falls", ylim=(0, None))
right.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy rises")
figures.count_in_whole_numbers(left, right)
left.legend()
plt.show()

# %% [markdown]
# The two losses are not the same quantity: the training loss is taken on cropped and mirrored images, against smoothed labels, while the weights still move; the validation loss is plain.
# So a training loss above the validation loss is no sign of a fault.
# What matters is that the validation curve still improves at the end: the falling rate lets the net settle in the last epochs.

# %% [markdown]
# ## Equal time: three recipes
#
# Is the speed net better than what a first tutorial teaches, a stack of convolutions trained by Adam {cite:p}`kingma2015` at a constant rate?
# Compared at equal *epochs* the question would be unfair to whoever is faster.
# So each recipe gets the seconds that the speed net takes, and its number of epochs follows from the images a second that it reaches on this machine.
#
# First what the count says: multiply-accumulates for one image.

# %%
speed_net, tutorial = build("speednet-s", width=p.width / 32), build("tutorial")
nets = {"speed net": speed_net, "tutorial": tutorial, "ResNet-20": resnet20}
macs = {name: complexity(net, input_shape).macs / 1e6 for name, net in nets.items()}
pd.DataFrame({"million MACs an image": macs}).round(1)

# %% [markdown]
# By the count the speed net, at this width, and the tutorial's net cost about the same, and ResNet-20 four times as much.
#
# > **Guess first.**
# > How many images will each of them see in the same time, and in which order will they end?

# %%
def length(preset, seconds):
    """The preset with as many epochs as fit into `seconds` here, by the second of two short
    trials."""
    trial = replace(preset, recipe=replace(preset.recipe, epochs=p.epochs / 10))
    rate = [run_preset(trial, train, p.seed).images_per_second for _ in range(2)][-1]
    return replace(preset, recipe=replace(preset.recipe, epochs=rate * seconds / len(train)))

# %%
runs = {"speed net": [run_preset(speed(), train, s) for s in SEEDS]}
budget = np.mean([run.seconds for run in runs["speed net"]])
for name, preset in {"tutorial": PRESETS["tutorial"], "ResNet-20": PRESETS["resnet20"]}.items():
    fitted = length(preset, budget)
    runs[name] = [run_preset(fitted, train, s) for s in SEEDS]

# %%
def accuracy(run, images=test, views=1):
    """Accuracy in % on `images`, with logits averaged over `views` of each."""
    return 100 * report(run.predict(images, views=views), images.labels).accuracy


# %%
score = {name: [accuracy(run) for run in these] for name, these in runs.items()}
reached = {
    "speed net": keep("speed_net_accuracy", score["speed net"], "%"),
    "tutorial": keep("tutorial_accuracy", score["tutorial"], "%", compare=False),
    "ResNet-20": keep("resnet20_accuracy", score["ResNet-20"], "%", compare=False),
}

# %%
def mean_of(quantity):
    """Mean over its runs of a quantity, for each recipe."""
    return {name: np.mean([quantity(run) for run in these]) for name, these in runs.items()}


columns = {
    "seconds": mean_of(lambda run: run.seconds),
    "images/s": mean_of(lambda run: run.images_per_second),
    "GFLOP/s": mean_of(lambda run: run.flops / run.seconds / 1e9),
    "epochs": mean_of(lambda run: run.images_per_second * run.seconds / len(train)),
}
pd.DataFrame(columns).round(1).assign(
    accuracy={name: shown(value) for name, value in reached.items()}
)

# %% mystnb={"image": {"alt": "Test accuracy in percent after equal training time, a dot with an interval for each of three recipes: the speed net, the tutorial's stack of convolutions, and ResNet-20."}}
figure, axes = figures.panels(1, 1, height=2.2)
figures.dots_with_intervals(axes, list(reached), list(reached.values()))
axes.set(
    xlabel="test accuracy (%), mean and 95 % interval",
    title="Same seconds, three recipes",
    xlim=(0, 100),
)
plt.show()

# %%
ahead = np.subtract(score["speed net"], score["tutorial"])
keep("ahead_of_tutorial", ahead, "points", compare=False)
lead = min(np.subtract(score["speed net"], score["ResNet-20"]))
claims.check(
    "In the same training time the whitened speed net gets further than ResNet-20, in every seed.",
    lead > 0, margin=lead, unit="points",
);

# %% [markdown]
# The tutorial's net costs what the speed net costs, and yet it sees fewer images in the same time: in batches of 32 much of the time goes into starting operations, not into arithmetic, as its GFLOP/s show.
# ResNet-20 passes ninety percent after a few hundred epochs {cite:p}`he2016`, but its many thin layers are slow here, and a short run ends before it gets anywhere.
#
# Every comparison is within a seed, so the difference has an interval of its own: the speed net is ahead of the tutorial by [22 ± 5 points](#finetune.ahead_of_tutorial).
#
# > **Takeaway.**
# > Compare recipes at equal time, not at equal epochs: here that puts the speed net at [76 ± 2 %](#finetune.speed_net_accuracy) and the tutorial's recipe at [55 ± 3 %](#finetune.tutorial_accuracy).

# %% [markdown]
# ## What each ingredient buys
#
# A recipe with eight ingredients invites belief in all of them.
# So take them away one at a time, from the same seeds, and look at the *paired* differences: what two runs of one seed share cancels out.
#
# > **Guess first.**
# > Order these by what their absence costs: the whitening layer, Muon, the falling rate.
#
# To pay for so many runs, the training set is halved.

# %%
few = train.split(len(train) // 2, seed=0)[1]
exam = test.split(min(len(test) - 1, len(train) // 4), seed=0)[1]
print(f"{len(few):,} training images, {len(exam):,} test images")

# %%
names = ["no_whitening", "no_muon", "constant_rate"] if p.profile == "quick" else [*ABLATIONS]
names = [
    name for name in names if name != "one_view"
]  # the same weights, looked at once: no run of its own
pd.DataFrame({"what is different": {name: ABLATIONS[name].about for name in names}})

# %%
full = [run_preset(speed(images=few), few, s) for s in SEEDS]
reference = [accuracy(run, exam, FAST.views) for run in full]
without = {"one_view": [accuracy(run, exam) for run in full]}
for name in names:
    these = [run_preset(speed(ABLATIONS[name], few), few, s) for s in SEEDS]
    without[name] = [accuracy(run, exam, FAST.views) for run in these]

# %%
change = {}
for name, scores in sorted(without.items(), key=lambda item: np.mean(item[1])):
    change[name] = keep(f"{name}_change", np.subtract(scores, reference), "points")
listed(change, "change in accuracy")

# %% mystnb={"image": {"alt": "Change in test accuracy, in percentage points, when one ingredient of the recipe is taken away: a dot with a 95 percent interval for each ingredient, sorted, and a vertical line at no change."}}
figure, axes = figures.panels(1, 1, height=1 + 0.32 * len(change))
figures.dots_with_intervals(
    axes, [name.replace("_", " ") for name in change], list(change.values())
)
axes.axvline(0, color=figures.QUIET, linewidth=1)
axes.set(
    xlabel="change in test accuracy (points), mean and 95 % interval",
    title="What its absence costs",
)
plt.show()

# %%
measured = {name: value for name, value in change.items() if value.n > 1}
sure = [name for name, value in measured.items() if value.high < 0]
open_question = [name for name, value in measured.items() if value.low <= 0 <= value.high]
print("costs accuracy when absent:", ", ".join(sure) or "none is sure at this n")
print("cannot be told from nothing:", ", ".join(open_question) or "none")

# %%
keep("full_recipe_accuracy", reference, "%")
lost = min(np.subtract(reference, without["no_muon"]))
claims.check(
    "Without Muon, with SGD and rates of its own, the recipe ends lower, in every seed.",
    lost > 0, margin=lost, unit="points",
);

# %% [markdown]
# An interval that crosses zero does not say that the ingredient is useless.
# It says that this many seeds, on this many images, cannot tell; more of either would narrow it.
# Two cautions belong to the largest bars.
# The rates of the SGD variant were tuned by ten random draws on held-out images, at this size; a longer search would narrow the gap, for Muon's rates had more attention.
# And under a constant rate the seeds disagree widely: such a run ends well or badly by the luck of its last steps, which is itself a reason to let the rate fall.
#
# > **Takeaway.**
# > Ingredients are worth what their absence costs here and now: without the whitening layer the accuracy changes by [−1.7 ± 1.5 points](#finetune.no_whitening_change), with one view of each image instead of six by [−1.9 ± 1.8 points](#finetune.one_view_change), and of most others these seeds cannot tell.

# %% [markdown]
# ## Metrics, by hand
#
# A network hands over *logits* $z$.
# All the usual metrics follow from them, each in a line or two.
# First the softmax $q_j = e^{z_j} / \sum_i e^{z_i}$, computed after taking away the largest logit, so that nothing overflows.
# The net is the first of those trained above.

# %%
best = runs["speed net"][0]
logits, labels = best.predict(test).astype(float), test.labels
powers = np.exp(logits - logits.max(axis=1, keepdims=True))
q = powers / powers.sum(axis=1, keepdims=True)
guess, confidence = q.argmax(axis=1), q.max(axis=1)
print(q.shape, "probabilities; the first image:", np.round(q[0], 2))

# %% [markdown]
# **Accuracy** is the share of right guesses.
# **Cross-entropy** is the mean of $-\log q$ at the label, in nats: it also asks how sure the net was.

# %%
at_label = q[np.arange(len(labels)), labels]
by_hand = {"accuracy": (guess == labels).mean(), "cross_entropy": -np.log(at_label).mean()}
print({name: round(float(value), 4) for name, value in by_hand.items()})

# %% [markdown]
# The **confusion matrix** counts how often class $i$ was taken for class $j$.
# Of those taken for $j$, **precision** is the share that are $j$; of those that are $i$, **recall** is the share that were found; **F1** is their harmonic mean.

# %%
confusion = np.zeros((K, K), int)
np.add.at(confusion, (labels, guess), 1)
hits, called, there = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
by_hand["precision"] = hits / np.maximum(called, 1)
by_hand["recall"] = hits / np.maximum(there, 1)
by_hand["f1"] = 2 * hits / np.maximum(called + there, 1)

# %% [markdown]
# **Calibration**: of the guesses made with a confidence of about four in five, are about four in five right?
# The expected calibration error {cite:p}`guo2017` sorts the guesses into 15 bins of confidence and averages the distance of confidence and accuracy, weighted by the bins' counts.

# %%
bins = np.ceil(15 * confidence).astype(int) - 1
gaps = np.bincount(bins, weights=(guess == labels) - confidence, minlength=15)
by_hand["calibration_error"] = np.abs(gaps).sum() / len(labels)

# %% [markdown]
# The library's `report` does the same.
# Does it agree, to rounding?

# %%
outcome = report(logits, labels)
agree = {
    name: bool(np.allclose(value, getattr(outcome, name), atol=1e-9))
    for name, value in by_hand.items()
}
print(agree)

# %%
claims.check(
    "Accuracy, cross-entropy, precision, recall, F1 and calibration error written by hand are "
    "the library's.",
    all(agree.values()) and bool((confusion == outcome.confusion).all()),
);

# %%
table = pd.DataFrame(
    {name: by_hand[name] for name in ("precision", "recall", "f1")}, index=test.class_names
)
table.loc["mean"] = table.mean()
(100 * table).round(1)

# %% mystnb={"image": {"alt": "Confusion matrix as a heat map, rows are the true classes and columns the guesses, in percent of each row. The diagonal is darkest; each cell carries its number."}}
figure, axes = figures.panels(1, 1, height=5.6)
figures.heat_map(axes, 100 * confusion / np.maximum(there, 1)[:, None], test.class_names)
axes.set(xlabel="guessed", ylabel="true class", title="What is taken for what (% of each row)")
plt.show()

# %% [markdown]
# A class with more recall than precision is one that the net names too readily; one with more precision than recall it names too rarely.
#
# Which pair is confused most?
# Both directions count.

# %%
mixed = confusion + confusion.T
np.fill_diagonal(mixed, 0)
one, other = np.unravel_index(mixed.argmax(), mixed.shape)
errors = (guess != labels).sum()
print(
    f"{test.class_names[one]} and {test.class_names[other]}: {mixed[one, other]} of {errors} errors"
)

# %% [markdown]
# Now calibration, as a *reliability diagram*: a calibrated net lies on the diagonal.
#
# > **Guess first.**
# > The labels were smoothed: the net was taught never to be quite sure.
# > On which side of the diagonal will it lie?
#
# The cure goes into the same figure: *temperature scaling* {cite:p}`guo2017` divides all logits by one number $T$.
# The guesses stay the same, only the confidence moves.
# $T$ is chosen on the validation images, by the lowest cross-entropy; the diagram shows the test images.

# %%
from scipy.optimize import minimize_scalar


def temperature(run, images=validation):
    """The divisor of a run's logits that gives the lowest cross-entropy on `images`."""
    z = run.predict(images).astype(float)
    return minimize_scalar(lambda t: report(z / t, images.labels).cross_entropy, bounds=(0.1, 10)).x


T = temperature(best)
print(f"T = {T:.2f}")

# %% mystnb={"image": {"alt": "Reliability diagram: accuracy against confidence, both in percent, a marker for each bin of confidence. Round dots, before temperature scaling, lie above the diagonal; squares, after it, lie close to the diagonal."}}
figure, axes = figures.panels(1, 1, height=4.2)
axes.plot([0, 100], [0, 100], "--", color=figures.QUIET, label="calibrated")
for scaled, mark, name in (
    (logits, "o", "as trained"),
    (logits / T, "s", f"logits divided by {T:.2f}"),
):
    count, sure_of, right_in = calibration_bins(scaled, labels).T
    axes.plot(100 * sure_of[count > 9], 100 * right_in[count > 9], mark, label=name)
axes.set(
    xlabel="confidence (%)",
    ylabel="accuracy (%)",
    title="Less sure than right, until one number mends it",
)
axes.legend()
plt.show()

# %% [markdown]
# As trained, the net lies above the diagonal: more of its guesses are right than it says.
# A temperature below one makes it bolder.
# Was that this one net, or does it hold for each seed?

# %%
def calibration(run, divisor=1.0):
    """Calibration error on the test images in %, and by how many points confidence lies below
    accuracy."""
    z = run.predict(test).astype(float) / divisor
    count, sure_of, right_in = calibration_bins(z, labels).T
    return 100 * report(z, labels).calibration_error, 100 * (
        count @ (right_in - sure_of)
    ) / count.sum()


# %%
raw = np.array([calibration(run) for run in runs["speed net"]])
mended = np.array([calibration(run, temperature(run)) for run in runs["speed net"]])
before, after = (
    keep("calibration_error", raw[:, 0], "%"),
    keep("calibration_error_mended", mended[:, 0], "%"),
)
timid = raw[:, 1].min()
print(
    f"calibration error {shown(before)} -> {shown(after)}; below its accuracy by {timid:.1f} "
    f"points at least"
)

# %%
claims.check(
    "Trained on smoothed labels the net is less sure than it is right, in every seed.",
    timid > 0,
    margin=timid,
    unit="points",
)
claims.check(
    "One number, a temperature found on validation images, at least halves the calibration error "
    "on test images.",
    after.value < before.value / 2,
    margin=before.value / 2 - after.value,
    unit="points",
);

# %% [markdown]
# Which errors hurt the cross-entropy most?
# They are the images whose label the net thought least likely.

# %% mystnb={"image": {"alt": "Twelve test images with the highest cross-entropy, in two rows, each with its true class and the class that the net took it for."}}
worst = np.argsort(at_label)[:12]
titles = [f"{test.class_names[labels[i]]},\ntaken for {test.class_names[guess[i]]}" for i in worst]
figure, axes = figures.panels(2, 6, height=3.3)
figures.show_images(axes.flat, test.images[worst], titles)
plt.show()

# %% [markdown]
# Look at each and ask whose fault it is: an unusual view, a second thing in the picture, or a label that is simply wrong.
#
# > **Takeaway.**
# > Accuracy is one number of several that a user of the net needs; a confidence that means what it says costs one more division, which took the calibration error from [17.2 ± 1.0 %](#finetune.calibration_error) to [1.27 ± 0.17 %](#finetune.calibration_error_mended).

# %% [markdown]
# ## Another task, few labels
#
# Labels are dear, and somebody has already trained a network on something similar.
# What is that worth?
# Split the classes: one net is trained on the first five, with plenty of labels.
# The task is to tell apart the other five, which it has never seen, with a few labels each.
#
# Five ways to use the old net differ in what they may change:
#
# | way | what trains |
# |---|---|
# | `full` | every weight (but for the whitening, which no recipe trains) |
# | `head` | a new last layer alone, the features stay |
# | `norms` | the norms' shifts, and the last layer |
# | `lora` | a low-rank correction of each convolution, and the last layer |
# | `scratch` | every weight, drawn anew: the old net is thrown away |
#
# ### LoRA in four lines
#
# LoRA {cite:p}`hu2021` leaves a layer's weights $W$ alone and adds $B A$: a convolution $A$ with only $r$ outputs, and a 1 × 1 convolution $B$ that mixes these $r$ maps into all outputs.

# %%
conv, x = nn.Conv2d(32, 64, 3, padding=1), torch.randn(2, 32, 8, 8)
A, B = 0.1 * torch.randn(4, 32, 3, 3), 0.1 * torch.randn(64, 4, 1, 1)
adapted = conv(x) + F.conv2d(F.conv2d(x, A, padding=1), B)
print(
    f"{conv.weight.numel():,} weights stay, {A.numel() + B.numel():,} are trained; output "
    f"{tuple(adapted.shape)}"
)

# %% [markdown]
# Two things make this useful.
# With $B = 0$ the layer computes exactly what it did before, so training starts from the old net.
# And a convolution is linear in its weights, so that afterwards $W + BA$ is one plain convolution again, which costs nothing extra.

# %%
merged = conv.weight + (B.flatten(1) @ A.flatten(1)).view_as(conv.weight)
layer = LoRA(conv, rank=4)
untouched = torch.equal(layer(x), conv(x))
layer.down.weight.data, layer.up.weight.data = A, B
others = F.conv2d(x, merged, conv.bias, padding=1), layer(x), layer.merged()(x)
close = [torch.allclose(adapted, other, atol=1e-4) for other in others]
print(
    "starts as the old layer:", untouched, "| merged by hand, library's, library's merged:", close
)

# %%
claims.check(
    "LoRA written by hand is the library's; it starts as the frozen layer, and merges into one "
    "plain layer.",
    untouched and all(close),
);

# %% [markdown]
# ### The experiment
#
# For each seed one net is trained on the five source classes.
# Then for each number of labels a class, and each way, the net is adapted with labels drawn at random, and scored on all test images of the five new classes.
# No choice is made here, so the validation images may serve for training.

# %%
half = train.num_classes // 2
old_task, old_exam = (one.classes(range(half)) for one in (whole.train, test))
new_task, new_exam = (one.classes(range(half, train.num_classes)) for one in (whole.train, test))
print(
    "old classes:",
    ", ".join(old_task.class_names),
    "| new classes:",
    ", ".join(new_task.class_names),
)

# %%
sources = [run_preset(speed(images=old_task), old_task, s) for s in SEEDS]
source_accuracy = keep("source_accuracy", [accuracy(run, old_exam) for run in sources], "%")
print(f"accuracy on the old classes: {shown(source_accuracy)}")

# %%
WAYS = ("full", "head", "norms", "lora", "scratch")
adapted_nets = {way: adapt(sources[0].model, way, new_task.num_classes, p.seed) for way in WAYS}
sizes = {way: count_parameters(net, trainable=True) for way, net in adapted_nets.items()}
keep("lora_share", 100 * sizes["lora"] / sizes["full"], "%")
pd.DataFrame({"trained weights": sizes})

# %% [markdown]
# All five ways get the same labelled images, the speed net's own recipe, and the same number of steps: twenty passes over the images, but never more images in all than half of what the first training above saw.
# So nothing differs but the weights at the start and the weights that may move.

# %%
def adapted_accuracy(way, labels_a_class, s):
    """Test accuracy (%) on the new classes after adapting source net `s` in the given way."""
    shots, source = new_task.per_class(labels_a_class, seed=s), sources[s - p.seed]
    passes = min(20, p.epochs * len(train) / 2 / len(shots))
    recipe = speed(epochs=passes, batch=min(128, len(shots) // 2)).recipe
    recipe = replace(
        recipe, normalise_filters=False
    )  # a correction starts at zero and cannot be normalised
    net = adapt(
        source.model, way, shots.num_classes, s, alpha=1
    )  # LoRA: W + B A / 4, a gentler start
    return accuracy(fit(net, shots, recipe, s, normalisation=source.normalisation), new_exam)


# %%
there_are = new_task.class_counts().min()
budgets = [count for count in p.budgets if count <= there_are] or [there_are]
results = {way: {n: [adapted_accuracy(way, n, s) for s in SEEDS] for n in budgets} for way in WAYS}

# %%
transfer = {
    way: {n: keep(f"{way}_{n}", scores, "%") for n, scores in by.items()}
    for way, by in results.items()
}
pd.DataFrame({way: {n: shown(value) for n, value in by.items()} for way, by in transfer.items()}).T

# %% mystnb={"image": {"alt": "Test accuracy on five new classes against labels a class on a logarithmic axis, with a band for the 95 percent interval: full fine-tuning, last layer, norms, LoRA, and from scratch. The pre-trained ways lead at few labels; the curve from scratch starts lowest and climbs."}}
figure, axes = figures.panels(1, 1, height=4.4)
for number, way in enumerate(WAYS):
    figures.line_with_band(axes, budgets, list(transfer[way].values()), way, number)
axes.set(xscale="log", xlabel="labels a class", ylabel="test accuracy (%), mean and 95 % interval")
axes.set_xticks(budgets, [f"{count:,}" for count in budgets], minor=False)
axes.set_title("Old weights are worth most where labels are few")
axes.minorticks_off()
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Where do the curves cross?
# Read it off by code: between two budgets the difference of two means is taken as a straight line in the logarithm of the labels.

# %%
def crossing(counts, first, second):
    """Labels a class at which `second` overtakes `first`; the first count when it leads from
    there, else nan."""
    gap, x = np.subtract(second, first), np.log(counts)
    if gap[0] > 0:
        return float(counts[0])
    for i in np.flatnonzero((gap[:-1] <= 0) & (gap[1:] > 0)):
        return float(np.exp(x[i] - gap[i] * (x[i + 1] - x[i]) / (gap[i + 1] - gap[i])))
    return float("nan")


# %%
def curve(way, number):
    """Accuracy of one seed's nets at each number of labels."""
    return [scores[number] for scores in results[way].values()]


crossings = {
    f"{late} overtakes {early}": [
        crossing(budgets, curve(early, k), curve(late, k)) for k in range(p.seeds)
    ]
    for early, late in (
        ("head", "full"),
        ("head", "scratch"),
        ("norms", "scratch"),
        ("lora", "scratch"),
    )
}
pd.DataFrame(crossings, index=[f"seed {s}" for s in SEEDS]).T.round(0)

# %% [markdown]
# Each entry is a number of labels a class.
# The smallest number tried means *there or before*; NaN means *not within the numbers tried*.

# %%
where = crossings["scratch overtakes head"]
if not np.isnan(where).any():
    keep("scratch_over_head", where, "labels a class", compare=False)

# %%
fewest, most = budgets[0], budgets[-1]
gain = {
    count: transfer["full"][count].value - transfer["scratch"][count].value
    for count in (fewest, most)
}
claims.check(
    "With the fewest labels, fine-tuning the old net beats starting from scratch.",
    gain[fewest] > 0,
    margin=gain[fewest],
    unit="points",
)
claims.check(
    "The advantage of the old weights shrinks from the fewest labels to the most.",
    gain[fewest] > gain[most],
    margin=gain[fewest] - gain[most],
    unit="points",
)

# %%
flat = transfer["full"][most].value - transfer["head"][most].value
claims.check(
    "With the most labels, changing every weight beats changing the last layer alone.",
    flat > 0, margin=flat, unit="points",
);

# %% [markdown]
# The last layer alone has the least to learn and the least to gain: its curve is the first to go flat.
# LoRA trains [8.24 %](#finetune.lora_share) of the weights and can follow further.
# Starting from scratch pays for its freedom at few labels, and is paid back as they grow: from about [56 labels a class](#finetune.scratch_over_head) on it beats the last layer of a trained net.
#
# > **Takeaway.**
# > With 10 labels a class, fine-tuning reaches [70 ± 4 %](#finetune.full_10) and starting from scratch [51 ± 10 %](#finetune.scratch_10): the fewer labels there are, the more somebody else's weights are worth.

# %% [markdown]
# ## ImageNet weights
#
# The old net above had seen five classes of the same collection.
# More often one starts from a net that was trained on ImageNet, a million photographs of a thousand kinds of things {cite:p}`kornblith2019`.
# EfficientNet-Lite0 {cite:p}`tan2019` comes as a Python package with its weights; at the `gpu` profile torchvision's ResNet-18 takes its place.
#
# Three uses, from cheap to dear: a *probe* (the features once, then a linear classifier on them), fine-tuning all weights, and, to know what the weights are worth, the same net from random weights.

# %%
NET = "resnet18-imagenet" if p.profile == "gpu" else "efficientnet-lite0"
shots = train.split(len(train) // 5, seed=1)[1]
quiz = test.split(min(len(test) - 1, len(shots) // 2), seed=1)[1]
backbone = build(NET, num_classes=train.num_classes)
if hasattr(backbone, "size"):
    backbone.size = 64 if p.profile == "quick" else 96  # pixels: images are brought to this side
print(
    f"{NET}: {count_parameters(backbone):,} parameters, {len(shots):,} images to learn from, "
    f"{len(quiz):,} to test"
)

# %% [markdown]
# For features, put an identity in the place of the last layer.
# They are computed once and kept: every probe after that takes seconds.

# %%
from scaletut.models.adapters import head_name
from scaletut.train import predict


def features(net, images):
    """What the last layer sees: float32 (n, features)."""
    body = adapt(net, "head", 1, seed=0)
    path, _, last = head_name(body).rpartition(".")
    setattr(body.get_submodule(path), last, nn.Identity())
    return predict(body, images, net.normalisation, batch_size=128)


# %%
learn, ask = features(backbone, shots), features(backbone, quiz)
learn.shape, ask.shape

# %% [markdown]
# The probe is ridge regression to one-hot labels; how much to shrink is chosen by leaving out one training image at a time, which has a closed form.
# As a bound from below, the same probe gets raw pixels.

# %%
from sklearn.linear_model import RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def probe(inputs, questions):
    """Accuracy (%) of a linear classifier on fixed inputs."""
    classifier = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=np.logspace(0, 5, 11)))
    return 100 * classifier.fit(inputs, shots.labels).score(questions, quiz.labels)


# %%
pixels, unseen = (one.images.reshape(len(one), -1) / 255 for one in (shots, quiz))
imagenet = {"pixels, probe": probe(pixels, unseen)}
imagenet["ImageNet features, probe"] = probe(learn, ask)

# %% [markdown]
# Fine-tuning and its control differ in the initial weights alone.
# One trap: this net's norms average their statistics over about a hundred steps, and here there are hardly as many.
# With the old statistics of ImageNet in them, the net would be tested in another state than it was trained in, so they are let to move faster.

# %%
brief = Recipe(
    epochs=2,
    batch_size=16,
    optimizer="adamw",
    lr=2e-3,
    weight_decay=1e-2,
    crop=2,
    flip="random",
    precision="fp32",
)


def tuned(way):
    """Test accuracy (%) after training all weights for a short while, from the old ones or
    from random ones."""
    net = adapt(backbone, way, train.num_classes, p.seed)
    for norm in (layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)):
        norm.momentum = 0.2
    return accuracy(fit(net, shots, brief, p.seed, normalisation=backbone.normalisation), quiz)


# %%
imagenet["ImageNet weights, fine-tuned"] = tuned("full")
imagenet["same net, random weights"] = tuned("scratch")
imagenet["speed net, from scratch"] = accuracy(
    run_preset(speed(images=shots, epochs=4 * p.epochs), shots, p.seed), quiz
)

# %% [markdown]
# These are single runs, so no seed tells how far they would scatter.
# What can be told is how much the choice of test images matters: the interval of a share $\hat p$ among $n$ of them (Wilson's).

# %%
def wilson(percent, n, z=1.96):
    """A share in % with its 95 % interval for n independent images."""
    share, spread = percent / 100, z**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * np.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = 100 * (centre - half), 100 * (centre + half)
    return Value(
        percent, "%", min(low, percent), max(high, percent)
    )  # at 0 and 100 % rounding could part them


# %%
ranking = sorted(imagenet, key=imagenet.get, reverse=True)
uses = {name: wilson(imagenet[name], len(quiz)) for name in ranking}
listed(uses, "test accuracy")

# %% mystnb={"image": {"alt": "Test accuracy in percent of five ways to learn from the same few images, a dot with an interval each: ImageNet weights fine-tuned, a linear probe on ImageNet features, the speed net from scratch, a probe on raw pixels, and the large net from random weights."}}
figure, axes = figures.panels(1, 1, height=2.8)
figures.dots_with_intervals(axes, list(uses), list(uses.values()))
axes.set(xlabel="test accuracy (%), 95 % interval over test images")
axes.set_title(f"What to do with {len(shots):,} labelled images")
plt.show()

# %%
numbers["imagenet_probe"] = uses["ImageNet features, probe"]
numbers["imagenet_tuned"] = uses["ImageNet weights, fine-tuned"]
numbers["imagenet_random"] = uses["same net, random weights"]
worth = imagenet["ImageNet weights, fine-tuned"] - imagenet["same net, random weights"]
claims.check(
    "Fine-tuned from ImageNet weights, a net beats the same net fine-tuned from random weights.",
    worth > 0, margin=worth, unit="points",
);

# %% [markdown]
# A net of millions of weights can hardly learn from so few images on its own; with ImageNet's weights it hardly has to.
# Between the probe and fine-tuning it is a race: the probe finds its best last layer in closed form but keeps the features, fine-tuning may move every weight but has few steps to do it in.
#
# > **Takeaway.**
# > The same net, trained in the same way, reaches [75 %](#finetune.imagenet_tuned) from ImageNet weights and [35 %](#finetune.imagenet_random) from random ones; a probe, which trains no weight of it, reaches [77 %](#finetune.imagenet_probe).

# %% [markdown]
# ## At full scale
#
# Everything above was made small enough to run while you read.
# The same presets, the speed net twice as wide, were recorded on all of CIFAR-10, on a single processor core each; this section reads those records.
# Each run is one command, such as `scaletut train fast --seed 0`, and the ledger gives the command with the record.

# %% tags=["ledger"]
from scaletut.errors import ScaletutError

try:
    ledger = Ledger.load(chapters.book_root() / "results")
except ScaletutError as error:
    ledger = Ledger([])
    print(f"The recorded runs are not here ({error}); the site shows them.")

# %% tags=["ledger"]
recorded = [
    name
    for name in ("tutorial", "resnet20", "fast", "strong")
    if f"finetune.{name}.accuracy" in ledger
]
print("recorded at full scale:", ", ".join(recorded) or "none")

# %% tags=["ledger"]
def row(name):
    """What the ledger holds of one recorded recipe, as text; only what differs from run to run
    has an interval."""
    columns = ("accuracy", "minutes", "epochs", "parameters", "petaflop")
    entries = {column: ledger[f"finetune.{name}.{column}"].measured for column in columns}
    texts = {
        c: format_value(v, "value") if v.low == v.high else shown(v) for c, v in entries.items()
    }
    return texts | {"runs": entries["accuracy"].n}


pd.DataFrame({name: row(name) for name in recorded}).T

# %% mystnb={"image": {"alt": "Test accuracy in percent against minutes of training on one processor core for the recorded recipes, each a marker, with a 95 percent interval where there are several seeds: the tutorial's recipe, ResNet-20 and the small speed net at about the same time, the medium speed net later and highest."}} tags=["ledger"]
if recorded:
    figure, axes = figures.panels(1, 1, height=4.0)
    for number, name in enumerate(recorded):
        y, x = (ledger[f"finetune.{name}.{column}"].measured for column in ("accuracy", "minutes"))
        bar = None if y.low is None else [[y.value - y.low], [y.high - y.value]]
        axes.errorbar(
            x.value, y.value, bar, marker=figures.MARKERS[number], capsize=5, markersize=7
        )
        axes.annotate(name, (x.value, y.value), xytext=(10, -4), textcoords="offset points")
    axes.set(
        xlabel="training time (minutes, one core)",
        ylabel="test accuracy (%), mean and 95 % interval",
    )
    axes.set(title="All of CIFAR-10: accuracy against minutes", xlim=(0, None))
    plt.show()

# %% [markdown]
# The small speed net reaches [92.35 %](#finetune.fast.accuracy) in [5.9 min](#finetune.fast.minutes) of training ([n = 5](#finetune.fast.accuracy)); the medium one [94.2 ± 0.2 %](#finetune.strong.accuracy) in [17.8 min](#finetune.strong.minutes) ([n = 3](#finetune.strong.accuracy)).
# In about the small net's time, the tutorial's recipe reaches [75.3 %](#finetune.tutorial.accuracy) ([6.17 min](#finetune.tutorial.minutes), [n = 1](#finetune.tutorial.accuracy)) and ResNet-20 [82.9 %](#finetune.resnet20.accuracy) ([5.38 min](#finetune.resnet20.minutes), [n = 1](#finetune.resnet20.accuracy)).
# Where n is 1 there is no interval, and small differences mean nothing.

# %% [markdown]
# > **Takeaway.**
# > A recipe made for a graphics card's speed record also serves a processor core: [94.2 %](#finetune.strong.accuracy) of CIFAR-10's test images in [17.8 min](#finetune.strong.minutes).

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: count before you run
#
# What becomes of ResNet-20's multiply-accumulates when the images are twice as wide and high?
# And when every layer has twice the channels?
# Predict both factors from $C = \sum_k N_k D_k$, and say which layers spoil the round numbers.

# %% tags=["hide-cell"]
larger = complexity(resnet20, (3, 2 * input_shape[1], 2 * input_shape[2]))
wider = complexity(build("resnet20", num_classes=K, width=2), input_shape)
print(
    f"twice the side: × {larger.macs / cost.macs:.4f}, twice the channels: × "
    f"{wider.macs / cost.macs:.4f}"
)
# D_k of each convolution grows fourfold; the last layer's stays 1.
# N_k of each convolution grows fourfold; the first one's only doubles, since it always sees
# three colours,
# and so does the last one's, since there are always as many classes.
assert 3.99 < larger.macs / cost.macs < 4 and 3.9 < wider.macs / cost.macs < 4

# %% [markdown]
# ### Exercise 2: more looks at each image
#
# The recipe's prediction averages six views of each test image.
# How much do two, and six, gain over one, and what do they cost?
# Use the net that is already trained: `best.predict(test, views=...)`.

# %% tags=["hide-cell"]
looks = {}
for views in (1, 2, 6):
    begin = time.perf_counter()
    looks[views] = (accuracy(best, exam, views), time.perf_counter() - begin)
print(pd.DataFrame(looks, index=["accuracy (%)", "seconds"]).T.round(2).rename_axis("views"))
# Each view costs one forward pass; the second view, the mirror image, is usually the best bargain.
assert set(looks) == {1, 2, 6}

# %% [markdown]
# ### Exercise 3: how many test images does a claim need?
#
# Treat each test image as a coin that falls right with the net's accuracy.
# How many images are needed until the standard deviation of that accuracy falls to half a point?
# Then take two nets, such as `best` and `full[0]`, and compare the spread of their difference on separate images with that on the *same* images: why is the second smaller?

# %% tags=["hide-cell"]
share = outcome.accuracy
needed_images = share * (1 - share) / 0.005**2
first, second = ((run.predict(test).argmax(1) == labels).astype(float) for run in (best, full[0]))
alone, paired = np.hypot(first.std(), second.std()), np.std(first - second)
print(f"about {needed_images:,.0f} images")
print(f"spread of a difference: {alone:.2f} on separate images, {paired:.2f} on the same ones")
# Both nets find the same images hard, so their errors rise and fall together and cancel in the
# difference.
assert paired < alone

# %% [markdown]
# ### Exercise 4: the price of a rank
#
# How many weights does LoRA train in the speed net at ranks 1, 2, 4, 8 and 16?
# At which rank would it train as many as full fine-tuning, if the rank could grow without limit?

# %% tags=["hide-cell"]
ranks = {
    r: count_parameters(adapt(sources[0].model, "lora", K, 0, rank=r), trainable=True)
    for r in (1, 2, 4, 8, 16)
}
slope = ranks[2] - ranks[1]
print(ranks, f"| as many as full at a rank of about {(sizes['full'] - ranks[1]) / slope + 1:.0f}")
# A rank adds one filter to A and one column to B in every layer, so the count grows by the same
# number each time,
# until the rank reaches a layer's full rank; beyond that it adds nothing, and the library stops
# there.
assert ranks[2] - ranks[1] == (ranks[4] - ranks[2]) / 2

# %% [markdown]
# ### Exercise 5: calibration without smoothing
#
# Train the speed net once more with hard labels (`ABLATIONS["no_smoothing"]`).
# On which side of the diagonal does it lie now, and does one temperature still mend it?

# %% tags=["hide-cell"]
hard = run_preset(speed(ABLATIONS["no_smoothing"], few), few, p.seed)
answer = hard.predict(exam).astype(float)
t = temperature(hard)
raw, cured = report(answer, exam.labels), report(answer / t, exam.labels)
errors = [100 * one.calibration_error for one in (raw, cured)]
print(f"calibration error {errors[0]:.1f} % -> {errors[1]:.1f} % at T = {t:.2f}")
# T above 1 means that the net was too sure, below 1 too timid; the guesses are the same either way.
assert raw.accuracy == cured.accuracy

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
# * A count of multiply-accumulates is exact and cheap; time is neither, and follows shapes and memory as much as arithmetic.
# * At equal time a recipe made for speed beats a familiar one; which of its parts pay is a matter for paired runs and intervals, not for belief.
# * A trained net should hand over confidences that can be trusted, and one number on held-out images is often enough.
# * The fewer the labels, the more old weights are worth; which way of using them is best changes as labels grow, and the crossing can be measured.
#
# From here on the questions turn round: not how good a net becomes, but how its quality *scales* with data, size and time, whether that can be predicted before it is paid for, and how much of a trained net can be taken away again.

# %%
record = new_record(
    "finetune",
    profile=p.profile,
    parameters=p.model_dump(),
    data_digest=train.digest,
    seeds=list(SEEDS),
    values=numbers,
    claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
    dtype=best.execution,
)
print(f"record {chapters.save_record(record).name}, {record.wall_seconds / 60:.1f} min")
