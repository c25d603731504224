"""A run's exported model behind HTTP on this computer: one endpoint, one page, firm limits."""
