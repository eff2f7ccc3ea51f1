"""Reading and writing: micrographs, picks, labels, lists."""
