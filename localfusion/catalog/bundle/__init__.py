"""Bundles: models, an index and wheels in one file that is carried to another machine. No network but pip's, for wheels."""
