"""Models as files for other programs, each checked against the eager model from image file to label."""
