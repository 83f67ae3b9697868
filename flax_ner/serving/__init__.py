"""Tag many files in bulk, serve a web page, or be a component of spaCy."""
