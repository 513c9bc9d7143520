"""Bundles: models, an index and wheels in one file to be carried to another machine. No network but pip's, for wheels."""
