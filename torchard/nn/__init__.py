"""Layers and backbones, and encoders of images and text side by side."""
