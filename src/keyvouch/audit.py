"""Audit records: a line of JSON on the logger `keyvouch.audit` for each signature, and for each change of a key.

What is in one is told in the documentation, "Profiles", "Audit". Never a message, a secret or a token.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Mapping

audit_log = logging.getLogger("keyvouch.audit")


def record_audit(event: str, members: Mapping[str, object]) -> None:
    """Write one record, where somebody listens."""
    if not audit_log.isEnabledFor(logging.INFO):
        return
    own = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"), "event": event}
    # What a caller brought is in no other's place, and whatever it is, no signature fails for it.
    audit_log.info("%s", json.dumps({**own, **members, **own}, default=str))
