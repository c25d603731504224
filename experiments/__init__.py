"""One script per method, which tests its paper's claim; ``make bench METHOD=package/slug`` runs it."""
