"""File access for stores: reading with a size limit, and refusing files that another account could have written."""

from keyvouch._system.files.foreign_writers import check_trusted
from keyvouch._system.files.reading import read

__all__ = ["check_trusted", "read"]
