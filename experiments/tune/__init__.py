"""Experiments on adapting pre-trained models."""
