"""Neural operators: maps between functions that are sampled on uniform grids."""
