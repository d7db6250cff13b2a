"""Partial differential equations: random fields, solvers in float64, and the sets made with them."""
