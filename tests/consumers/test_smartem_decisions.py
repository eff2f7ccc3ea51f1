"""SmartEM reads no pick files. Its message about picking takes the count of our JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from .consumer import ask

MESSAGE = """
import json, sys
from smartem_backend.model.mq_event import MessageQueueEventType, ParticlePickingCompleteBody

kind = MessageQueueEventType.PARTICLE_PICKING_COMPLETE
body = ParticlePickingCompleteBody(event_type=kind, micrograph_uuid="1", number_of_particles_picked=int(sys.argv[1]))
print(json.dumps(body.number_of_particles_picked))
"""


def test_smartem_takes_our_counts(facility: Path) -> None:
    for stem, count in (("mic_001", 5), ("empty_002", 0)):
        told = json.loads((facility / f"JSON/{stem}.json").read_text())["picks"]
        assert ask("smartem-decisions", "smartem_backend.model.mq_event", MESSAGE, str(told)) == count
