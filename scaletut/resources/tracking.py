"""Training runs in TensorBoard and in MLflow, on this disk alone. Needs the extra `track`.

Both trackers are given to `fit` as its progress display and told the result when it is there:

    with MlflowTracker("runs.db", "resnet8, seed 0", parameters=recipe.to_dict()) as tracker:
        tracker.finish(fit(model, train, recipe, 0, progress=tracker))
"""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from scaletut.errors import ScaletutError

if TYPE_CHECKING:
    from scaletut.records import Record
    from scaletut.train import EpochStats, Progress, TrainingResult

EPOCH_SCALARS = {
    "loss": "training/loss",
    "accuracy": "training/accuracy",
    "rate": "training/rate",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}
FINAL = ("seconds", "flops", "images_per_second", "peak_memory_bytes", "steps")
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}  # read when MLflow is imported
MISSING = "{} is not installed; pip install 'scaletut[track]'"


class Tracker(ABC):
    """What both have in common: epochs are told once, as soon as they are over; a run that breaks off is closed."""

    def __init__(self) -> None:
        self._told = 0

    def __call__(self, progress: Progress) -> None:
        """Called by `fit` after each step."""
        self._epochs(progress.history)

    def finish(self, result: TrainingResult, record: Record | None = None) -> None:
        """Tell the remaining epochs, the final values, and the id and values of `record`; then close the run."""
        self._epochs(result.history)
        finals = {f"final/{name}": float(getattr(result, name)) for name in FINAL}
        facts = {"status": result.status, "execution": result.execution}
        if record is not None:
            finals |= {f"record/{name}": value.value for name, value in record.values.items()}
            facts |= {"record": record.id, "experiment": record.experiment}
        self._scalars(finals, len(result.history))
        self._facts(facts)
        self._close("FINISHED")

    def _epochs(self, history: Iterable[EpochStats]) -> None:
        for stats in list(history)[self._told :]:
            values = {told: getattr(stats, name) for name, told in EPOCH_SCALARS.items()}
            self._scalars({told: value for told, value in values.items() if value is not None}, stats.epoch)
            self._told += 1

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close("FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED")

    @abstractmethod
    def _scalars(self, values: Mapping[str, float], step: int) -> None: ...

    @abstractmethod
    def _facts(self, facts: Mapping[str, str]) -> None: ...

    @abstractmethod
    def _close(self, status: str) -> None:
        """Close the run; the first call decides."""


class TensorBoardTracker(Tracker):
    """Scalars and texts for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path | str, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """
        Args:
            folder: of the logs of all runs.
            name: of this run; a folder in that one.
            parameters: what decided the run, told as a table.

        Raises:
            ScaletutError: TensorBoard is not installed.
        """
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ScaletutError(MISSING.format("TensorBoard")) from None
        self.folder = Path(folder) / name
        self._writer = SummaryWriter(str(self.folder))
        if parameters:
            rows = "\n".join(f"| {key} | {_text(value)} |" for key, value in parameters.items())
            self._writer.add_text("parameters", f"| parameter | value |\n| --- | --- |\n{rows}")

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # seen at once, and kept when the process dies

    def _facts(self, facts: Mapping[str, str]) -> None:
        for name, text in facts.items():
            self._writer.add_text(name, text)

    def _close(self, status: str) -> None:
        self._writer.close()


class MlflowTracker(Tracker):
    """A run in a local SQLite database, for `mlflow ui --backend-store-uri sqlite:///DATABASE`.

    MLflow's folder of plain files is refused by its newer releases, and a server is more than one reader needs.
    Nothing is sent anywhere: MLflow's usage reports are turned off, for this process, unless it was imported before;
    set MLFLOW_DISABLE_TELEMETRY=true for `mlflow ui` too.
    """

    def __init__(
        self, database: Path | str, name: str, parameters: Mapping[str, Any] | None = None, experiment: str = "scaletut"
    ) -> None:
        """
        Args:
            database: SQLite file; made when it does not exist.
            name: of this run.
            parameters: what decided the run.
            experiment: that the run belongs to; made when it does not exist.

        Raises:
            ScaletutError: MLflow is not installed.
        """
        super().__init__()
        for setting, value in QUIET.items():
            os.environ.setdefault(setting, value)
        try:
            from mlflow.entities import Metric, Param
            from mlflow.tracking import MlflowClient
        except ImportError:
            raise ScaletutError(MISSING.format("MLflow")) from None
        self._metric = Metric
        database = Path(database).resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        self.uri = f"sqlite:///{database}"
        self._client = MlflowClient(self.uri)
        self.run_id = self._start(experiment, name, database)
        values = [Param(key, _text(value)) for key, value in (parameters or {}).items()]
        self._client.log_batch(self.run_id, params=values)
        self._open = True

    def _start(self, experiment: str, name: str, database: Path) -> str:
        found = self._client.get_experiment_by_name(experiment)
        number = (
            found.experiment_id
            if found
            else self._client.create_experiment(experiment, (database.parent / "artifacts").as_uri())
        )
        return self._client.create_run(number, run_name=name).info.run_id

    def _scalars(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 10**6  # milliseconds
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def _facts(self, facts: Mapping[str, str]) -> None:
        for name, text in facts.items():
            self._client.set_tag(self.run_id, name, text)

    def _close(self, status: str) -> None:
        if self._open:
            self._client.set_terminated(self.run_id, status)
            self._open = False


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)
