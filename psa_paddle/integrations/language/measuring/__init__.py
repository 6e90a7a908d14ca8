"""Measure on a model what its layers and heads depend on."""
