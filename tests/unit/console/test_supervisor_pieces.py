"""The supervisor's small parts: delays, words, logs, ports, the lock."""

import os
import socket
from pathlib import Path

import pytest

from console.supervisor import identity, logfiles, portcheck
from console.supervisor.part import backoff_s, describe_exit, ordinal
from console.supervisor.record import AlreadyRunning, ChildrenRecord, DataFolderLock
from console.supervisor.voice import Voice


def test_delays_double_and_stay_at_half_a_minute() -> None:
    assert [backoff_s(attempt) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("number", "said"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")],
)
def test_ordinals(number: int, said: str) -> None:
    assert ordinal(number) == said


@pytest.mark.parametrize(
    ("code", "said"), [(0, "exited with 0"), (1, "exited with 1"), (-9, "was killed by SIGKILL")]
)
def test_an_end_is_described_in_words(code: int, said: str) -> None:
    assert describe_exit(code) == said


def test_a_large_log_is_moved_aside_while_the_part_goes_on_writing(tmp_path: Path) -> None:
    with logfiles.open_log(tmp_path, "web") as log:
        for content in (b"first", b"second", b"third", b"fourth", b"fifth"):
            log.write(content * 10)
            log.flush()
            assert logfiles.rotate_if_large(tmp_path / "web.log", largest_bytes=20)
        log.write(b"after")
    assert (tmp_path / "web.log").read_bytes() == b"after"
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    assert (tmp_path / "web.log.1").read_bytes() == b"fifth" * 10
    assert (tmp_path / "web.log").stat().st_mode & 0o777 == 0o600


def test_a_small_or_missing_log_is_left_alone(tmp_path: Path) -> None:
    assert not logfiles.rotate_if_large(tmp_path / "none.log")
    (tmp_path / "web.log").write_bytes(b"short")
    assert not logfiles.rotate_if_large(tmp_path / "web.log")


def test_a_taken_port_is_named_with_its_holder_and_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        monkeypatch.setenv("RAYDECK_PORT", str(number))
        (conflict,) = portcheck.conflicts(["web"])
    said = str(conflict)
    assert f"port {number} (web console) is taken by pid {os.getpid()} (" in said
    assert "RAYDECK_PORT changes it" in said
    assert portcheck.conflicts(["web"]) == []


def test_two_parts_on_one_port_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as chosen:
        number = str(chosen.getsockname()[1])
    monkeypatch.setenv("RAYDECK_PORT", number)
    monkeypatch.setenv("RAYDECK_GATEWAY_PORT", number)
    (conflict,) = portcheck.conflicts(["web", "gateway"])
    assert "is also that of web console (RAYDECK_PORT)" in str(conflict)


def test_the_lock_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    first, second = DataFolderLock(tmp_path), DataFolderLock(tmp_path)
    first.take()
    with pytest.raises(AlreadyRunning, match=str(os.getpid())):
        second.take()
    first.release()
    second.take()
    second.release()


@pytest.mark.parametrize(
    "content", ["", "{", '{"boot_id": 1}', '{"boot_id": "other", "processes": [[1, 1]]}']
)
def test_an_unreadable_record_names_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "children.json").write_text(content)
    assert ChildrenRecord(tmp_path).stale() == []


def test_a_record_finds_live_processes_of_this_boot(tmp_path: Path) -> None:
    myself = identity.identify(os.getpid())
    assert myself is not None
    ChildrenRecord(tmp_path).write([myself, identity.ProcessId(myself.pid, myself.started_ticks + 1)])
    assert myself in ChildrenRecord(tmp_path).stale()
    assert all(process == myself or process.pid != myself.pid for process in ChildrenRecord(tmp_path).stale())


def test_a_secret_line_reaches_the_terminal_but_not_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    voice = Voice(log=tmp_path / "up.log")
    voice.say("ready")
    voice.say("password: correct horse", secret=True)
    assert "correct horse" in capsys.readouterr().out
    assert "ready" in (tmp_path / "up.log").read_text()
    assert "correct horse" not in (tmp_path / "up.log").read_text()
