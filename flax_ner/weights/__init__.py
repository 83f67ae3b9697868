"""Model directories, and conversion from and to the weights of other frameworks."""
