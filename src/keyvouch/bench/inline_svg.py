"""Plots as SVG elements of an HTML page, which has several of them and decides about colors and fonts."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.figure import Figure

from keyvouch.bench.palette import LIGHT

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {color: f"var(--{name})" for name, color in LIGHT.items()}


def inline_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """Return a figure as `<svg>`, without a size of its own, with text as text and variables of CSS as colors.

    `name` is unique in the page; `title` and `description` are for those who cannot see the plot.
    """
    data = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(data, format="svg")
    root = ET.fromstring(data.getvalue())  # noqa: S314 - matplotlib has written it
    _remove_extras(root)
    _adapt(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-labelledby": f"{name}-title {name}-desc"}
    for tag, text in (("desc", description), ("title", title)):
        element = ET.Element(tag, id=f"{name}-{tag}")
        element.text = text
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _remove_extras(root: ET.Element) -> None:
    """Remove data for programs that edit pictures, and rules that would apply to the whole page."""
    for parent in (root, *root.iter(f"{_SVG}defs")):
        for each in (*parent.findall(f"{_SVG}metadata"), *parent.findall(f"{_SVG}style")):
            parent.remove(each)


def _adapt(root: ET.Element, name: str) -> None:
    """Make names unique in the page, remove namespaces, which HTML does not need, and replace colors and fonts."""
    used = set(re.findall(r"#(\w+)", " ".join(" ".join(each.attrib.values()) for each in root.iter())))
    for each in root.iter():
        each.tag = each.tag.removeprefix(_SVG)
        attributes = {("href" if key == _LINK else key): value for key, value in each.attrib.items()}
        if attributes.get("id") not in used:
            attributes.pop("id", None)
        each.attrib = {key: _adapted(key, value, name) for key, value in attributes.items()}
        if each.tag != "text":
            each.text = None
        each.tail = None


def _adapted(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        return re.sub("#[0-9a-f]{6}", lambda found: _VARIABLES[found[0]], value)
    return re.sub(r"url\(#(\w+)\)", rf"url(#{name}-\1)", " ".join(value.split()))
