"""The tests, one file for each module or concern; real engine, real files, real sockets on loopback."""
