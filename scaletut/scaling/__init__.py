"""Scaling laws: fit, uncertainty, choice, plans. numpy and scipy alone."""

from scaletut.scaling.fit import Certificate, Fit, Interval, fit
from scaletut.scaling.laws import LAWS
from scaletut.scaling.notes import Note
from scaletut.scaling.table import RunTable, TableError, as_table

__all__ = ["LAWS", "Certificate", "Fit", "Interval", "Note", "RunTable", "TableError", "as_table", "fit"]
