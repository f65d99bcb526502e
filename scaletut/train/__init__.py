"""Training: a recipe, one loop, metrics, the choice of device."""

from scaletut.train.device import Execution, execution, pick_device
from scaletut.train.distributed import Ranks, join, on_ranks
from scaletut.train.loop import EpochStats, Objective, Progress, TrainingResult, fit, predict, training_flops
from scaletut.train.metrics import ClassificationReport, calibration_bins, report
from scaletut.train.recipe import Recipe
from scaletut.train.selfsupervised import pretrain, quarter_turns

__all__ = [
    "ClassificationReport",
    "EpochStats",
    "Execution",
    "Objective",
    "Progress",
    "Ranks",
    "Recipe",
    "TrainingResult",
    "calibration_bins",
    "execution",
    "fit",
    "join",
    "on_ranks",
    "pick_device",
    "predict",
    "pretrain",
    "quarter_turns",
    "report",
    "training_flops",
]
