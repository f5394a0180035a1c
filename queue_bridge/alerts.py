"""When the operator is to be told that something goes wrong with the queue as a whole, and that it is over.

Pure: what was decided before and what is seen now lead to what is known then, and to the news. alert_watch.py looks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

CONFIRMED = 3  # looks in a row that must agree before anything is told, so that one moment is no news
OVER_AT = 0.8  # of a limit: below it an alert is over, between the two nothing changes
LEAST_ENDS = 10  # in the window, before a share of failures means anything
SAMPLES = 10  # in a window
MAILED = frozenset({"backlog", "oldest", "failure_rate"})  # the others have kinds of mails of their own


@dataclass(frozen=True)
class AlertLimits:
    """What is too much; 0 for what is not looked at. failure_rate: 0..1, over the last window_s."""

    backlog: int = 100
    oldest_s: float = 3600.0
    failure_rate: float = 0.2
    window_s: float = 1800.0


@dataclass(frozen=True)
class Facts:
    """What is seen at one moment.

    unserved: by lane, a sentence. completed, failed: since the queue began, without jobs whose material was at fault.
    """

    backlog: int = 0
    oldest_s: float = 0.0
    unserved: Mapping[str, str] = field(default_factory=dict)
    completed: int = 0
    failed: int = 0
    dead: int = 0


@dataclass(frozen=True)
class News:
    """Something begins or is over. alert: which, such as ``backlog`` or ``unserved:1024``."""

    alert: str
    began: bool
    sentence: str
    since_s: float

    @property
    def kind(self) -> str:
        return self.alert.partition(":")[0]

    @property
    def event(self) -> str:
        """The type of its webhook."""
        return "alert.began" if self.began else "alert.ended"

    def data(self) -> dict[str, Any]:
        """What its webhook says."""
        return {"alert": self.kind, "about": self.alert.partition(":")[2], "sentence": self.sentence}


@dataclass(frozen=True)
class Standing:
    """What is known of the alerts. since_s: of those that are on. against: how many looks in a row say otherwise.

    samples: (seconds since 1970, completed, failed), the oldest first.
    """

    since_s: Mapping[str, float] = field(default_factory=dict)
    against: Mapping[str, int] = field(default_factory=dict)
    samples: tuple[tuple[float, int, int], ...] = ()

    def to_json(self) -> str:
        return json.dumps(self.__dict__, separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Standing:
        """What ``to_json`` wrote; a new beginning for what is not readable."""
        try:
            found = json.loads(text)
            samples = tuple((float(at), int(completed), int(failed)) for at, completed, failed in found["samples"])
            return cls(dict(found["since_s"]), dict(found["against"]), samples)
        except (ValueError, KeyError, TypeError):
            return cls()


@dataclass(frozen=True)
class _Seen:
    """One look at one alert. is_over: beyond its limit; is_well: clearly within it."""

    alert: str
    is_over: bool
    is_well: bool
    sentence: str


def decide(before: Standing, facts: Facts, limits: AlertLimits, now_s: float) -> tuple[Standing, list[News]]:
    """What is known after a look, and what is to be told. now_s: seconds since 1970, of the queue's server."""
    samples = _with_sample(before.samples, facts, limits, now_s)
    looks = {one.alert: one for one in _looks(facts, limits, samples)}
    for alert in before.since_s:
        if alert not in looks:  # a lane of which nothing waits any more, or a limit that was taken away
            looks[alert] = _Seen(alert, False, True, "")
    since_s, against, news = dict(before.since_s), dict[str, int](), list[News]()
    for alert, seen in sorted(looks.items()):
        is_on = alert in since_s
        if not (seen.is_well if is_on else seen.is_over):
            continue
        against[alert] = before.against.get(alert, 0) + 1
        if against[alert] < CONFIRMED:
            continue
        del against[alert]
        if is_on:
            began_s = since_s.pop(alert)
            sentence = f"Over after {_duration(now_s - began_s)}: {_title(alert)}."
            news.append(News(alert, False, sentence, began_s))
        else:
            since_s[alert] = now_s
            news.append(News(alert, True, seen.sentence, now_s))
    return Standing(since_s, against, samples), news


def _looks(facts: Facts, limits: AlertLimits, samples: tuple[tuple[float, int, int], ...]) -> Iterator[_Seen]:
    if limits.backlog:
        sentence = f"{facts.backlog} jobs wait, and {limits.backlog} are the limit (alert_backlog)."
        yield _over("backlog", facts.backlog, limits.backlog, sentence)
    if limits.oldest_s:
        waits, most = _duration(facts.oldest_s), _duration(limits.oldest_s)
        sentence = f"The oldest job has waited for {waits}, and {most} are the limit (alert_oldest_s)."
        yield _over("oldest", facts.oldest_s, limits.oldest_s, sentence)
    if limits.failure_rate:
        completed, failed = facts.completed - samples[0][1], facts.failed - samples[0][2]
        ends = completed + failed
        rate = failed / ends if ends >= LEAST_ENDS else 0.0
        sentence = (
            f"{failed} of the last {ends} jobs have failed, and a share of {limits.failure_rate:g} is the limit "
            "(alert_failure_rate)."
        )
        yield _over("failure_rate", rate, limits.failure_rate, sentence)
    letter = "1 job lies" if facts.dead == 1 else f"{facts.dead} jobs lie"
    yield _Seen(
        "dead_letter",
        facts.dead > 0,
        facts.dead == 0,
        f"{letter} in the dead letter; `sonic-queue dead list` shows why.",
    )
    for lane, sentence in facts.unserved.items():
        yield _Seen(f"unserved:{lane}", True, False, sentence)


def _over(alert: str, value: float, limit: float, sentence: str) -> _Seen:
    return _Seen(alert, value > limit, value <= limit * OVER_AT, sentence)


def _with_sample(
    samples: tuple[tuple[float, int, int], ...], facts: Facts, limits: AlertLimits, now_s: float
) -> tuple[tuple[float, int, int], ...]:
    """The counts to compare with: the first is the newest that is at least a window old, or the oldest there is."""
    newest = (now_s, facts.completed, facts.failed)
    if any(at > now_s or completed > newest[1] or failed > newest[2] for at, completed, failed in samples):
        return (newest,)  # a clock was set back, or the queue's data are new
    if not samples or now_s - samples[-1][0] >= limits.window_s / SAMPLES:
        samples = (*samples, newest)
    while len(samples) > 1 and samples[1][0] <= now_s - limits.window_s:
        samples = samples[1:]
    return samples


def _title(alert: str) -> str:
    kind, _, lane = alert.partition(":")
    titles = {
        "backlog": "many jobs wait",
        "oldest": "a job has waited long",
        "failure_rate": "many jobs fail",
        "dead_letter": "jobs lie in the dead letter",
        "unserved": f"no instance serves {lane}",
    }
    return titles.get(kind, kind)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
