"""Experiments on pruning."""
