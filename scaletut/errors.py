"""The errors that a user may meet: one line that says what happened, the usual cause, and what to do."""


class ScaletutError(Exception):
    """Base of all errors that are meant for the user; the command line prints its text and exits 2."""


class DataError(ScaletutError):
    """A data source is absent, damaged, or not what it claims to be."""


class ParameterError(ScaletutError):
    """A parameter has an unknown name, a wrong type, or a value out of range."""


class RecordError(ScaletutError):
    """A record is missing, altered, or does not say what is asked of it."""


class CheckFailed(ScaletutError):
    """A check of the book (links, pairs, anatomy, claims) found faults."""
