"""Fine-tune a tagger: the tagging task, its data and its defaults."""
