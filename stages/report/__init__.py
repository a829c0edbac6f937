"""Figures, tables and how they were made."""
