"""Equivariant networks for particles, molecules, point clouds and poses."""
