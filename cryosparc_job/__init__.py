"""CryoSPARC external job: translates between CryoSPARC and cryosegnet_ext; decides nothing about picking."""
