"""Use a model in bulk jobs, over HTTP, on a web page, or as a component of spaCy."""
