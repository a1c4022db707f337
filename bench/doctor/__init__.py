"""The command bench.doctor: whether measurements can be trusted on this machine."""
