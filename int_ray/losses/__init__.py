"""Losses as functions `(inputs) -> (loss, metrics)` over one mask convention."""
