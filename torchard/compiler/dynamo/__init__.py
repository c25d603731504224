"""What ``torch.compile`` made of a program: captured, written to disk as source, and run from there."""
