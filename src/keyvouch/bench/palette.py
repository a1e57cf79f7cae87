"""Colors of plots and reports, for a light and a dark background.

Text has a contrast of at least 4.5, marks of at least 3. The colors of the keys can be told apart with each kind of
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
    "series-1": "#1164db",
    "series-2": "#b2380c",
    "series-3": "#046446",
    "series-4": "#b33aa4",
    "series-5": "#423008",
    "series-6": "#39455d",
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
    "series-1": "#318eed",
    "series-2": "#e96537",
    "series-3": "#10c684",
    "series-4": "#c861b2",
    "series-5": "#fbe289",
    "series-6": "#c7d2d9",
    "layer-1": "#cfe6fb",
    "layer-2": "#6fb0e6",
    "layer-3": "#3f74a3",
    "layer-4": "#6d7884",
}
