"""Evidence: the record of a run, the ledger that joins records, claims, and the check of numbers in prose.

numpy, scipy and the standard library only; nothing here imports torch.
"""

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
    "Record",
    "Value",
    "code_version",
    "device_facts",
    "find_records",
    "library_digest",
    "library_versions",
    "new_record",
    "peak_memory",
    "read_record",
    "write_record",
]
