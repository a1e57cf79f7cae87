"""Configuration of Sphinx, for `make docs`. The build does not access the network."""

from keyvouch import __version__

project = "keyvouch"
author = copyright = "The keyvouch developers"  # noqa: A001 - Sphinx's name
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click", "stevedore.sphinxext"]
exclude_patterns = ["_build", "examples"]

# Docstrings put names in single backquotes, as Markdown does.
default_role = "code"
myst_heading_anchors = 3
smartquotes = False  # they would merge the two dashes of an option

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"keyvouch {release}"
html_show_sphinx = False
