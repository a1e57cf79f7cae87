"""Colors of plots and reports, for a light and a dark background.

Text has a contrast of at least 4.5, marks of at least 3. The colors of ten keys can be told apart with each kind of
color blindness, and no color is needed to read a plot: keys have markers and names, layers an order and times.
"""

from __future__ import annotations

LIGHT = {
    "ink": "#1c2127",
    "muted": "#56606b",
    "grid": "#d9dee4",
    "surface": "#ffffff",
    "raised": "#f5f7f9",
    "notice": "#fdf1dc",
    "series-1": "#2468ff",
    "series-2": "#a62005",
    "series-3": "#167b63",
    "series-4": "#c32ea3",
    "series-5": "#946f10",
    "series-6": "#31029b",
    "series-7": "#085069",
    "series-8": "#691cd3",
    "series-9": "#6e0f38",
    "series-10": "#193100",
    "layer-1": "#06264a",
    "layer-2": "#1f5f9e",
    "layer-3": "#6b98c4",
    "layer-4": "#858f9b",
}
DARK = {
    "ink": "#e8ebee",
    "muted": "#a6b0bb",
    "grid": "#363f49",
    "surface": "#14181d",
    "raised": "#1c2229",
    "notice": "#3a2c10",
    "series-1": "#1793ff",
    "series-2": "#ff401c",
    "series-3": "#09971b",
    "series-4": "#d147c4",
    "series-5": "#dfab16",
    "series-6": "#ac8787",
    "series-7": "#2df5fd",
    "series-8": "#a3b8ff",
    "series-9": "#ffc9ba",
    "series-10": "#aff146",
    "layer-1": "#cfe6fb",
    "layer-2": "#6fb0e6",
    "layer-3": "#3f74a3",
    "layer-4": "#6d7884",
}
