"""What `scripts/bench-server` measures with: servers in processes of their own, and a load of requests for them."""
