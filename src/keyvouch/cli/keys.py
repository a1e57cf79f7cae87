"""`keyvouch keys`"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Sequence

import click

from keyvouch._core import opening
from keyvouch._secrets.redaction import redact
from keyvouch._system.text import printable
from keyvouch.cli.options import key_options, output_option
from keyvouch.cli.output import present, print_table, shown_time
from keyvouch.cli.selection import Selection, select, warn_of_hidden_profile
from keyvouch.errors import KeyNotFound, KeyvouchError
from keyvouch.store import KeyInfo, KeyUri, Schedule
from keyvouch.uri import quoted

_NAMES = ("certificate", "key", "object", "friendly-name")
"""The attributes that name a key in a store with several."""
_YES_OR_NO = {True: "yes", False: "no", None: ""}


@click.command("keys")
@key_options
@output_option
def command(profile: str | None, key: str | None, output: str) -> None:
    """List the keys that a URI matches, each with the URI that opens it.

    Below each URI are the friendly name of its certificate, the provider that holds the key and the accounts that can
    sign with it, if the store reports them.

    If the URI selects one of several keys, the one that signs now is marked, and the one that signs next, with the
    time. With a profile, the keys are those of its first URI that can be listed.

    The URI need not select a key (for files, it can name a folder). Then all keys are listed. What cannot be used, such
    as a damaged file or a disabled version, tokens of a PKCS#11 module and advice from the store are printed to
    standard error.
    """
    selection = select(profile, key)
    warn_of_hidden_profile(selection.name)
    found, schedule = _list_first(selection)
    if not found and output == "text":
        _print_none(selection)
    present([_facts(info, schedule) for info in found], output, lambda _: _print_text(found, schedule))


def _list_first(selection: Selection) -> tuple[list[KeyInfo], Schedule]:
    """List the first of the profile's keys that can be listed, and report the others."""
    keys = selection.profile.keys
    for number, key in enumerate(keys[:-1], 1):
        try:
            found = _list(selection.with_key(key))
        except KeyvouchError as error:
            if not error.try_next_key:
                raise
            _print_skipped(f"key {number} of the profile", error.message)
        else:
            if found[0]:
                _print_not_listed(keys, number)
                return found
            _print_skipped(f"key {number} of the profile", "no keys match it.")
    return _list(selection.with_key(keys[-1]) if keys else selection)


def _print_not_listed(keys: Sequence[str], listed: int) -> None:
    for number, key in enumerate(keys[listed:], listed + 1):
        line = f"Key {number} of the profile is not listed. To list it: keyvouch keys --key {quoted(redact(key))}"
        click.echo(printable(line), err=True)


def _list(selection: Selection) -> tuple[list[KeyInfo], Schedule]:
    with selection.open_store() as store:
        for token in store.tokens():
            click.echo(f"{token.uri.quoted}\n  {token.description}\n", err=True)
        found = store.keys()
        for each in store.unusable_keys():
            _print_skipped(each.name, each.reason)
        return found, store.schedule(found)


def _print_skipped(name: str, reason: str) -> None:
    click.echo(printable(f"Skipped: {reason}" if name in reason else f"Skipped {name}: {reason}"), err=True)


def _print_none(selection: Selection) -> None:
    """Say that no keys match the last URI, with the hint of the error that opening the key reports."""
    click.echo("No keys match the URI.", err=True)
    uri = selection.profile.keys[-1]
    if not opening.parse(uri).selects_no_key:
        # Any other failure is not about the URI, since the listing succeeded.
        with contextlib.suppress(KeyvouchError):
            try:
                selection.with_key(uri).open().close()
            except KeyNotFound as error:
                click.echo(printable(error.hint, kept="\n"), err=True)


def _print_text(found: list[KeyInfo], schedule: Schedule) -> None:
    if not found:
        return
    for info in found:  # a URI is too long for a column, and must stay whole to be pasted
        click.echo(info.uri.quoted)
        marks = _mark(info, schedule) if len(found) > 1 else ""
        if details := "; ".join(filter(None, (marks, _details(info)))):
            click.echo(f"  {printable(details)}")
    click.echo()
    columns: dict[str, list[object]] = {
        **_differing_names(found),
        "version": [_version(info) for info in found],
        "type": [info.key_type for info in found],
        "subject": [info.subject for info in found],
        "valid from": [_start(info) for info in found],
        "expires": [_end(info) for info in found],
        "exportable": [_YES_OR_NO[info.exportable] for info in found],
    }
    if not any(columns["version"]):  # the store has no versions
        del columns["version"]
    print_table(list(columns), list(zip(*columns.values(), strict=True)))
    if any(info.has_certificate for info in found) and not all(info.has_certificate for info in found):
        click.echo(
            "\nKeys without a subject have no certificate; they sign until one with a certificate settles.", err=True
        )
    for advice in dict.fromkeys(each for info in found for each in info.advice):
        click.echo(f"\n{printable(advice)}", err=True)


def _mark(info: KeyInfo, schedule: Schedule) -> str:
    if info is schedule.now:
        return "signs now"
    if info is schedule.next and schedule.next_at:
        return f"signs from {shown_time(schedule.next_at)}"
    return ""


def _details(info: KeyInfo) -> str:
    """Return what is too long for columns, as far as known: friendly name, provider, accounts that may sign."""
    readers = None if info.readers is None else f"may sign: {', '.join(info.readers) or 'nobody'}"
    name = info.friendly_name and f"friendly name: {info.friendly_name}"
    return "; ".join(each for each in (name, info.provider, readers) if each)


def _differing_names(found: list[KeyInfo]) -> dict[str, list[object]]:
    """Return the columns with the keys' names, if the keys have different ones."""
    columns: dict[str, list[object]] = {name: [_name(info.uri, name) for info in found] for name in _NAMES}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def _name(uri: KeyUri, attribute: str) -> object:
    value = uri.get(attribute) if attribute in uri else None
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _version(info: KeyInfo) -> object:
    return info.uri.get("version") if "version" in info.uri else None


def _start(info: KeyInfo) -> str:
    if info.not_before:
        return f"{info.not_before:%Y-%m-%d}"
    return f"created {info.created:%Y-%m-%d}" if info.created else ""


def _end(info: KeyInfo) -> str:
    if info.not_after is None:
        return ""
    expired = " (expired)" if info.not_after < dt.datetime.now(dt.UTC) else ""
    return f"{info.not_after:%Y-%m-%d}{expired}"


def _facts(info: KeyInfo, schedule: Schedule) -> dict[str, object]:
    return {
        "uri": str(info.uri),
        "key_type": info.key_type,
        "spki_sha256": info.spki_sha256,
        "subject": info.subject,
        "not_before": info.not_before and info.not_before.isoformat(),
        "not_after": info.not_after and info.not_after.isoformat(),
        "created": info.created and info.created.isoformat(),
        "exportable": info.exportable,
        "has_certificate": info.has_certificate,
        "advice": list(info.advice),
        "friendly_name": info.friendly_name,
        "provider": info.provider,
        "readers": None if info.readers is None else list(info.readers),
        "signs_now": info is schedule.now,
        "signs_from": schedule.next_at.isoformat() if info is schedule.next and schedule.next_at else None,
    }
