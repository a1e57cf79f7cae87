"""The report is complete, loads nothing, and escapes what comes from a document."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from msgspec import structs

from bench.runs import HERE, LIMIT, all_operations, key, measurement, run_of
from keyvouch.bench import Machine, Run, compare_runs
from keyvouch.bench.html_report import report, write_report
from keyvouch.bench.palette import DARK, LIGHT
from keyvouch.errors import ConfigurationError

VOID = {"meta", "br", "hr", "img", "link", "input"}
MARKUP = "</title></style></svg><script>alert(1)</script><img src=//example.com onerror=alert(1)>\"'&\x1b\u202e\ud800"
KEYS = [
    key("A", memory=16_257_024, module="SoftHSM v2", profile="production", unsupported=("PS384",)),
    key("B", scheme="azurekeyvault", limit=LIMIT, price=15.0),
]
FULL = run_of(
    *all_operations("A", 1e-3, peer=True, rates={1: 990, 2: 1900, 4: 1910}),
    *all_operations("B", 20e-3, rates={1: 49, 2: 98, 4: 190}),
    keys=KEYS,
)


@dataclass
class Page(HTMLParser):
    """A parsed page, in which every element is closed."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open and data.strip():
            self.shown.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str]]:
        """Return the attributes of all elements with this tag."""
        return [attributes for each, attributes in self.elements if each == tag]

    @property
    def plain(self) -> str:
        """All text, without markup."""
        return " ".join(self.shown)


def page_of(run: Run, *others: Run) -> Page:
    return Page(report(run, [change for other in others for change in compare_runs(run, other)]))


def headings(page: Page) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.text)


def svgs(page: Page) -> list[ET.Element]:
    return [
        ET.fromstring(each)  # noqa: S314 - our own
        for each in re.findall(r"<svg.*?</svg>", page.text, re.DOTALL)
    ]


def test_order() -> None:
    """The results come first, then the keys, the plots, and the details."""
    page = page_of(FULL, FULL)
    assert headings(page) == [
        "Results",
        "Keys",
        "Latency",
        "Throughput",
        "Cost of a client assertion",
        "Changes since the earlier run",
        "All measurements",
    ]


def test_key() -> None:
    """Everything known about a key is shown."""
    plain = page_of(FULL).plain
    for each in (
        "pem:A.pem",
        "RSA-2048",
        "SoftHSM v2",
        "16.3 MB",
        "production",
        "PS384",
        "2,000 signatures in 10 s for each vault (https://example.com/limits)",
        "15.00 for a million signatures",
    ):
        assert each in plain


def test_when_and_where() -> None:
    """The head shows the time and the machine of the run; versions are in the details."""
    plain = page_of(FULL).plain
    assert "1 December 2026, 08:30 UTC, 3 s for each measurement" in plain
    assert "a CPU, 2 cores, Linux 6.1, CPython 3.13.0" in plain
    assert "cryptography 50.0.2" in plain


def test_measurements() -> None:
    """The table has a row for each measurement, with its confidence interval and percentiles."""
    page = page_of(FULL)
    assert sum(each.get("scope") == "row" for each in page.all("th")) == len(FULL.measurements)
    assert "1,900 (1,805 to 1,995)" in page.plain


def test_percentiles_of_too_few_operations() -> None:
    """A percentile that would only repeat the maximum is a dash."""
    row = re.search(r"<tr>.*1.00 ms.*</tr>", page_of(run_of(measurement("A", times=[1e-3] * 20))).text)
    assert row
    assert re.findall(r"<td>(.*?)</td>", row[0])[1:6] == ["1.00 ms", "1.00 ms", "–", "–", "1.00 ms"]  # noqa: RUF001


def test_changes() -> None:
    """A change is a percentage with its interval, or within the noise."""
    slower = run_of(*all_operations("A", 2e-3), keys=KEYS[:1], reference=[1.0] * 20)
    faster = run_of(*all_operations("A", 1e-3), keys=KEYS[:1], reference=[1.0] * 20)
    plain = page_of(slower, faster).plain
    assert "2.00 (2.00 to 2.00) 100.0 % slower" in plain
    assert "within the noise" in page_of(faster, faster).plain


def test_no_changes_without_an_earlier_run() -> None:
    """The section is there only if there is something to compare with."""
    assert "Changes since the earlier run" not in headings(page_of(FULL))


def test_errors() -> None:
    """The errors of keys and of measurements are listed with their messages, in a run without plots too."""
    failed = measurement("A", errors={"store-unavailable": 3}, error="No answer.", stopped=True)
    page = page_of(run_of(failed, keys=[key("A"), key("B", error="Access denied.")]))
    assert "Nothing was measured successfully: see the errors below." in page.plain
    assert "B was not measured: Access denied." in page.plain
    assert (
        "A Signature PS256, 1 thread: failed 3 store-unavailable; it was not measured to the end. "
        "First error: No answer."
    ) in page.plain
    assert not svgs(page)


def test_interrupted() -> None:
    """The report of an interrupted run says so at the top."""
    run = run_of(measurement("A", times=[1e-3]), interrupted=True)
    assert "Interrupted: this is what was measured until then." in page_of(run).plain
    assert "Not measured before the interrupt: A: client assertion." in page_of(run).plain
    assert "Interrupted" not in page_of(FULL).plain


def test_interrupted_after_the_openings() -> None:
    """Without a signature, the results refer to the table, and to no errors, since there are none."""
    page = page_of(run_of(measurement("A", "open_cold", [1e-3] * 20), interrupted=True))
    assert "No signature was measured; the table below shows what was." in page.plain
    assert "errors below" not in page.plain


def test_header_of_cpu_time() -> None:
    """The header says for how many operations it is."""
    assert "CPU per 1,000" in page_of(FULL).shown


def test_titles_in_the_table_are_not_cut() -> None:
    """On a narrow screen, a title stays in view and wraps."""
    assert "<span>Signature by the store's plugin, without the framework</span>" in page_of(FULL).text
    assert re.search(r"\.group span \{[^}]*position: sticky;[^}]*white-space: normal;", report(FULL))


def test_busy_machine() -> None:
    """A load above the number of cores is a notice."""
    busy = structs.replace(HERE, load=5.5)
    assert "The machine was busy" in page_of(run_of(measurement("A", times=[1e-3]), machine=busy)).plain
    assert "The machine was busy" not in page_of(FULL).plain


def test_nothing_measured_at_all() -> None:
    """A run that was interrupted before the first measurement still has a report."""
    page = page_of(run_of(keys=[key("A")], interrupted=True))
    assert headings(page) == ["Results", "Keys"]
    assert "Nothing was measured." in page.plain
    assert "errors below" not in page.plain
    assert not page.all("footer")
    assert "<h1>Benchmark</h1>" in page_of(run_of(interrupted=True)).text


@pytest.mark.parametrize("number", [1, 3, 26])
def test_any_number_of_keys(number: int) -> None:
    """Each key has a card; with several keys there is a list of them above the results."""
    labels = [chr(ord("A") + index) for index in range(number)]
    page = page_of(run_of(*(each for label in labels for each in all_operations(label, 1e-3))))
    assert len(page.all("article")) == number
    assert Counter(each.get("class") for each in page.all("ul"))["legend"] == (number > 1)


def test_number_of_operations() -> None:
    """With a count, it is shown instead of the seconds."""
    shown = report(run_of(measurement("A", times=[1e-3]), count=200))
    assert "at most 200 operations for each measurement" in shown


def test_unknown_time() -> None:
    """A document whose time is not RFC 3339 is shown as it is."""
    run = structs.replace(FULL, started="yesterday")
    assert "yesterday" in page_of(run).plain


# Safety


def test_policy() -> None:
    """A content security policy forbids to load or run anything, before anything else in the page."""
    metas = page_of(FULL).all("meta")
    assert metas[0] == {"charset": "utf-8"}
    assert metas[1] == {
        "http-equiv": "Content-Security-Policy",
        "content": "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
    }


def test_no_external_reference() -> None:
    """No element refers to anything outside the page, and there is no script."""
    page = page_of(FULL)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a", "image"}
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "xlink:href"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#"), tag
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"@import|url\((?!#)", page.text)


def hostile() -> Run:
    """A run in whose document every text is markup."""
    facts = ("uri", "scheme", "key_type", "plugin", "profile", "module")
    bad = key("A", **dict.fromkeys(facts, MARKUP), unsupported=(MARKUP,), error=MARKUP)
    other = key(MARKUP, preferred=MARKUP)
    run = run_of(
        *all_operations("A", 1e-3, rates={1: 990, 2: 1900}),
        measurement("A", times=[1e-3], errors={MARKUP: 2}, error=MARKUP),
        measurement(MARKUP, times=[1e-3] * 20, algorithm=MARKUP),
        measurement(MARKUP, times=[1e-3] * 20, algorithm=MARKUP, threads=2),
        keys=[bad, other],
        machine=Machine(system=MARKUP, processor=MARKUP, cores=1, memory=1, python=MARKUP),
    )
    return structs.replace(run, started=MARKUP, versions={MARKUP: MARKUP})


def test_markup_is_escaped() -> None:
    """Texts from the document are shown, and are never markup; unprintable characters are replaced."""
    page = page_of(hostile(), hostile())
    assert not {tag for tag, _ in page.elements} & {"script", "img"}
    assert "<script>alert(1)</script>" in page.plain
    assert not set(page.text) & {"\x1b", "\u202e", "\ud800"}
    assert all(each.tag == "svg" for each in svgs(page))
    page.text.encode()


# Plots in the page


def test_svg_is_well_formed() -> None:
    """Each plot is there for wide and for narrow screens, scales, and has a title and a description."""
    page = page_of(FULL)
    assert len(svgs(page)) == 6
    for each in svgs(page):
        assert each.attrib.keys() == {"viewBox", "role", "aria-labelledby"}
        assert each.attrib["role"] == "img"
        title, description, *_ = each
        assert (title.tag, description.tag) == ("title", "desc")
        assert each.attrib["aria-labelledby"] == f"{title.attrib['id']} {description.attrib['id']}"
        assert description.text
        assert "A  pem RSA-2048" in description.text


def test_ids_are_unique() -> None:
    """No id is used twice, and each reference has its target."""
    page = page_of(FULL)
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    used = re.findall(r"url\(#([^)]+)\)", page.text) + [each["href"][1:] for each in page.all("use")]
    assert used
    assert set(used) <= ids.keys()


def test_plots_have_the_colors_of_the_page() -> None:
    """Plots contain no color and no font of their own, so that they are readable in the dark too."""
    page = page_of(FULL)
    plots = "".join(ET.tostring(each, encoding="unicode") for each in svgs(page))
    assert not re.search(r"#[0-9a-f]{3,8}\b(?!\))", re.sub(r'href="[^"]*"|url\([^)]*\)', "", plots))
    assert "font-family" not in plots
    assert set(re.findall(r"var\(--([\w-]+)\)", page.text)) <= LIGHT.keys() | {"color"}


def luminance(color: str) -> float:
    parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(palette: dict[str, str]) -> None:
    """Texts have a contrast of at least 4.5 with what is behind them (WCAG 2.2, 1.4.3), marks of 3 (1.4.11)."""
    for background in ("surface", "raised", "notice"):
        assert contrast(palette["ink"], palette[background]) >= 4.5
    for background in ("surface", "raised"):
        assert contrast(palette["muted"], palette[background]) >= 4.5
    keys = [color for name, color in palette.items() if name.startswith("series")]
    assert all(contrast(color, palette["surface"]) >= 4.5 for color in keys)  # letters on the color
    layers = [color for name, color in palette.items() if name.startswith("layer")]
    assert all(contrast(color, palette["surface"]) >= 3 for color in layers)
    assert LIGHT.keys() == palette.keys()


VISIONS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as it is seen (Machado, Oliveira and Fernandes, 2009)."""


def oklab(color: str, vision: str) -> np.ndarray:
    """Return a color in a space in which distances are those that people see (Ottosson, 2020)."""
    parts = np.array([int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    from_cones = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    found: np.ndarray = np.array(from_cones) @ np.cbrt(np.array(to_cones) @ seen)
    return found


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colors_of_ten_keys_differ(palette: dict[str, str], vision: str) -> None:
    """They can be told apart, also by color-blind readers."""
    colors = [oklab(color, vision) for name, color in palette.items() if name.startswith("series")]
    assert len(colors) == 10
    assert all(np.linalg.norm(one - other) > 0.08 for one, other in itertools.combinations(colors, 2))


def test_accessible_structure() -> None:
    """The page has a language and one main heading, tables have headers with a scope, and can be scrolled by keys."""
    page = page_of(FULL, FULL)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) - len(svgs(page)) == 1
    assert all(each["scope"] in {"col", "row", "rowgroup"} for each in page.all("th"))
    regions = [each for each in page.all("div") if each.get("role") == "region"]
    assert len(regions) == len(page.all("table")) == 2
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions)


# Files


def test_written_file(tmp_path: Path) -> None:
    """The file is UTF-8, and replaces an earlier one."""
    path = tmp_path / "report.html"
    write_report(FULL, path)
    write_report(FULL, path)
    assert path.read_text(encoding="utf-8").startswith('<!DOCTYPE html>\n<html lang="en">')


def test_unwritable_path(tmp_path: Path) -> None:
    """A missing folder is an error with a remedy."""
    with pytest.raises(ConfigurationError, match="its folder does not exist") as raised:
        write_report(FULL, tmp_path / "missing" / "report.html")
    assert raised.value.hint == f"Create the folder {tmp_path / 'missing'} first."
