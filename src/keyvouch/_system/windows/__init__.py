"""Files and their access rules on Windows."""
