"""Use a trained model: `Tagger`."""
