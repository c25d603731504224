"""Remove channels, hidden units and head dimensions of any network, whatever its layers (DepGraph)."""
