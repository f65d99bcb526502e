"""Resources: what this device can do, what a training step needs, and which setting serves it best."""

from scaletut.resources.allocator import keep_freed_memory
from scaletut.resources.batch import BatchChoice, largest_batch, memory_limit
from scaletut.resources.memory import MemoryForecast, measure_memory, predict_memory, rule_of_thumb
from scaletut.resources.peaks import Peak, mfu, published_peak, published_peaks
from scaletut.resources.profiling import Advice, Operator, Profile, advise, profile_steps
from scaletut.resources.quality import accuracies, difference
from scaletut.resources.racing import Curve, Race, race
from scaletut.resources.roofline import PlacedLayer, Roof, measure_roof, place_layers
from scaletut.resources.setting import Setting, knobs
from scaletut.resources.throughput import Ledger, Row, measure
from scaletut.resources.trial import Task, TrialFailed
from scaletut.resources.tuner import Tuning, tune
from scaletut.sizes import size_in_bytes

__all__ = [
    "Advice",
    "BatchChoice",
    "Curve",
    "Ledger",
    "MemoryForecast",
    "Operator",
    "Peak",
    "PlacedLayer",
    "Profile",
    "Race",
    "Roof",
    "Row",
    "Setting",
    "Task",
    "TrialFailed",
    "Tuning",
    "accuracies",
    "advise",
    "difference",
    "keep_freed_memory",
    "knobs",
    "largest_batch",
    "measure",
    "measure_memory",
    "measure_roof",
    "memory_limit",
    "mfu",
    "place_layers",
    "predict_memory",
    "profile_steps",
    "published_peak",
    "published_peaks",
    "race",
    "rule_of_thumb",
    "size_in_bytes",
    "tune",
]
