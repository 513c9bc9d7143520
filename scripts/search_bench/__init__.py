"""What `scripts/bench-search` measures with: texts, queries with known answers, our index and its peers."""
