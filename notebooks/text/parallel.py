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
# # More than one process
#
# A second device is in reach.
# What has to pass between the two so that they train one network, what does that cost, and when is it worth it?
# Everything here runs on two processor cores, where every byte can be counted; the same calls run on GPUs.
#
# **You will be able to**
#
# * start several processes, and tell at a glance whether they train one network or several;
# * train replicas (DDP) and shards (FSDP2) that end with the weights of one process;
# * say beforehand how many bytes pass, and how much memory each process needs;
# * lose a process and end with the weights that you would have had;
# * cut a network over devices, and keep the pieces busy;
# * predict the step time of many workers, and the batch that makes them worth their price.
#
# **Before you start** read the chapter on tuning one device.
#
# | profile | network | hardware | time | peak memory | download |
# |---|---|---|---|---|---|
# | `quick` | a small residual net | two processor cores | about a minute | see the receipt | none |
# | `laptop` | a residual net of 20 layers | two processor cores | [2.20 min](#parallel.run_minutes) | [0.974 GB](#parallel.run_peak_memory) | none |
# | `gpu` | ResNet-18 | two GPUs, **not yet run on any** | see [the end](#on-gpus) | | none |
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
    # %pip install --quiet "scaletut @ {source}"

needed = ("scaletut", "torch", "pandas", "matplotlib")
missing = [one for one in needed if importlib.util.find_spec(one) is None]
if missing:
    remedy = "run  pip install 'scaletut[train]'  and restart the kernel"
    names = ", ".join(missing)
    raise ModuleNotFoundError(f"not installed: {names}; {remedy}")

# %% tags=["parameters"]
profile = "laptop"  # quick, laptop or gpu
network = ""        # a name of scaletut.models; empty: the profile's
batch_size = 0      # images, 0 to 65536; 0: the profile's
steps = 0           # steps, 0 to 10000; 0: the profile's
rounds = 0          # readings, 0 to 1000; 0: the profile's
processes = 0       # processes, 0 to 64; 0: the profile's
seed = 0            # 0 to 2147483647

# %%
import tempfile
import time
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from scaletut import chapters, figures
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.records import Claims, Value, format_value
from scaletut.records import new_record, peak_memory
from scaletut.resources import predict_memory, published_peak
from scaletut.resources.parallel import Cluster, Link, exchange_seconds
from scaletut.resources.parallel import rank_memory, step_time
from scaletut.resources.throughput import summary
from scaletut.train import Recipe, execution
from scaletut.train.distributed import LaunchFailed, join, on_ranks
from scaletut.train.distributed import ring_bytes
from scaletut.train.pipeline import expected_bubble
from scaletut.train.recompute import blocks

# %%
started = time.perf_counter()
figures.use_style()
p = chapters.settings(
    "parallel", profile=profile, network=network, batch_size=batch_size,
    steps=steps, rounds=rounds, processes=processes, seed=seed,
)
pd.Series(p.model_dump(), name="value").to_frame()

# %% tags=["hide-input"]
claims, numbers = Claims("parallel"), {}
blue, orange, teal, violet = figures.PALETTE[:4]
ranks = p.processes


def keep(name, value, unit=""):
    """Note a value, or readings, for the record, and show it as text."""
    if isinstance(value, list):
        value = summary(value, unit)
    made = value if isinstance(value, Value) else Value(float(value), unit)
    numbers[name] = made
    return format_value(made, "value" if made.low is None else "interval")


# %% [markdown]
# ## One network, or several?
#
# `torchrun` starts one program several times and tells each process its number, its *rank*, in the environment.
# That is all it does: the processes share nothing.
# If each takes its own images and steps along its own gradient, there are as many networks as processes.
#
# What makes them one is an exchange between the backward pass and the update, with `all_reduce`, which replaces a tensor on every rank by the sum over all.
# Here are three candidates, one of them from code in circulation.

# %%
def drift(ranks, steps):
    """Distance between the ranks' networks after each step."""
    import torch
    import torch.distributed as dist
    from torch.nn.functional import cross_entropy

    from scaletut.models import build
    from scaletut.train.distributed import replica_distance

    def nothing(parameter):
        pass

    def zero(parameter):
        dist.all_reduce(torch.tensor(0.0))  # "merges the parameters"

    def mean(parameter):
        dist.all_reduce(parameter.grad)
        parameter.grad /= ranks.size

    def train(exchange):
        model, apart = build("resnet8", width=0.5), [0.0]
        own = torch.Generator().manual_seed(ranks.rank)  # its images
        for _ in range(steps):
            model.zero_grad()
            images = torch.randn(16, 3, 32, 32, generator=own)
            labels = torch.randint(10, (16,), generator=own)
            cross_entropy(model(images), labels).backward()
            for parameter in model.parameters():
                exchange(parameter)
                parameter.data -= 0.1 * parameter.grad
            apart.append(replica_distance(ranks, model).relative)
        return apart

    return {one.__name__: train(one) for one in (nothing, zero, mean)}


# %% [markdown]
# > **Guess first.**
# > All ranks start with the same weights.
# > How far apart are they after <span class="given">eight</span> steps if an `all_reduce` of a zero stands after each backward pass?

# %% [markdown]
# `on_ranks` writes the function into a file and starts it by `torchrun`; in a shell this is `torchrun --nproc-per-node 2 file.py`.

# %%
far = on_ranks(drift, ranks, steps=8)[0]
pd.DataFrame(far).tail(1).T.set_axis(["distance"], axis=1)

# %%
claims.check(
    "An all-reduced zero merges nothing: the replicas drift apart.",
    far["zero"][-1] > 1e-4 and far["zero"] == far["nothing"],
);

# %%
claims.check(
    "Averaged gradients keep the replicas equal, bit for bit.",
    max(far["mean"]) == 0,
)
keep("drift_zero", 100 * far["zero"][-1], "%");

# %% mystnb={"image": {"alt": "Relative distance between the two ranks' weights against steps. Without exchange and with an all-reduced zero the two lines lie on each other and rise from zero; with averaged gradients the line stays at zero."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.2)
looks = {"nothing": ("o", 9), "zero": ("x", 6), "mean": ("s", 5)}
names = {"nothing": "no exchange", "zero": "all-reduced zero",
         "mean": "averaged gradients"}
for (form, values), color in zip(far.items(), (violet, orange, blue)):
    mark, size = looks[form]
    axes.plot(
        100 * np.array(values), mark + "-", color=color, markersize=size,
        label=names[form], fillstyle="none",
    )
axes.set(xlabel="step", ylabel="distance between ranks (%)")
axes.legend()
plt.show()

# %% [markdown]
# The sum of two zeros is a zero; nothing that the networks hold has been touched.
# The loss falls all the same, on each rank by itself, so no curve shows the fault: **measure the distance between the ranks**.
#
# > **Takeaway.**
# > With an all-reduced zero the replicas were [1.14 %](#parallel.drift_zero) of their weights apart after eight steps, exactly as without any exchange; with averaged gradients the distance was 0.

# %% [markdown]
# ### Two ways not to start
#
# The same code often asks for nccl, the library for GPUs, without saying where the others are, or with more processes than GPUs.

# %%
def refusal(call):
    """The first line of the error."""
    try:
        call()
    except (ParameterError, ValueError, RuntimeError) as error:
        return str(error).splitlines()[0]
    dist.destroy_process_group()
    return "it started: there is a GPU here"


# %%
store = dist.HashStore()
alone = lambda: dist.init_process_group("nccl")
lost = lambda: dist.init_process_group(
    "nccl", rank=0, world_size=1, store=store
)

# %%
for call in (alone, lost, join):
    print(refusal(call), "\n")

# %% [markdown]
# The first has no address, the second no GPU.
# Where there are too few GPUs, nccl itself says `Duplicate GPU detected : rank 1 and rank 0 both on CUDA device` (for example in [Megatron-LM's issue 661](https://github.com/NVIDIA/Megatron-LM/issues/661)); no GPU was here to show it.
# The third is the library's `join`: it reads what `torchrun` has put into the environment, takes nccl where every process has a GPU and gloo elsewhere, and says what to do when it cannot.

# %% [markdown]
# ## The same weights as one process
#
# Averaging gradients by hand waits until the backward pass is over.
# `DistributedDataParallel` sends them in buckets while the backward pass still runs {cite:p}`li2020`; `fully_shard` keeps only a share of each parameter on each rank, and gathers a block when it is computed {cite:p}`zhao2023`.
# Both go around the book's one loop: `fit(..., ranks=ranks)`, each rank taking its share of every batch.
#
# How equal is equal?
# In float32 a difference in the last digit grows with every step and hides small faults, so the next run is in float64.

# %%
def equality(ranks, batch, steps, seed):
    """Distance of the final weights from those of one process."""
    from dataclasses import replace

    import torch

    from scaletut.data import load
    from scaletut.models import build
    from scaletut.train import Recipe, fit
    from scaletut.train.distributed import ALONE

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            net = build("resnet8", width=0.5, seed=seed)
            self.net = net.double()

        def forward(self, images):
            return self.net(images.to(self.net.fc.weight.dtype))

    data = load("zipf10", n_train=steps * batch, n_test=100).train
    recipe = Recipe(
        epochs=1, batch_size=batch, lr=0.05, precision="fp32"
    )

    def weights(group):
        model = fit(Exact(), data, recipe, seed, ranks=group).model
        return torch.cat([one.flatten() for one in model.parameters()])

    groups = {
        "replicas": ranks,
        "shards": replace(ranks, mode="fsdp"),
        "replicas, own norms": replace(ranks, sync_norms=False),
    }
    whole = weights(ALONE)
    return {
        name: float((weights(one) - whole).norm() / whole.norm())
        for name, one in groups.items()
    }


# %% [markdown]
# > **Guess first.**
# > The gradient of a mean over a batch is the mean of the gradients over its parts.
# > One kind of layer breaks this argument.
# > Which?

# %%
apart = on_ranks(
    equality, ranks, batch=32, steps=p.steps, seed=p.seed
)[0]
for name, value in apart.items():
    print(f"{name:<20}  {value:.1e}")

# %%
rounding = 1e-10
claims.check(
    "Replicas end with the weights of one process, up to rounding.",
    apart["replicas"] < rounding,
);

# %%
claims.check(
    "Shards end with the weights of one process, up to rounding.",
    apart["shards"] < rounding,
);

# %%
claims.check(
    "Norms over a rank's own images learn another function.",
    apart["replicas, own norms"] > 1000 * rounding,
)
keep("apart_own_norms", 100 * apart["replicas, own norms"], "%");

# %% [markdown]
# Batch norm divides by a standard deviation **of the batch** {cite:p}`ioffe2015`, and a rank that sees half of the images finds another one.
# The library's norms exchange their sums; torch's own `SyncBatchNorm` does so on GPUs alone.
# It is a choice, not a duty: norms over a rank's own share are faster, and with large shares hardly differ.
#
# > **Takeaway.**
# > Replicas and shards ended with the weights of one process to the last digits of float64; without synchronised norms they were [0.486 %](#parallel.apart_own_norms) away.

# %% [markdown]
# ## What passes, and what each rank holds
#
# **Bytes.**
# An all-reduce of $S$ bytes by $p$ ranks can be done in a ring, each rank sending $2 \frac{p-1}{p} S$ bytes, and no way needs fewer {cite:p}`patarasuk2009`.
# Shards gather the parameters twice, forward and backward, and scatter the gradients once: three times $\frac{p-1}{p} S$.
#
# **Memory.**
# Between steps replicas hold all parameters and all of the optimiser's state, shards a $p$-th of both {cite:p}`rajbhandari2020`.
#
# The predictions, before anything runs:

# %%
model = build(p.network, seed=p.seed)
size = sum(one.nbytes for one in model.parameters())
once = ring_bytes("all_gather", size, ranks)
expected = pd.DataFrame(
    {"sent": [2 * once, 3 * once], "held": [2 * size, 2 * size / ranks]},
    index=["replicas", "shards"],
)
(expected / 1e6).round(3).add_suffix(" (MB)")

# %% [markdown]
# Held is twice the parameters: the weights and their momentum.
# The peak inside a step also counts gradients and activations, and for shards the blocks that are gathered, at worst.
# The chapter on one device forecasts it without running; here it is asked for a rank's share of the batch, for a network that is wide enough for its parameters to matter.

# %%
deep = "resnet8" if p.profile == "quick" else "resnet20"
wide, images = build(deep, width=8, seed=p.seed), 8  # images of a rank
recipe = Recipe(lr=0.01, precision="fp32")
device = "cuda" if torch.cuda.device_count() >= ranks else "cpu"
how = execution(device, "fp32")
forecast = predict_memory(wide, recipe, batch_size=images, how=how)

# %%
of = lambda block: sum(one.nbytes for one in block.parameters())
largest = max(map(of, blocks(wide)))
peaks = {
    "replicas": rank_memory(forecast, ranks),
    "shards": rank_memory(forecast, ranks, "fsdp", largest),
}
for name, value in peaks.items():
    print(f"{name:<9} {value / 1e6:.0f} MB")

# %% [markdown]
# **Time.**
# How long a rank computes on its share, and how fast the link is, must be measured.
# That is done in the same processes, in turns with what is predicted from it.

# %% tags=["hide-input"]
def costs(ranks, network, batch, deep, images, rounds, seed):
    """Bytes, memory and seconds of a step, by what is exchanged."""
    from dataclasses import replace

    import torch.distributed as dist

    from scaletut.data import load
    from scaletut.models import build
    from scaletut.resources.memory import peak_bytes
    from scaletut.resources.parallel import in_turns, measure_link
    from scaletut.train import Recipe, execution
    from scaletut.train.distributed import ALONE, CountTraffic
    from scaletut.train.distributed import loopback_bytes, state_bytes
    from scaletut.train.loop import Run

    data = load("zipf10", n_train=2 * batch, n_test=100).train
    recipe = Recipe(epochs=1000, lr=0.01, precision="fp32")
    how = execution(ranks.device, "fp32")

    def start(group, size, model):
        sized = replace(recipe, batch_size=size)
        run = Run(model, data, sized, seed, None, None, how, group)
        epochs = (run.batches.epoch(number) for number in range(10**6))
        batches = (batch for epoch in epochs for batch in epoch)
        return run, lambda: run.train_step(*next(batches))

    def traffic(step):
        step()  # DDP arranges its buckets anew after the first
        dist.barrier()
        before = loopback_bytes()
        with CountTraffic() as count:
            step()
        dist.barrier()
        after = loopback_bytes()
        kernel = None if after is None else (after - before) / ranks.size
        sizes = {kind: one.bytes for kind, one in count.seen.items()}
        return {"sizes": sizes, "ring": count.ring_bytes, "seen": kernel}

    def peak(group):
        def two_steps():
            wide = build(deep, width=8, seed=seed)
            _, step = start(group, images * ranks.size, wide)
            step(), step()

        return peak_bytes(two_steps, how.device)

    plain = replace(ranks, sync_norms=False)
    groups = {
        "one process": (ALONE, batch),
        "no exchange": (ALONE, batch // ranks.size),
        "replicas": (plain, batch),
        "replicas, shared norms": (ranks, batch),
        "shards": (replace(plain, mode="fsdp"), batch),
    }
    found, forms = {}, {}
    for name, (group, count) in groups.items():
        model = build(network, seed=seed)
        run, forms[name] = start(group, count, model)
        if not group.alone:
            found[name] = traffic(forms[name])
            found[name]["held"] = state_bytes(model, run.optimizers).total
            found[name]["peak"] = peak(group)
    if not ranks.main:
        forms["one process"] = lambda: None
    links = [measure_link(ranks)[0] for _ in range(3)]
    return {
        "forms": found,
        "seconds": in_turns(ranks, forms, rounds),
        "links": [[link.bandwidth, link.latency] for link in links],
    }


# %%
told = on_ranks(
    costs, ranks, network=p.network, batch=p.batch_size, deep=deep,
    images=images, rounds=p.rounds, seed=p.seed,
)[0]
found = pd.DataFrame(told["forms"]).T.loc[["replicas", "shards"]]

# %% [markdown]
# ### Bytes

# %%
def megabytes(values):
    return (values.astype(float) / 1e6).round(3)


pd.DataFrame(
    {"predicted": megabytes(expected.sent),
     "counted": megabytes(found.ring),
     "kernel": megabytes(found.seen)}
).add_suffix(" (MB)")

# %%
reduced = found.sizes["replicas"]["all_reduce"]
claims.check(
    "Replicas exchange their gradients once, to the byte.",
    reduced == size,
)
keep("sent_replicas", found.ring["replicas"] / 1e6, "MB")
keep("sent_shards", found.ring["shards"] / 1e6, "MB");

# %% [markdown]
# *Counted* is what the calls add up to if each were a ring; for replicas it holds the running statistics of the norms too, and for shards some padding, less what the last block saves, which is still there from the forward pass.
# *Kernel* is what Linux has seen on the loopback device, headers included, where it tells.
# For shards it sees more than was counted, and the reason is in gloo: its reduce-scatter is an all-reduce of which each rank keeps a part.
# nccl has a real one.

# %%
if found.seen.notna().all():
    keep("kernel_replicas", found.seen["replicas"] / 1e6, "MB")
    keep("kernel_shards", found.seen["shards"] / 1e6, "MB")

# %% [markdown]
# > **Takeaway.**
# > A step of replicas sent [1.09 MB](#parallel.sent_replicas) from each rank by count and [1.10 MB](#parallel.kernel_replicas) by the kernel's; of shards [1.63 MB](#parallel.sent_shards) by count, and by gloo [2.20 MB](#parallel.kernel_shards).

# %% [markdown]
# ### Memory

# %%
pd.DataFrame(
    {"held, predicted": megabytes(expected.held),
     "held": megabytes(found.held),
     "peak, predicted": megabytes(pd.Series(peaks)),
     "peak": megabytes(found.peak)}
).add_suffix(" (MB)")

# %%
held = found.held / expected.held
claims.check(
    "A shard holds its share of parameters and optimiser state.",
    abs(held["shards"] - 1) < 0.03,
);

# %%
off = 100 * (pd.Series(peaks) / found.peak.astype(float) - 1)
keep("peak_off_replicas", off["replicas"], "%")
keep("peak_off_shards", off["shards"], "%");

# %% [markdown]
# What is held between steps is known to the byte, up to the padding of the last share.
# The peak of replicas is the forecast of one process, but all gradients live at once, since they lie in the buckets that are sent: predicted and measured differ by [−2.51 %](#parallel.peak_off_replicas).
# For shards it is an upper bound, [18.8 %](#parallel.peak_off_shards) above what was measured here: when the copies of gathered blocks come and go depends on the link, and so does the peak, from run to run.

# %% [markdown]
# ### Time

# %%
seconds = {
    name: summary([1000 * one for one in values], "ms")
    for name, values in told["seconds"].items()
}
link = Link(*np.median(told["links"], axis=0))

# %%
pd.Series(
    {name: format_value(one, "interval") for name, one in seconds.items()},
    name=f"a step, n = {p.rounds}",
).to_frame()

# %%
keep("link", [one / 1e9 for one, _ in told["links"]], "GB/s")
keep("one_process", seconds["one process"])
keep("compute", seconds["no exchange"])
keep("replicas", seconds["replicas"])
keep("shared_norms", seconds["replicas, shared norms"])
keep("shards", seconds["shards"]);

# %% [markdown]
# The model is as simple as a model can be: a step takes the compute, and what of the exchange the compute does not hide {cite:p}`li2020`.
# On processors that compute and send by the same cores nothing is hidden, so the overlap is <span class="given">0</span>.

# %%
def ratio(above, below):
    """Of times that were measured in turns, round by round."""
    pairs = zip(above, below, strict=True)
    return summary([one / other for one, other in pairs], "times")


taken = {name: np.array(one) for name, one in told["seconds"].items()}

# %%
passing = exchange_seconds(ranks, size, link)
predicted = [
    step_time(ranks, compute, size, link).seconds
    for compute in taken["no exchange"]
]
close = ratio(predicted, taken["replicas"])
print(f"the exchange: {1e3 * passing:.1f} ms a step")
print("predicted over measured:", format_value(close, "interval"))

# %%
off_by = 100 * abs(close.value - 1)
claims.check(
    "The step of replicas is predicted within a third.",
    off_by < 100 / 3, margin=100 / 3 - off_by, unit="%",
)
keep("step_ratio", close)
keep("gain", ratio(taken["one process"], taken["replicas"]));

# %% [markdown]
# > **Takeaway.**
# > From a rank's compute and the link's [1.6 GB/s](#parallel.link), the step of replicas was predicted at [0.969 times](#parallel.step_ratio) what it took; two processes were [1.828 times](#parallel.gain) as fast as one.

# %% [markdown]
# What is left to two is lost to the memory that both share, and to everything else that the machine was doing.
# The exchange is a small part of the step here, so this checks mostly that replicas cost nothing besides; a larger network on a slower link would be a sharper test.
# For shards the model is too simple: it knows three passes over the link, and not the work of gathering and packing every block, which made the step take [371 ms](#parallel.shards).
# Norms that share their statistics add two small exchanges a layer, each of which waits for the slowest rank, and do without the fused kernel: the step took [412 ms](#parallel.shared_norms), not [275 ms](#parallel.replicas).

# %% [markdown]
# ## Losing a process
#
# With many devices, one fails soon.
# Its peers wait for it in the next exchange; `torchrun` notices the death, ends the others, and starts all of them again, if it may.
# They go on from the last checkpoint, which the first rank writes and every rank resumes, whatever their number: a checkpoint of two processes can be finished by one.

# %% tags=["hide-input"]
def mortal(ranks, folder, seed):
    """A run whose last rank kills itself at the fourth step, once."""
    import os
    import signal
    import time
    from pathlib import Path

    import torch

    from scaletut.data import load
    from scaletut.models import build
    from scaletut.train import Recipe, fit

    started = time.time()
    stamp, steps = Path(folder, "killed"), []
    data = load("zipf10", n_train=256, n_test=100).train
    recipe = Recipe(epochs=2, batch_size=64, lr=0.05)

    def watch(progress):
        steps.append(progress.step)
        last = ranks.rank == ranks.size - 1
        if last and progress.step == 4 and not stamp.exists():
            stamp.write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)

    def weights(**options):
        model = build("resnet8", width=0.5, seed=seed)
        done = fit(model, data, recipe, seed, ranks=ranks, **options)
        return torch.cat([w.flatten() for w in done.model.parameters()])

    file = Path(folder, "run.pt")
    killed = weights(checkpoint=file, checkpoint_seconds=0, progress=watch)
    return {
        "resumed at": steps[0],
        "again after": started - float(stamp.read_text()),
        "same": torch.equal(killed, weights()),
    }


# %%
def end_of_a_run():
    """Seconds from the kill to the end of all, without restarts."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            on_ranks(mortal, ranks, folder=folder, seed=p.seed)
        except LaunchFailed as failure:
            print(failure)
        return time.time() - float(Path(folder, "killed").read_text())


if p.profile != "quick":
    keep("until_end", [end_of_a_run() for _ in range(3)], "s")

# %%
with tempfile.TemporaryDirectory() as folder:
    saved = on_ranks(
        mortal, ranks, folder=folder, seed=p.seed, restarts=1
    )[0]
print(f"resumed at step {saved['resumed at']}")

# %%
claims.check(
    "A run that lost a process ends with the weights it would have had.",
    saved["same"] and saved["resumed at"] > 1,
)
keep("again", saved["again after"], "s");

# %% [markdown]
# > **Takeaway.**
# > [0.67 s](#parallel.until_end) after the kill the run had ended with one line that names the rank and the signal; with `--max-restarts 1` all ranks were back after [2.24 s](#parallel.again), most of it the import of torch, and the weights are those of a run that nobody disturbed.

# %% [markdown]
# ## A network cut in two
#
# A network that fits on no device can be cut into stages, one a device.
# With the whole batch in one piece the devices take turns.
# With $m$ micro-batches they overlap, and with $p$ equal stages the idle share, the *bubble*, is $\frac{p-1}{m+p-1}$ {cite:p}`huang2019`.
# GPipe makes all forward passes first; 1F1B alternates as soon as it can, has the same bubble, and keeps the activations of fewer micro-batches {cite:p}`narayanan2021`.
#
# > **Guess first.**
# > Two stages, <span class="given">four</span> micro-batches: which share of the time does each stage wait?
# > And with sixteen, on real cores?

# %% tags=["hide-input"]
def pipelines(ranks, counts, rounds, seed):
    """Steps of both schedules by the number of micro-batches."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    from scaletut.train.pipeline import Pipeline

    torch.manual_seed(seed)
    layer = lambda: nn.Sequential(nn.Linear(512, 512), nn.Tanh())
    layers = nn.Sequential(*(layer() for _ in range(8))).double()
    x = torch.randn(1024, 512).double()
    y = torch.randint(512, (1024,))
    cross_entropy(layers(x), y).backward()
    whole = {id(one): one.grad.clone() for one in layers.parameters()}

    def apart(stage):
        pairs = [(one.grad, whole[id(one)]) for one in stage.parameters()]
        return max(
            float((a.cpu() - b).norm() / b.norm()) for a, b in pairs
        )

    found = []
    for name in ("gpipe", "1f1b"):
        for count in counts:
            if name == "1f1b" and count < ranks.size:
                continue
            line = Pipeline(ranks, layers, x[:1], count, name)
            told = [line.step(x, y) for _ in range(rounds + 1)][1:]
            layers.zero_grad()
            last = line.step(x, y)
            found.append({
                "schedule": name, "micro-batches": count,
                "bubbles": [one.bubble for one in told],
                "kept": max(last.in_flight),
                "apart": apart(line.stage),
                "work": [[[c.kind, c.start, c.end] for c in stage]
                         for stage in last.chunks],
            })
    return found


# %%
counts = [1, 4] if p.profile == "quick" else [1, 2, 4, 8, 16]
both = on_ranks(
    pipelines, ranks, counts=counts, rounds=p.rounds, seed=p.seed
)
lines = pd.DataFrame(both[0])
lines["bubble"] = [float(np.median(one)) for one in lines.bubbles]
lines["theory"] = [
    expected_bubble(ranks, m) for m in lines["micro-batches"]
]
shown = ["schedule", "micro-batches", "theory", "bubble", "kept"]
lines[shown].round(3)

# %%
def of_four(schedule):
    chosen = lines["micro-batches"] == 4
    return lines[chosen & (lines.schedule == schedule)].iloc[0]


gpipe, alternating = of_four("gpipe"), of_four("1f1b")
keep("bubble_whole", [100 * one for one in lines.bubbles[0]], "%")
keep("bubble_four", [100 * one for one in alternating.bubbles], "%");

# %%
worst = max(one["apart"] for rank in both for one in rank)
claims.check(
    "The stages' gradients are those of the whole network.",
    worst < rounding,
);

# %%
claims.check(
    "With four micro-batches the stages wait less than with one.",
    gpipe.bubble < lines.bubble[0],
);

# %%
claims.check(
    "1F1B keeps the activations of fewer micro-batches than GPipe.",
    alternating.kept < gpipe.kept,
);

# %% mystnb={"image": {"alt": "Two timelines of two stages with four micro-batches each. GPipe: all forward passes, then all backward passes. 1F1B: after the start each stage alternates. In both the second stage waits at the beginning and the first at the turn."}} tags=["hide-input"]
figure, panels = figures.panels(2, 1, height=3.6, sharex=True)
colors = {"forward": blue, "backward": orange}
titles = {"gpipe": "GPipe", "1f1b": "1F1B"}
for axes, line in zip(panels, (gpipe, alternating)):
    for stage, work in enumerate(line.work):
        for kind, start, end in work:
            axes.barh(
                stage, 1000 * (end - start), left=1000 * start,
                color=colors[kind], edgecolor="white", height=0.7,
            )
    axes.set_yticks(range(ranks), [f"stage {one}" for one in range(ranks)])
    axes.invert_yaxis()
    axes.set_title(titles[line.schedule], loc="left")
panels[1].set_xlabel("time (ms); blue: forward, orange: backward")
plt.show()

# %% mystnb={"image": {"alt": "Share of idle time against the number of micro-batches on a logarithmic axis: the curve of theory falls towards zero, the measured points of both schedules follow it at first and then stay above it."}} tags=["hide-input"]
figure, axes = figures.panels(1, 1, height=3.2)
m = np.geomspace(1, max(counts), 50)
axes.plot(
    m, 100 * (ranks - 1) / (m + ranks - 1), color=figures.QUIET,
    label="theory, equal stages",
)
for (name, rows), color, mark in zip(
    lines.groupby("schedule", sort=False), (blue, orange), "os"
):
    ends = 100 * np.array([[min(b), max(b)] for b in rows.bubbles]).T
    axes.vlines(rows["micro-batches"], *ends, color=color, alpha=0.5)
    axes.plot(rows["micro-batches"], 100 * rows.bubble, mark,
              color=color, label=name, fillstyle="none")
axes.set(xscale="log", xlabel="micro-batches", ylabel="idle time (%)")
axes.set_xticks(counts, [str(one) for one in counts])
axes.minorticks_off()
axes.set_ylim(bottom=0)
axes.legend()
plt.show()

# %% [markdown]
# Theory lets tensors pass in no time and gives small batches the speed of large ones.
# Real ones have a best number of micro-batches, beyond which the pieces are too small.
# The lines through the dots span all readings.
#
# > **Takeaway.**
# > Cut in two with the batch in one piece, the stages waited [50.62 %](#parallel.bubble_whole) of the time, where theory says <span class="given">50 %</span>; with four micro-batches and 1F1B [26.4 %](#parallel.bubble_four), where it says <span class="given">20 %</span>.

# %% [markdown]
# ## On paper: 8, 64, 1,024 workers
#
# The model that predicted two processes takes any number.
# Its assumptions are parameters, and each is to be replaced by a measurement of your own:
#
# * the dense bf16 peak of an A100, from the table of the chapter on one device, and a share of it that large runs have reached {cite:p}`chowdhery2022`;
# * gradients in bf16, <span class="given">2</span> bytes a parameter, half of the compute able to hide the exchange, <span class="given">5 µs</span> a message: assumptions without a source;
# * NVLink's <span class="given">300 GB/s</span> each way inside a machine; between machines of eight GPUs either eight cards of <span class="given">200 Gb/s</span>, as in NVIDIA's DGX A100 {cite:p}`nvidia2020dgx`, or one of <span class="given">100 Gb/s</span>, shared.
#   A ring crosses each card once, so what counts is the sum of a machine's cards.
#   NVLink is shown for more than eight GPUs too, as the limit that no card passes.

# %%
peak = published_peak("A100 80GB SXM").dense["bf16"]
wires = {
    "NVLink": Link(300e9, 5e-6),
    "eight 200 Gb/s cards": Link(8 * 25e9, 5e-6),
    "one 100 Gb/s card": Link(12.5e9, 5e-6),
}
clusters = {
    name: Cluster(peak, mfu=0.46, link=one, overlap=0.5)
    for name, one in wires.items()
}

# %% [markdown]
# A language model of $N$ parameters needs about $6 N$ FLOPs a token {cite:p}`kaplan2020`, and sends $2N$ bytes a pass.
# Both grow with $N$, so **the tokens a GPU needs for a given efficiency do not depend on the size of the model**, as long as bandwidth and not latency decides.

# %%
def least(name, workers, n=1e9, algorithm="ring"):
    cluster = replace(clusters[name], algorithm=algorithm)
    return cluster.least_batch(workers, n, 6 * n, efficiency=0.9)


pd.DataFrame(
    {f"{workers:,}": [f"{least(one, workers):,.0f}" for one in clusters]
     for workers in (8, 64, 1024)},
    index=clusters,
).rename_axis("tokens a GPU for 90 %")

# %%
keep("tokens_cards", least("eight 200 Gb/s cards", 1024), "tokens")
keep("tokens_card", least("one 100 Gb/s card", 1024), "tokens")
small = least("eight 200 Gb/s cards", 1024, n=1e8)
keep("tokens_small", small, "tokens")
tree = least("eight 200 Gb/s cards", 1024, n=1e8, algorithm="tree")
keep("tokens_tree", tree, "tokens")
print(f"100 M parameters: ring {small:,.0f}, tree {tree:,.0f} tokens")

# %% [markdown]
# For a small model the ring's 1,023 messages in a row outweigh its bytes: a model of 100 million parameters needs [4,790 tokens](#parallel.tokens_small) a GPU, not [1,180 tokens](#parallel.tokens_cards).
# Two binary trees need ten messages in a row {cite:p}`sanders2009`, and [821 tokens](#parallel.tokens_tree).

# %%
def efficiencies(name, workers, tokens, n=1e9):
    """Share of compute in a step, by the tokens of a GPU."""
    steps = [
        clusters[name].step(workers, n, 6 * n * one) for one in tokens
    ]
    return [100 * one.efficiency for one in steps]


# %% mystnb={"image": {"alt": "Efficiency against tokens a GPU on a logarithmic axis, for 64 and for 1,024 GPUs and three links. All lines rise to a hundred percent; NVLink crosses ninety percent first, eight cards a little later, one shared card only with some twelve thousand tokens."}} tags=["hide-input"]
figure, panels = figures.panels(1, 2, height=3.4, sharey=True)
tokens = np.geomspace(64, 32768, 80)
for axes, workers in zip(panels, (64, 1024)):
    for name, color, style in zip(
        clusters, (teal, blue, orange), ("-", "--", ":")
    ):
        axes.plot(
            tokens, efficiencies(name, workers, tokens), style,
            color=color, label=name, linewidth=2,
        )
    axes.axhline(90, color=figures.QUIET, linewidth=0.8)
    axes.set(xscale="log", xlabel="tokens a GPU", ylim=(0, 103))
    axes.set_xticks([100, 1000, 10000], ["100", "1,000", "10,000"])
    axes.minorticks_off()
    axes.set_title(f"{workers:,} GPUs", loc="left")
panels[0].set_ylabel("efficiency (%)")
figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside upper right",
    ncols=3,
)
plt.show()

# %% [markdown]
# When does communication dominate?
# When the exchange takes longer than the compute; the batch at which they are equal:

# %%
def equal(name, workers, n=1e9):
    """Tokens a GPU at which exchange and compute take equally long."""
    c = clusters[name]
    passing = exchange_seconds(workers, 2 * n, c.link)
    return passing * c.peak * c.mfu / (6 * n)


pd.DataFrame(
    {f"{one:,}": [f"{equal(name, one):,.0f}" for name in clusters]
     for one in (8, 64, 1024)},
    index=clusters,
).rename_axis("tokens a GPU, exchange = compute")

# %%
claims.check(
    "On paper, a slower link asks for a larger batch a GPU.",
    least("NVLink", 64) < least("eight 200 Gb/s cards", 64)
    < least("one 100 Gb/s card", 64),
)
keep("equal_card", equal("one 100 Gb/s card", 64), "tokens");

# %% [markdown]
# > **Takeaway.**
# > By these assumptions 1,024 GPUs keep <span class="given">90 %</span> with [1,180 tokens](#parallel.tokens_cards) each on eight fast cards a machine, and need [12,900 tokens](#parallel.tokens_card) on one shared card; there, below [7,550 tokens](#parallel.equal_card) among 64 GPUs, the exchange takes longer than the compute.
# > **No GPU has confirmed these numbers.**

# %% [markdown]
# ## On GPUs
#
# No GPU was at hand when this was written, so nothing on this page was run with nccl.
# On a machine with two or more, the same code takes them by itself:
#
# ```bash
# scaletut run parallel --profile gpu                   # this page
# python benchmarks/distributed.py --network resnet18 --batch 1024
# torchrun --nproc-per-node gpu -m scaletut train resnet20 --data cifar10
# ```
#
# Colab has one GPU, where the chapter runs its processes on the CPU; Kaggle lends two T4.
# On several machines every one is told where the first is:
#
# ```bash
# torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint first:29500 \
#     -m scaletut train resnet20 --mode fsdp --data cifar10 --checkpoint shared/run.pt
# ```
#
# What to look at there first: `measure_link`, since the whole model hangs on it, and the overlap, which is what of the exchange a step does not show.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: three ranks and a batch of 64
#
# 64 is no multiple of 3.
# Show that the shares of three ranks are each image of the batch once, and say why their gradients must not simply be averaged.

# %% tags=["hide-cell"]
from scaletut.data import Batches, load

few = load("zipf10", n_train=64, n_test=100).train
parts = [
    next(Batches(few, batch_size=64, rank=r, ranks=3).epoch(0))
    for r in range(3)
]
whole, _ = next(Batches(few, batch_size=64).epoch(0))
print([len(labels) for _, labels in parts])
assert torch.equal(torch.cat([one for one, _ in parts]), whole)
# 21, 21 and 22 images: the mean over all is the ranks' means weighted by
# their images, so `fit` scales each rank's loss by 3 n / 64 first.

# %% [markdown]
# ### Exercise 2: how many micro-batches?
#
# A pipeline of eight stages shall wait at most <span class="given">10 %</span> of the time.
# How many micro-batches does it need, by theory?

# %% tags=["hide-cell"]
enough = next(m for m in range(1, 999) if expected_bubble(8, m) <= 0.1)
print(enough)
assert enough == 63  # 9 (p - 1)

# %% [markdown]
# ### Exercise 3: the same batch for all
#
# The batch of all GPUs together is fixed at four million tokens, because a larger one would not train better.
# With eight cards a machine, how many GPUs can share it at <span class="given">90 %</span>?

# %% tags=["hide-cell"]
cluster, n = clusters["eight 200 Gb/s cards"], 1e9
shared = {
    workers: cluster.step(workers, n, 6 * n * 4e6 / workers).efficiency
    for workers in 2 ** np.arange(1, 15)
}
most = max(one for one, value in shared.items() if value >= 0.9)
print(f"{most:,} GPUs, {4e6 / most:,.0f} tokens each")
assert shared[most] >= 0.9 > shared[2 * most]

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
# * Processes that exchange nothing, or a zero, train networks of their own, and no loss curve shows it; the distance between ranks does.
# * Replicas and shards end where one process does, if the norms see the whole batch; without, [0.486 %](#parallel.apart_own_norms) away.
# * Bytes and memory can be said beforehand; the step time too, from two measurements, here at [0.969 times](#parallel.step_ratio) what it took.
# * A killed process costs the steps since the last checkpoint, and nothing else.
# * A pipeline pays with idle time, and micro-batches buy it back up to a point.
# * Next: the chapter on compression asks how much of the network is needed at all.

# %%
record = new_record(
    "parallel", profile=p.profile, parameters=p.model_dump(),
    data_digest=few.digest, seeds=[p.seed], values=numbers,
    claims=claims.results,
    wall_seconds=time.perf_counter() - started,
    peak_memory_bytes=peak_memory(), dtype=how.name,
)
saved_as = chapters.save_record(record).name
print(f"record {saved_as}, {record.wall_seconds / 60:.1f} min")
