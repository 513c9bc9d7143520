"""Bundles: models, an index and wheels in one file that is carried elsewhere. No network but pip's, for wheels."""
