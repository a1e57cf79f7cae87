"""`keyvouch stores`"""

from __future__ import annotations

import inspect
import re
import textwrap

import click

from keyvouch import store
from keyvouch._core import registry, uri_mistakes
from keyvouch.cli.options import output_option
from keyvouch.cli.output import present, print_facts, print_table
from keyvouch.errors import KeyvouchError, PluginMissing
from keyvouch.store import KeyStore
from keyvouch.uri import CORE_ATTRIBUTES, Attribute

CAPABILITIES = {
    store.ListsKeys: "lists keys",
    store.GeneratesKeys: "generates keys",
    store.ImportsKeys: "imports keys",
    store.RequestsCertificates: "requests certificates",
    store.HoldsCertificates: "holds certificates",
    store.DeletesKeys: "deletes keys",
    store.ExportsKeys: "exports keys",
    store.GrantsAccess: "grants access",
    store.OffersPeer: "can be compared with its library",
    store.PublishesLimits: "publishes rate limits",
}
_WIDTH = 80


@click.command("stores")
@click.argument("name", required=False)
@output_option
def command(name: str | None, output: str) -> None:
    """List the installed stores. With NAME, show that store's URI attributes and capabilities."""
    if name:
        _present_store(name.lower().removesuffix(":"), output)
    else:
        present([_row(plugin) for plugin in registry.plugins()], output, _print_stores)


def _print_stores(rows: list[dict[str, str]]) -> None:
    columns = ["scheme", "version", "store"]
    print_table(columns, [[row["scheme"], row["version"], _subject(row["store"])] for row in rows])
    missing = sorted(set(registry.KNOWN) - {row["scheme"] for row in rows})
    if missing:
        click.echo(f"\nNot installed: {', '.join(f'{each} ({registry.KNOWN[each]})' for each in missing)}")
        click.echo("To install a store, run in a checkout of keyvouch: pip install . ./plugins/NAME")


def _row(plugin: registry.Plugin) -> dict[str, str]:
    try:
        description = _summary(registry.store_class(plugin.scheme))
    except KeyvouchError as error:  # a broken plugin must not affect the others
        description = error.message
    return {
        "scheme": plugin.scheme,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "contract": plugin.contract,
        "store": description,
    }


def _summary(found: type[KeyStore]) -> str:
    return (inspect.getdoc(found) or "").partition("\n")[0]


def _subject(summary: str) -> str:
    """Return what a summary is about, without the example URI that may follow."""
    return re.split(r": `|\. ", summary, maxsplit=1)[0].rstrip(".")


def _wrapped(text: str, indent: str = "") -> str:
    """Wrap each paragraph between words, so that a URI stays whole."""
    return "\n\n".join(
        textwrap.fill(each, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for each in text.split("\n\n")
    )


def _present_store(scheme: str, output: str) -> None:
    try:
        found = registry.store_class(scheme)
    except PluginMissing as error:
        raise uri_mistakes.unknown_store(scheme) or error from None
    plugin = next(plugin for plugin in registry.plugins() if plugin.scheme == scheme)
    capabilities = [text for capability, text in CAPABILITIES.items() if issubclass(found, capability)]
    attributes = [*found.attributes, *CORE_ATTRIBUTES]

    def print_text(_: object) -> None:
        click.echo(f"{_wrapped(inspect.getdoc(found) or '')}\n")
        print_facts({"distribution": f"{plugin.distribution} {plugin.version}", "contract": plugin.contract})
        heading = click.style("capabilities", bold=True)
        indent = " " * len("capabilities  ")
        click.echo(f"{heading}  {_wrapped(indent + ', '.join(capabilities), indent).strip()}\n")
        print_table(["attribute", "position", "required for", "meaning"], [_attribute_row(each) for each in attributes])

    result = {**_row(plugin), "capabilities": capabilities, "attributes": [_attribute(each) for each in attributes]}
    present(result, output, print_text)


def _attribute(attribute: Attribute) -> dict[str, object]:
    return {
        "name": attribute.name,
        "help": attribute.help,
        "query": attribute.query,
        "positional": attribute.positional,
        "secret": attribute.secret,
        "required_for": sorted(attribute.required_for),
        "default": attribute.default,
        "environment": list(attribute.environment),
    }


def _attribute_row(attribute: Attribute) -> tuple[str, str, str, str]:
    meaning = attribute.help
    if attribute.default is not None:
        meaning += f" (default {attribute.default})"
    if attribute.environment:
        meaning += f" (default ${' or $'.join(attribute.environment)})"
    position = "after ?" if attribute.query else "path" if attribute.positional else "before ?"
    if attribute.name == "*":
        position = "anywhere"
    return attribute.name, position, ", ".join(sorted(attribute.required_for)), meaning
