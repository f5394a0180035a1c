"""Every Redis key of a queue. A name appears here and nowhere else; the Lua scripts get theirs from ``lua_names``.

A prefix such as ``{sonic}`` is one queue; its braces put all keys into one slot of a cluster, so that a script may
touch them together.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUP = "workers"  # the consumer group of every queue stream
CONSUMER = "bridge"  # one name for all: who runs a job is in the job itself, with its fencing token
CLASSES = ("priority", "pending")  # in the order in which they are served
OWN_BATCH = "key_"  # begins the batch of what an API key submits one by one, which takes its turn as batches do
MAIL = "mail"  # among the sinks, which are addresses otherwise
BUCKET = 2  # letters of an idempotency key that name its hash: 1024 hashes, compact up to half a million jobs


@dataclass(frozen=True)
class Keys:
    """The keys of one queue. prefix: begins every key."""

    prefix: str = "{sonic}"

    def _key(self, name: str) -> str:
        return f"{self.prefix}:{name}"

    def job(self, job_id: str) -> str:
        """Hash: everything about one job."""
        return self._key("job:") + job_id

    def queue(self, job_class: str, lane: str) -> str:
        """Stream: one entry for each job that waits, whichever it is. job_class: priority or pending."""
        return f"{self.prefix}:{job_class}:{lane}"

    def flows(self, job_class: str, lane: str) -> str:
        """Sorted set: the batches of which jobs wait, by the turn since which they wait for their next one."""
        return self._key("flows:") + f"{job_class}:{lane}"

    def waiting(self, job_class: str, lane: str, batch: str) -> str:
        """List: a batch's jobs that wait for their first start, in the order of submission. batch: '' for none."""
        return self._key("waiting:") + f"{job_class}:{lane}:{batch}"

    def returned(self, job_class: str, lane: str, batch: str) -> str:
        """Sorted set in the order of submission: those that wait for another start; served before the list."""
        return self._key("returned:") + f"{job_class}:{lane}:{batch}"

    def instance(self, name: str) -> str:
        """Hash with expiry: what an instance says of itself."""
        return self._key("instance:") + name

    def claim(self, instance: str) -> str:
        """String: an instance's last claim and its answer, so that asking again claims nothing more.

        While it sleeps: that claim, and what it may be handed as its answer.
        """
        return self._key("claim:") + instance

    def awaiting(self, lane: str) -> str:
        """Sorted set: the instances that sleep and may be handed a job of this lane, by the time since when, in ms."""
        return self._key("awaiting:") + lane

    def handed(self, instance: str) -> str:
        """Stream: the job that an instance was handed while it slept; it goes with the next claim, or the instance."""
        return self._key("handed:") + instance

    def batch(self, batch_id: str) -> str:
        """Hash: the counts of the jobs that were submitted together."""
        return self._key("batch:") + batch_id

    def idempotency(self, short_key: str) -> tuple[str, str]:
        """Hash and its field: the job that a repeated submission finds. Many keys share a hash, for less memory."""
        return self._key("idempotency:") + short_key[:BUCKET], short_key[BUCKET:]

    def submitted(self, caller: str) -> str:
        """Stream: what a caller has submitted, as long as it is kept; an entry for jobs that came together.

        ``jobs`` has their ids with spaces between, ``begin`` how all of them begin where that is left out there.
        caller: '' for none.
        """
        return self._key("submitted:") + caller

    def batches(self, caller: str) -> str:
        """Sorted set: the batches of a caller by the time when something was last put into them, in ms."""
        return self._key("batches:") + caller

    def bucket(self, caller: str) -> str:
        """Hash with expiry: how many requests a caller may make now."""
        return self._key("bucket:") + caller

    def request(self, digest: str) -> str:
        """String with expiry: what a request with an idempotency key was, and the id that it was given."""
        return self._key("request:") + digest

    def asset(self, asset_id: str) -> str:
        """String with expiry: what is known of an uploaded file, as JSON."""
        return self._key("asset:") + asset_id

    def assets(self, caller: str) -> str:
        """Sorted set: a caller's uploaded files by the time of their last use; some may have expired."""
        return self._key("assets:") + caller

    def blob(self, blob_id: str) -> str:
        """Hash with expiry: where the bytes of uploaded files lie, and which files have them."""
        return self._key("blob:") + blob_id

    @property
    def api_keys(self) -> str:
        """Hash: the API keys of the gateway by their ids, as JSON; revoked ones stay."""
        return self._key("api_keys")

    @property
    def callers(self) -> str:
        """Set: who has submitted jobs with an API key."""
        return self._key("callers")

    @property
    def unended(self) -> str:
        """Hash: how many jobs of each caller have not ended."""
        return self._key("unended")

    @property
    def ready(self) -> str:
        """String with expiry: written to see that something can be."""
        return self._key("ready")

    @property
    def leases(self) -> str:
        """Sorted set: running jobs by the time when their lease runs out."""
        return self._key("leases")

    @property
    def delayed(self) -> str:
        """Sorted set: retrying jobs by the time when they are due."""
        return self._key("delayed")

    @property
    def dead(self) -> str:
        """Sorted set: the dead letter, jobs that failed though another attempt might have passed, by time."""
        return self._key("dead")

    @property
    def ended(self) -> str:
        """List: the ended jobs, the latest last."""
        return self._key("ended")

    @property
    def events(self) -> str:
        """Stream, trimmed: every change of state and step of progress."""
        return self._key("events")

    @property
    def wake(self) -> str:
        """Stream, trimmed: an entry whenever something can be claimed; idle instances block on it."""
        return self._key("wake")

    @property
    def wishes(self) -> str:
        """Stream, trimmed: an entry whenever an operator wishes something of a running job; its owner blocks on it."""
        return self._key("wishes")

    @property
    def draining(self) -> str:
        """Hash: instances that take no new job -> when the one at hand is given back, in ms; kept until undone."""
        return self._key("draining")

    @property
    def results(self) -> str:
        """Sorted set: places of videos by the time when they were put there; only where they are removed by age."""
        return self._key("results")

    @property
    def result_files(self) -> str:
        """Hash: the same places -> what was put there (JSON: bytes, sha256), to be known again."""
        return self._key("result_files")

    @property
    def turns(self) -> str:
        """Counter: how often both classes waited, for the share of the pending one."""
        return self._key("turns")

    @property
    def turn(self) -> str:
        """Counter: the turns that batches have had or wait for."""
        return self._key("turn")

    @property
    def totals(self) -> str:
        """Hash: how many jobs ever were submitted, completed, failed and so on."""
        return self._key("totals")

    @property
    def figures(self) -> str:
        """Hash: counts of all ends, repeated starts and seconds by stage, for metrics and plans (figures.py)."""
        return self._key("figures")

    @property
    def alerts(self) -> str:
        """Hash: what the operator has been told of, how many news there were, who looked last and when."""
        return self._key("alerts")

    @property
    def clock(self) -> str:
        """String: the latest time that a script has seen, so that a clock that is set back is noticed."""
        return self._key("clock")

    @property
    def instances(self) -> str:
        """Set: names of instances that have registered; those whose hash is gone are not alive."""
        return self._key("instances")

    @property
    def grace(self) -> str:
        """Hash: which server the leases were last seen on, how long one is, until when none of them runs out."""
        return self._key("grace")

    @property
    def looked(self) -> str:
        """String with expiry: somebody has just looked for connections that are gone."""
        return self._key("looked")

    @property
    def lanes(self) -> str:
        """Set: every ``class:lane`` that ever held a job, for counting."""
        return self._key("lanes")

    @property
    def outbox(self) -> str:
        """Sorted set: webhooks to be delivered by the time when their next try is due, or its lease runs out."""
        return self._key("outbox")

    @property
    def outbox_wake(self) -> str:
        """Stream, trimmed: an entry whenever there is a webhook to be delivered; deliverers block on it."""
        return self._key("outbox_wake")

    @property
    def outbox_ended(self) -> str:
        """List, trimmed: webhooks that were delivered or given up, the latest first."""
        return self._key("outbox_ended")

    @property
    def outbox_totals(self) -> str:
        """Hash: how many webhooks were delivered, tried in vain, given up."""
        return self._key("outbox_totals")

    def message(self, message_id: str) -> str:
        """Hash with expiry: one webhook, its body and what became of its tries."""
        return self._key("message:") + message_id

    @property
    def sinks(self) -> str:
        """Hash: the operator's webhooks -> their events ('' for all); and ``mail`` where mails are sent."""
        return self._key("sinks")

    @property
    def disabled(self) -> str:
        """Hash: addresses that want no more webhooks (410) -> since when, in ms."""
        return self._key("disabled")

    @property
    def mail_outbox(self) -> str:
        """Sorted set: kinds of mails of which there is something to tell, by the time from which they may be sent."""
        return self._key("mail_outbox")

    def mails(self, kind: str) -> str:
        """List: what the next mail of this kind is to tell."""
        return self._key("mails:") + kind

    @property
    def mailed(self) -> str:
        """Hash: by kind, how many lines were mailed, who has them in hand, from when on the next mail may be sent."""
        return self._key("mailed")

    def told(self, what: str) -> str:
        """String with expiry: the operator has been told this."""
        return self._key("told:") + what

    def lua_names(self) -> str:
        """Lua source that defines the same names for a script; ``queue`` and others are beginnings of keys."""
        names = {
            "JOB": self.job(""),
            "QUEUE": self._key(""),
            "FLOWS": self._key("flows:"),
            "WAITING": self._key("waiting:"),
            "RETURNED": self._key("returned:"),
            "INSTANCE": self.instance(""),
            "CLAIM": self.claim(""),
            "HANDED": self.handed(""),
            "AWAITING": self.awaiting(""),
            "BATCH": self.batch(""),
            "IDEMPOTENCY": self._key("idempotency:"),
            "SUBMITTED": self.submitted(""),
            "BATCHES": self.batches(""),
            "CALLERS": self.callers,
            "UNENDED": self.unended,
            "BUCKET_OF": self.bucket(""),
            "ASSET": self.asset(""),
            "ASSETS": self.assets(""),
            "BLOB": self.blob(""),
            "LEASES": self.leases,
            "DELAYED": self.delayed,
            "DEAD": self.dead,
            "ENDED": self.ended,
            "EVENTS": self.events,
            "WAKE": self.wake,
            "WISHES": self.wishes,
            "DRAINING": self.draining,
            "RESULTS": self.results,
            "RESULT_FILES": self.result_files,
            "TURNS": self.turns,
            "TURN": self.turn,
            "CLOCK": self.clock,
            "TOTALS": self.totals,
            "FIGURES": self.figures,
            "ALERTS": self.alerts,
            "INSTANCES": self.instances,
            "LANES": self.lanes,
            "GRACE": self.grace,
            "LOOKED": self.looked,
            "OUTBOX": self.outbox,
            "OUTBOX_WAKE": self.outbox_wake,
            "OUTBOX_ENDED": self.outbox_ended,
            "OUTBOX_TOTALS": self.outbox_totals,
            "MESSAGE": self.message(""),
            "SINKS": self.sinks,
            "DISABLED": self.disabled,
            "MAIL_OUTBOX": self.mail_outbox,
            "MAILS": self.mails(""),
            "MAILED": self.mailed,
            "TOLD": self.told(""),
            "MAIL": MAIL,
            "OWN_BATCH": OWN_BATCH,
            "GROUP": GROUP,
            "CONSUMER": CONSUMER,
        }
        lines = [f"local {name} = [==[{value}]==]" for name, value in names.items()]
        return "\n".join([*lines, f"local BUCKET = {BUCKET}", ""])
