"""File access for stores: reading with a size limit, and refusing files that another account could have written."""

from keyvouch._system.files.reading import read
from keyvouch._system.files.trust import check_trusted

__all__ = ["check_trusted", "read"]
