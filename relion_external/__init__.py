"""RELION External job: translates between RELION and cryosegnet_ext; decides nothing about picking."""
