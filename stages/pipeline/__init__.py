"""Running stages: one alone, or a recipe of many."""
