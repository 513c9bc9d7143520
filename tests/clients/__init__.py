"""Official clients, and plain bytes, against `localfusion serve` in a process of its own."""
