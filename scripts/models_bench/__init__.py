"""What `scripts/bench-models` measures with: files of random bytes, our bundles and the tools that people have."""
