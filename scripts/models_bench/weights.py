"""GGUF files of random bytes behind a sound header: as large as wanted, and nothing that zstd makes smaller."""

from pathlib import Path

import gguf
import numpy as np


def write_weights(path: Path, n_bytes: int, *, seed: int) -> Path:
    """Write a file with one tensor of noise; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("noise", np.frombuffer(np.random.default_rng(seed).bytes(n_bytes), np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
