"""Small studies on disk: opened, and filled."""

from __future__ import annotations

import numpy as np

from regmix_active.proxy.base import ProxyRequest, ProxyResult
from regmix_active.study.meaning import Meaning
from regmix_active.study.record import StudyRecord
from regmix_active.study.storage import open_storage, open_study

DOMAINS = ("books", "code")
MEANING = Meaning(DOMAINS, (0.5, 0.5), DOMAINS, {})


def opened(url: str) -> StudyRecord:
    """The study of that URL, claimed."""
    record = StudyRecord(open_study(open_storage(url), url, "s", create=True))
    record.claim(MEANING, {}, "mean")
    return record


def fill(record: StudyRecord, first: int, last: int) -> None:
    """Plan and finish slots."""
    requests = [ProxyRequest(slot, np.array([0.25, 0.75]), 1, 2) for slot in range(first, last)]
    record.plan(requests, 0, last, "initial design")
    for slot in range(first, last):
        record.finish(ProxyResult(slot, dict.fromkeys(DOMAINS, float(slot))))
