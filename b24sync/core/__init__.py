"""Decisions: pure and total. No clock, no chance, no I/O."""
