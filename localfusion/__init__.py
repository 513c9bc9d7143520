"""A panel of local GGUF models answers, a local judge compares, the final answer is written and checked."""

__version__ = "0.1.0"
