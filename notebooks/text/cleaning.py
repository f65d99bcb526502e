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
# # Clean a data set
#
# Before you pay for a larger model or for more data: is what you have what you think it is?
# Which images are in there twice, which show nothing, which carry the wrong name?
# And what does cleaning buy, in accuracy, at equal compute?
#
# **You will be able to**
#
# * find exact and near duplicates inside a set and across its splits, and say why the nearest neighbour alone is not evidence;
# * find blurred, blank and badly exposed images with thresholds that come from the set itself;
# * find wrong labels from predictions that no image had a say in itself;
# * hold each detector against known truth: precision, recall, average precision;
# * make one report and one cleaned set out of any image set, and know what left it and why;
# * measure what cleaning buys, as a share of what perfect labels would buy;
# * tell whether dirt moves the floor of a learning curve or its slope.
#
# **Before you start** you should know what a training and a test set are for; the chapter on [fine-tuning](finetune.ipynb) explains the network that is trained here.
#
# | profile | data | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | Zipf-10 with planted faults | any processor | about a minute | see the receipt | none |
# | `laptop` | CIFAR-10, labels of CIFAR-10N | one processor core | [53.0 min](#cleaning.run_minutes) | [2.54 GB](#cleaning.run_peak_memory) | <span class="given">170 MB</span> |
# | `gpu` | the same, all of it | a Colab T4 | not recorded yet | not recorded yet | <span class="given">170 MB</span> |
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
    wheel = os.environ.get("SCALETUT_WHEEL")  # a wheel built from a checkout
    home = "git+https://github.com/scale-measured/scale-measured"
    source = Path(wheel).resolve().as_uri() if wheel else home
    # %pip install --quiet "scaletut[audit] @ {source}"

needed = ("scaletut", "torch", "cleanlab", "sklearn", "pandas", "matplotlib")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
if missing:
    remedy = "run  pip install 'scaletut[train,audit]'  and restart the kernel"
    raise ModuleNotFoundError(f"not installed: {', '.join(missing)}; {remedy}")

# %% [markdown]
# `data = "folder:my-images"` asks the same questions of your own images, one sub-folder a class.
# `labels` says whose labels to clean: `worst`, `random1` and `aggregate` are those that people gave to CIFAR-10's training images (CIFAR-10N {cite:p}`wei2022`, for non-commercial use); a share such as `0.4` replaces so many labels at random.
# Where CIFAR-10N is not at hand, as many labels are replaced at random instead.

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
data = ""           # cifar10, zipf10, zipf10:option=value,... or folder:PATH; empty: the profile's
labels = ""         # worst, random1, aggregate or shares, with commas between; empty: the profile's
train_examples = 0  # images, 0 to 50000; 0: the profile's
epochs = 0          # epochs, 0 to 200; 0: the profile's
width = 0           # channels, 0 to 256; 0: the profile's
seeds = 0           # runs, 0 to 20; 0: the profile's
seed = 0            # 0 to 2147483647

# %% tags=["hide-input"]
import csv
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from scaletut import audit, chapters, figures, scaling
from scaletut.data import ImageSet, TrainTest, Truth, ZipfLaw, human_labels, load
from scaletut.data.cifar10n import WRONG, locate
from scaletut.data.zipf import pattern_memory, sample
from scaletut.records import Claims, Value, format_value, new_record, peak_memory
from scaletut.train import report
from scaletut.train.presets import PRESETS, run_preset

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "cleaning", profile=profile, data=data, labels=labels,
    train_examples=train_examples, epochs=epochs, width=width, seeds=seeds,
    seed=seed,
)
SEEDS = range(p.seed, p.seed + p.seeds)
print(p)

# %% tags=["hide-input"]
claims, numbers = Claims("cleaning"), {}


def keep(name, samples, unit="", compare=True):
    """Mean and interval of `samples`, one a seed; noted for the record."""
    value = Value.of(np.atleast_1d(samples), unit)
    if compare or p.profile != "quick":
        numbers[name] = value
    return value


def shown(value):
    """A value as text, with its interval where there is one."""
    return format_value(value, "value" if value.low is None else "interval")


# %% [markdown]
# ## The set, and what may be wrong with it
#
# Four kinds of fault are looked for: copies, near copies, images that show nothing, and wrong labels.
# At `quick` the set is made on the spot and all of them are planted, so the truth is known to the last image.
# CIFAR-10 {cite:p}`krizhevsky2009` comes as it was published; nobody has the whole truth about it.

# %%
made = p.data.startswith("zipf10")  # a generated set has any size
sizes = {"n_train": 2 * p.train_examples, "n_test": p.train_examples}
whole = load(p.data, **sizes if made else {})
train, test, truth = whole.train, whole.test, whole.train.truth


# %%
def joined(one, other, name):
    """Two image sets as one."""
    images = np.concatenate([one.images, other.images])
    given = np.concatenate([one.labels, other.labels])
    return ImageSet(images, given, one.class_names, name)


# %% [markdown]
# A copy does most harm when one of the two is in the test set: the network has then seen the answer.
# The generator plants its copies among the training images; every second near copy is moved to the test set here, so that there is something to find across the splits.

# %% tags=["hide-input"]
leak = np.empty((0, 2), np.int64)  # (row in test, row in train), where known
if truth is not None and truth.near_duplicate_of is not None:
    moved = np.flatnonzero(truth.near_duplicate_of >= 0)[::2]
    stay = np.setdiff1d(np.arange(len(train)), moved)
    partner = np.searchsorted(stay, truth.near_duplicate_of[moved])
    leak = np.stack([np.arange(len(moved)), partner], axis=1)
    test = joined(train.take(moved), test, "test with copies")
    train = train.take(stay)
    truth = train.truth

# %%
parts = {"training": train, "test": test}
facts = {n: (len(s), s.num_classes, s.digest[:12]) for n, s in parts.items()}
pd.DataFrame(facts, index=["images", "classes", "digest"]).T

# %% [markdown]
# ## Exact copies
#
# The plainest fault: the same bytes twice.
# A dictionary finds all of them in one pass, for the content is the key.

# %%
first_seen, copies = {}, []
for row, image in enumerate(train.images):
    first = first_seen.setdefault(image.tobytes(), row)
    if first != row:
        copies.append((first, row))
print(f"{len(copies)} copies among {len(train):,} images")

# %%
theirs = {(int(a), int(b)) for a, b in audit.exact_duplicates(train.images)}
claims.check(
    "Exact copies found by a dictionary are those that the library finds.",
    theirs == set(copies),
)
if truth is not None and truth.duplicate_of is not None:
    print(f"planted: {(truth.duplicate_of >= 0).sum()}")

# %% [markdown]
# CIFAR-10's authors took exact copies out, and it shows: there are none.
# But a picture that was saved again, moved by a pixel or made a little warmer has other bytes and slips through.

# %% [markdown]
# ## Near copies: why the nearest neighbour is not evidence
#
# So compare pictures, not bytes.
# Each image becomes a small vector: shrunk to 8 × 8 pixels, its mean taken away, scaled to length one.
# The product of two such vectors is their *cosine similarity*: 1 for the same picture, also when one is a little brighter.


# %%
def small(images, side=8):
    """Unit vectors of shrunken images without their mean: float32 (n, d)."""
    n, step = len(images), images.shape[1] // side
    cut = images[:, : step * side, : step * side].astype(np.float32)
    x = cut.reshape(n, side, step, side, step, 3).mean((2, 4)).reshape(n, -1)
    x -= x.mean(axis=1, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


# %%
some = train.images[:6000]
vectors = small(some)
alike = vectors @ vectors.T
np.fill_diagonal(alike, -1)
nearest = alike.argmax(axis=1)
best = -np.sort(-alike, axis=1)[:, :6]
print(f"{vectors.shape} vectors, {alike.shape} similarities")

# %% [markdown]
# On photographs some of the most similar pairs are pictures with little in them: a light shape on a plain ground resembles hundreds of others.
# A true copy is different in one respect: its partner is near, and *the next neighbours are not*.
# So beside the most similar pairs, look at those with the largest **gap** between the best similarity and the mean of the next five.

# %%
gap = best[:, 0] - best[:, 1:].mean(axis=1)


def top(score, count=9):
    """The rows of the `count` best pairs, each pair once."""
    best_first = np.argsort(-score)
    pairs = {frozenset((row, nearest[row])): row for row in best_first[::-1]}
    return sorted(pairs.values(), key=lambda row: -score[row])[:count]


# %% mystnb={"image": {"alt": "Four rows of nine small images. The upper two rows are the nine most similar pairs, one image above the other; the lower two are the nine pairs whose nearest neighbour stands out most from the next ones."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.6)
close, apart = top(best[:, 0]), top(gap)
rows = [some[close], some[nearest[close]], some[apart], some[nearest[apart]]]
names = ["most similar", "its partner", "largest gap", "its partner"]
figures.image_rows(axes, rows, names)
axes.set_title("A high similarity alone is no evidence")
plt.show()

# %% [markdown]
# ## Near copies in the whole set
#
# The library does this for all images of all splits, block by block, so that no matrix of all pairs is ever held.
# It also compares finer detail, looks again at the best candidates moved by a pixel or mirrored, and takes its threshold from the distribution of the scores.

# %%
everything = np.concatenate([train.images, test.images])
near = audit.near_duplicates(everything, seed=p.seed)
pairs = np.sort(np.stack([near.first, near.second], axis=1), axis=1)
across = (pairs[:, 0] < len(train)) & (pairs[:, 1] >= len(train))
named = np.stack([pairs[across, 1] - len(train), pairs[across, 0]], axis=1)
print(f"{len(pairs):,} pairs, {len(named):,} across the splits")
print(f"threshold {near.threshold:.3g}: {near.reason}")

# %% mystnb={"image": {"alt": "Two rows of ten small images: test images above, and below each the training image that the library names as its near copy, best pairs first."}}
figure, axes = figures.panels(1, 1, height=2.2)
rows = [test.images[named[:10, 0]], train.images[named[:10, 1]]]
figures.image_rows(axes, rows, ["in the test set", "in training"])
axes.set_title("The test asks what was taught")
plt.show()

# %% [markdown]
# Where the truth is known, the detector can be marked.
# Of the pairs that it names, **precision** is the share that are copies; of the copies, **recall** is the share that it names.


# %% tags=["hide-input"]
def marks(found, planted):
    """Precision and recall in %, of two sets."""
    hits = len(found & planted)
    return 100 * hits / max(len(found), 1), 100 * hits / max(len(planted), 1)


if len(leak):
    precision, recall = marks(set(map(tuple, named)), set(map(tuple, leak)))
    keep("near_precision", precision, "%"), keep("near_recall", recall, "%")
    print(f"precision {precision:.1f} %, recall {recall:.1f} %")

# %% [markdown]
# ## Images that show nothing
#
# A blurred picture has no fine detail, so its *Laplacian*, each pixel's difference from its four neighbours, is small everywhere.
# But how small is too small?
# A threshold that serves photographs of a few megapixels calls half of a set of thumbnails blurred.
# So let the set itself say what is usual: take the logarithm, and ask how many robust deviations an image lies below the median.


# %%
def sharpness(images):
    """Logarithm of the root mean square Laplacian of the grey image: (n,)."""
    grey = images.astype(np.float32).mean(axis=3)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1]
    around += grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    return np.log(np.sqrt(((4 * inner - around) ** 2).mean((1, 2))) + 1e-3)


# %%
sharp = sharpness(train.images)
middle = np.median(sharp)
deviation = 1.4826 * np.median(np.abs(sharp - middle))
limit = middle - 4 * deviation
print(f"{(sharp < limit).sum()} images lie below {limit:.2f}")

# %% mystnb={"image": {"alt": "Histogram of the sharpness of all training images on a logarithmic count axis, with a dashed line at the threshold that follows from the median and the robust deviation."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=2.8)
axes.hist(sharp, bins=80, color=figures.PALETTE[0])
axes.axvline(limit, color=figures.PALETTE[1], linestyle="--", label="threshold")
axes.set(xlabel="log sharpness", ylabel="images", yscale="log")
axes.set_title("The set says what is usual")
axes.legend()
plt.show()

# %% [markdown]
# The library looks for more than blur, and finds each of its thresholds in the same spirit.
# Its kinds, with what it found:

# %%
quality = audit.low_quality(train.images)
kinds = sorted({finding.kind for finding in quality})
count = {kind: sum(one.kind == kind for one in quality) for kind in kinds}
print(count or "nothing found")

# %% mystnb={"image": {"alt": "One row of images for each kind of fault that the library found in the training set, the clearest cases first."}} tags=["hide-input"]
if kinds:
    figure, axes = figures.panels(1, 1, height=0.6 + 0.7 * len(kinds))
    rows = []
    for kind in kinds:
        hits = [one.index for one in quality if one.kind == kind][:9]
        blank = np.full((9 - len(hits), *train.images.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([train.images[hits], blank]))
    figures.image_rows(axes, rows, kinds)
    axes.set_title("What the library calls low in quality")
    plt.show()

# %% tags=["hide-input"]
if truth is not None and truth.blurred is not None:
    lossy = np.isin(truth.near_duplicate_kind, ["jpeg", "rescale"])
    planted = set(np.flatnonzero(truth.blurred | lossy))
    ours = marks(set(np.flatnonzero(sharp < limit)), planted)
    blurred = {one.index for one in quality if one.kind == "blurred"}
    precision, recall = marks(blurred, planted)
    keep("blur_precision", precision, "%"), keep("blur_recall", recall, "%")
    print(f"precision and recall: by hand {ours}, library {precision, recall}")

# %% [markdown]
# The generator blurs some images on purpose.
# Copies that were rescaled or saved as JPEG lost their grain as well, so they count as blurred here.

# %% [markdown]
# ### How bad must an image be?
#
# A detector that finds every planted fault in made images may still miss it among photographs.
# So plant each kind of fault into one image in fifty of the test set, in which nothing was planted so far, and turn its strength up.
# Strength 1 is what Zipf-10's generator plants on average: <span class="given">2.5</span> stops of light too much or too little, noise of <span class="given">48</span> grey levels, a blur of <span class="given">1.4</span> pixels; *faded* is a contrast that was halved four times.

# %% tags=["hide-input"]
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest

base = whole.test.images
luck = np.random.default_rng([p.seed, 11])
middle_of = lambda x: x.mean((1, 2), keepdims=True)
FAULTS = {
    "bright": lambda x, s: x * 2 ** (2.5 * s),
    "dark": lambda x, s: x / 2 ** (2.5 * s),
    "noisy": lambda x, s: x + luck.normal(0, 48 * s, x.shape),
    "blurred": lambda x, s: gaussian_filter(x, (0, 1.4 * s, 1.4 * s, 0)),
    "faded": lambda x, s: middle_of(x) + (x - middle_of(x)) / 2 ** (4 * s),
}


def found_share(flagged, planted):
    """Share of `planted` among `flagged` in %, with Wilson's 95 % interval."""
    hits, n = len(flagged & planted), len(planted)
    low, high = binomtest(hits, n).proportion_ci(method="wilson")
    return Value(100 * hits / n, "%", 100 * low, 100 * high, n)


def planted(kind, strength, share=0.02):
    """Share of the planted faults that is found, and of the others flagged, in %."""
    rows = luck.permutation(len(base))[: max(1, round(share * len(base)))]
    x = base.astype(np.float32)
    x[rows] = FAULTS[kind](x[rows], strength)
    x = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    flagged = {one.index for one in audit.low_quality(x)}
    others = len(flagged - set(rows)) / (len(base) - len(rows))
    return found_share(flagged, set(rows)), 100 * others


# %%
STRENGTHS = (0.25, 0.5, 0.75, 1, 1.5, 2)
results = {k: [planted(k, s) for s in STRENGTHS] for k in FAULTS}
reached = {k: [found for found, _ in row] for k, row in results.items()}
untouched = [others for row in results.values() for _, others in row]
print(f"{reached['bright'][0].n} planted each time among {len(base):,}")

# %% mystnb={"image": {"alt": "Share of planted faults found against their strength, a line with an interval for each of five kinds. All lines rise from near nothing to near everything; how strong a fault must be differs between the kinds."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.8)
for number, kind in enumerate(FAULTS):
    figures.line_with_band(axes, STRENGTHS, reached[kind], kind, number)
axes.set(xlabel="strength of the fault (1: as the generator plants it)")
axes.set(ylabel="planted faults found (%)", ylim=(-3, 103))
axes.set_title("A fault must stand out from what is usual")
axes.legend()
plt.show()

# %% tags=["hide-input"]
for kind, values in reached.items():
    numbers[f"found_{kind}"] = values[STRENGTHS.index(1)]
    numbers[f"found_{kind}_twice"] = values[-1]
numbers["untouched_flagged"] = Value(float(np.mean(untouched)), "%")
crowd, _ = planted("noisy", 1, share=0.1)
numbers["found_noisy_tenth"] = crowd
few = reached["noisy"][STRENGTHS.index(1)]
least = min(values[-1].value for values in reached.values())
claims.check(
    "Of each kind of fault, twice as strong as the generator's, most are "
    "found.",
    least > 50, margin=least - 50, unit="points",
)
claims.check(
    "Of the images that were left alone, fewer than one in a hundred is "
    "flagged.",
    max(untouched) < 1, margin=1 - max(untouched), unit="points",
)
claims.check(
    "Of noise in a tenth of the set a smaller share is found than of noise "
    "in a fiftieth.",
    crowd.value < few.value, margin=few.value - crowd.value, unit="points",
);

# %% [markdown]
# On made images every fault is found at strength 1; on photographs it takes more.
# Of those at strength 1 the library finds [52 %](#cleaning.found_bright) of the bright, [67 %](#cleaning.found_faded) of the faded, [92 %](#cleaning.found_noisy) of the noisy, [98.5 %](#cleaning.found_blurred) of the blurred and [100.0 %](#cleaning.found_dark) of the dark ones, at twice the strength [94 %](#cleaning.found_bright_twice) of the bright ones too, and it flags [0.0310 %](#cleaning.untouched_flagged) of the images that were left alone.
# The reason is in the set: a real photograph can be as bright or as rough as a fault, and the threshold comes from the data's own tail, so what is common cannot be called a fault.
# For the same reason a crowd hides itself: of noise in a tenth of all images, [0.00 %](#cleaning.found_noisy_tenth) is found.
#
# > **Takeaway.**
# > Hardly any good image is flagged, [0.0310 %](#cleaning.untouched_flagged), and the price is that faults that look like ordinary photographs stay: [52 %](#cleaning.found_bright) of the overexposed ones are found.

# %% [markdown]
# ## Wrong labels: ask those who did not see the answer
#
# Now the labels.
# CIFAR-10N holds what people answered when they were shown CIFAR-10's training images {cite:p}`wei2022`; CIFAR-10's own labels serve as the truth.
# `worst` is a wrong answer wherever one of three people gave one, `random1` one person's answers, `aggregate` the majority of three.

# %%
K = train.num_classes
SETS = p.labels.split(",")


def dirty(name):
    """Training labels with faults in them: int64 (n,)."""
    if name in WRONG and p.data == "cifar10" and locate() is not None:
        return human_labels(name)
    draw = np.random.default_rng([p.seed, 7])
    wrong = draw.random(len(train)) < (WRONG.get(name) or float(name))
    return (train.labels + wrong * draw.integers(1, K, len(train))) % K


# %%
draw = np.random.default_rng(p.seed)
pool = np.sort(draw.permutation(len(train))[: p.train_examples])
clean = train.labels[pool]
given = {name: dirty(name)[pool] for name in SETS}
share = {name: 100 * np.mean(given[name] != clean) for name in SETS}
people = p.data == "cifar10" and locate() is not None
print("labels by people" if people else "labels replaced at random")
pd.DataFrame({"wrong labels (%)": share}).round(2)

# %% [markdown]
# How can a program doubt a label?
# By predicting it.
# But a learner that has seen the label may simply repeat it.
# Take the simplest learner of all, a vote of the nearest neighbours among the vectors from above, and let it ask once with and once without the image itself.


# %%
def vote(alike, labels, k):
    """Share of each class among the k most similar images: (n, K)."""
    near = np.argpartition(-alike, k - 1, axis=1)[:, :k]
    return np.eye(K)[labels[near]].mean(axis=1)


x = small(train.images[pool])
alike = x @ x.T
seen = vote(alike, given[SETS[0]], 1)
np.fill_diagonal(alike, -1)
unseen = {name: vote(alike, given[name], 15) for name in SETS}

# %%
agree = 100 * np.mean(seen.argmax(1) == given[SETS[0]])
apart = 100 * np.mean(unseen[SETS[0]].argmax(1) == given[SETS[0]])
print(f"agrees with the given label: itself included {agree:.0f} %, left out {apart:.0f} %")

# %% [markdown]
# With the image itself among its neighbours the vote agrees with every label, the wrong ones too: it can doubt nothing.
# Left out, it can.
# The same holds for a network that has been trained long enough to remember; so predictions for finding errors are made *out of fold*: the set is cut into parts, and each part is judged by a learner that was fitted to the others.
#
# The library does this with features that need no training, small whitened patches of the images {cite:p}`coates2011`, and ridge regression on them.
# What comes out are probabilities $\hat p_{ij}$ of class $j$ for image $i$.

# %%
outside = {}
for name in SETS:
    outside[name] = audit.out_of_fold(
        train.images[pool], given[name], K, seed=p.seed
    )
print(outside[SETS[0]].shape, "probabilities a label set")

# %% [markdown]
# **Confident learning** {cite:p}`northcutt2021` turns probabilities into decisions without a threshold to choose by hand.
# For each class $j$ it takes the mean of $\hat p_{ij}$ over the images that *carry* label $j$: what the learner usually thinks of class $j$.
# An image counts as class $j$ when its $\hat p_{ij}$ reaches that mean; if the most probable such class is not the given one, the label is doubted.


# %%
def doubted(labels, probability):
    """Rows whose label another class confidently contradicts."""
    usual = np.array([probability[labels == j, j].mean() for j in range(K)])
    sure = np.where(probability >= usual, probability, -1)
    counts = sure.max(axis=1) >= 0
    return np.flatnonzero(counts & (sure.argmax(axis=1) != labels))


# %%
issues = {n: audit.label_issues(given[n], outside[n]) for n in SETS}
table = {}
for name in SETS:
    wrong = set(np.flatnonzero(given[name] != clean))
    by_hand = set(doubted(given[name], outside[name]))
    library = set(issues[name].index)
    table[name] = [len(wrong), *marks(by_hand, wrong), *marks(library, wrong)]
columns = ["wrong", "precision", "recall", "library: precision", "recall "]
pd.DataFrame(table, index=columns).T.round(1)

# %% [markdown]
# A list of suspects is one choice of where to stop.
# **Average precision** judges the whole ranking, from the most to the least suspicious: <span class="given">100 %</span> if all wrong labels come first, the share of wrong labels if the order says nothing.

# %% tags=["hide-input"]
from sklearn.metrics import average_precision_score


def ap(name, probability):
    """Average precision in % of the ranking by suspicion."""
    suspicion = audit.ranking(given[name], probability)
    return 100 * average_precision_score(given[name] != clean, suspicion)


precision = pd.DataFrame(
    {
        "says nothing": share,
        "neighbours": {n: ap(n, unseen[n]) for n in SETS},
        "library": {n: ap(n, outside[n]) for n in SETS},
    }
)
for name in SETS:
    key = name.replace(".", "_") if name in WRONG else "random"
    keep(f"ap_{key}", precision.loc[name, "library"], "%")
    keep(f"ap_neighbours_{key}", precision.loc[name, "neighbours"], "%")
precision.round(1)

# %% tags=["hide-input"]
margin = float((precision["neighbours"] - precision["says nothing"]).min())
claims.check(
    "Neighbours that did not see a label rank the wrong labels above the "
    "right ones.",
    margin > 0, margin=margin, unit="points",
)
margin = float((precision["library"] - precision["neighbours"]).min())
claims.check(
    "The library's ranking of wrong labels is better than that of the "
    "neighbours.",
    margin > 0, margin=margin, unit="points",
);

# %% mystnb={"image": {"alt": "Two rows of nine training images with the most doubted labels. Above each image stands the label that it carries and the one that the library suggests."}} tags=["hide-input"]
worst = issues[SETS[0]]
figure, axes = figures.panels(2, 9, height=2.6)
images, words = train.images[pool], train.class_names
titles = [
    f"{words[a]}?\n{words[b]}"
    for a, b in zip(worst.given[:18], worst.suggested[:18], strict=True)
]
flat = list(axes.flat)[: len(titles)]
figures.show_images(flat, images[worst.index[:18]], titles)
figure.suptitle("Given label? and, below it, the suggested one")
plt.show()

# %% [markdown]
# > **Takeaway.**
# > A learner can doubt a label only if it has not seen it; out of fold, the library's ranking reaches an average precision of [76.1 %](#cleaning.ap_worst) on the worst of the human labels, of which [41.4 %](#cleaning.wrong_worst) are wrong.

# %% [markdown]
# ## One report, one cleaned set
#
# All of the above is one call, or one command: `scaletut audit cifar10 --html sheet.html --out cleaned.npz`.
# Nothing is deleted: the cleaned set is a new one, with a manifest of what left and why.

# %% tags=["hide-input"]
truth_of_pool = Truth(clean_labels=clean)
judged = replace(
    train.take(pool), labels=given[SETS[0]], truth=truth_of_pool, name="pool"
)
exam = test.take(np.arange(min(len(test), p.train_examples)))
both_sets = TrainTest(judged, exam)
found = audit.audit(both_sets, seed=p.seed)
pd.Series(found.summary, name="found", dtype=object).to_frame()

# %%
cleaned = found.clean(both_sets)
print(f"{len(judged):,} -> {len(cleaned.train):,} training images")
before = 100 * np.mean(judged.labels == clean)
after = 100 * np.mean(cleaned.train.labels == cleaned.train.truth.clean_labels)
keep("label_accuracy_before", before, "%")
keep("label_accuracy_after", after, "%")
print(f"right labels: {before:.1f} % -> {after:.1f} %")
claims.check(
    "In the cleaned set a larger share of the labels is right.",
    after > before, margin=after - before, unit="points",
);

# %% [markdown]
# `found.html(both_sets)` is a data sheet with contact sheets of everything that was found: look at it before you believe any count.

# %% [markdown]
# ## What cleaning buys
#
# Now the question that pays for the rest: how much better does a network become?
# One recipe, the small speed net of the chapter on [fine-tuning](finetune.ipynb), is trained on three versions of the same images:
#
# * **dirty**: all images with the labels as given;
# * **cleaned**: without the images whose label is doubted;
# * **oracle**: without the images whose label *is* wrong, which only the truth can tell.
#
# Fewer images get more epochs, so that each version sees as many images in training: equal compute.
#
# > **Guess first.**
# > Of what the oracle gains, how much will the audit recover: a tenth, a half, nearly all?


# %%
BATCH = 64 if p.profile == "quick" else 128


def trained(images, s, epochs=p.epochs):
    """A network trained from seed `s` on as many images as one on the pool."""
    recipe = PRESETS["fast"].recipe
    steps = replace(
        recipe, epochs=epochs * len(pool) / len(images), batch_size=BATCH
    )
    net = replace(PRESETS["fast"], width=p.width / 32, recipe=steps)
    return run_preset(net, images, s)


def accuracy(run, images=whole.test):
    """Accuracy in % on `images`."""
    return 100 * report(run.predict(images), images.labels).accuracy


# %%
score, clock = {}, time.process_time()
for name in SETS:
    labelled = replace(train.take(pool), labels=given[name], truth=None)
    bad = {
        "dirty": np.zeros(len(pool), bool),
        "cleaned": np.isin(np.arange(len(pool)), issues[name].index),
        "oracle": given[name] != clean,
    }
    score[name] = {
        version: [accuracy(trained(labelled.take(~out), s)) for s in SEEDS]
        for version, out in bad.items()
    }
minutes_a_run = (time.process_time() - clock) / 60 / (3 * len(SETS) * len(SEEDS))

# %% tags=["hide-input"]
label = {n: n if n in WRONG else "random" for n in SETS}
gained = {}
for name in SETS:
    for version, values in score[name].items():
        keep(f"{version}_{label[name]}", values, "%")
    gained[name] = {v: Value.of(s, "%") for v, s in score[name].items()}
pd.DataFrame(
    {n: {v: shown(x) for v, x in row.items()} for n, row in gained.items()}
).T

# %% mystnb={"image": {"alt": "Test accuracy in percent of networks trained on dirty, cleaned and oracle-cleaned labels, a dot with an interval each, for each set of labels."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=1.2 + 0.75 * len(SETS))
names = [f"{n}: {v}" for n in SETS for v in gained[n]]
values = [x for n in SETS for x in gained[n].values()]
figures.dots_with_intervals(axes, names, values)
axes.set(xlabel="test accuracy (%), mean and 95 % interval")
axes.set_title("The same compute, three versions of the labels")
plt.show()

# %% [markdown]
# The share recovered is a ratio of two noisy differences, paired by seed.
# Its interval is Fieller's {cite:p}`fieller1954`: all shares $f$ for which the mean over seeds of (cleaned − dirty) − $f$ · (oracle − dirty) cannot be told from zero.

# %% tags=["hide-input"]
from scipy.stats import t as student


def recovered(scores):
    """Share of the oracle's gain that cleaning recovers, in %."""
    base, ours, best = (np.array(scores[v]) for v in ("dirty", "cleaned", "oracle"))
    f = np.linspace(-2, 4, 6001)
    rest = (ours - base)[:, None] - f * (best - base)[:, None]
    error = rest.std(axis=0, ddof=1) / np.sqrt(len(base))
    inside = np.abs(rest.mean(0)) <= student.ppf(0.975, len(base) - 1) * error
    share = (ours - base).mean() / (best - base).mean()
    bounds = f[inside].min(initial=share), f[inside].max(initial=share)
    return Value(100 * share, "%", *(100 * b for b in bounds), n=len(base))


def runs_needed(scores, half=20):
    """Seeds that tell the share to ± `half` points, at the scatter seen."""
    base, ours, best = (np.array(scores[v]) for v in ("dirty", "cleaned", "oracle"))
    share = (ours - base).mean() / (best - base).mean()
    scatter = (ours - base - share * (best - base)).std(ddof=1)
    n = np.arange(2, 100_000)
    width = student.ppf(0.975, n - 1) * scatter / np.sqrt(n)
    return int(n[np.argmax(width <= half / 100 * abs((best - base).mean()))])


# %%
parts = {name: recovered(score[name]) for name in SETS}
for name, value in parts.items():
    if p.profile != "quick":
        numbers[f"recovered_{label[name]}"] = value
        n = runs_needed(score[name])
        numbers[f"needed_{label[name]}"] = Value(n, "seeds")
        numbers[f"needed_minutes_{label[name]}"] = Value(3 * n * minutes_a_run, "min")
print({name: shown(value) for name, value in parts.items()})

# %% tags=["hide-input"]
gain = float(np.mean(np.subtract(score[SETS[0]]["cleaned"], score[SETS[0]]["dirty"])))
claims.check(
    "On the dirtiest labels, a network trained without the doubted images "
    "ends higher, at equal compute.",
    gain > 0, margin=gain, unit="points",
)
gain = float(np.mean(np.subtract(score[SETS[0]]["oracle"], score[SETS[0]]["dirty"])))
claims.check(
    "There, perfect cleaning is worth accuracy at equal compute.",
    gain > 0, margin=gain, unit="points",
);

# %% [markdown]
# Two comparisons belong together.
# The oracle against the dirty labels says what is to be had at all; the cleaned ones against the dirty labels, how much of it a program gets that was never told a right label.
# Of the oracle's gain the audit recovers [42 ± 11 %](#cleaning.recovered_worst) on the worst labels, [40 ± 30 %](#cleaning.recovered_random1) on one person's, and [40 (−40 to 100) %](#cleaning.recovered_aggregate) on the majority of three.
# Where few labels are wrong there is little to gain, and the interval of the share says so: on one person's labels cleaning recovers something, but how much is left open, and on the majority's even that.
# More seeds would tell, and the scatter between those at hand says how many: a share known to ± <span class="given">20</span> points takes about [5.12 min](#cleaning.needed_minutes_worst) of one core for `worst`, [11.5 min](#cleaning.needed_minutes_random1) for `random1` and [41.0 min](#cleaning.needed_minutes_aggregate) for `aggregate`, the last longer than all the training in this chapter; and five seeds tell a scatter roughly, so read these as orders of magnitude.
#
# > **Takeaway.**
# > On labels of which [41.4 %](#cleaning.wrong_worst) are wrong, networks reach [55.6 ± 0.4 %](#cleaning.dirty_worst) as they are, [59.6 ± 0.8 %](#cleaning.cleaned_worst) after cleaning, and [65.14 ± 0.20 %](#cleaning.oracle_worst) with the wrong ones known.

# %% [markdown]
# ## What copies across the splits are worth
#
# A test image with a near copy in training asks what was taught.
# How much does that flatter a network?
# The comparison that isolates it: train once *with* the copies' partners among the training images, once with as many other images in their place, and look at the same test images.
#
# For CIFAR-10 the pairs are those that were judged copies, pair by pair from contact sheets; both lists, of a first and a second look, are part of this book (`results/near_duplicates`).

# %% tags=["hide-input"]
folder = chapters.book_root() / "results" / "near_duplicates"
listed = []
for path in sorted(folder.glob("cifar10*.csv")) if p.data == "cifar10" else []:
    with open(path, newline="", encoding="utf-8") as file:
        listed += [r for r in csv.DictReader(file) if r["judgement"] == "duplicate"]
copied = named
if listed:
    copied = np.array([[int(r["test_index"]), int(r["train_index"])] for r in listed])
    published = {r["test_index"] for r in listed if r["listed_in_cifair"] == "yes"}
twins = np.unique(copied[:, 0])  # test images with a copy in training
if listed:
    keep("copies", len(twins), "images")
    keep("copies_known", 100 * len(published) / len(twins), "%")
print(f"{len(twins)} test images with a near copy in training")

# %% tags=["hide-input"]
partners = np.unique(copied[:, 1])
spare = draw.permutation(np.setdiff1d(np.arange(len(train)), partners))
fill = spare[: max(p.train_examples - len(partners), len(partners))]
instead = spare[len(fill) : len(fill) + len(partners)]
versions = {"with": np.append(fill, partners), "without": np.append(fill, instead)}
print({name: len(rows) for name, rows in versions.items()}, "training images")

# %% tags=["hide-input"]
asked, others = test.take(twins), whole.test
flattered = {name: [] for name in versions}
overall = []
for s in SEEDS[:1] if p.profile == "quick" else SEEDS:
    for name, rows in versions.items():
        run = trained(train.take(np.sort(rows)), s)
        flattered[name].append(accuracy(run, asked))
        if name == "with":
            overall.append((accuracy(run, others), run))

# %%
lift = np.subtract(flattered["with"], flattered["without"])
keep("copies_with", flattered["with"], "%", compare=False)
keep("copies_without", flattered["without"], "%", compare=False)
keep("copies_lift", lift, "points", compare=False)
pd.Series({n: shown(Value.of(v, "%")) for n, v in flattered.items()}, name="accuracy")

# %% [markdown]
# A network of this size, trained for so short a time, remembers little.
# The learner that remembers everything, the nearest neighbour, shows what a copy is worth at most.

# %% tags=["hide-input"]
def remembered(rows):
    """Accuracy in % of the nearest neighbour among `rows`, on the copies."""
    near = (small(asked.images) @ small(train.images[rows]).T).argmax(axis=1)
    return 100 * np.mean(train.labels[rows][near] == asked.labels)


by_heart = {name: remembered(rows) for name, rows in versions.items()}
for name, value in by_heart.items():
    keep(f"copies_{name}_by_heart", value, "%")
margin = float(by_heart["with"] - by_heart["without"])
claims.check(
    "On test images with a near copy in training, the nearest neighbour "
    "does better when that copy is among the training images.",
    margin > 0, margin=margin, unit="points",
)
print({name: f"{value:.1f} %" for name, value in by_heart.items()})

# %% [markdown]
# What does this do to the accuracy that is reported for the whole test set?
# Its share of copies is small, so the lift shrinks in proportion; and the other way round, the test set without its copies gives the honest figure.

# %% tags=["hide-input"]
if p.data == "cifar10":
    kept = np.setdiff1d(np.arange(len(others)), twins)
    pure = [accuracy(run, others.take(kept)) for _, run in overall]
    reported = [whole_score for whole_score, _ in overall]
    keep("accuracy_all", reported, "%")
    keep("accuracy_pure", pure, "%")
    keep("accuracy_drop", np.subtract(reported, pure), "points")
    print(f"{np.mean(reported):.2f} % on all test images, {np.mean(pure):.2f} % without copies")

# %% [markdown]
# > **Takeaway.**
# > [593](#cleaning.copies) of CIFAR-10's test images were judged to have a copy in training, [35.4 %](#cleaning.copies_known) of them on the published list of 286 pairs {cite:p}`barz2020`; having seen the copy lifts a network by [10.3 ± 1.1 points](#cleaning.copies_lift) on them, and the whole test set flatters by [0.85 ± 0.07 points](#cleaning.accuracy_drop).

# %% [markdown]
# ## Floor or slope?
#
# A learning curve with dirty labels lies higher.
# Does it also *fall more slowly*, so that more data helps less, or does it only end at a higher floor?
# Zipf-10 can answer, for its curves are known in closed form.
# The learner remembers the patterns that it has seen: one version believes the **first** label that it was given, the other takes the **majority** of all labels of a pattern, which is cleaning by vote.

# %% tags=["hide-input"]
law = ZipfLaw(a=0.5, patterns=2000, noise=0.2)
tidy = replace(law, noise=0.0)
GRID = 2 ** np.arange(6, 15)


def measured(law, votes, number):
    """Test error of the remembering learner at each size of `GRID`."""
    query, right, _ = sample(law, 20_000, number, "test")
    pattern, _, told = sample(law, int(GRID[-1]), number, "train")
    return [
        np.mean(pattern_memory(pattern[:n], told[:n], query, seed=number, vote=votes) != right)
        for n in GRID
    ]


# %%
cases = {"right labels": (tidy, "majority"), "wrong labels, first kept": (law, "first"), "wrong labels, majority": (law, "majority")}
curves = {n: np.array([measured(*case, s) for s in range(5)]) for n, case in cases.items()}
exact = {n: [one.expected_error(int(m), v) for m in GRID] for n, (one, v) in cases.items()}

# %% mystnb={"image": {"alt": "Test error against number of training examples on logarithmic axes: three falling curves with measured markers on top of the closed form. With the first label kept the curve bends to a floor at the share of wrong labels; with the majority it lies higher but keeps falling."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.8)
for number, name in enumerate(cases):
    colour = figures.PALETTE[number]
    axes.plot(GRID, exact[name], color=colour, linewidth=1)
    axes.plot(GRID, curves[name].mean(0), figures.MARKERS[number], color=colour, label=name)
axes.set(xscale="log", yscale="log", xlabel="training examples", ylabel="test error")
axes.set_title("Markers measured, lines in closed form")
axes.legend()
plt.show()

# %% [markdown]
# Now fit the three curves with $E + A\,n^{-\alpha}$, as if nothing were known of their origin.

# %%
laws = {}
for name in cases:
    table = {"examples": GRID.astype(float), "loss": curves[name].mean(axis=0)}
    laws[name] = scaling.fit(table, "power_floor", seed=p.seed)
fitted = pd.DataFrame({name: dict(one.parameters) for name, one in laws.items()}).T
fitted.round(3)

# %% [markdown]
# The free fit says that the floor rises *and* the slope falls.
# The closed form knows better: a learner that keeps the first label errs with probability $q$ on what it has seen, so its curve is exactly $q$ plus the clean curve times $(0.9 - q) / 0.9$, with the slope of the clean one.
# What does the fit say when it is told the floor?

# %%
name = "wrong labels, first kept"
table = {"examples": GRID.astype(float), "loss": curves[name].mean(axis=0)}
told = scaling.fit(table, "power_floor", fixed={"E": law.noise}, seed=p.seed)
numbers["slope_told"] = Value(float(told.parameters["alpha"]))
print({key: round(float(value), 3) for key, value in told.parameters.items()})

# %% tags=["hide-input"]
floors, slopes = fitted["E"].to_numpy(), fitted["alpha"].to_numpy()
numbers |= {
    "floor_right": Value(float(floors[0])), "floor_first": Value(float(floors[1])),
    "floor_majority": Value(float(floors[2])), "slope_right": Value(float(slopes[0])),
    "slope_first": Value(float(slopes[1])), "slope_majority": Value(float(slopes[2])),
}
errors = [np.abs(curves[n].mean(0) / exact[n] - 1).max() for n in cases]
claims.check(
    "The remembering learner's errors are those of the closed form, "
    "within a tenth.",
    max(errors) < 0.1, margin=0.1 - max(errors),
)
gap = abs(told.parameters["alpha"] - slopes[0])
claims.check(
    "With the floor given, the curve of the wrong labels falls with the "
    "slope of the right ones, within a tenth.",
    gap < 0.1, margin=float(0.1 - gap),
)
claims.check(
    "Believing the first label, wrong labels put a floor under the curve; "
    "the vote of all labels takes most of it away.",
    floors[1] - floors[0] > 0.1 and floors[2] < floors[1] / 2,
    margin=float(floors[1] - 2 * floors[2]),
);

# %% [markdown]
# So it is the floor that moves, and nearly nothing else: with the floor given, the slope is [0.443](#cleaning.slope_told), where right labels have [0.419](#cleaning.slope_right).
# A fit that has to find both from nine points shares the damage between them, which is a warning for curves whose truth is not known.
# More data still helps as fast as before, but only down to the floor.
# Cleaning, here by a vote, takes the floor away, and what is left of the damage is a curve moved to the right: some of the data is spent on outvoting the wrong labels.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: how many neighbours?
#
# The vote took 15 neighbours.
# Find the average precision for 1, 5, 15, 50 and 150, and explain why it rises and then falls.

# %% tags=["hide-cell"]
by_count = {}
for k in (1, 5, 15, 50, 150):
    by_count[k] = ap(SETS[0], vote(alike, given[SETS[0]], k))
print(pd.Series(by_count, name="average precision (%)").round(1))
# One neighbour has a single label to give, right or wrong; many neighbours
# are far away and belong to other classes.
assert max(by_count, key=by_count.get) not in (1,)

# %% [markdown]
# ### Exercise 2: the price of a false alarm
#
# Instead of the doubted images, leave out as many images *at random*.
# How much does the network lose, and what does that say about a detector that is wrong half of the time?

# %% tags=["hide-cell"]
name = SETS[0]
labelled = replace(train.take(pool), labels=given[name], truth=None)
out = np.isin(np.arange(len(pool)), draw.permutation(len(pool))[: len(issues[name].index)])
at_random = accuracy(trained(labelled.take(~out), p.seed))
print(f"dirty {score[name]['dirty'][0]:.1f} %, at random {at_random:.1f} %, cleaned {score[name]['cleaned'][0]:.1f} %")
# Leaving out images at random keeps the share of wrong labels and loses
# data; what cleaning gains is what the choice gains, less that.
assert at_random < score[name]["oracle"][0]

# %% [markdown]
# ### Exercise 3: where does the majority stop helping?
#
# In the last section the vote of all labels outvoted wrong ones.
# Wrong labels were spread evenly over the nine other classes.
# At which share of wrong labels does a vote of many stop being right, if they are spread evenly, and if all of them fall on one class?

# %% tags=["hide-cell"]
limits = {"spread over nine": 9 / 10, "all on one": 1 / 2}
for where, others_ in (("spread over nine", 9), ("all on one", 1)):
    q = np.linspace(0.01, 0.99, 981)
    wins = (1 - q) > q / others_  # the right class is the most frequent one
    print(f"{where}: up to {q[wins].max():.2f}")
    assert abs(q[wins].max() - limits[where]) < 0.002
# Mistakes that agree are worse than mistakes that do not: people who
# confuse cats with dogs all do it in the same direction.

# %% [markdown]
# ## What was claimed
#
# Each line is a comparison that the cells above have made, on this data, just now.

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
# * The nearest neighbour is no evidence of a copy; a neighbour that stands out from the next ones is.
# * A threshold belongs to a set, not to a method: let the distribution of the scores say what is unusual.
# * So a fault that looks like an ordinary image, or that many images share, stays unfound: plant faults of your own to learn what a detector misses.
# * Whoever judges a label must not have learned from it.
# * What cleaning buys is measured against perfect labels at equal compute, with seeds and an interval.
# * Wrong labels that are believed put a floor under the learning curve; more data does not remove it, cleaning does.

# %% tags=["hide-input"]
for name in SETS:
    keep(f"wrong_{label[name]}", share[name], "%")
record = new_record(
    "cleaning",
    profile=p.profile,
    parameters=p.model_dump(),
    data_digest=train.digest,
    seeds=list(SEEDS),
    values=numbers,
    claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(),
    dtype=overall[0][1].execution,
)
print(f"record {chapters.save_record(record).name}, {record.wall_seconds / 60:.1f} min")
