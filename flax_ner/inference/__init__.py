"""Use of a trained model: tagging and the command line."""
