"""What producer.py and worker.py share: the kinds of work, without their code."""

from pathlib import Path

import attrs

from aether_bg import JobType

DATABASE = "two-processes.db"


@attrs.frozen
class File:
    path: Path


FINGERPRINT = JobType("Fingerprint", File)
