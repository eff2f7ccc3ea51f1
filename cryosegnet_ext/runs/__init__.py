"""Many micrographs: each picked once, whatever fails."""
