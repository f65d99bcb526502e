"""The book's chapters: typed parameters, running one, staleness, the receipt, structural checks.

A notebook needs two names: `settings` behind its parameters cell, `save_record` in its record cell.
"""

from scaletut.chapters.places import book_root, record_folder, save_record
from scaletut.chapters.resolve import settings

__all__ = ["book_root", "record_folder", "save_record", "settings"]
