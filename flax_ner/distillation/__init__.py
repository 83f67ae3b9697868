"""Train a student with the probabilities of a teacher."""
