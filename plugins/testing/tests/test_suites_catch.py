"""The suites find what is broken: each driver here breaks one promise, and the test of that promise fails."""

import textwrap

import pytest

# All of it here: modules that only the runs inside had imported would be half forgotten between them.
import kern_testing.contracts
import kern_testing.memory  # noqa: F401
from kern_testing import waiting

pytest_plugins = "pytester"

TRANSPORT = """
import itertools, random, threading, time
import attrs, pytest
from kern.contracts.port import *
from kern.contracts.transport import *
from kern.outcome import *
from kern_testing import make
from kern_testing.clock import VirtualClock
from kern_testing.contracts.transport import TransportContract
from kern_testing.memory import MemoryTransport, forget, space

class Broken(MemoryTransport):
{body}

class TestBroken(TransportContract):
    @pytest.fixture
    def name(self):
        name = make.unique("space")
        yield name
        forget(name)

    @pytest.fixture
    def make_transport(self, name):
        return lambda: Broken(f"memory://{{name}}")

    @pytest.fixture
    def server_clock(self, name):
        clock = VirtualClock()
        space(name).use_clock(clock)
        return clock
"""

STORE = """
import attrs, pytest
from kern.contracts.result_store import *
from kern_testing import make
from kern_testing.contracts.result_store import ResultStoreContract
from kern_testing.memory import MemoryResultStore, forget

class Broken(MemoryResultStore):
{body}

class TestBroken(ResultStoreContract):
    @pytest.fixture
    def name(self):
        name = make.unique("space")
        yield name
        forget(name)

    @pytest.fixture
    def make_store(self, name):
        return lambda result_expires=None: Broken(f"memory://{{name}}?form=parts", result_expires=result_expires)
"""

BROKEN_TRANSPORTS = {
    "claims without leasing": (
        """
        def claim(self, claim):
            claimed = super().claim(claim)
            for delivery in claimed.deliveries:
                self.space.broker.give_back(delivery.receipt, False, None, False)
            return claimed
        """,
        ["test_a_leased_message_is_nobody_elses", "test_claims_are_exclusive", "test_it_agrees_with_a_model"],
    ),
    "looks first and leases then": (
        """
        def claim(self, claim):
            seen = [r for r in self.space.broker._records.values() if r.condition.value == "ready"][: claim.limit]
            time.sleep(0.001)
            with self.space.lock:
                return Claimed(tuple(
                    self.space.broker._lease(r, self._owner.id, claim.lease_seconds)
                    for r in seen if r.queue in claim.queues
                ))
        """,
        ["test_claims_are_exclusive"],
    ),
    "one receipt a message": (
        """
        def claim(self, claim):
            claimed = super().claim(claim)
            for delivery in claimed.deliveries:
                lease = self.space.broker._leases.pop(delivery.receipt)
                self.space.broker._leases[delivery.task_id] = lease
            return attrs.evolve(claimed, deliveries=tuple(
                attrs.evolve(d, receipt=d.task_id) for d in claimed.deliveries
            ))
        """,
        ["test_a_late_settlement_changes_nothing", "test_it_agrees_with_a_model"],
    ),
    "sends follow-ups before it looks at the lease": (
        """
        def settle(self, batch):
            for item in batch:
                self.publish(item.outcome.follow_ups)
            return super().settle([
                attrs.evolve(item, outcome=attrs.evolve(item.outcome, follow_ups=())) for item in batch
            ])
        """,
        ["test_a_late_settlement_changes_nothing", "test_a_settlement_is_all_or_nothing"],
    ),
    "an error spoils the batch": (
        """
        def settle(self, batch):
            settled = super().settle(batch)
            for item in settled:
                if item.error:
                    raise item.error
            return settled
        """,
        ["test_a_settlement_is_all_or_nothing"],
    ),
    "forgets the started mark": (
        "def mark_started(self, receipts): pass",
        ["test_a_death_after_the_started_mark_counts", "test_it_agrees_with_a_model"],
    ),
    "counts every expiry": (
        """
        def claim(self, claim):
            claimed = super().claim(claim)
            self.space.broker.mark_started([d.receipt for d in claimed.deliveries])
            return claimed
        """,
        ["test_an_expired_lease_comes_back_under_suspicion", "test_a_lost_reply"],
    ),
    "counts what is given back": (
        """
        def settle(self, batch):
            return super().settle([
                attrs.evolve(item, outcome=attrs.evolve(item.outcome, disposition=GiveBack(blamed=True)))
                if isinstance(item.outcome.disposition, GiveBack) else item for item in batch
            ])
        """,
        ["test_what_is_given_back_is_ready_and_uncounted"],
    ),
    "delivers early": (
        """
        def park(self, batch):
            return super().park([
                attrs.evolve(p, until=attrs.evolve(p.until, due=p.until.due - 0.2)) for p in batch
            ])
        """,
        ["test_a_parked_message_waits_in_the_broker"],
    ),
    "does not renew": (
        "def renew(self, receipts, lease_seconds): return super().renew(receipts, 0.01)",
        ["test_a_renewed_lease_does_not_expire"],
    ),
    "never tells what is lost": (
        """
        def renew(self, receipts, lease_seconds):
            super().renew(receipts, lease_seconds)
            return frozenset()
        """,
        ["test_renewing_names_what_is_lost", "test_it_agrees_with_a_model"],
    ),
    "replays twice": (
        """
        def replay(self, keys):
            broker = self.space.broker
            again = [broker._quarantine[k].quarantine for k in keys if k in broker._quarantine]
            count = super().replay(keys)
            for entry in again:
                broker.put_raw(entry.queue, entry.raw)
            return count
        """,
        ["test_replay_puts_back_the_very_message_once", "test_it_agrees_with_a_model"],
    ),
    "ignores priorities": (
        """
        def publish(self, batch):
            for p in batch:
                p.message.properties.pop("priority", None)
            return super().publish(batch)
        """,
        ["test_urgent_messages_come_first"],
    ),
    "starves the second queue": (
        """
        def claim(self, claim):
            for queue, most in claim.queues.items():
                found = super().claim(attrs.evolve(claim, queues={queue: most}))
                if found.deliveries:
                    return found
            return Claimed()
        """,
        ["test_no_queue_starves"],
    ),
    "ignores the byte budget": (
        "def claim(self, claim): return super().claim(attrs.evolve(claim, byte_budget=10**9))",
        ["test_a_claim_keeps_to_its_byte_budget"],
    ),
    "swallows what no queue receives": (
        """
        def publish(self, batch):
            return [None if isinstance(answer, Exception) else answer for answer in super().publish(batch)]
        """,
        ["test_what_no_queue_receives_is_refused", "test_an_item_that_cannot_be_sent_stays_alone"],
    ),
    "drops messages under load": (
        """
        def publish(self, batch):
            super().publish(batch[:5000])
            return [None] * len(batch)
        """,
        ["test_a_large_batch_is_taken_whole"],
    ),
    "purges what is leased": (
        """
        def purge(self, queue):
            for receipt, lease in list(self.space.broker._leases.items()):
                if lease.record.queue == queue:
                    self.space.broker.release(receipt)
            return super().purge(queue)
        """,
        ["test_purge_leaves_what_is_leased_or_in_quarantine"],
    ),
    "hears everything": (
        "def _hear(self, topic, payload): self._bell.ring(Broadcast(topic, payload))",
        ["test_everybody_who_is_subscribed_hears", "test_a_subscription_replaces_the_former"],
    ),
    "wakes nobody": (
        "def collect(self): return [e for e in super().collect() if not isinstance(e, Woken)]",
        ["test_a_waiting_worker_is_told_of_new_messages"],
    ),
    "declares what it cannot": (
        """
        def locate(self, task_ids):
            return dict.fromkeys(task_ids, Whereabouts.UNKNOWN)
        """,
        ["test_locate_knows_where_a_call_is"],
    ),
    "pretends where it must refuse": (
        """
        capabilities = MemoryTransport.capabilities - {TransportCapability.LOCATE}
        def locate(self, task_ids):
            return dict.fromkeys(task_ids, Whereabouts.UNKNOWN)
        """,
        ["test_locate_knows_where_a_call_is"],
    ),
    "shows its password": (
        """
        def __init__(self, url, conf=None):
            super().__init__(url, conf)
            self.url = "memory://user:secret@" + self.url.removeprefix("memory://")
        """,
        ["test_it_shows_no_password"],
    ),
    "leaks connections": (
        "def close(self): self._bell = None",
        ["test_starting_and_stopping_leaves_nothing_behind"],
    ),
}

BROKEN_STORES = {
    "overwrites success": (
        """
        def write(self, plans):
            self.forget([p.document.task_id for p in plans if p.document])
            return super().write(plans)
        """,
        ["test_a_success_is_never_overwritten", "test_final_states_end_all_others"],
    ),
    "forgets the parent": (
        """
        def plan(self, documents, parts, others=()):
            return super().plan([d and attrs.evolve(d, parent_id=None) for d in documents], parts, others)
        """,
        ["test_a_document_is_read_as_it_was_written"],
    ),
    "forgets the other calls": (
        """
        def plan(self, documents, parts, others=()):
            return super().plan(documents, parts, [many[:1] for many in others])
        """,
        [
            "test_documents_of_other_calls_are_written_with_the_plan",
            "test_documents_of_other_calls_overwrite_no_success",
            "test_who_watches_is_told_of_documents_of_other_calls",
        ],
    ),
    "tells nobody": (
        "def collect(self, watched): return ()",
        ["test_who_watches_is_told", "test_two_may_watch_one_id"],
    ),
    "reports what is on the way": (
        """
        def collect(self, watched):
            documents = self.read(list(watched))
            super().collect(watched)
            return documents.values()
        """,
        ["test_documents_on_the_way_are_not_reported"],
    ),
    "counts parts twice": (
        """
        def write(self, plans):
            new = lambda part: attrs.evolve(part, member=part.member + make.unique())
            return super().write([attrs.evolve(p, join_parts=tuple(map(new, p.join_parts))) for p in plans])
        def open_join(self, join):
            super().open_join(attrs.evolve(join, members=()))
        """,
        ["test_a_part_that_arrives_twice_counts_once"],
    ),
    "closes for everybody": (
        """
        def close_join(self, join_id):
            super().close_join(join_id)
            record = self.space.results._joins.get(join_id)
            return record.ending(False) if record else ()
        """,
        ["test_a_join_past_its_deadline_fails_once"],
    ),
    "keeps what has expired": (
        """
        def plan(self, *outcomes):
            return [p and attrs.evolve(p, expires=None) for p in super().plan(*outcomes)]
        def write(self, plans):
            self._expires = None
            return super().write(plans)
        """,
        ["test_a_sweep_deletes_what_has_expired", "test_an_expired_document_is_absent"],
    ),
    "calls every policy all": (
        """
        def open_join(self, join):
            super().open_join(attrs.evolve(join, policy=JoinPolicy.ALL))
        """,
        ["test_each_policy_ends_when_it_is_decided"],
    ),
}


JOINT = """
import attrs, pytest
from kern_testing import make
from kern_testing.contracts.joint import JointSettlementContract
from kern_testing.memory import MemoryResultStore, MemoryTransport, forget

class Broken(MemoryTransport):
{body}

class TestBroken(JointSettlementContract):
    @pytest.fixture
    def name(self):
        name = make.unique("space")
        yield name
        forget(name)

    @pytest.fixture
    def make_transport(self, name):
        return lambda: Broken(f"memory://{{name}}")

    @pytest.fixture
    def make_store(self, name):
        return lambda: MemoryResultStore(f"memory://{{name}}")
"""

BROKEN_JOINTS = {
    "writes the result whoever has the lease": (
        """
        def settle(self, batch):
            for item in batch:
                if item.plan is not None:
                    self.space.results.apply(self.space.results.change(item.plan, None))
            return super().settle(batch)
        """,
        [
            "test_who_has_lost_the_lease_writes_no_result",
            "test_a_failed_settlement_writes_no_result",
            "test_a_crash_inside_writes_nothing",
            "test_a_fenced_settlement_ends_no_other_call",
            "test_a_fenced_member_does_not_count",
        ],
    ),
    "leaves the result to others": (
        """
        def settle(self, batch):
            return super().settle([attrs.evolve(item, plan=None) for item in batch])
        """,
        [
            "test_result_and_release_are_one_write",
            "test_a_final_result_stays_and_the_lease_ends",
            "test_the_last_part_publishes_the_body_in_the_same_write",
            "test_plans_of_another_server_are_refused",
        ],
    ),
    "is somebody else's server": (
        """
        def __init__(self, url, conf=None):
            super().__init__(url, conf)
            self.server = "elsewhere"
        """,
        ["test_they_know_that_their_server_is_one"],
    ),
}

RECORDS = """
import attrs, pytest
from kern_testing.contracts.records import RecordsContract
from kern_testing.memory.records import MemoryRecords
import threading, time

class Broken(MemoryRecords):
{body}

class TestBroken(RecordsContract):
    @pytest.fixture
    def records(self):
        return Broken(threading.RLock(), time.time)

    @pytest.fixture
    def other_records(self, records):
        return records
"""

BROKEN_RECORDS = {
    "overwrites what it has not read": (
        "def compare_and_set(self, record, value, ttl=None): return self.put(record.kind, record.key, value, ttl)",
        ["test_compare_and_set_writes_only_over_the_version_read", "test_of_many_who_read_the_same_one_writes"],
    ),
    "looks first and writes then": (
        """
        def put_if_absent(self, kind, key, value, ttl=None):
            if self.get(kind, key) is not None:
                return None
            time.sleep(0.01)
            return self.put(kind, key, value, ttl)
        """,
        ["test_only_one_of_many_puts_if_absent"],
    ),
    "counts versions for each life of a key": (
        """
        def _write(self, kind, key, value, ttl):
            old = self._records.get((kind, key))
            record = super()._write(kind, key, value, ttl)
            record = self._records[kind, key] = attrs.evolve(record, version=old.version + 1 if old else 1)
            return record
        """,
        ["test_each_write_changes_the_version"],
    ),
    "keeps what has expired": (
        "def _write(self, kind, key, value, ttl): return super()._write(kind, key, value, None)",
        ["test_an_expired_record_is_absent"],
    ),
    "tells nobody": ("def _tell(self, kind, key): pass", ["test_who_watches_a_kind_is_told_of_changes"]),
    "takes a prefix for a pattern": (
        """
        def scan(self, kind, prefix=""):
            from fnmatch import fnmatch
            prefix = prefix.replace("%", "*").replace("_", "?")
            return (record for record in super().scan(kind) if fnmatch(record.key, prefix + "*"))
        """,
        ["test_scan_gives_a_kind_in_the_order_of_keys"],
    ),
}

POOL = """
import pytest
from kern.contracts.pool import *
from kern.worker.solo import SoloPool
from kern_testing.contracts.pool import PoolContract

class Broken(SoloPool):
{body}

class TestBroken(PoolContract):
    capabilities = Broken.capabilities
    slots = 1
    cycles = 20

    @pytest.fixture
    def make_pool(self):
        return lambda slots: Broken(None, PoolOptions(concurrency=slots))
"""

BROKEN_POOLS = {
    "loses a request now and then": (
        "def submit(self, batch): super().submit([r for n, r in enumerate(batch) if n % 10 != 9])",
        ["test_each_request_ends_once"],
    ),
    "says the end twice": (
        """
        def start(self, run, sink):
            return super().start(run, lambda events: sink([e for event in events for e in (event, event)]))
        """,
        ["test_each_request_ends_once", "test_started_comes_before_the_end"],
    ),
    "gives back what it runs all the same": (
        """
        def withdraw(self, receipts=None):
            return [r.receipt for r in self._waiting if receipts is None or r.receipt in receipts]
        """,
        ["test_what_has_not_started_can_be_taken_back", "test_withdrawn_or_ended_and_never_both"],
    ),
    "counts limits from the submission": (
        """
        def submit(self, batch):
            super().submit(batch)
            for request in batch:
                self._soft_limit(request)
        def interrupt(self, receipt, error):
            self._overdue = getattr(self, "_overdue", set()) | {receipt}
            return super().interrupt(receipt, error)
        def _run_one(self, request):
            if request.receipt in getattr(self, "_overdue", ()):
                return Died(request.receipt, {"reason": "soft time limit"})
            return super()._run_one(request)
        """,
        ["test_limits_count_from_the_start"],
    ),
    "blocks while it is busy": (
        """
        def submit(self, batch):
            import time
            while self._current is not None and not self._stopping and len(batch) > 100:
                time.sleep(0.01)
                self.patience = getattr(self, "patience", 300) - 1
                if not self.patience:
                    break
            super().submit(batch)
        """,
        ["test_submitting_does_not_block"],
    ),
    "declares what it is not": (
        "slots = 7",
        ["test_it_declares_what_the_suite_says"],
    ),
}

SCHEDULER = """
import pytest
from datetime import timedelta
from kern_testing import make
from kern_testing.contracts.scheduler import SchedulerContract
from kern_testing.memory import forget
from kern_testing.memory.scheduler import MemoryScheduler

class Broken(MemoryScheduler):
{body}

class TestBroken(SchedulerContract):
    @pytest.fixture
    def make_scheduler(self):
        name = make.unique("space")
        yield lambda: Broken(f"memory://{{name}}")
        forget(name)
"""

BROKEN_SCHEDULERS = {
    "fires until somebody looks away": (
        "def sent(self, firings): pass",
        ["test_what_was_sent_is_not_due_again", "test_two_schedulers_agree"],
    ),
    "marks when it tells": (
        """
        def due(self, now):
            firings = super().due(now)
            self.sent(firings)
            return firings
        """,
        ["test_an_entry_is_due_at_its_instant", "test_a_crash_between_due_and_sent_is_repaired"],
    ),
    "starts anew when it is edited": (
        """
        def put(self, entry):
            self.remove(entry.name)
            super().put(entry)
        """,
        ["test_a_changed_entry_keeps_what_was_sent"],
    ),
    "fires early": (
        "def due(self, now): return super().due(now + timedelta(seconds=1))",
        ["test_an_entry_is_due_at_its_instant"],
    ),
    "fires what is switched off": (
        """
        def put(self, entry):
            import attrs
            super().put(attrs.evolve(entry, enabled=True))
        """,
        ["test_disabled_and_removed_entries_are_never_due"],
    ),
}


def run_broken(pytester: pytest.Pytester, template: str, body: str, tests: list[str]) -> pytest.RunResult:
    pytester.makepyfile(template.format(body=textwrap.indent(textwrap.dedent(body).strip("\n"), "    ")))
    return pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider", "-k", " or ".join(tests), "--timeout=60")


def assert_each_fails(result: pytest.RunResult, tests: list[str]) -> None:
    failed = [line for line in result.outlines if line.startswith("FAILED")]
    for test in tests:
        assert any(test in line for line in failed), f"{test} has not noticed: {result.parseoutcomes()}"
    assert result.parseoutcomes().get("errors", 0) == 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never true is waited for briefly."""
    monkeypatch.setattr(waiting, "PATIENCE", 1.0)


@pytest.mark.parametrize("what", BROKEN_TRANSPORTS)
def test_a_broken_transport_is_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of transports fails for it, where the promise is."""
    body, tests = BROKEN_TRANSPORTS[what]
    assert_each_fails(run_broken(pytester, TRANSPORT, body, tests), tests)


@pytest.mark.parametrize("what", BROKEN_STORES)
def test_a_broken_store_is_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of result stores fails for it, where the promise is."""
    body, tests = BROKEN_STORES[what]
    assert_each_fails(run_broken(pytester, STORE, body, tests), tests)


@pytest.mark.parametrize("what", BROKEN_JOINTS)
def test_a_broken_joint_settlement_is_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of joint settlement fails for it, where the promise is."""
    body, tests = BROKEN_JOINTS[what]
    assert_each_fails(run_broken(pytester, JOINT, body, tests), tests)


@pytest.mark.parametrize("what", BROKEN_RECORDS)
def test_broken_records_are_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of records fails for them, where the promise is."""
    body, tests = BROKEN_RECORDS[what]
    assert_each_fails(run_broken(pytester, RECORDS, body, tests), tests)


@pytest.mark.parametrize("what", BROKEN_POOLS)
def test_a_broken_pool_is_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of pools fails for it, where the promise is."""
    body, tests = BROKEN_POOLS[what]
    assert_each_fails(run_broken(pytester, POOL, body, tests), tests)


@pytest.mark.parametrize("what", BROKEN_SCHEDULERS)
def test_a_broken_scheduler_is_caught(pytester: pytest.Pytester, what: str) -> None:
    """The contract of schedulers fails for it, where the promise is."""
    body, tests = BROKEN_SCHEDULERS[what]
    assert_each_fails(run_broken(pytester, SCHEDULER, body, tests), tests)


def test_a_failure_explains_itself(pytester: pytest.Pytester) -> None:
    """A failing contract shows what was compared, not just that it failed."""
    body, _tests = BROKEN_TRANSPORTS["purges what is leased"]
    result = run_broken(pytester, TRANSPORT, body, ["test_purge_leaves"])
    result.stdout.fnmatch_lines(["E*assert (0, 0, 0, 1) == (0, 1, 0, 1)"])


def test_tests_of_what_a_driver_has_are_there_and_others_are_not(pytester: pytest.Pytester) -> None:
    """Whatever stands between the suite and the driver's own class, the driver's attributes count."""
    pytester.makepyfile(
        """
        from kern.contracts.pool import PoolCapability
        from kern_testing.contracts import PoolContract, TransportContract
        class Between(TransportContract): pass
        class TestPlain(Between): pass
        class TestRich(Between): cuts = injects = True
        class TestPoor(TestRich): injects = leases_expire = keeps_records = False
        class TestOwn(Between):
            injects = True
            def test_what_is_no_message_can_be_quarantined_and_replayed(self): pass
        class TestPool(PoolContract): capabilities = frozenset({PoolCapability.SOFT_LIMITS})
        """
    )
    result = pytester.runpytest_inprocess("-q", "--collect-only")

    def has(suite: str, test: str) -> bool:
        return any(f"::{suite}::{test}" in line for line in result.outlines)

    injected, cut = "test_what_is_no_message_can_be_quarantined", "test_a_cut_connection_is_rebuilt"
    renewed, scanned = "test_a_renewed_lease_does_not_expire", "test_scan_gives"
    suites = ("TestPlain", "TestRich", "TestPoor", "TestOwn")
    assert [has(suite, injected) for suite in suites] == [False, True, False, True]
    assert [has(suite, cut) for suite in suites] == [False, True, True, False]
    assert [has(suite, renewed) for suite in suites] == [True, True, False, True]
    assert [has(suite, scanned) for suite in suites] == [True, True, False, True]
    assert not any(f"TestOwn::{injected}_and_replayed[" in line for line in result.outlines)
    assert has("TestPool", "test_a_soft_limit_is_raised_inside")
    assert has("TestPool", "test_its_size_cannot_be_changed")
    assert not has("TestPool", "test_its_size_can_be_changed")
    assert not has("TestPool", "test_a_hard_limit_kills")


def test_a_suite_without_its_fixture_says_which(pytester: pytest.Pytester) -> None:
    """Who subclasses a suite and gives nothing is told what to give."""
    pytester.makepyfile(
        """
        from kern_testing.contracts import ResultStoreContract, TransportContract
        class TestTransport(TransportContract): pass
        class TestStore(ResultStoreContract): pass
        """
    )
    result = pytester.runpytest_inprocess("-q", "-k", "shows_no_password")
    result.stdout.fnmatch_lines(["*gives the fixture 'make_transport'*", "*gives the fixture 'make_store'*"])
