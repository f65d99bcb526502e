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
    "Profile",
    "Protocol",
    "ProtocolChoice",
    "Region",
    "RunTable",
    "TableError",
    "Transformer",
    "Valley",
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
    "profile",
    "profile_region",
    "recount",
    "simulate",
    "worth_of_data",
]
