"""Scaling laws: fit, uncertainty, choice, plans. numpy and scipy alone."""

from scaletut.scaling.accounting import Transformer, recount
from scaletut.scaling.choose import (
    Backtest,
    Extrapolation,
    Protocol,
    ProtocolChoice,
    backtest,
    choose_protocol,
    extrapolate,
)
from scaletut.scaling.combine import Combination
from scaletut.scaling.fitting import Certificate, Fit, Interval, fit
from scaletut.scaling.forecast import Forecast, forecast
from scaletut.scaling.laws import LAWS
from scaletut.scaling.notes import Note
from scaletut.scaling.planning import Budget, Miss, Plan, Worth, compute_for, cost_of_miss, plan, worth_of_data
from scaletut.scaling.predict import Prediction, Predictions, Verdict, predict_runs, verdicts
from scaletut.scaling.table import RunTable, TableError, as_table
from scaletut.scaling.uncertainty import (
    Coverage,
    Influence,
    Profile,
    Region,
    coverage,
    influence,
    profile,
    profile_region,
    simulate,
)
from scaletut.scaling.valleys import IsoFlop, Valley, isoflop

__all__ = [
    "LAWS",
    "Backtest",
    "Budget",
    "Certificate",
    "Combination",
    "Coverage",
    "Extrapolation",
    "Fit",
    "Forecast",
    "Influence",
    "Interval",
    "IsoFlop",
    "Miss",
    "Note",
    "Plan",
    "Prediction",
    "Predictions",
    "Profile",
    "Protocol",
    "ProtocolChoice",
    "Region",
    "RunTable",
    "TableError",
    "Transformer",
    "Valley",
    "Verdict",
    "Worth",
    "as_table",
    "backtest",
    "choose_protocol",
    "compute_for",
    "cost_of_miss",
    "coverage",
    "extrapolate",
    "fit",
    "forecast",
    "influence",
    "isoflop",
    "plan",
    "predict_runs",
    "profile",
    "profile_region",
    "recount",
    "simulate",
    "verdicts",
    "worth_of_data",
]
