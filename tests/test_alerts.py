"""Alerts: when one begins and is over, by a clock of the test; and that of many who look one tells it, once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

from comfyui_sonic.queue_bridge.alerts import CONFIRMED, AlertLimits, Facts, News, Standing, decide
from comfyui_sonic.queue_bridge.config import Settings
from comfyui_sonic.queue_bridge.database.redis_connection import connect
from comfyui_sonic.queue_bridge.job import JobSpec, new_job_id
from comfyui_sonic.queue_bridge.messages.outbox import Outbox
from comfyui_sonic.queue_bridge.oversight.alert_watch import AlertWatch
from comfyui_sonic.queue_bridge.queue.presence import Identity
from comfyui_sonic.queue_bridge.queue.queue_view import QueueView
from comfyui_sonic.queue_bridge.queue.store import Store, Submission
from comfyui_sonic.queue_bridge.webhook import Endpoint

LIMITS = AlertLimits(backlog=100, oldest_s=600.0, failure_rate=0.2, window_s=1800.0)


class Watched:
    """Looks every 15 s of a clock that does not run."""

    def __init__(self, limits: AlertLimits = LIMITS) -> None:
        self.standing, self.now_s, self.limits = Standing(), 1_800_000_000.0, limits

    def look(self, facts: Facts, times: int = 1, every_s: float = 15.0) -> list[News]:
        told = []
        for _ in range(times):
            self.now_s += every_s
            self.standing, news = decide(Standing.from_json(self.standing.to_json()), facts, self.limits, self.now_s)
            told += news
        return told


def words(news: list[News]) -> list[str]:
    return [("+" if one.began else "-") + one.alert for one in news]


def test_a_backlog_is_told_once_when_it_begins_and_once_when_it_is_over() -> None:
    watched = Watched()
    assert words(watched.look(Facts(backlog=100), 5)) == []
    (began,) = watched.look(Facts(backlog=101), 20)
    assert (began.began, began.event) == (True, "alert.began")
    assert began.sentence == "101 jobs wait, and 100 are the limit (alert_backlog)."
    assert words(watched.look(Facts(backlog=81), 20)) == [], "between the limit and 80 % of it nothing changes"
    assert words(watched.look(Facts(backlog=120), 20)) == []
    (over,) = watched.look(Facts(backlog=80), 20)
    assert (over.event, over.sentence) == ("alert.ended", "Over after 15 min: many jobs wait.")
    assert words(watched.look(Facts(backlog=200), CONFIRMED)) == ["+backlog"]


def test_what_lasts_for_a_moment_only_is_no_news() -> None:
    watched = Watched()
    for _ in range(10):
        assert watched.look(Facts(backlog=500, unserved={"1024": "x"}), CONFIRMED - 1) == []
        assert watched.look(Facts(backlog=0)) == []


def test_the_share_of_failures_is_that_of_a_window_and_of_enough_jobs() -> None:
    watched = Watched()
    watched.look(Facts(completed=1000, failed=500), 3)
    assert watched.look(Facts(completed=1000, failed=509), 4) == [], "nine ends say nothing"
    assert words(watched.look(Facts(completed=1031, failed=510), 4)) == ["+failure_rate"]
    assert watched.look(Facts(completed=1050, failed=510), 4) == [], "10 of 60 are more than 80 % of the limit"
    assert words(watched.look(Facts(completed=1100, failed=510), 4)) == ["-failure_rate"]
    watched.look(Facts(completed=1100, failed=510), 2, every_s=1800)
    assert words(watched.look(Facts(completed=1100, failed=520), 4)) == ["+failure_rate"]
    assert words(watched.look(Facts(completed=1100, failed=520), 150)) == ["-failure_rate"], "nothing ends any more"
    assert len(watched.standing.samples) <= 13


def test_counts_that_begin_anew_are_no_failures() -> None:
    watched = Watched()
    watched.look(Facts(completed=1000, failed=500), 3)
    assert watched.look(Facts(completed=0, failed=100), 9) == []


def test_the_oldest_job_the_dead_letter_and_lanes_that_nobody_serves_are_alerts_of_their_own() -> None:
    watched = Watched()
    facts = Facts(oldest_s=601.0, dead=1, unserved={"1024-sonic": "3 jobs wait."})
    assert words(watched.look(facts, 9)) == ["+dead_letter", "+oldest", "+unserved:1024-sonic"]
    assert watched.look(replace(facts, dead=7), 9) == []
    over = watched.look(Facts(), 9)
    assert words(over) == ["-dead_letter", "-oldest", "-unserved:1024-sonic"]
    assert over[2].sentence == "Over after 4 min: no instance serves 1024-sonic."


def test_a_limit_of_nothing_is_not_looked_at_and_ends_what_it_began() -> None:
    watched = Watched()
    watched.look(Facts(backlog=500), 9)
    watched.limits = AlertLimits(backlog=0, oldest_s=0.0, failure_rate=0.0)
    assert words(watched.look(Facts(backlog=900, oldest_s=9e9, failed=99), 9)) == ["-backlog"]


def test_what_somebody_else_wrote_is_a_new_beginning() -> None:
    assert Standing.from_json("") == Standing.from_json('{"since_s": 3}') == Standing()


async def test_of_many_who_look_one_tells_each_news_once_by_webhook_and_mail(redis_url: str) -> None:
    now_s = 1_800_000_000.0
    settings = Settings(url=redis_url, queue=f"alerts-{new_job_id()}", alert_backlog=3)
    stores = [Store(connect(redis_url), settings, clock=lambda: now_s) for _ in range(5)]
    watches = [AlertWatch(one, QueueView(one.client, one.keys), settings.alert_limits, 15.0) for one in stores]
    outbox = Outbox(stores[0])
    await stores[0].register(Identity("a", "boot"))
    await outbox.listen(
        [Endpoint("https://all.example/"), Endpoint("https://ends.example/", ("alert.ended",))], mails=True
    )
    specs = [JobSpec(new_job_id(), "file:///a.png", "file:///a.wav", "file:///a.mp4") for _ in range(4)]
    await stores[0].submit([Submission(one, 512) for one in specs])

    async def looks(times: int) -> list[str]:
        nonlocal now_s
        told: list[str] = []
        for _ in range(times):
            now_s += 15.0
            found = await asyncio.gather(*(one.look() for one in watches))
            told += [word for news in found for word in words(news)]
        return told

    lanes = {"tiers": [512], "engines": ["draft"]}
    await stores[0].ask("HSET", stores[0].keys.instance("a"), "described", json.dumps(lanes))
    assert await looks(6) == ["+backlog"]
    await stores[0].cancel([one.task_id for one in specs[:2]])
    assert await looks(6) == ["-backlog"]

    found = await outbox.deliveries(["pending"], 50)
    about_alerts = [one for one in found if one.event.startswith("alert.")]
    assert sorted((one.event, one.url) for one in about_alerts) == [
        ("alert.began", "https://all.example/"),
        ("alert.ended", "https://all.example/"),
        ("alert.ended", "https://ends.example/"),
    ]
    began = next(json.loads(one.body) for one in about_alerts if one.event == "alert.began")
    assert began["type"] == "alert.began"
    assert began["data"] == {
        "alert": "backlog", "about": "", "sentence": "4 jobs wait, and 3 are the limit (alert_backlog)."
    }  # fmt: skip
    mail = await outbox.claim_mail(60.0)
    assert mail
    assert (mail.kind, len(mail.lines)) == ("alert", 2)
    for one in stores:
        await one.close()


async def test_a_decision_that_is_repeated_after_a_lost_answer_tells_nothing_twice(redis_url: str) -> None:
    settings = Settings(url=redis_url, queue=f"alerts-{new_job_id()}")
    store = Store(connect(redis_url), settings)
    outbox = Outbox(store)
    await outbox.listen([Endpoint("https://all.example/")], mails=True)
    news = ("alert.began", "backlog", "{}", "4 jobs wait.")
    answers = [await store.call("alert_tell", 0, "known", *news) for _ in range(2)]
    assert [*answers, await store.call("alert_tell", 0, "other", *news)] == ["ok", "ok", "stale"]
    assert len(await outbox.deliveries(["pending"], 50)) == 1
    await store.close()
