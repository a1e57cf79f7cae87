"""Audit records: a line of JSON on the logger `keyvouch.audit` for each signature and each change to a key.

The fields are documented in "Profiles", "Audit". A record never contains a message, a secret or a token.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping

audit_log = logging.getLogger("keyvouch.audit")


def record_audit(event: str, members: Mapping[str, object]) -> None:
    """Write one record if the audit logger is enabled."""
    if not audit_log.isEnabledFor(logging.INFO):
        return
    own = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "event": event}
    # A caller's members never replace our own, and no value of theirs can make a signature fail.
    audit_log.info("%s", json.dumps({**own, **members, **own}, default=str))
