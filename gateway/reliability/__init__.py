"""Arithmetic of limits: pure, no clock and no store."""
