"""Training of the U-Net on simulated and labelled micrographs."""
