"""Following one start: queued → placing → loading → warming → ready, and what can go wrong on the way."""

from dataclasses import replace

import pytest

from serving.observed import PhaseInput, SeenApp, SeenReplica, phase_of, words_of
from serving.progress import CRASHED, WOKE, Deadlines, Progress, Wanted, advance, smoke_answered

T0 = 1_000.0
DEADLINES = Deadlines(placing_s=60, start_s=300)
WANTED = Wanted(generation=1, revision=1, deployment_id=7, running=True, requested_at=T0, sent_at=T0 + 1)


def app(status: str = "DEPLOYING", *replicas: SeenReplica, revision: int = 1, target: int = 1) -> SeenApp:
    return SeenApp(
        name="model-a",
        status=status,
        revision=revision,
        deployment_id=7,
        replicas=replicas,
        replicas_target=target,
    )


def replica(
    state: str = "STARTING", *, started: float = T0 + 2, pid: int | None = 5, name: str = "r1"
) -> SeenReplica:
    return SeenReplica(replica_id=name, state=state, started_at=started, pid=pid)


def step(known: Progress, seen: SeenApp | None, now: float, **changes: object):
    values: dict = {
        "wanted": WANTED,
        "app": seen,
        "replica_phases": {},
        "failed_start": None,
        "last_seen_at": now - 1,
        "deadlines": DEADLINES,
        "now": now,
    }
    return advance(known, **{**values, **changes})


def phase(known: Progress, now: float) -> str:
    return phase_of(
        PhaseInput(
            wants_running=True,
            generation=1,
            seen_generation=known.generation,
            observed_at=now,
            replicas_running=known.replicas_running,
            replicas_target=known.replicas_target,
            placing_at=known.placing_at,
            loading_at=known.loading_at,
            warming_at=known.warming_at,
            ready_at=known.ready_at,
            failed_at=known.failed_at,
            asleep_at=known.asleep_at,
        ),
        now,
    )


def ready() -> Progress:
    known = step(Progress(), app("RUNNING", replica("RUNNING")), T0 + 20).progress
    return smoke_answered(known, revision=1, now=T0 + 21)


def test_a_start_goes_through_every_phase_in_order() -> None:
    not_sent = replace(WANTED, sent_at=None)
    known = step(Progress(), None, T0, wanted=not_sent).progress
    assert phase(known, T0) == "queued"
    known = step(known, app(), T0 + 1).progress
    assert phase(known, T0 + 1) == "placing"
    known = step(known, app("DEPLOYING", replica(pid=None)), T0 + 2).progress
    assert phase(known, T0 + 2) == "placing"
    known = step(known, app("DEPLOYING", replica()), T0 + 3).progress
    assert phase(known, T0 + 3) == "loading"
    reported = {"r1": {"loading": T0 + 2.5, "warming": T0 + 9}}
    known = step(known, app("DEPLOYING", replica()), T0 + 10, replica_phases=reported).progress
    assert phase(known, T0 + 10) == "warming" and known.warming_at == T0 + 9
    last = step(known, app("RUNNING", replica("RUNNING")), T0 + 12)
    assert last.needs_smoke and phase(last.progress, T0 + 12) == "warming"
    known = smoke_answered(last.progress, revision=1, now=T0 + 13)
    assert phase(known, T0 + 13) == "ready"


def test_running_on_ray_is_not_ready_until_the_smoke_request_was_answered() -> None:
    seen = step(Progress(), app("RUNNING", replica("RUNNING")), T0 + 5)
    assert seen.progress.ready_at is None and seen.needs_smoke


def test_a_replica_of_the_old_revision_does_not_make_the_new_one_ready() -> None:
    old = replica("RUNNING", started=T0 - 100)
    seen = step(Progress(), app("DEPLOYING", old), T0 + 3)
    assert not seen.needs_smoke and phase(seen.progress, T0 + 3) == "placing"


def test_an_app_that_still_runs_the_old_revision_is_placing() -> None:
    seen = step(Progress(), app("RUNNING", replica("RUNNING"), revision=7), T0 + 3)
    assert not seen.needs_smoke and phase(seen.progress, T0 + 3) == "placing"


def test_a_failed_start_is_reported_once_and_then_left_alone() -> None:
    seen = step(Progress(), app("DEPLOY_FAILED"), T0 + 30)
    assert seen.failure_code == "start_failed"
    failed = replace(seen.progress, failed_at=T0 + 30)
    again = step(failed, app("DEPLOY_FAILED"), T0 + 31)
    assert again.failure_code == "" and phase(again.progress, T0 + 31) == "failed"


def test_what_ray_never_places_fails_at_the_placing_deadline() -> None:
    known = step(Progress(), app(), T0 + 2).progress
    assert step(known, app(), T0 + 60).failure_code == ""
    assert step(known, app(), T0 + 63).failure_code == "not_placed"


def test_a_start_that_never_ends_fails_at_the_start_deadline() -> None:
    known = step(Progress(), app("DEPLOYING", replica()), T0 + 2).progress
    assert step(known, app("DEPLOYING", replica()), T0 + 299).failure_code == ""
    assert step(known, app("DEPLOYING", replica()), T0 + 303).failure_code == "start_timeout"


def test_ray_forgetting_a_deployment_that_ran_for_days_is_a_restart_not_a_failure() -> None:
    days = T0 + 3 * 86_400
    for known in (ready(), step(ready(), app("RUNNING", target=0), T0 + 100).progress):
        seen = step(known, None, days)
        assert seen.failure_code == "" and phase(seen.progress, days) == "placing"
        later = step(
            seen.progress, app("RUNNING", replica("RUNNING", started=days + 5, name="r2")), days + 20
        )
        assert later.failure_code == "" and later.needs_smoke


def test_deadlines_do_not_run_while_nobody_looks() -> None:
    known = step(Progress(), app("DEPLOYING", replica()), T0 + 5).progress
    night = T0 + 8 * 3600
    seen = step(known, None, night, last_seen_at=T0 + 5)
    assert seen.failure_code == ""
    assert step(seen.progress, None, night + 299).failure_code == ""
    assert step(seen.progress, None, night + 301).failure_code == "start_timeout"


def test_an_app_left_by_a_deleted_deployment_of_the_same_name_is_not_ours() -> None:
    old = replace(app("RUNNING", replica("RUNNING")), deployment_id=6)
    seen = step(Progress(), old, T0 + 3)
    assert not seen.needs_smoke and phase(seen.progress, T0 + 3) == "placing"


def test_a_smoke_that_is_never_answered_fails_the_start() -> None:
    running = app("RUNNING", replica("RUNNING"))
    known = step(Progress(), running, T0 + 5).progress
    assert not step(known, running, T0 + 299).is_overdue
    assert step(known, running, T0 + 306).is_overdue


def test_an_answer_proves_nothing_while_replicas_of_the_revision_before_still_serve() -> None:
    old, new = replica("RUNNING", started=T0 - 100, name="old"), replica("RUNNING", name="new")
    seen = step(Progress(), app("DEPLOYING", old, new, target=2), T0 + 20)
    assert not seen.needs_smoke and "1 still to be replaced" in seen.progress.message
    assert step(seen.progress, app("RUNNING", new, target=2), T0 + 30).needs_smoke


def test_a_wake_that_nobody_watched_and_ended_asleep_is_asleep() -> None:
    asleep = step(ready(), app("RUNNING", target=0), T0 + 100).progress
    waking = step(asleep, app("RUNNING", replica(name="r2"), target=1), T0 + 200).progress
    again = step(waking, app("RUNNING", target=0), T0 + 5000, last_seen_at=T0 + 200)
    assert again.failure_code == "" and phase(again.progress, T0 + 5000) == "asleep"


def after_failed_starts(causes: list[str]) -> list[str]:
    """The failure codes of a start whose replicas die of these causes, one after another."""
    known = step(Progress(), app("DEPLOYING", replica()), T0 + 2).progress
    codes = []
    for count, cause in enumerate(causes):
        seen = step(known, app("DEPLOYING", replica(name=f"r{count}")), T0 + 10 + count, failed_start=cause)
        codes.append(seen.failure_code)
        known = seen.progress
    return codes


def test_three_starts_that_died_of_the_same_are_enough() -> None:
    causes = ["OSError: no file at 0x7f21, pid 41", "OSError: no file at 0x7a90, pid 4711"]
    assert after_failed_starts([*causes, causes[0]]) == ["", "", "gave_up"]


def test_starts_that_died_of_different_causes_get_twice_as_many_tries() -> None:
    causes = ["out of memory", "port taken", "out of memory", "no such file", "port taken", "timeout"]
    assert after_failed_starts(causes) == ["", "", "", "", "", "gave_up"]
    assert after_failed_starts(["port taken", *["out of memory"] * 3]) == ["", "", "", "gave_up"]


def test_a_deployment_that_became_ready_starts_counting_anew() -> None:
    known = step(Progress(), app("DEPLOYING", replica()), T0 + 2, failed_start="port taken").progress
    assert known.start_failures == 1
    known = smoke_answered(known, revision=1, now=T0 + 20)
    assert (known.start_failures, known.start_causes) == (0, [])


def test_a_start_after_a_crash_counts_from_the_crash() -> None:
    crash = T0 + 600
    lost = step(ready(), app("UNHEALTHY", target=1), crash, last_seen_at=crash - 4).progress
    assert (lost.start_kind, lost.queued_at, lost.placing_at) == (CRASHED, crash, crash)
    again = app("UNHEALTHY", replica(started=crash - 2, pid=None, name="r2"), target=1)
    seen = step(ready(), again, crash, last_seen_at=crash - 4).progress
    assert seen.queued_at == crash - 2, "its replica was there before anybody looked"


@pytest.mark.parametrize("state", ["RECOVERING", "UPDATING"])
def test_a_replica_that_serve_finds_again_has_not_started_anew(state: str) -> None:
    known = ready()
    seen = step(known, app("DEPLOYING", replica(state)), T0 + 100).progress
    assert (seen.ready_at, seen.queued_at) == (known.ready_at, known.queued_at)
    assert "controller" in seen.message


def test_a_wake_counts_from_the_request_that_caused_it() -> None:
    asleep = step(ready(), app("RUNNING", target=0), T0 + 100).progress
    seen = app("RUNNING", replica(started=T0 + 897, name="r2"), target=1)
    waking = step(asleep, seen, T0 + 900, last_seen_at=T0 + 895).progress
    assert (waking.start_kind, waking.queued_at) == (WOKE, T0 + 897)


def test_a_replica_that_is_being_stopped_says_nothing_of_the_start_after_it() -> None:
    lost = step(ready(), app("UNHEALTHY", target=1), T0 + 600).progress
    dying = replica("STOPPING", name="r1")
    reported = {"r1": {"loading": T0 + 3, "warming": T0 + 9}}
    seen = step(lost, app("UNHEALTHY", dying, target=1), T0 + 601, replica_phases=reported)
    assert phase(seen.progress, T0 + 601) == "placing"


def test_placing_begins_when_ray_has_taken_the_document_and_never_before_it_was_asked_for() -> None:
    known = step(Progress(), None, T0 + 9).progress
    assert (known.sent_at, known.placing_at) == (T0 + 1, T0 + 9)
    earlier = replace(WANTED, sent_at=T0 - 50)
    assert step(Progress(), None, T0 - 1, wanted=earlier).progress.placing_at == T0


def test_an_idle_deployment_falls_asleep_and_wakes_with_new_times() -> None:
    asleep = step(ready(), app("RUNNING", target=0), T0 + 100).progress
    assert phase(asleep, T0 + 100) == "asleep"
    assert step(asleep, app("RUNNING", target=0), T0 + 150).progress.asleep_at == T0 + 100
    waking = step(asleep, app("RUNNING", replica(started=T0 + 199.5, name="r2"), target=1), T0 + 200).progress
    assert phase(waking, T0 + 200) == "placing" and waking.placing_at == T0 + 199.5
    awake = step(waking, app("RUNNING", replica("RUNNING", started=T0 + 199, name="r2")), T0 + 230)
    assert awake.needs_smoke


def test_a_lost_replica_is_not_called_ready_and_is_proven_again() -> None:
    lost = step(ready(), app("UNHEALTHY", target=1), T0 + 100).progress
    assert phase(lost, T0 + 100) == "placing" and lost.ready_at is None
    back = step(lost, app("RUNNING", replica("RUNNING", started=T0 + 110, name="r2")), T0 + 140)
    assert back.needs_smoke


def test_one_lost_replica_of_two_leaves_it_ready() -> None:
    known = step(ready(), app("UNHEALTHY", replica("RUNNING"), target=2), T0 + 100).progress
    assert phase(known, T0 + 100) == "ready"


def test_a_new_generation_starts_its_own_clock_and_forgets_the_failure() -> None:
    failed = replace(ready(), failed_at=T0 + 50)
    newer = Wanted(
        generation=2, revision=2, deployment_id=7, running=True, requested_at=T0 + 60, sent_at=None
    )
    known = step(failed, None, T0 + 61, wanted=newer).progress
    assert known.failed_at is None and known.placing_at is None and known.queued_at == T0 + 60


def test_old_observations_say_unknown_and_never_ready() -> None:
    seen = PhaseInput(
        wants_running=True,
        generation=1,
        seen_generation=1,
        observed_at=T0,
        replicas_running=1,
        placing_at=T0,
        ready_at=T0,
    )
    assert phase_of(seen, T0 + 10) == "ready"
    assert phase_of(seen, T0 + 31) == "unknown"


SLOW = "Deployment 'engine' in application 'model-demo' has 1 replicas that have taken more than 30s to "
NEEDS, FREE = '[{"CPU": 1.0, "GPU": 1.0}]', '{"CPU": 2.0}'


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            SLOW + "initialize.\nThis may be caused by a slow __init__ or reconfigure method.",
            "Its replica has been loading for more than 30 s; large models and cold disks take that long.",
        ),
        (
            SLOW + "be scheduled. This may be due to waiting. Resources required for each replica:"
            f" {NEEDS}, total resources available: {FREE}. Use `ray status` for more details.",
            f"Ray has found no room for its replica for more than 30 s: it needs {NEEDS}, free are {FREE}.",
        ),
        (
            "A replica's health check failed. This deployment will be UNHEALTHY until the replica recovers.",
            "A replica died; Ray starts another in its place.",
        ),
    ],
)
def test_what_ray_says_of_a_slow_start_is_put_into_operators_words(said: str, words: str) -> None:
    assert words_of(SeenApp(name="model-a", status="DEPLOYING", deployment_message=said)) == words


def test_what_ray_says_of_a_retry_is_one_line_without_its_internals() -> None:
    said = (
        "A replica failed to start with exception. Retrying 2 more time(s). Error:\n"
        "\x1b[36mray::ServeReplica:model-a:engine.initialize()\x1b[39m (pid=5651, ip=127.0.0.1)"
    )
    seen = SeenApp(
        name="model-a",
        status="DEPLOYING",
        revision=1,
        deployment_id=7,
        deployment_message=said,
        replicas=(replica(),),
    )
    assert step(Progress(), seen, T0 + 5).progress.message == "A start failed; Ray tries 2 more times."
