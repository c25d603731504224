"""Experiments on layers and encoders."""
