"""See which pre-trained models there are: packaged ones, timm's, and those in folders."""
