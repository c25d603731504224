"""From your data and a budget to a small, understood, deployable model."""

__version__ = "0.1.0"
