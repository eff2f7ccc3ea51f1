"""CryoSPARC external job: translates between CryoSPARC and cryosegnet_ext, and decides nothing about picking."""
