"""Tag many files in bulk, serve a model over HTTP, or serve a web page."""
