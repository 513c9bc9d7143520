"""What `scripts/bench-engine` measures with: models of random weights, and the measurements themselves."""
