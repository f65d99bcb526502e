"""The `scaletut` command: thin, and it imports a room only when one of its commands is called."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaletut import __version__
from scaletut.errors import CheckFailed, ParameterError, RecordError, ScaletutError

if TYPE_CHECKING:
    from scaletut.chapters.run import Plan

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
PLAN_EXAMPLE = """

a plan:
  name: my_sweep
  data: zipf10
  widths: [0.125, 0.25, 0.5]
  examples: [500, 1000, 2000, 4000]
  epochs: [10]
  lr_rule: {exponent: 0, reference: 1, reason: Muon's step does not follow the width}
to search values of its recipe on held-out images, add:
  hold_out: 1000
  search: {trials: 20, values: {lr: [0.01, 1, log], momentum: [0.8, 0.99]}}"""
COMPRESS_STEPS = """

steps of a recipe, with commas between:
  prune=0.5      remove channels            tucker=0.9, cp=0.9   factors of convolutions
  weights=0.8    zero the smallest weights  svd=0.9              factors of linear layers and 1 x 1 convolutions
  finetune=2     train for 2 epochs         distil=2             the same, with the given network as teacher
  qat=1          train for int8             fold                 batch norms into the layers before them
  int8, dynamic  8 bits, at the end         w4                   4-bit weights, simulated, at the end"""
PROFILES = ("quick", "laptop", "gpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 1 (something failed a check or a chapter), 2 (refused) or 130 (interrupted)."""
    options = build_parser().parse_args(arguments)
    try:
        return options.command(options)
    except CheckFailed as error:
        return _complain(error, FAILED)
    except ScaletutError as error:
        return _complain(error, REFUSED)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("scaletut"):
            raise  # a fault of ours, and its traceback is wanted
        wanted = f"{error.name} is not installed; `scaletut doctor` tells what is missing and the command for it"
        return _complain(ScaletutError(wanted), REFUSED)
    except KeyboardInterrupt:
        print("\nscaletut: interrupted; nothing half-written was left", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `scaletut params finetune | head -1`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - Python flushes it once more on its way out
        return 0


def _complain(error: Exception, code: int) -> int:
    if os.environ.get("LOCAL_RANK", "0") != "0":  # under torchrun: all of a machine's ranks would say the same
        return code
    print(f"scaletut: error: {error}", file=sys.stderr)
    return code


# --- the commands and their options ------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; each command has examples in its help."""
    parser = argparse.ArgumentParser(
        prog="scaletut",
        description="Run, check and compare the chapters of the book, on hardware that you have.",
        epilog="examples:\n  scaletut chapters\n  scaletut params finetune\n  scaletut run finetune --profile quick",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"scaletut {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _command(commands, "chapters", _chapters, "list the chapters, their minutes and memory", "scaletut chapters")

    params = _command(
        commands,
        "params",
        _params,
        "show the parameters of a chapter: type, unit, range, default, each profile's value",
        "scaletut params finetune",
        "scaletut params finetune --cell   # the notebook's parameters cell",
    )
    params.add_argument("chapter", metavar="CHAPTER")
    params.add_argument("--cell", action="store_true", help="print the parameters cell that fits them")

    _add_run(commands)
    _add_record(commands)

    check = _command(
        commands,
        "check",
        _check,
        "check the book: linked numbers, notebooks, text twins, table of contents",
        "scaletut check",
        "scaletut check --write   # refresh the texts of stale links, then check",
    )
    check.add_argument("--write", action="store_true", help="refresh the linked numbers first")

    doctor = _command(
        commands,
        "doctor",
        _doctor,
        "tell what is installed, what is missing, what device and data there are",
        "scaletut doctor",
        "scaletut doctor --json",
    )
    doctor.add_argument("--json", action="store_true", help="for programs")

    receipt = _command(
        commands,
        "receipt",
        _receipt,
        "compare this machine's quick run with the recorded one; exits 1 when a metric leaves its band",
        "scaletut run --all --profile quick && scaletut receipt",
        "scaletut receipt --page book/receipt.md",
    )
    receipt.add_argument("--page", type=Path, metavar="FILE", help="also write it as a page of the site")

    ledger = _command(
        commands,
        "ledger",
        _ledger,
        "show every recorded number: value, interval, runs, device, date",
        "scaletut ledger",
        "scaletut ledger --page book/ledger.md",
    )
    ledger.add_argument("--page", type=Path, metavar="FILE", help="write it as a page of the site instead")

    pair = _command(
        commands,
        "pair",
        _pair,
        "bring a notebook and its text twin in step",
        "scaletut pair finetune               # the twin follows the notebook",
        "scaletut pair finetune --from-text   # the notebook follows the twin and keeps its outputs",
    )
    pair.add_argument("chapter", metavar="CHAPTER")
    pair.add_argument("--from-text", action="store_true", help="the twin leads")

    _add_train(commands)
    _add_audit(commands)
    _add_scaling(commands)
    _add_sweep(commands)
    _add_roofline(commands)
    _add_tune(commands)
    _add_compress(commands)
    _add_frontier(commands)
    _add_serve(commands)
    return parser


def _command(
    commands: Any, name: str, call: Callable[[argparse.Namespace], int], about: str, *examples: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=call)
    return parser


def _add_run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        _run,
        "run a chapter, or all of them, through papermill",
        "scaletut run finetune --profile quick",
        "scaletut run finetune -p data=folder:photos -p epochs=3 --out my-run",
        "scaletut run finetune --profile quick --grid width=8,16 --grid epochs=1,2",
        "scaletut run --all --profile quick --stale",
    )
    run.add_argument("chapter", metavar="CHAPTER", nargs="?")
    run.add_argument("--all", action="store_true", help="every chapter")
    run.add_argument(
        "-p", dest="parameters", metavar="name=value", action="append", default=[],
        help="set a parameter (repeatable); see `scaletut params CHAPTER`",
    )  # fmt: skip
    run.add_argument("--profile", default="", metavar="P", help="quick, laptop or gpu")
    run.add_argument(
        "--grid", metavar="name=a,b,c", action="append", default=[],
        help="run every combination and compare them (repeatable; separate by ; if a value holds a comma)",
    )  # fmt: skip
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the executed notebook and its records")
    run.add_argument("--stale", action="store_true", help="skip what is still true: same inputs, files untouched")


def _add_record(commands: Any) -> None:
    record = _command(
        commands,
        "record",
        _record,
        "run a chapter and keep it: outputs into its notebook, records into results/, twin in step",
        "scaletut record finetune",
        "scaletut record finetune --profile quick   # only the record that the receipt compares with",
        "scaletut record finetune --ledger   # after more records: only the cells that read them",
    )
    record.add_argument("chapter", metavar="CHAPTER")
    record.add_argument("--profile", default="laptop", choices=("laptop", "quick"))
    record.add_argument("--ledger", action="store_true", help="run and store only the cells that read the ledger")


def _add_train(commands: Any) -> None:
    train = _command(
        commands,
        "train",
        _train,
        "train a named preset from one or more seeds and write a record of each run",
        "scaletut train fast --data zipf10 --epochs 1",
        "scaletut train fast --data cifar10 --seed 0 --seed 1 --out results",
        "scaletut train resnet20 --data zipf10 --hold-out 400 --save net.safetensors",
        "torchrun --nproc-per-node 2 -m scaletut train resnet20 --mode fsdp   # two processes train one network",
    )
    train.add_argument("preset", metavar="PRESET", help="fast, strong, resnet20, tutorial, or an ablation")
    train.add_argument("--data", default="cifar10", metavar="SOURCE", help="cifar10, zipf10[:options], folder:PATH")
    train.add_argument("--seed", type=int, action="append", metavar="N", help="repeatable; 0 when not given")
    train.add_argument("--epochs", type=float, default=0, metavar="N", help="instead of the preset's")
    train.add_argument("--hold-out", type=int, default=0, metavar="N", help="score N held-out training images")
    train.add_argument("--experiment", default="", metavar="NAME", help="name of the records; train.PRESET if empty")
    train.add_argument("--profile", default="laptop", choices=PROFILES, help="what the records are filed under")
    train.add_argument("--checkpoint", type=Path, metavar="FILE", help="save here and resume from here")
    train.add_argument("--save", default="", metavar="FILE", help="the weights, for `scaletut compress`; one seed")
    train.add_argument("--out", type=Path, default=Path("_build/records/train"), metavar="DIR")
    train.add_argument(
        "--mode", default="ddp", choices=("ddp", "fsdp"), help="under torchrun: replicas of the network, or shards"
    )


def _add_audit(commands: Any) -> None:
    audit = _command(
        commands,
        "audit",
        _in_module("scaletut.cli_audit", "run_audit"),
        "look for duplicates, images of low quality and wrong labels; nothing is deleted",
        "scaletut audit folder:photos --html sheet.html",
        "scaletut audit cifar10 --json audit.json --out cleaned.npz",
        "scaletut audit mine.npz --labels corrected.npy --only labels",
        "scaletut audit zipf10:duplicates=20,noise=0.1 --json -",
    )
    audit.add_argument("source", metavar="SOURCE", help="cifar10, zipf10[:options], folder:PATH or an npz file")
    audit.add_argument("--labels", default="", metavar="FILE.npy", help="training labels instead of the set's own")
    audit.add_argument("--only", default="", metavar="a,b", help="some of duplicates, quality, labels; all if empty")
    audit.add_argument("--json", default="", metavar="FILE", help="write all findings; - for the screen")
    audit.add_argument("--html", default="", metavar="FILE", help="write a data sheet with pictures of the findings")
    audit.add_argument(
        "--out", default="", metavar="CLEANED.npz", help="write a cleaned set, and beside it what left and why"
    )
    audit.add_argument("--seed", type=int, default=0, metavar="S", help="of zipf10 and of what judges the labels")


def _add_sweep(commands: Any) -> None:
    sweep = _command(
        commands,
        "sweep",
        _sweep("run_sweep"),
        "train every run of a plan, here or on Ray; what is finished is never run again",
        "scaletut sweep plan.yaml --dry-run                  # runs, FLOPs, memory and hours",
        "scaletut sweep plan.yaml --workers 2                # two processes on this machine",
        "scaletut sweep plan.yaml --workers 2 --resume       # after an interruption, of whatever kind",
        "scaletut sweep plan.yaml --executor ray             # Ray on this machine (pip install 'scaletut[ray]')",
        "scaletut sweep plan.yaml --executor ray --address head:6379 --cpus 2 --gpus 1",
        "scaletut sweep search.yaml --workers 2              # a plan with search: (pip install 'scaletut[search]')",
        "scaletut sweep search.yaml --storage postgresql://user:word@host/db   # a search kept on a server",
    )
    sweep.description += PLAN_EXAMPLE
    sweep.add_argument("plan", type=Path, metavar="PLAN.yaml")
    sweep.add_argument("--executor", default="local", choices=("local", "ray"), help="who runs it; local if empty")
    sweep.add_argument("--address", default="", metavar="ADDR", help="of a Ray cluster; empty: this machine")
    sweep.add_argument("--workers", type=_count, default=1, metavar="N", help="processes of the local executor")
    sweep.add_argument("--threads", type=_count, default=1, metavar="N", help="threads of each process")
    sweep.add_argument("--cpus", type=float, default=1, metavar="N", help="cores that a run takes on Ray")
    sweep.add_argument("--gpus", type=float, default=0, metavar="N", help="GPUs that a run takes on Ray")
    sweep.add_argument("--resume", action="store_true", help="go on where an earlier call ended")
    sweep.add_argument("--dry-run", action="store_true", help="runs, FLOPs, memory and hours; nothing is trained")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="folder of the records; _build/sweeps/NAME if empty")
    sweep.add_argument(
        "--storage", default="", metavar="URL",
        help="of a search: a database that Optuna can use, or journal:FILE; SQLite in the records' folder if empty",
    )  # fmt: skip

    watch = _command(
        commands,
        "watch",
        _sweep("run_watch"),
        "show how far a sweep is: its last runs, a drawing of all, and the law through them so far",
        "scaletut watch _build/sweeps/my_sweep          # redrawn every 2 s, until Ctrl-C",
        "scaletut watch _build/sweeps/my_sweep --once",
    )
    watch.add_argument("folder", type=Path, metavar="DIR", help="of the sweep's records, as `scaletut sweep` told it")
    watch.add_argument("--once", action="store_true", help="print once and end")


def _add_roofline(commands: Any) -> None:
    roofline = _command(
        commands,
        "roofline",
        _in_module("scaletut.cli_resources", "run_roofline"),
        "measure what this device can do at most, and how near the layers of a network come to it",
        "scaletut roofline                       # peak FLOP/s by number format, bandwidth by working set",
        "scaletut roofline resnet20              # each layer: FLOPs, bytes, what limits it, share reached",
        "scaletut roofline resnet20 --training --batch 256",
        "scaletut roofline resnet18 --device cuda --dtype fp16 --json -",
    )
    roofline.add_argument("model", metavar="MODEL", nargs="?", default="", help="a network, such as resnet20")
    roofline.add_argument("--device", default="", metavar="D", help="cuda, mps or cpu; the best present if empty")
    roofline.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"), help="of the network")
    roofline.add_argument("--batch", type=_count, default=64, metavar="N", help="images at a time")
    roofline.add_argument("--side", type=_count, default=32, metavar="PIXELS", help="of an image")
    roofline.add_argument("--training", action="store_true", help="forward and backward pass, not forward alone")
    roofline.add_argument("--seconds", type=float, default=4.0, metavar="S", help="that the roof may take")
    roofline.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _add_tune(commands: Any) -> None:
    tune = _command(
        commands,
        "tune",
        _in_module("scaletut.cli_resources", "run_tune"),
        "find the setting that trains a network soonest on this device: each knob alone, then together, with reasons",
        "scaletut tune resnet20",
        "scaletut tune fast --data cifar10 --memory-limit 12GB --budget 300",
        "scaletut tune mymodule:make_network --data folder:photos --batch-size 64 --optimizer adamw",
        "scaletut tune resnet18 --device cuda --json -",
    )
    tune.add_argument("model", metavar="MODEL", help="a network, a preset of `scaletut train`, or module:function")
    tune.add_argument("--data", default="zipf10", metavar="D", help="cifar10, zipf10[:options] or folder:PATH")
    tune.add_argument("--images", type=_count, default=0, metavar="N", help="so many of the training images")
    tune.add_argument("--batch-size", type=_count, default=0, metavar="N", help="to start from, if not the recipe's")
    tune.add_argument("--optimizer", default="", choices=("sgd", "adam", "adamw", "muon"), help="if not the recipe's")
    tune.add_argument(
        "--epochs", type=float, default=0, metavar="E", help="of the planned training, if not the recipe's"
    )
    tune.add_argument("--memory-limit", default="", metavar="SIZE", help="such as 12GB; what the device has if empty")
    tune.add_argument("--budget", type=float, default=120.0, metavar="S", help="seconds that the tuning may take")
    tune.add_argument("--device", default="", metavar="D", help="cuda, mps or cpu; the best present if empty")
    tune.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _add_serve(commands: Any) -> None:
    serve = _command(
        commands,
        "serve",
        _in_module("scaletut.cli_serve", "run_serve"),
        "answer requests with an exported program: batched, bounded, with health and metrics, and a page to try it",
        "scaletut serve small.onnx                       # then open http://127.0.0.1:8000",
        "scaletut serve small.onnx --workers 2 --max-batch 32 --max-wait 2ms --queue 256 --max-bytes 5MB",
    )
    serve.add_argument("model", type=Path, metavar="MODEL.onnx", help="written by `scaletut compress` or `export`")
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDR", help="0.0.0.0: whoever can reach this machine")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="0: any that is free")
    serve.add_argument("--workers", type=_count, default=1, metavar="N", help="inference processes, a thread each")
    serve.add_argument("--max-batch", type=_count, default=32, metavar="N", help="images that a worker takes at once")
    serve.add_argument("--max-wait", default="2ms", metavar="T", help="that a first image waits for others")
    serve.add_argument("--queue", type=_count, default=256, metavar="N", help="images that may wait, then 503")
    serve.add_argument("--max-bytes", default="5MB", metavar="SIZE", help="of a request, then 413")
    serve.add_argument("--max-images", type=_count, default=32, metavar="N", help="in a request, then 413")
    serve.add_argument("--slow", default="10s", metavar="T", help="that a request may take to arrive, then 408")
    serve.add_argument("--patience", default="30s", metavar="T", help="that an image may wait, then 503")
    serve.add_argument("--connections", type=_count, default=512, metavar="N", help="open at once")

    load = _command(
        commands,
        "load",
        _in_module("scaletut.cli_serve", "run_load"),
        "send requests to a service and tell throughput and latency, counted from when each request was due",
        "scaletut load http://127.0.0.1:8000 --image cat.png --rate 100 --seconds 10",
        "scaletut load http://127.0.0.1:8000 --image cat.png --rate 50,100,200,400 --rounds 3   # and the knee",
        "scaletut load http://127.0.0.1:8000 --image cat.png --clients 8 --json -               # a closed loop",
    )
    load.add_argument("url", metavar="URL", help="of a service that `scaletut serve` started")
    load.add_argument("--image", type=Path, action="append", required=True, metavar="FILE", help="sent (repeatable)")
    load.add_argument("--rate", default="", metavar="a,b,c", help="requests a second, arriving at random")
    load.add_argument("--clients", type=_count, metavar="N", help="or so many that each wait for their answer")
    load.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each measurement")
    load.add_argument("--rounds", type=_count, default=1, metavar="N", help="measurements of each rate, interleaved")
    load.add_argument("--seed", type=int, default=0, metavar="S", help="of the arrivals")
    load.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _add_compress(commands: Any) -> None:
    compress = _command(
        commands,
        "compress",
        _in_module("scaletut.cli_compress", "run_compress"),
        "make a trained network smaller and faster by a recipe, or search for the recipe that reaches a target",
        "scaletut train resnet20 --data zipf10 --hold-out 400 --save net.safetensors   # something to compress",
        "scaletut compress net.safetensors --recipe int8",
        "scaletut compress net.safetensors --recipe prune=0.5,distil=2,int8 --out small.onnx --max-drop 0.5",
        "scaletut compress net.safetensors --target-latency 4x --max-drop 1 --trials 12 --study net.db",
        "scaletut compress net.safetensors --target-bytes 100kB --json -",
    )
    compress.description += COMPRESS_STEPS
    compress.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="written by `scaletut train --save`")
    compress.add_argument("--recipe", default="", metavar="a,b=c", help="steps, one after the other; see above")
    compress.add_argument("--data", default="", metavar="D", help="what the checkpoint was trained on, if it is silent")
    compress.add_argument(
        "--epochs",
        type=float,
        default=1.0,
        metavar="E",
        help="of training steps without a number, and after cuts; 0: none",
    )
    compress.add_argument("--seed", type=int, default=0, metavar="S", help="of all training")
    compress.add_argument("--out", default="", metavar="FILE.onnx", help="the program; its weights come beside it")
    compress.add_argument(
        "--target-latency", default="", metavar="2x|3ms", help="of one image, against PyTorch; or in ms"
    )
    compress.add_argument(
        "--target-bytes", default="", metavar="8x|1.5MB", help="fewer bytes than the weights; or in MB"
    )
    compress.add_argument("--max-drop", type=float, metavar="P", help="points of accuracy that it may lose")
    compress.add_argument("--trials", type=_count, default=20, metavar="N", help="of a search, earlier ones included")
    compress.add_argument("--study", default="", metavar="FILE.db", help="where a search is kept, to go on with it")
    compress.add_argument("--final", action="store_true", help="score on the test set, not on held-out images")
    compress.add_argument("--hold-out", type=_count, default=0, metavar="N", help="images scored and not trained on")
    compress.add_argument("--images", type=_count, default=0, metavar="N", help="so many of the training images")
    compress.add_argument("--threads", type=_count, default=1, metavar="N", help="that one call shares")
    compress.add_argument("--seconds", type=float, default=1.0, metavar="S", help="that timing one program may take")
    compress.add_argument("--name", default="", metavar="NAME", help="of the network in the records")
    compress.add_argument("--records", type=Path, metavar="DIR", help="of the points; _build/compress/records if empty")
    compress.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _add_frontier(commands: Any) -> None:
    frontier = _command(
        commands,
        "frontier",
        _in_module("scaletut.cli_compress", "run_frontier"),
        "list the recorded points of accuracy against cost, and which of them no other beats",
        "scaletut frontier _build/compress/records",
        "scaletut frontier results --x bytes --plot frontier.png",
        "scaletut frontier results --json -",
    )
    frontier.add_argument("records", type=Path, metavar="DIR", nargs="?", default=Path("results"), help="of records")
    frontier.add_argument(
        "--x", default="latency", choices=("latency", "latency64", "bytes", "cpu"), help="what is to be small"
    )
    frontier.add_argument("--plot", default="", metavar="FILE", help="draw them: a name in .png, .svg or .pdf")
    frontier.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a count; give 1 or more")
    return number


def _add_scaling(commands: Any) -> None:
    fit = _command(
        commands,
        "fit",
        _scaling("run_fit"),
        "fit a scaling law to a table of runs: parameters, certificate, intervals, predictions",
        "scaletut fit runs.csv",
        "scaletut fit runs.csv --law additive --cost 6ND --drop-highest 5 --json fit.json",
        "scaletut fit curve.csv --x examples --y error --predict larger.csv",
        "scaletut fit runs.csv --law additive --fix E=1.8 --tie alpha=beta --bootstrap 4000",
    )
    _add_table(fit)
    fit.add_argument("--law", default="auto", metavar="L", help="a law's name; auto chooses by back-test")
    fit.add_argument("--x", default="", metavar="COLUMN", help="what a law in one variable reads")
    fit.add_argument("--weights", default="", metavar="COLUMN", help="weights of the runs")
    fit.add_argument("--drop-highest", type=int, default=0, metavar="K", help="leave out the K highest losses")
    fit.add_argument("--fix", action="append", default=[], metavar="E=1.8", help="pin a parameter (repeatable)")
    fit.add_argument("--tie", action="append", default=[], metavar="alpha=beta", help="keep two equal (repeatable)")
    fit.add_argument("--bootstrap", type=int, default=500, metavar="N", help="resamples for intervals; 0 for none")
    fit.add_argument("--predict", default="", metavar="OTHER.csv", help="also predict the loss at these rows")
    fit.add_argument("--plot", default="", metavar="FILE", help="draw the law over the runs")

    plan = _command(
        commands,
        "plan",
        _scaling("run_plan"),
        "spend a compute budget by a fitted law: model size, data, loss, each with an interval",
        "scaletut plan fit.json --flops 1e21",
        "scaletut plan fit.json --flops 1e23 --inference-tokens 1e12",
        "scaletut plan fit.json --loss 2.2 --unique-examples 1e10 --json -",
    )
    plan.add_argument("fit", type=Path, metavar="FIT.json", help="written by `scaletut fit --json`")
    plan.add_argument("--flops", type=float, metavar="C", help="the budget, FLOP")
    plan.add_argument("--loss", type=float, metavar="L", help="or the loss to reach at the least compute")
    plan.add_argument("--cost", default="6ND", choices=("6ND", "measured"), help="how compute follows from N and D")
    plan.add_argument("--inference-tokens", type=float, default=0.0, metavar="T", help="served later, paid from C too")
    plan.add_argument("--unique-examples", type=float, metavar="U", help="distinct examples; beyond them data repeats")
    plan.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")

    compare = _command(
        commands,
        "compare",
        _scaling("run_compare"),
        "compare laws by how they predict the largest runs from the others",
        "scaletut compare runs.csv --laws additive,additive_tied,product --hold-out largest:10",
        "scaletut compare curve.csv --x examples --y error",
    )
    _add_table(compare)
    compare.add_argument("--laws", default="", metavar="a,b,c", help="names; all that suit the table when not given")
    compare.add_argument("--x", default="", metavar="COLUMN", help="what a law in one variable reads")
    compare.add_argument("--hold-out", default="rolling", metavar="largest:K", help="which runs to hide; or rolling")

    isoflop = _command(
        commands,
        "isoflop",
        _scaling("run_isoflop"),
        "find the best model size at each compute budget, and the exponent of its growth",
        "scaletut isoflop runs.csv --cost 6ND",
    )
    _add_table(isoflop)
    isoflop.add_argument("--method", default="quadratic", choices=("quadratic", "cubic"), help="a valley's curve")


def _add_table(command: argparse.ArgumentParser) -> None:
    command.add_argument("table", metavar="TABLE", help="CSV or Parquet, one run a row: params, examples, flops, loss")
    command.add_argument("--y", default="", metavar="COLUMN", help="the loss, when its column is not called loss")
    command.add_argument(
        "--column", action="append", default=[], metavar="role=name",
        help="name the column of a role: params, embedding_params, examples, tokens, unique_examples, flops, weight, "
        "seed, group",
    )  # fmt: skip
    command.add_argument("--cost", choices=("6ND", "measured"), help="derive params, examples or flops by C = 6 N D")
    command.add_argument(
        "--count", choices=("all", "without_embeddings"),
        help="how params count; with a column embedding_params, how they are to be counted",
    )  # fmt: skip
    command.add_argument("--loss", default="huber", choices=("huber", "squared"), help="on log residuals")
    command.add_argument("--delta", type=float, default=1e-3, help="Huber's threshold on the log residual")
    command.add_argument("--seed", type=int, default=0, metavar="S")
    command.add_argument("--json", default="", metavar="FILE", help="write JSON; - for the screen")


def _scaling(name: str) -> Callable[[argparse.Namespace], int]:
    return _in_module("scaletut.cli_scaling", name)


def _sweep(name: str) -> Callable[[argparse.Namespace], int]:
    return _in_module("scaletut.cli_sweep", name)


def _in_module(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command `name` of `module`, which is imported when it is called."""

    def call(options: argparse.Namespace) -> int:
        import importlib

        return getattr(importlib.import_module(module), name)(options)

    return call


# --- chapters ----------------------------------------------------------------------


def _chapters(_: argparse.Namespace) -> int:
    from scaletut.chapters.overview import chapter_lines

    for line in chapter_lines():
        print(line)
    return 0


def _params(options: argparse.Namespace) -> int:
    from scaletut.chapters.overview import parameter_lines
    from scaletut.chapters.resolve import schema_of
    from scaletut.chapters.schemas import parameters_cell

    schema = schema_of(options.chapter)
    print(parameters_cell(schema) if options.cell else "\n".join(parameter_lines(schema)))
    return 0


def _run(options: argparse.Namespace) -> int:
    from scaletut.chapters.schemas import CHAPTERS

    if bool(options.chapter) == options.all:
        raise ParameterError("name one chapter, or give --all; see `scaletut chapters`")
    if options.grid:
        return _run_grid(options)
    if options.all and options.parameters:
        raise ParameterError("-p goes with one chapter, not with --all; name the chapter")
    names = list(CHAPTERS) if options.all else [options.chapter]
    plans = [_plan(options, name) for name in names]  # all of them are validated before the first one runs
    faults = [fault for plan in plans if (fault := _run_one(plan, options.stale))]
    if len(faults) > 1:
        raise CheckFailed(f"{len(faults)} chapters failed")
    return FAILED if faults else 0


def _plan(options: argparse.Namespace, chapter: str) -> Plan:
    from scaletut.chapters import resolve, run

    parameters = resolve.parse_assignments(chapter, options.parameters)
    return run.plan(chapter, parameters, profile=options.profile, out=options.out)


def _run_one(plan: Plan, only_stale: bool) -> str:
    """Run one chapter and print its line; the fault in words, "" when there is none."""
    from scaletut.chapters import run

    name = f"{plan.chapter:<16} {plan.resolved.profile:<7}"
    why = plan.stale_reason()
    if only_stale and not why:
        print(f"{name} fresh", flush=True)
        return ""
    try:
        done = run.run(plan, progress=True)
    except run.ChapterFailed as error:
        _complain(error, FAILED)
        return str(error)
    print(f"{name} {done.seconds:6.1f} s  {_shown(done.notebook)}  ({why or 'asked for'})", flush=True)
    return ""


def _run_grid(options: argparse.Namespace) -> int:
    from scaletut.chapters import gallery

    if options.all:
        raise ParameterError("--grid goes with one chapter, not with --all; name the chapter")
    plans = gallery.plans(options.chapter, options.parameters, options.grid, profile=options.profile, out=options.out)
    faults = {plan.folder: fault for plan in plans if (fault := _run_one(plan, options.stale))}
    for path in gallery.write(plans, failed=faults):
        print(f"wrote {_shown(path)}")
    return FAILED if faults else 0


def _record(options: argparse.Namespace) -> int:
    from scaletut.chapters import recording

    if options.ledger:
        written = recording.refresh(options.chapter)
    else:
        written = recording.record(options.chapter, options.profile, progress=True)
    for path in written:
        print(f"wrote {_shown(path)}")
    return 0


def _pair(options: argparse.Namespace) -> int:
    from scaletut.chapters import pairs, places

    notebook = places.book_root() / "notebooks" / f"{options.chapter}.ipynb"
    print(f"wrote {_shown(pairs.sync(notebook, from_text=options.from_text))}")
    return 0


# --- checks and tables -------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from scaletut.chapters.checks import check_book
    from scaletut.chapters.places import book_root

    faults = check_book(book_root(), write=options.write)
    for fault in faults:
        print(fault)
    if faults:
        raise CheckFailed(f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the book")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from scaletut import doctor

    found = doctor.examine()
    print(doctor.to_json(found) if options.json else "\n".join(doctor.lines(found)))
    return 0


def _receipt(options: argparse.Namespace) -> int:
    from scaletut.chapters import receipt
    from scaletut.chapters.places import book_root

    root = book_root()
    slip = receipt.compare(root)
    if slip.rows or options.page:
        receipt.write(slip, root / "_build" / "receipt.json", options.page)
    if not slip.rows:
        raise RecordError(
            "there is no quick run to compare with, in results/quick or here; "
            "run `scaletut run --all --profile quick`, and restore results/ with git"
        )
    print("\n".join(receipt.lines(slip)))
    if slip.faults:
        raise CheckFailed(f"{len(slip.faults)} of {len(slip.rows)} rows of the receipt are out of band or missing")
    return 0


def _ledger(options: argparse.Namespace) -> int:
    from scaletut.chapters import checks
    from scaletut.chapters.places import book_root

    if options.page:
        checks.write_ledger_page(book_root(), options.page)
        print(f"wrote {_shown(options.page)}")
        return 0
    print("\n".join(checks.ledger_lines(book_root())))
    return 0


def _train(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from scaletut.cli_output import written
    from scaletut.records import write_record
    from scaletut.train.distributed import ALONE, join, started_by_torchrun
    from scaletut.train.presets import preset
    from scaletut.train.recorded import recorded_run, save_run

    preset(options.preset)  # refused before the first bar is drawn
    if options.save and len(options.seed or [0]) > 1:
        raise ParameterError("--save keeps the weights of one network; give one --seed with it")
    experiment = options.experiment or f"train.{options.preset}"
    ranks = join(options.mode) if started_by_torchrun() else ALONE
    for seed in options.seed or [0]:
        with tqdm(desc=f"{options.preset}, seed {seed}", unit="step", leave=False, disable=not ranks.main) as bar:

            def show(progress: Any, bar: Any = bar) -> None:
                bar.total = progress.steps
                bar.update(progress.step - bar.n)

            result, record = recorded_run(
                options.preset,
                options.data,
                seed,
                experiment=experiment,
                profile=options.profile,
                epochs=options.epochs,
                hold_out=options.hold_out,
                checkpoint=options.checkpoint,
                progress=show,
                ranks=ranks,
            )
        if not ranks.main:
            continue
        path = write_record(record, options.out)
        accuracy = record.values["accuracy"]
        print(f"seed {seed}: {accuracy.value:.2f} % in {result.seconds / 60:.1f} min ({result.status}); {path}")
        if options.save:
            written(options.save, lambda: save_run(result, record, options.save))  # noqa: B023  (called here)
            print(f"weights in {_shown(options.save)}")
    ranks.leave()
    return 0


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    with contextlib.suppress(ValueError):
        return str(Path(path).resolve().relative_to(Path.cwd()))
    return str(path)


if __name__ == "__main__":
    sys.exit(main())
