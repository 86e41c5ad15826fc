"""Base models that are kept on this machine: got by name from a package index, from GGUF files, and from the Hub."""
