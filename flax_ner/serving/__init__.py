"""Tag many files in bulk, or serve a web page."""
