"""A fake CryoSPARC 4.7: the world of `tests.fake_cryosparc` behind the protocol of cryosparc-tools 4.7."""
