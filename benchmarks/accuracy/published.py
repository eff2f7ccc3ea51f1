"""The published figures of CryoSegNet that `paper.py` sets beside what can be measured here.

Source of all: Gyawali, Dhakal, Wang, Cheng, Briefings in Bioinformatics 25(4), bbae282, 2024. Its Table 1, the F1 of
every picker on each set, is `cryosegnet_ext.evaluation.cryoppp.PUBLISHED`, since `cryosegnet evaluate` shows it, too.

The paper's precision, recall, F1 and Dice are those of painted discs, best precision and best recall over the
micrographs of a set (`cryosegnet_ext.evaluation.measures.Published`): upper ends.
"""

from __future__ import annotations

MEAN = {"precision": 0.792, "recall": 0.747, "f1": 0.761, "dice": 0.719}
"""Means of CryoSegNet over the seven test sets."""

STAGES = {
    "U-Net alone": {"precision": 0.747, "recall": 0.739, "f1": 0.71},
    "U-Net + SAM": {"precision": 0.729, "recall": 0.820, "f1": 0.768},
    "U-Net + SAM + postprocessing": {"precision": 0.792, "recall": 0.747, "f1": 0.761},
}
"""What each stage adds, means over the seven test sets."""

TUNING = {
    "EMPIAR-11056": {"picks": (53072, 75303), "resolution": (7.17, 6.13)},
    "EMPIAR-10017": {"picks": (10026, 33572), "resolution": (6.91, 5.27)},
}
"""Before and after fine-tuning with the network's own picks on 20 micrographs; angstrom of the map from the picks."""

TRAINING = {"micrographs": 4948, "validation": 1244, "epochs": 200, "batch": 6, "side": 1024}
"""Micrographs of 22 EMPIAR sets, and the schedule; the network's shape is `AttentionUNet(64, 5)`."""

RESOLUTION = {
    "test set": {"CryoSegNet": 4.98, "template": 5.19, "Topaz": 5.19, "crYOLO": 5.41},
    "all micrographs of five sets": {"CryoSegNet": 3.33, "Topaz": 3.58, "crYOLO": 3.87},
}
"""Mean resolution of the maps from the picks, angstrom."""
