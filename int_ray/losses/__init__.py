"""Losses as functions `(inputs) -> (loss, metrics)` over the trained tokens of a packed batch, one after the other."""
