"""What a GPU does with this program: whether it is right, how fast it is, and a training. See `__main__`."""
