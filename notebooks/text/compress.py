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
# # Making it small
#
# My trained network is too slow or too large where it must run: what do I do first, what does it cost in accuracy, and how sure is that?
# This chapter takes one network through everything that is commonly done to it, and measures each time what counts: the latency of the program that is deployed, its bytes on disk, its accuracy with an interval, and what the same training compute would have bought otherwise.
#
# **You will be able to**
#
# * export a network, and show that the program computes what the network does;
# * say why zeros in the weights make nothing faster, and remove channels so that they do;
# * put weights and activations into eight bits, and bound the error before you measure it;
# * tell from arithmetic alone when a factorised layer saves nothing;
# * hold each method against a thin network of the same latency that had the same training compute;
# * search for a combination under a target, and read a frontier.
#
# **Before you start** read the chapters on fine-tuning and on tuning one device.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | Zipf-10 | any processor | about a minute | see the receipt | none |
# | `laptop` | CIFAR-10, a part | two processor cores | [16.1 min](#compress.run_minutes) | [2.17 GB](#compress.run_peak_memory) | <span class="given">170 MB</span> |
# | `gpu` | CIFAR-10 | one GPU trains, the processor is measured; **not yet run on one** | see `trials` | | <span class="given">170 MB</span> |
#
# A number with a dotted line under it leads to the run that produced it.
# Latencies are those of the device that the ledger names; yours appear when you run the chapter.

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
    # %pip install --quiet "scaletut[compress] @ {source}"

needed = ("scaletut", "torch", "torchvision", "pandas", "matplotlib",
          "onnx", "onnxscript", "onnxruntime", "torch_pruning",
          "tensorly", "optuna")
missing = [one for one in needed if importlib.util.find_spec(one) is None]
if missing:
    remedy = "run  pip install 'scaletut[train,compress]'"
    names = ", ".join(missing)
    raise ModuleNotFoundError(
        f"not installed: {names}; {remedy}  and restart the kernel"
    )

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
data = ""           # cifar10, zipf10, folder:PATH or an npz file; empty: the profile's
network = ""        # a name of scaletut.models, or a preset; empty: the profile's
images = 0          # images, 0 to 1000000; 0: the profile's
epochs = 0.0        # epochs, 0 to 1000; 0: the profile's
seeds = 0           # seeds, 0 to 20; 0: the profile's
trials = 0          # trials, 0 to 1000; 0: the profile's
seed = 0            # 0 to 2147483647

# %% tags=["prepare"]
import copy
import logging
import tempfile
import textwrap
import time
import warnings
import zlib
from dataclasses import replace

# %% tags=["prepare"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

# %% tags=["prepare"]
from scaletut import chapters, compress, figures, resources
from scaletut.compress.driver import retraining
from scaletut.data import load
from scaletut.errors import ScaletutError
# %% tags=["prepare"]
from scaletut.models import complexity, surgery
from scaletut.records import Claims, Value, find_records
from scaletut.records import format_value, new_record, peak_memory
from scaletut.train import fit, predict, training_flops
from scaletut.train.presets import PRESETS, Preset, make_network

# %% tags=["prepare"]
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "compress", profile=profile, data=data, network=network,
    images=images, epochs=epochs, seeds=seeds, trials=trials, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %% tags=["hide-input", "prepare"]
claims, numbers = Claims("compress"), {}
blue, orange, teal, violet = figures.PALETTE[:4]
quick = p.profile == "quick"
SEEDS = range(p.seed, p.seed + p.seeds)
folder = Path(tempfile.mkdtemp())
spend = 0.3 if quick else 2.0  # seconds of each latency


def shown(value):
    """As text, with its interval where there is one."""
    how = "value" if value.low is None else "interval"
    return format_value(value, how)


def keep(name, value, unit="", n=1):
    """Note a value for the record, and show it as text."""
    made = value if isinstance(value, Value) else Value(value, unit, n=n)
    numbers[name] = made
    return shown(made)


# %% [markdown]
# ## The network that is too slow
#
# A network, its recipe and a part of the data, once for each seed.
# Choices are made on training images that were held out; the test images are for the final numbers.

# %%
full = load(p.data)
train, rest = full.train.split(len(full.train) - p.images, seed=p.seed)
held = rest.take(range(min(300 if quick else 1000, len(rest))))
test = full.test.take(range(min(500 if quick else 3000, len(full.test))))
print(len(train), "to learn from,", len(held), "held out,",
      len(test), "to test on, of side", train.images.shape[1])

# %%
side = train.images.shape[1]
batch = min(128, max(16, 2 ** int(np.log2(p.images / 25))))
plain = PRESETS["resnet20"].recipe  # SGD, one cycle, crops and flips
plain = replace(plain, batch_size=batch, lr=plain.lr * batch / 128)
# %%
preset = PRESETS.get(p.network, Preset(p.network, plain, ""))
again = p.epochs / 2  # epochs of a fine-tuning


# %%
def trained(net, epochs, seed, recipe=preset.recipe, objective=None):
    """Train in place; the result tells FLOPs too."""
    result = fit(net, train, replace(recipe, epochs=epochs), seed,
                 objective=objective)
    result.model.to("cpu", memory_format=torch.contiguous_format)
    return result


# %%
runs = [trained(make_network(preset, train, s), p.epochs, s)
        for s in SEEDS]
bases = [run.model.eval() for run in runs]
net, normal = bases[0], runs[0].normalisation
# %%
gentle = retraining(net.spec)  # a tenth of the rate or so
if p.network not in PRESETS:
    rate = gentle.lr * batch / gentle.batch_size
    gentle = replace(gentle, batch_size=batch, lr=rate)

# %% tags=["hide-input"]
def accuracy(what, images=test):
    """Percent of the images; of a network or of a program."""
    if isinstance(what, compress.Program):
        logits = what.logits(images.images)
    else:
        logits = predict(copy.deepcopy(what), images, normal)
    return 100 * float((logits.argmax(1) == images.labels).mean())


before = [accuracy(one) for one in bases]
print(p.network, "reaches",
      keep("base_accuracy", Value.of(before, "%")))

# %% [markdown]
# ## What is deployed
#
# Nobody deploys a training framework if it can be helped.
# A network is exported once into a graph of operators, and a small runtime carries the graph out.
#
# > **Guess first.**
# > The same arithmetic, the same numbers, one image: how much faster is the exported program than PyTorch?

# %% [markdown]
# An export is a translation, and translations are checked: the library runs network and program on the same 1,000 images, writes the largest difference into the program's manifest, and refuses a program beyond the tolerance.

# %%
def program_of(net, name):
    """Export a network, compared on images."""
    return compress.export(
        net, folder / f"{name}.onnx", normalisation=normal,
        class_names=train.class_names, images=test.images[:1000],
    )


program = program_of(net, "given")
program.manifest["agreement"]

# %%
agreed = program.manifest["agreement"]
claims.check(
    "The exported program computes what the network does.",
    agreed["largest_difference"] < 1e-3 and agreed["same_class"] == 1,
)
keep("largest_difference", agreed["largest_difference"])

# %% [markdown]
# ### Time it honestly
#
# The first call is slow, a busy moment falls on whatever runs just then, and a mean hides both.
# So: warm up, take turns, and tell the median.
# In a few lines:

# %%
one = test.images[:1]
runner = program.predictor(threads=1)
pixels = torch.from_numpy(runner.prepare(one))
# %%
calls = {"eager": lambda: net(pixels), "program": lambda: runner(one)}
with torch.inference_mode():
    taken = {name: [] for name in calls}
    for turn in range(40):  # the first ten warm up
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - begun)
{name: f"{1e3 * np.median(some[10:]):.2f} ms"
 for name, some in taken.items()}

# %% [markdown]
# The library's harness does the same with one thread for each, until the time is spent, and adds quantiles, the processor's seconds, and the ratio to the first with its interval.

# %% tags=["hide-input"]
def timed(calls, images=1):
    """Latencies by name, taken in turns; ratios are to the first."""
    found = compress.latencies(calls, images_a_call=images, threads=1,
                               seconds=spend * len(calls))
    return dict(zip(calls, found, strict=True))


def in_table(found):
    """Milliseconds a call, and what a thousand images cost."""
    return pd.DataFrame({name: {
        "median, ms": f"{1e3 * one.seconds.value:.2f}",
        "p90, ms": f"{1e3 * one.p90:.2f}",
        "CPU s, 1,000 images": f"{one.cpu_seconds:.2f}",
        "times (95 %)": shown(one.ratio),
    } for name, one in found.items()}).T


# %%
speeds = {}
for batch in (1, 64):
    few = np.resize(test.images[:64], (batch, side, side, 3))
    speeds[batch] = timed({
        "eager": compress.eager(net, few),
        "channels last": compress.eager(net, few, channels_last=True),
        "program": compress.runner(program, few),
    }, batch)
in_table(speeds[1])

# %%
in_table(speeds[64])

# %%
for batch, found in speeds.items():
    print(f"program, {batch} images a call:",
          keep(f"faster_program_{batch}", found["program"].ratio))

# %% [markdown]
# Where does it come from?
# ONNX Runtime rewrites the graph before it runs it: `basic` folds constants, `extended` fuses operators, `all` also chooses the memory layout of its kernels.

# %%
def at_level(level):
    """One image through the program, the graph rewritten so far."""
    made = program.predictor(level=level)
    return lambda: made(one)


levels = ("off", "basic", "extended", "all")
in_table(timed({level: at_level(level) for level in levels}))

# %% [markdown]
# ### One rewriting by hand: the norm goes into the convolution
#
# At inference a batch norm {cite:p}`ioffe2015` is a fixed linear map of each channel, so the convolution before it can do its work:

# %%
torch.manual_seed(p.seed)
conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
_ = norm(conv(torch.randn(64, 3, 9, 9)))  # statistics to fold
# %%
norm.eval()
scale = norm.weight / (norm.running_var + norm.eps).sqrt()
one_layer = copy.deepcopy(conv)
one_layer.weight.data = conv.weight * scale.view(-1, 1, 1, 1)
one_layer.bias.data = (conv.bias - norm.running_mean) * scale + norm.bias

# %%
some = torch.randn(16, 3, 9, 9)
apart = (one_layer(some) - norm(conv(some))).abs().max().item()
# %%
folded = compress.fold_norms(net, side=side)
whole = (folded(pixels) - net(pixels)).abs().max().item()
print(f"one layer {apart:.0e}, the network {whole:.0e},",
      f"{folded.steps[-1]['norms']} norms gone")
claims.check("A folded batch norm changes nothing but the rounding.",
             max(apart, whole) < 1e-4);

# %% [markdown]
# `torch.compile` also removes Python from between the operators, inside the framework.
# It needs a compiler on the machine, and half a minute the first time, so `quick` leaves it out:

# %% tags=["hide-input"]
logging.disable(logging.WARNING)  # compilers tell much
try:
    if quick:
        raise RuntimeError("left out at quick")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = timed({"program": compress.runner(program, one),
                       "torch.compile": compress.compiled(net, one)})
    print("torch.compile, times the program's speed:",
          shown(found["torch.compile"].ratio))
except Exception as error:  # no compiler here, or another's fault
    print("torch.compile:", type(error).__name__, "- no figure here")
logging.disable(logging.NOTSET)

# %% [markdown]
# > **Takeaway.**
# > Export first: the program is [4.28](#compress.faster_program_1) times as fast as eager PyTorch on one image and [1.2](#compress.faster_program_64) times on 64, its logits differ by [2.38 × 10⁻⁶](#compress.largest_difference) at most, and it costs no accuracy.
# > Whatever else is done is compared with *this* program, not with eager.

# %% [markdown]
# ## Zeros are not speed
#
# > **Guess first.**
# > Four weights in five are set to zero.
# > How much faster is the program, and how much smaller is its file?

# %%
def smallest_to_zero(net, share):
    """Each layer's weights of least magnitude, by hand."""
    pruned = copy.deepcopy(net)
    for layer in pruned.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            size = layer.weight.abs()
            cut = size.flatten().kthvalue(round(share * size.numel()))
            layer.weight.data[size <= cut.values] = 0
    return pruned


# %%
by_hand = smallest_to_zero(net, 0.8)
sparse = compress.prune_weights(net, 0.8, scope="layer")
frozen = set(net.spec.frozen)  # filters that the design holds fixed
assert all(torch.equal(a, b) for (name, a), b in
           zip(sparse.named_parameters(), by_hand.parameters())
           if name not in frozen)
print({name: sparse.steps[-1][name] for name in ("zeros", "weights")})

# %%
zeros = program_of(sparse, "zeros")
found = timed({"program": compress.runner(program, one),
               "four in five zero": compress.runner(zeros, one)})
in_table(found)

# %%
sizes = pd.DataFrame({name: {
    "bytes": some.bytes,
    "bytes, zipped": len(zlib.compress(some.path.read_bytes(), 9)),
} for name, some in {"program": program, "zeros": zeros}.items()})
sizes

# %%
gain = found["four in five zero"].ratio
zipped = sizes.zeros["bytes, zipped"] / sizes.program["bytes, zipped"]
print("times as fast:", keep("faster_zeros", gain),
      "| zipped, share:", keep("zeros_zipped", 100 * zipped, "%"))

# %%
claims.check("A program with four in five weights zero is no faster.",
             gain.value < 1.3)
claims.check("Its file is as large; only a zipped copy is smaller.",
             zeros.bytes > 0.98 * program.bytes and zipped < 0.6);

# %% [markdown]
# A zero is multiplied like any other number, and stored like one.
# Only kernels made for sparse matrices skip it, and they pay late: each number that is kept needs its place written beside it.
# Zeros that survive more training, for a smaller download, are what `hold_zeros` is for.
#
# > **Takeaway.**
# > With four in five weights at zero the program is [1.000](#compress.faster_zeros) times as fast and its file as large as before; only the zipped file shrinks, to [31.0 %](#compress.zeros_zipped).

# %% [markdown]
# ## Channels really removed
#
# A channel that goes takes three things with it: a filter, its entry in the norm, and a slice of every filter of the next layer.
# By hand on two layers:

# %%
first, bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
second = nn.Conv2d(8, 4, 3)
chain = nn.Sequential(first, bn, nn.ReLU(), second).eval()
stay = first.weight.flatten(1).norm(dim=1).argsort()[4:].sort().values
print("filters that stay:", stay.tolist())

# %%
thin = nn.Sequential(
    nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
    nn.Conv2d(4, 4, 3),
).eval()
thin[0].weight.data = first.weight[stay]
# %%
for name, entry in bn.state_dict().items():
    thin[1].state_dict()[name].copy_(entry[stay] if entry.ndim else entry)
thin[3].weight.data = second.weight[:, stay]
thin[3].bias.data = second.bias

# %% [markdown]
# The narrow chain computes what the wide one does with the other channels held at zero:

# %%
masked = copy.deepcopy(chain)
gone = [channel for channel in range(8) if channel not in stay]
masked[3].weight.data[:, gone] = 0
assert torch.allclose(thin(some), masked(some), atol=1e-6)
print("parameters:", *(sum(w.numel() for w in one.parameters())
                       for one in (chain, thin)))

# %% [markdown]
# In a residual network the sums tie channels of several layers together.
# What must go together is found from the graph {cite:p}`fang2023`:

# %%
groups = compress.channel_groups(net, side=side)
pd.DataFrame({group.name: {
    "channels": group.channels, "made by": ", ".join(group.layers),
    "read by": ", ".join(group.readers),
} for group in groups}).T

# %% [markdown]
# The library, on one group alone, does what the hand did: the network without the channels equals the network whose readers do not see them.

# %%
group = min(groups, key=lambda group: len(group.layers))
half = group.channels // 2
short = compress.prune_channels(
    net, 0.0, side=side, round_to=1, shares={group.name: 0.5})
# %%
blind = copy.deepcopy(net)
gone = group.importance.argsort()[:half]
for name in group.readers:
    blind.get_submodule(name).weight.data[:, gone] = 0
# %%
apart = (short(pixels) - blind(pixels)).abs().max().item()
print(f"{group.name} loses {half} channels; logits differ by {apart:.0e}")
claims.check("Removing channels equals holding them at zero.",
             apart < 1e-3);

# %% [markdown]
# ### Which layer can spare them?
#
# One group at a time, nothing trained after, on held-out images {cite:p}`li2017`:

# %%
felt = compress.sensitivity(
    net, lambda some: accuracy(some, held), side=side,
    shares=(0.5,) if quick else (0.25, 0.5, 0.75),
)
drops = pd.DataFrame({one.layer: one.drops for one in felt},
                     index=felt[0].shares)
drops.round(1)

# %% mystnb={"image": {"alt": "Points of accuracy lost when one group of channels alone is pruned, one line a group against the share that is removed: some groups lose little at half of their channels, others tens of points."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.4)
for number, one_group in enumerate(felt):
    axes.plot([0, *one_group.shares], [0, *one_group.drops],
              figures.MARKERS[number % 6] + ("-" if number < 6 else "--"),
              color=figures.PALETTE[number % 6], label=one_group.layer)
axes.set(xlabel="share of the group's channels removed",
         ylabel="points of accuracy lost")
figure.legend(loc="outside right center", fontsize=8)
plt.show()

# %% [markdown]
# The lines differ by far, and rise steeply: a network that was never trained to do without its channels misses them.
#
# ### Before and after fine-tuning
#
# Half of all channels go, the same share of each group, rounded so that widths stay multiples of eight; then the network trains for half of its epochs again, by the schedule that it was first trained with {cite:p}`renda2020`.

# %%
def halved(net):
    """Half of the channels of each group gone."""
    return compress.prune_channels(net, 0.5, side=side,
                                   spread="uniform")


cut = [halved(one) for one in bases]
raw = [accuracy(one) for one in cut]
# %%
tuned = [trained(copy.deepcopy(one), again, s)
         for one, s in zip(cut, SEEDS)]
after = [accuracy(run.model) for run in tuned]
{"as given": shown(Value.of(before, "%")),
 "pruned": shown(Value.of(raw, "%")),
 "and fine-tuned": shown(Value.of(after, "%"))}

# %%
lost = resources.difference(before, raw)
left = resources.difference(before, after)
print("lost by pruning:", keep("prune_lost", lost),
      "| after fine-tuning:", keep("prune_left", left))
# %%
claims.check("Fine-tuning wins back most of what pruning lost.",
             left.value < 0.5 * lost.value, unit="points",
             margin=0.5 * lost.value - left.value);

# %% [markdown]
# Pruning in rounds, with some training after each, is said to be kinder {cite:p}`han2015`.
# Here both take the same epochs:

# %%
def in_rounds(net, s):
    """Two rounds, half of the fine-tuning after each."""
    def between(some, number):
        return trained(some, again / 2, s + number).model
    return compress.prune_in_rounds(net, 0.5, 2, between, side=side,
                                    spread="uniform")


# %%
rounds = [accuracy(in_rounds(one, s)) for one, s in zip(bases, SEEDS)]
kinder = resources.difference(rounds, after)
print("two rounds against one, points:", keep("rounds_gain", kinder))


# %%
def verdict(gain):
    """What a difference, seed by seed, lets one say."""
    if gain.low is None or gain.low <= 0 <= gain.high:
        return "no difference that these seeds show"
    return "better" if gain.value > 0 else "worse"


verdict(kinder)

# %% [markdown]
# ### The rival that is seldom shown
#
# A network of the pruned shape can also be trained from scratch {cite:p}`liu2019`.
# Its latency and its bytes are the same by construction.
# Fair is the same training compute: what the large network, its pruning and its fine-tuning took together.
#
# > **Guess first.**
# > Which is better, the pruned network or the thin one that had all that compute for itself?

# %%
shape = surgery.changed_layers(cut[0])


# %%
def from_scratch(flops, s, objective=None):
    """The pruned shape, new weights, trained for so many FLOPs."""
    new = surgery.rebuild(net.spec, shape, seed=s)
    whiten = getattr(new, "whiten", None)
    if whiten is not None:  # a speed net's first layer is computed
        whiten.load_state_dict(cut[s - p.seed].whiten.state_dict())
    passes = flops / (len(train) * training_flops(new, side))
    return trained(new, passes, s, objective=objective)


# %%
budgets = [run.flops + more.flops for run, more in zip(runs, tuned)]
thins = [from_scratch(flops, s) for flops, s in zip(budgets, SEEDS)]
alone = [accuracy(run.model) for run in thins]
# %%
spent = np.mean([run.flops for run in thins]) / np.mean(budgets)
print(f"the thin network had {spent:.3f} of the compute")
claims.check("The thin rival had the same training compute, within 5 %.",
             abs(spent - 1) < 0.05);

# %%
better = resources.difference(after, alone)
keep("pruned_accuracy", Value.of(after, "%"))
keep("thin_accuracy", Value.of(alone, "%"))
print("pruned against thin, points:",
      keep("pruned_over_thin", better), "-", verdict(better))

# %% [markdown]
# ### MACs are not speed
#
# Tables of pruned networks call the ratio of multiply-adds a speed-up.
# Here is what the program says, once with widths as they come, once rounded to eight, the number of floats in one of this processor's registers, in whose blocks ONNX Runtime's fast convolutions work.

# %%
def macs_of(net):
    return complexity(net, (3, side, side)).macs


# %%
shares = (0.5,) if quick else (0.25, 0.5, 0.7)
cuts = {(share, width): compress.prune_channels(
            net, share, side=side, round_to=width)
        for share in shares for width in (1, 8)}
times = timed({"given": compress.runner(program, one)} | {
    key: compress.runner(program_of(some, f"cut{key[0]}_{key[1]}"), one)
    for key, some in cuts.items()
})

# %%
counted = pd.DataFrame([
    (*key, macs_of(net) / macs_of(cuts[key]), found.ratio.value,
     shown(found.ratio))
    for key, found in times.items() if key != "given"
], columns=["share", "rounded to", "MACs, times fewer", "times", "faster"])
counted.drop(columns="times").round(2)

# %% mystnb={"image": {"alt": "Measured speed-up against the ratio of multiply-adds for networks pruned to different shares, with widths as they come and with widths rounded to eight; a diagonal marks where the two would be equal."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.4)
most = max(counted["MACs, times fewer"].max(), counted.times.max())
axes.plot([1, most], [1, most], color=figures.QUIET, linewidth=1)
axes.text(most, most, "speed as promised ", ha="right", va="bottom",
          fontsize=9, color=figures.QUIET)
for number, (width, some) in enumerate(counted.groupby("rounded to")):
    name = "any width" if width == 1 else f"rounded to {width}"
    axes.plot(some["MACs, times fewer"], some.times,
              figures.MARKERS[number] + "-",
              color=figures.PALETTE[number], label=name)
axes.set(xlabel="multiply-adds, times fewer",
         ylabel="measured, times faster")
axes.legend()
plt.show()

# %%
promised = counted["MACs, times fewer"] / counted.times
odd = promised[counted["rounded to"] == 1]
print("any width: MACs promise",
      keep("faster_promised", odd.mean(), "×"), "what is measured")
claims.check("At any width, MACs promise more speed than there is.",
             (odd > 1).all(), margin=odd.min() - 1, unit="×");

# %% [markdown]
# > **Takeaway.**
# > Half of the channels cost [34 points](#compress.prune_lost) at once and [2 points](#compress.prune_left) after fine-tuning; over the thin network of the same shape and training compute the pruned one is ahead by [−16 points](#compress.pruned_over_thin), a minus meaning behind.
# > The networks of this profile learn from few images in few epochs and are stopped while they still learn, so compute that goes into a large network, its pruning and its repair is compute that the thin one would have used better: whoever can train longer does that first.
# > Pruning in two rounds changed that by [−1 points](#compress.rounds_gain).
# > At widths as they come the multiply-adds promise [2.50](#compress.faster_promised) times the speed that is measured.

# %% [markdown]
# ## Eight bits
#
# A byte holds 256 levels.
# A *scale* says how far apart they lie, a *zero point* which of them means zero {cite:p}`jacob2018`.
# One tensor by hand:

# %%
weighted = [name for name, layer in net.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1
            and f"{name}.weight" not in net.spec.frozen]
# %%
layer = net.get_submodule(weighted[-1])
w = layer.weight.detach().numpy()
step = (w.max() - w.min()) / 255
zero = round(-w.min() / step)
level = np.clip(np.rint(w / step) + zero, 0, 255).astype(np.uint8)
back = step * (level.astype(int) - zero)

# %%
grid = compress.affine(w.min(), w.max())
assert np.array_equal(level, compress.quantise(w, grid))
assert np.allclose(back, compress.dequantise(level, grid))
# %%
error = np.abs(back - w).max()
print(f"scale {step:.5f}, zero point {zero}; largest error {error:.5f},",
      f"bound {grid.error_bound:.5f}")
claims.check("No weight moves by more than half a step.",
             error <= 1.001 * grid.error_bound);

# %% mystnb={"image": {"alt": "Left: a histogram of a layer's weights, bell-shaped about zero. Right: a histogram of the errors of rounding to 256 levels, flat between minus and plus half a step."}} tags=["hide-input"]
figure, axes = figures.panels(1, 2, height=2.8)
axes[0].hist(w.ravel(), 100, color=blue)
axes[0].set(xlabel="weight", ylabel="weights")
axes[1].hist((back - w).ravel() / step, 50, color=orange)
axes[1].set(xlabel="error of rounding (steps)")
plt.show()

# %% [markdown]
# The step is set by the largest weight of the tensor, so one large filter makes the grid coarse for all.
# A grid for each output channel costs one number a channel:

# %%
def rounded(w, axes):
    """Symmetric int8 with one scale for all that `axes` span."""
    scale = np.abs(w).max(axis=axes, keepdims=True) / 127
    return scale * np.rint(w / scale)


# %%
coarse = np.square(rounded(w, (0, 1, 2, 3)) - w).mean()
fine = np.square(rounded(w, (1, 2, 3)) - w).mean()
print("a grid a tensor has",
      keep("grid_error", coarse / fine, "×"), "the squared error")
claims.check("A grid a channel errs less than a grid a tensor.",
             fine < coarse);

# %% [markdown]
# ### A layer in whole numbers
#
# What is gained is not only bytes.
# With $x = s_x (q_x - z)$ and $w = s_w q_w$ the sum of products is $s_x s_w \sum (q_x - z)\, q_w$: whole numbers inside, one multiplication outside.
# The head of the network, on its true inputs:

# %%
head = net.get_submodule([name for name, layer in net.named_modules()
                          if isinstance(layer, nn.Linear)][-1])
# %%
seen = []
hook = head.register_forward_hook(lambda _, x, y: seen.append(x[0]))
exact = net(torch.from_numpy(runner.prepare(test.images[:200])))
hook.remove()
x, v = seen[0].detach().numpy(), head.weight.detach().numpy()

# %%
xs = compress.affine(x.min(), x.max())
qx = compress.quantise(x, xs).astype(np.int32) - xs.zero_point
vs = np.abs(v).max(axis=1) / 127
qv = np.rint(v / vs[:, None]).astype(np.int32)
# %%
whole = xs.scale * vs * (qx @ qv.T)  # int32 inside
decoded = (xs.scale * qx) @ (vs[:, None] * qv).T
assert np.allclose(whole, decoded, rtol=1e-4, atol=1e-4)

# %% [markdown]
# The bound of a product's error follows from those of its factors, so it is known before any image is seen:

# %%
bound = (xs.scale / 2 * np.abs(v).sum(1)
         + vs / 2 * np.abs(xs.scale * qx).sum(1, keepdims=True))
off = np.abs(whole - x @ v.T)
print(f"largest error {off.max():.3f}, its bound {bound.max():.3f}")
claims.check("An int8 layer errs by less than the bound on paper.",
             (off <= bound + 1e-4).all());

# %% [markdown]
# ### The whole program
#
# The ranges of activations are not known from the weights: they are taken from some hundred *training* images, which is called calibration.
# Dynamic quantisation needs none, for it finds them anew at each call.
#
# > **Guess first.**
# > Same bytes, same bits: is dynamic faster or slower than static, and by how much?

# %%
pictures = train.images[:128 if quick else 512]
static = compress.quantise_static(program, folder / "static.onnx",
                                  pictures)
# %%
loose = compress.quantise_static(program, folder / "tensor.onnx",
                                 pictures, per_channel=False,
                                 tolerance=1.0)
dynamic = compress.quantise_dynamic(program, folder / "dynamic.onnx",
                                    check=test.images[:1000])

# %%
eights = {"float32": program, "static, a grid a channel": static,
          "static, a grid a tensor": loose, "dynamic": dynamic}
times8 = timed({name: compress.runner(some, one)
                for name, some in eights.items()})
# %%
table = in_table(times8)
table["kB"] = [round(some.bytes / 1e3) for some in eights.values()]
table["accuracy, %"] = [f"{accuracy(some):.1f}"
                        for some in eights.values()]
table

# %%
print("static:", keep("faster_static", times8[
    "static, a grid a channel"].ratio), "| dynamic:",
    keep("faster_dynamic", times8["dynamic"].ratio))
keep("static_bytes", program.bytes / static.bytes, "×")
# %%
slow = (times8["dynamic"].seconds.value
        / times8["static, a grid a channel"].seconds.value)
claims.check("Dynamic int8 is slower than static on this network.",
             slow > 1, margin=slow - 1, unit="×");

# %% [markdown]
# ONNX Runtime has fast kernels for static int8 convolutions; for dynamic ones it has a plain one.
# How much int8 pays depends on the processor's instructions:

# %%
print(compress.instruction_set())
print(textwrap.fill(compress.int8_warning() or "int8 pays here", 72))

# %% [markdown]
# Over the seeds, each with a calibration of its own:

# %% tags=["hide-input"]
def int8_of(net, name):
    """Exported, then static int8."""
    made = program_of(net, name)
    return compress.quantise_static(
        made, folder / f"{name}_8.onnx", pictures)


eight = [static, *(int8_of(one, f"base{s}")
                   for one, s in zip(bases[1:], SEEDS[1:]))]
in8 = [accuracy(one) for one in eight]
cost8 = resources.difference(before, in8)
print("int8 costs, points:", keep("int8_cost", cost8))
claims.check("Static int8 costs less than two points.",
             cost8.value < 2, margin=2 - cost8.value, unit="points");

# %% [markdown]
# ### Training with the rounding
#
# In quantisation-aware training the forward pass rounds as int8 will, and the backward pass pretends that it did not (the straight-through estimator).
# The mechanism in three lines:

# %%
def fake(w, scale):
    """Rounded forwards, untouched backwards."""
    return w + (scale * torch.round(w / scale) - w).detach()


leaf = torch.tensor([0.24, -0.9], requires_grad=True)
fake(leaf, 0.1).sum().backward()
fake(leaf, 0.1).tolist(), leaf.grad.tolist()

# %% [markdown]
# It is more training, so it is compared with as much training without the rounding, both brought to int8 afterwards.

# %%
def aware(net, s):
    """Trained with the rounding, then int8."""
    fake = compress.quantisation_aware(copy.deepcopy(net))
    run = trained(fake, again / 2, s, gentle)
    whole = compress.finish_quantisation_aware(run.model)
    return accuracy(int8_of(whole, f"aware{s}"))


# %%
def unaware(net, s):
    """As much training without, then int8."""
    run = trained(copy.deepcopy(net), again / 2, s, gentle)
    return accuracy(int8_of(run.model, f"unaware{s}"))


# %%
pairs = [(aware(one, s), unaware(one, s))
         for one, s in zip(bases, SEEDS)]
pays = resources.difference(*zip(*pairs))
print("rounding in training against without, points:",
      keep("aware_gain", pays), "-", verdict(pays))

# %% [markdown]
# Where eight bits cost next to nothing there is nothing to win back; at four bits there is.
# Four-bit weights are simulated here, for this processor cannot compute with them: only their bytes would be real.

# %%
fours = {bits: compress.simulate_weights(net, bits=bits, group=32)
         for bits in (8, 4, 2)}
by_bits = {bits: accuracy(some) for bits, some in fours.items()}
pd.DataFrame({"accuracy, %": by_bits, "kB it would take": {
    bits: some.steps[-1]["bytes"] / 1e3 for bits, some in fours.items()
}}).round(1)

# %%
keep("cost_4_bits", before[0] - by_bits[4], "points")
keep("cost_2_bits", before[0] - by_bits[2], "points")
claims.check("Two-bit weights cost more than four-bit weights.",
             by_bits[2] < by_bits[4]);

# %% [markdown]
# > **Takeaway.**
# > Static int8 is [1.316](#compress.faster_static) times as fast as the program in float, takes [3.19](#compress.static_bytes) times fewer bytes and costs [0.1 points](#compress.int8_cost); dynamic int8 is [0.6351](#compress.faster_dynamic) times as fast.
# > Training with the rounding changed int8's accuracy by [−0.1 points](#compress.aware_gain) against as much training without it.
# > Four-bit weights cost [1.80 points](#compress.cost_4_bits), two-bit weights [25.8 points](#compress.cost_2_bits).

# %% [markdown]
# ## Low rank
#
# A matrix of rank $r$ is a product of two thin ones.
# First the arithmetic, for it often says no.

# %%
def most_rank(inputs, outputs, k=1):
    """Ranks below which a chain saves multiply-adds."""
    dense = k * k * inputs * outputs
    svd = dense / (k * k * inputs + outputs)
    cp = dense / (inputs + 2 * k + outputs)
    return {"matrix": svd, "CP": cp if k > 1 else np.nan}


# %%
shapes = {"head, 64 to 10": (64, 10), "1x1, 16 to 32": (16, 32),
          "3x3, 16 to 16": (16, 16, 3), "3x3, 64 to 64": (64, 64, 3),
          "3x3, 512 to 512": (512, 512, 3)}
pd.DataFrame({name: most_rank(*one) for name, one in shapes.items()}
             ).T.round(1)

# %% [markdown]
# A head of ten outputs has rank ten at most and must come below nine to save anything; small kernels leave little room either.
#
# ### One matrix

# %%
matrix = v.astype(np.float64)  # the head's weights
left, values, right = np.linalg.svd(matrix, full_matrices=False)
rank = len(values) // 2
near = (left[:, :rank] * values[:rank]) @ right[:rank]
error = np.square(near - matrix).sum()
assert np.isclose(error, np.square(values[rank:]).sum())

# %%
pair = compress.svd_linear(head, rank)
product = pair[1].weight @ pair[0].weight
assert np.allclose(product.detach().numpy(), near, atol=1e-5)
energy = np.square(values[:rank]).sum() / np.square(values).sum()
print(f"rank {rank} of {len(values)} keeps {energy:.3f} of the energy")

# %% [markdown]
# The squared error is what the dropped singular values hold, so the energy that is kept tells the error before anything is run.
#
# ### One kernel
#
# A kernel has two modes of channels.
# Tucker-2 {cite:p}`kim2016` cuts both: 1×1 down, 3×3 between few channels, 1×1 up.
# By hand: project each mode on its leading singular vectors.

# %%
def leading(matrix, rank):
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


# %%
kernel = w.astype(np.float64)
outs, ins = kernel.shape[:2]
ranks = (max(ins // 2, 1), max(outs // 2, 1))  # in, out
# %%
up = leading(kernel.reshape(outs, -1), ranks[1])
down = leading(kernel.swapaxes(0, 1).reshape(ins, -1), ranks[0])
core = np.einsum("oiyx,op,iq->pqyx", kernel, up, down)
near = np.einsum("pqyx,op,iq->oiyx", core, up, down)
by_hand = np.square(near - kernel).sum() / np.square(kernel).sum()

# %% [markdown]
# The library improves the two projections in turn, and puts three convolutions in the place of one:

# %%
def squared_error(chain, layer):
    """Of a chain against its layer, as a share, on white noise."""
    noise = torch.randn(32, layer.in_channels, 9, 9,
                        generator=torch.Generator().manual_seed(0))
    exact = layer(noise)
    apart = (chain(noise) - exact).square().sum()
    return float((apart / exact.square().sum()).detach())


# %%
chain = compress.tucker(layer, ranks)
product = torch.einsum("po,oqyx,qi->piyx", chain[2].weight[:, :, 0, 0],
                       chain[1].weight, chain[0].weight[:, :, 0, 0])
fitted = np.square(product.detach().numpy() - w).sum() / (w**2).sum()
exact = squared_error(compress.tucker(layer, (ins, outs)), layer)
print(f"by hand {by_hand:.4f}, library {fitted:.4f},",
      f"all ranks {exact:.0e}")

# %%
claims.check("Tucker's factors are at least as near as projections.",
             fitted <= by_hand * 1.001)
claims.check("At full rank a chain computes what the layer did.",
             exact < 1e-6);

# %% mystnb={"image": {"alt": "Squared error of one kernel as a share against the share of its multiply-adds that a chain keeps, for Tucker-2, CP and SVD: the error falls with the cost, and is still large where the cost is that of the whole layer."}} tags=["hide-input"]
def cost_of(chain):
    """Multiply-adds a position."""
    return sum(one.weight.numel() for one in chain
               if isinstance(one, nn.Conv2d))


steps = (0.25, 0.5, 0.75) if quick else (0.125, 0.25, 0.5, 0.75, 0.875)
ways = {
    "Tucker-2": [compress.tucker(layer, (max(1, round(s * ins)),
                                         max(1, round(s * outs))))
                 for s in steps],
    "SVD": [compress.svd_conv(layer, max(1, round(s * outs)))
            for s in steps],
    "CP": [compress.cp(layer, max(1, round(s * outs)))
           for s in steps],
}
figure, axes = figures.panels(1, 1, height=3.4)
for number, (name, chains) in enumerate(ways.items()):
    axes.plot([cost_of(one) / w.size for one in chains],
              [squared_error(one, layer) for one in chains],
              figures.MARKERS[number] + "-", label=name,
              color=figures.PALETTE[number])
axes.set(xlabel="multiply-adds, share of the layer's",
         ylabel="squared error, share", ylim=(0, None))
axes.axvline(1, color=figures.QUIET, linewidth=1)
axes.legend()
plt.show()

# %% [markdown]
# Weights of a trained layer are nearly of full rank: that is what the slow fall of the curves says.
# CP {cite:p}`lebedev2015` goes further and cuts the kernel along its height and width too.
# The whole network, at the energy that you are ready to keep, with ranks rounded and only where it saves anything:

# %%
low = [compress.factorise(one, method="tucker", energy=0.8)
       for one in bases]
told = low[0].steps[-1]["layers"]
print(len(told), "layers became chains; MACs, times fewer:",
      keep("tucker_macs", macs_of(net) / macs_of(low[0]), "×"))

# %%
flat = [accuracy(one) for one in low]
mended = [trained(copy.deepcopy(one), again, s).model
          for one, s in zip(low, SEEDS)]
regained = [accuracy(one) for one in mended]
# %%
lost_rank = resources.difference(before, flat)
left_rank = resources.difference(before, regained)
print("points lost:", keep("tucker_lost", lost_rank),
      "| after fine-tuning:", keep("tucker_left", left_rank))

# %%
thinner = program_of(mended[0], "tucker")
found = timed({"program": compress.runner(program, one),
               "Tucker-2": compress.runner(thinner, one)})
print("times as fast:", keep("faster_tucker", found["Tucker-2"].ratio))

# %% [markdown]
# > **Takeaway.**
# > Tucker-2 took [1.15](#compress.tucker_macs) times the multiply-adds away and made the program [1.022](#compress.faster_tucker) times as fast: three small layers cost more than one in calls and in memory.
# > It lost [9 points](#compress.tucker_lost), and [−2 points](#compress.tucker_left) after fine-tuning (a minus is a gain: the repair is training too).

# %% [markdown]
# ## A teacher
#
# A trained network says more of an image than its label: that this dog is rather like a cat.
# Distillation {cite:p}`hinton2015` lets a student learn that, in few lines:

# %%
def taught(student, teacher, labels, T=4.0, share=0.9):
    """Hinton's loss: the teacher's softened classes, and the labels."""
    soft = F.kl_div(F.log_softmax(student / T, 1),
                    F.log_softmax(teacher / T, 1),
                    reduction="batchmean", log_target=True)
    hard = F.cross_entropy(student, labels)
    return share * T**2 * soft + (1 - share) * hard


# %%
views = torch.tensor(runner.prepare(train.images[:32]))
labels = torch.tensor(train.labels[:32])
# %%
with torch.no_grad():
    student, teacher = low[0](views), net(views)
    by_library = compress.Distillation(net)(views, student, labels)
assert torch.isclose(taught(student, teacher, labels), by_library)
float(by_library)

# %% [markdown]
# > **Guess first.**
# > The student is the thin network of before.
# > How many points does a teacher add, if the student alone gets the compute that the teacher's forward passes take?

# %%
once = [run.flops for run in runs]  # a yardstick: the teacher's training
shares = 0.5  # of it, for a student with its teacher
# %%
guided, single = [], []
for teacher, flops, s in zip(bases, once, SEEDS):
    goal = compress.Distillation(teacher)
    new = surgery.rebuild(net.spec, shape, seed=s)
    own, extra = training_flops(new, side), goal.flops(side)
    run = from_scratch(shares * flops * own / (own + extra), s, goal)
    guided.append(run)
    single.append(from_scratch(run.flops, s))

# %%
with_teacher = [accuracy(run.model) for run in guided]
without = [accuracy(run.model) for run in single]
taught_gain = resources.difference(with_teacher, without)
even = np.mean([run.flops for run in single]) / np.mean(
    [run.flops for run in guided])
# %%
keep("student_accuracy", Value.of(with_teacher, "%"))
print("a teacher adds, points:", keep("teacher_gain", taught_gain),
      "-", verdict(taught_gain))
# %%
claims.check("The student alone had the compute of the taught one.",
             abs(even - 1) < 0.05);

# %% [markdown]
# That counts the teacher as given.
# Who must train it first has the thin network of the section on channels for a rival: it had the teacher's compute, and more.

# %%
rival = resources.difference(with_teacher, alone)
print("taught, against thin with the teacher's compute, points:",
      keep("teacher_paid", rival), "-", verdict(rival))

# %% [markdown]
# > **Takeaway.**
# > A teacher that is there already changed the student by [−10 points](#compress.teacher_gain) at equal compute, to [43 %](#compress.student_accuracy); if the teacher's training is counted too, the difference is [−18 points](#compress.teacher_paid).
# > Its forward passes take compute from a student that still learns; small networks that have finished learning are where a teacher is said to help.

# %% [markdown]
# ## Together
#
# A recipe is a line of text, and `scaletut compress CHECKPOINT --recipe prune=0.5,int8` carries it out.
# So does the library:

# %%
bench = compress.Bench(
    train, held, normal, folder, epochs=again, seed=p.seed,
    recipe=preset.recipe, seconds=spend,
    options={"prune": {"spread": "uniform"}},
    calibration=len(pictures), petaflop=runs[0].flops / 1e15,
)
# %%
steps = compress.parse("prune=0.5,int8")
stages = compress.compress(net, steps, bench, exported=program)

# %% tags=["hide-input"]
def staged(stages):
    """What each measured stage is and costs."""
    return pd.DataFrame({one.name: {
        "parameters": f"{one.parameters:,}",
        "kB": f"{one.bytes / 1e3:,.0f}",
        "held out, %": f"{one.accuracy.value:.1f}",
        "drop, points": shown(one.drop),
        "1 image, times": shown(one.latency[1].ratio),
        "64, times": shown(one.latency[64].ratio),
        "CPU s, 1,000": f"{one.latency[64].cpu_seconds:.3f}",
    } for one in stages if one.measured}).T


staged(stages)

# %% [markdown]
# The last column is the nearest thing to energy that a program can read on any machine: seconds that a processor was busy for a thousand images.

# %%
final, given = stages[-1], stages[0]
print("pruned and int8:",
      keep("faster_both_1", final.latency[1].ratio), "on one image,",
      keep("faster_both_64", final.latency[64].ratio), "on 64")
# %%
keep("both_bytes", given.bytes / final.bytes, "×")
keep("cpu_seconds", final.latency[64].cpu_seconds, "s")
keep("both_drop", final.drop)
claims.check("Pruned and int8, the file is at least 4 times smaller.",
             given.bytes / final.bytes > 4);

# %% [markdown]
# ### Searched
#
# Which steps, and how much of each?
# The planner tries recipes under a target, here <span class="given">6 times</span> eager's speed; each trial is measured without its training first, and dropped when it cannot reach the target.
# A study is a file: interrupted, it goes on where it was.

# %%
points = [compress.record_of(one, bench, "net", profile=p.profile,
                             data=p.data)
          for one in stages if one.measured]


# %%
def listen(tried, stages):
    """Keep what was measured."""
    points.extend(compress.record_of(one, bench, "net",
                                     profile=p.profile, data=p.data)
                  for one in stages if one.measured)


# %%
target = compress.Target(latency=compress.Limit(6.0, relative=True))
brief = replace(bench, epochs=again / 2, seconds=spend / 3)
found = compress.search(net, brief, target, folder / "study.db",
                        trials=p.trials, listen=listen)

# %%
pd.DataFrame([{
    "recipe": one.recipe or "as given", "outcome": one.state,
    "of the target": f"{one.shares['latency']:.2f}" if one.shares else "",
    "drop, points": "" if one.drop is None else f"{one.drop:.1f}",
} for one in found.trials])

# %% [markdown]
# > **Guess first.**
# > How many of these points does no other beat in both accuracy and latency?

# %% mystnb={"image": {"alt": "Accuracy on held-out images against the latency of one image on a logarithmic axis: points that no other beats are coloured and numbered along a step line, dominated points are grey."}} tags=["hide-input"]
unique = {record.experiment: record for record in points}
measured = compress.points(unique.values())
compress.plot_front(measured)
plt.show()

# %%
best = compress.front(measured)
print(f"{len(best)} of {len(measured)} points are not dominated")
eager_point = min(measured, key=lambda one: -one.cost("latency").value)
claims.check("Eager PyTorch is not on the frontier.",
             eager_point.name not in {one.name for one in best});

# %% [markdown]
# > **Takeaway.**
# > Half of the channels and eight bits together are [7.9](#compress.faster_both_1) times as fast as eager PyTorch on one image and [3.8](#compress.faster_both_64) times on 64, in [8.35](#compress.both_bytes) times fewer bytes, for [3 points](#compress.both_drop); a thousand images take [0.140 s](#compress.cpu_seconds) of one core.

# %% [markdown]
# ## At full scale
#
# The same on all of CIFAR-10, scored on the test set: records of `book/compress.py`, which trains the preset `fast` once for each seed and compresses it.
# Three networks of half its width stand beside it: `half` was trained alone for as many epochs, `half_taught` by the large one for as many, and `half_long` alone with all the compute that went into the large one, its pruning and its repair.
# Low rank, training with the rounding, other shares and repair without a teacher are **not recorded yet**; what stands in `results/` is shown here.

# %% tags=["ledger"]
try:
    recorded = compress.points(
        find_records(chapters.book_root() / "results",
                     skip=("quick", "sweeps")))
except ScaletutError as error:
    recorded = ()
    print(textwrap.fill(str(error), 72))
print(len(recorded), "recorded points")

# %% tags=["hide-input", "ledger"]
ahead = compress.front(recorded) if recorded else ()
names = {one.name for one in ahead}
full_table = pd.DataFrame({one.label: {
    "frontier": "yes" if one.name in names else "",
    "accuracy": shown(one.accuracy),
    "1 image": shown(one.cost("latency")),
    "64 images": shown(one.cost("latency64")),
    "on disk": format_value(one.cost("bytes"), "value"),
    "CPU, 1,000 images": format_value(one.cost("cpu"), "value"),
    "seeds": len(one.seeds),
} for one in sorted(recorded, key=lambda one: -one.accuracy.value)}).T
full_table

# %% mystnb={"image": {"alt": "Test accuracy on CIFAR-10 against the latency of one image for all recorded programs: those that no other beats in colour, dominated ones grey, with intervals where there are several seeds."}} tags=["hide-input", "ledger"]
if len(recorded) > 1:
    compress.plot_front(recorded)
    plt.show()

# %% [markdown]
# > **Takeaway.**
# > On all of CIFAR-10, with <span class="given">three</span> seeds, static int8 costs [0.08 ± 0.10 points](#compress.fast.int8.drop) of [90.9 %](#compress.fast.eager.accuracy), and one image takes [0.529 ms](#compress.fast.int8.latency_1) instead of PyTorch's [2.56 ms](#compress.fast.eager.latency_1): export gives the larger part, to [0.781 ms](#compress.fast.onnx.latency_1), eight bits the rest.
# > Its file has [522.622 kB](#compress.fast.int8.bytes) instead of [1,994.247 kB](#compress.fast.onnx.bytes).
# > Four in five weights at zero cost [16 points](#compress.fast.weights0p8.drop) and no millisecond less; four bits for the weights [0.88 points](#compress.fast.w4.drop).
# >
# > With <span class="given">42 %</span> of the channels gone, and taught by the whole network for as many epochs as that was trained, `fast` loses [1.54 ± 0.10 points](#compress.fast.prune0p42_distil8.drop) and takes [0.38 ms](#compress.fast.prune0p42_distil8.latency_1).
# > In eight bits as well it is [8.7](#compress.fast.prune0p42_distil8_int8.speedup_1) times as fast as PyTorch on one image and [4.7](#compress.fast.prune0p42_distil8_int8.speedup_64) times on <span class="given">64</span>, in [200 kB](#compress.fast.prune0p42_distil8_int8.bytes), for [1.64 ± 0.17 points](#compress.fast.prune0p42_distil8_int8.drop).
# > We had aimed at <span class="given">6</span> times on both for half a point, from a network of <span class="given">93 %</span>: the accuracy is missed, and so is the speed on many images.
# >
# > **The thin network wins, against this repair.**
# > Half of the channels pruned and three epochs of teaching end [3.3 ± 0.6 points](#compress.fast.prune0p5_distil3.drop) below the network, in [0.32 ms](#compress.fast.prune0p5_distil3.latency_1); half the width, trained alone with the same compute in all, ends [1.4 ± 0.8 points](#compress.half_long.onnx.drop) below it, in [0.3039 ms](#compress.half_long.onnx.latency_1).
# > In eight bits that thin network is [10.2](#compress.half_long.int8.speedup_1) and [5.66](#compress.half_long.int8.speedup_64) times as fast as PyTorch with the wide one, in [147.239 kB](#compress.half_long.int8.bytes), [1.4 ± 0.7 points](#compress.half_long.int8.drop) below it: the best of these programs was never compressed but by rounding.
# > A teacher gives the thin network little: it ends [3.3 ± 1.1 points](#compress.half.onnx.drop) below alone, for [0.0213 PFLOP](#compress.half.onnx.petaflop), and [3.1 ± 0.7 points](#compress.half_taught.onnx.drop) taught for as many epochs, for [0.0448 PFLOP](#compress.half_taught.onnx.petaflop); four times the compute of the first, spent on more epochs, closes more than half of the gap.

# %% [markdown]
# ### What the published tables can tell
#
# Torch-Pruning prints this table for ResNet-56 on CIFAR-10 ({cite:t}`fang2023`, `reproduce/readme.md`): each method with the accuracy of *its own* unpruned network, one run each, no interval.
# The differences are computed here, not copied.

# %% tags=["hide-input"]
printed = pd.DataFrame([
    ("FPGM", 93.59, 93.26, -0.33, 1.70),
    ("Polar", 93.80, 93.83, 0.03, 1.88),
    ("CP", 92.80, 91.80, -1.00, 2.00),
    ("AMC", 92.80, 91.90, -0.90, 2.00),
    ("HRank", 93.26, 92.17, -0.09, 2.00),
    ("SFP", 93.59, 93.36, -0.23, 2.11),
    ("ResRep", 93.71, 93.71, 0.00, 2.12),
    ("Group-L1", 93.53, 92.93, -0.60, 2.12),
    ("Group-BN", 93.53, 93.29, -0.24, 2.12),
    ("Group-GReg", 93.53, 93.55, 0.02, 2.12),
    ("DepGraph, no sparse learning", 93.53, 93.46, -0.07, 2.11),
    ("DepGraph", 93.53, 93.77, 0.38, 2.13),
    ("GBN", 93.10, 92.77, -0.33, 2.51),
    ("AFP", 93.93, 92.94, -0.99, 2.56),
    ("C-SGD", 93.39, 93.44, 0.05, 2.55),
    ("GReg-1", 93.36, 93.18, -0.18, 2.55),
    ("GReg-2", 93.36, 93.36, 0.00, 2.55),
    ("DepGraph, no sparse learning (2)", 93.53, 93.36, -0.17, 2.51),
    ("DepGraph (2)", 93.53, 93.64, 0.11, 2.57),
], columns=["method", "own base", "pruned", "printed", "MACs"])
printed = printed.set_index("method")
printed["difference"] = (printed.pruned - printed["own base"]).round(2)
printed

# %%
wrong = printed[(printed.difference - printed.printed).abs() > 0.005]
spread = np.ptp(printed["own base"])
typical = printed.difference.abs().median()
# %%
print(f"unpruned, the same network differs by {spread:.2f} points;")
print(f"pruning changes it by {typical:.2f} points at the median;")
print(f"{len(wrong)} printed differences are not those of their row:")
wrong[["printed", "difference"]]

# %% [markdown]
# The same architecture, not pruned at all, differs between these sources by several times what pruning typically changes: other epochs, rates, augmentation, luck.
# A difference of a few tenths between two rows with different bases is therefore a statement about training recipes before it is one about pruning, and one run of each cannot tell it from the seed.
# A survey of 81 papers on pruning found the same {cite:p}`blalock2020`.
# That is why everything above is a difference within one set-up, seed by seed, beside a thin network with the same compute.

# %%
claims.check("Unpruned baselines differ more than pruning changes them.",
             spread > typical);

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: when do zeros pay in bytes?
#
# A sparse matrix stores each number that is kept with its column, as 16-bit index, and a 32-bit start for each row.
# Above which share of zeros is it smaller than the dense one, for a 64 × 576 matrix in 32 and in 8 bits?

# %% tags=["hide-cell"]
def least_zeros(rows, columns, number_bytes):
    """Share of zeros from which on the sparse form is smaller."""
    dense = rows * columns * number_bytes
    kept = (dense - 4 * (rows + 1)) / (number_bytes + 2)
    return 1 - kept / (rows * columns)


for number_bytes in (4, 1):
    share = least_zeros(64, 576, number_bytes)
    print(f"{8 * number_bytes} bits: {share:.0%} zeros")
assert least_zeros(64, 576, 1) > least_zeros(64, 576, 4)

# %% [markdown]
# ### Exercise 2: six decibels a bit
#
# Each bit more halves the step.
# By what factor does the mean squared error of the tensor above fall from one bit width to the next, and when does that rule break?

# %% tags=["hide-cell"]
def noise_of(bits):
    grid = compress.affine(w.min(), w.max(), bits)
    back = compress.dequantise(compress.quantise(w, grid), grid)
    return float(np.square(back - w).mean())


noise = {bits: noise_of(bits) for bits in range(1, 9)}
ratios = {bits: noise[bits - 1] / noise[bits] for bits in range(2, 9)}
print({bits: round(ratio, 2) for bits, ratio in ratios.items()})
assert abs(ratios[8] - 4) < 0.5  # fine grids; coarse ones break it

# %% [markdown]
# ### Exercise 3: temperature without end
#
# For a high temperature, distillation becomes the matching of logits {cite:p}`hinton2015`.
# Show that the gradient of the soft part goes to $(s - t) / (K b)$ for logits $s$ and $t$ with mean zero, $K$ classes and $b$ images.

# %% tags=["hide-cell"]
made = torch.Generator().manual_seed(0)
s, t = (torch.randn(5, 10, generator=made, dtype=torch.float64)
        for _ in range(2))
s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
s.requires_grad_(True)
compress.soft_loss(s, t, temperature=1e4).backward()
wanted = (s - t).detach() / (10 * 5)
print(float((s.grad - wanted).abs().max()))
assert torch.allclose(s.grad, wanted, atol=1e-4)

# %% [markdown]
# ### Exercise 4: which channels?
#
# Remove half of the channels of the group above at random instead of by importance.
# How many points does choosing save, before any fine-tuning?

# %% tags=["hide-cell"]
def without_channels(gone):
    """The readers of the group do not see these channels."""
    some = copy.deepcopy(net)
    for name in group.readers:
        some.get_submodule(name).weight.data[:, gone] = 0
    return accuracy(some, held)


order = np.random.default_rng(0)
chance = [without_channels(order.permutation(group.channels)[:half])
          for _ in range(3)]
chosen = without_channels(group.importance.argsort()[:half])
print(f"chosen {chosen:.1f} %, at random {np.mean(chance):.1f} %")
assert 0 <= chosen <= 100

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
# Export first: it is free.
# Then eight bits with calibration, which cost next to nothing where the kernels exist; zeros buy nothing, and multiply-adds are not milliseconds.
# Channels that really go are worth their fine-tuning only as far as a thin network with the same compute does not do as well, and that network belongs into every such table.
# The next chapter puts the program behind a door and lets requests come.

# %%
record = new_record(
    "compress", profile=p.profile, parameters=p.model_dump(),
    data_digest=train.digest, seeds=list(SEEDS),
    values=numbers, claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(), dtype="float32",
)
saved = chapters.save_record(record).name
print(f"record {saved}, {record.wall_seconds / 60:.1f} min")
