"""One small program for each peer, all with the same arguments: `python -m benchmarks.peers.tls handshakes`."""
