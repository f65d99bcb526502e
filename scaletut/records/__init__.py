"""Evidence: the record of a run, the ledger that joins records, claims, and the check of numbers in prose.

numpy, scipy and the standard library only; nothing here imports torch.
"""

from scaletut.records.claims import Claim, Claims, Display
from scaletut.records.formatting import Form, format_value
from scaletut.records.ledger import Entry, Ledger, ledger_page, repository_of
from scaletut.records.prose import Fault, check_prose, check_records, measured_numbers, prose_pages
from scaletut.records.record import (
    Record,
    Value,
    code_version,
    device_facts,
    find_records,
    library_digest,
    library_versions,
    new_record,
    peak_memory,
    read_record,
    write_record,
)

__all__ = [
    "Claim",
    "Claims",
    "Display",
    "Entry",
    "Fault",
    "Form",
    "Ledger",
    "Record",
    "Value",
    "check_prose",
    "check_records",
    "code_version",
    "device_facts",
    "find_records",
    "format_value",
    "ledger_page",
    "library_digest",
    "library_versions",
    "measured_numbers",
    "new_record",
    "peak_memory",
    "prose_pages",
    "read_record",
    "repository_of",
    "write_record",
]
