"""The network: pure functions and modules that hold parameters only."""
