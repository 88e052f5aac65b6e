"""How a head is started, and where an engine's processes go."""

import dataclasses
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving import head
from serving.cluster.topology import cpu_environment, omp_binding
from serving.errors import HeadNotReady, InvalidSpec


def ports(**changed: int) -> head.Ports:
    names = [field.name for field in dataclasses.fields(head.Ports)]
    numbers = {name: 20_000 + index for index, name in enumerate(names)}
    numbers |= {"ray_worker_first": 21_000, "ray_worker_last": 21_099}
    numbers |= {"serve_replica_first": 21_100, "serve_replica_last": 21_149}
    return head.Ports(**{**numbers, **changed})


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., head.HeadCommand]]:
    """Makes head commands; their folders outside the data folder go away with the test."""
    made: list[head.HeadCommand] = []

    def make(name: str = "data", **changed: Any) -> head.HeadCommand:
        token = head.ensure_token(tmp_path / "ray_token")
        one = head.head_command(
            ports=ports(),
            data_dir=tmp_path / name,
            token_file=token,
            project_dir=Path("/srv/raydeck"),
            **changed,
        )
        made.append(one)
        return one

    yield make
    for one in made:
        for folder in (one.temp_dir, one.haproxy_dir):
            shutil.rmtree(folder, ignore_errors=True)


def test_the_token_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = head.ensure_token(tmp_path / "secrets" / "ray_token")
    first = path.read_text()
    assert len(first) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert head.ensure_token(path).read_text() == first


def test_every_port_given_reaches_ray(command: Callable[..., head.HeadCommand]) -> None:
    made = command()
    told = set(re.findall(r"\d+", " ".join([*made.argv, *made.environment.values()])))
    not_ours_to_open = {"gateway", "ray_client", "serve_grpc"}  # in the document; never started
    for name, number in dataclasses.asdict(ports()).items():
        assert (str(number) in told) is (name not in not_ours_to_open), name


def test_the_head_lives_on_loopback_with_a_token(command: Callable[..., head.HeadCommand]) -> None:
    made = command(cluster_environment={"RAYDECK_KEY_PEPPER": "pepper"})
    assert "--node-ip-address=127.0.0.1" in made.argv
    assert "--dashboard-host=127.0.0.1" in made.argv
    assert "--disable-usage-stats" in made.argv
    environment = made.environment
    assert environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment["RAY_AUTH_MODE"] == "token"
    assert Path(environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    assert environment["RAYDECK_KEY_PEPPER"] == "pepper"
    assert "pepper" not in " ".join(made.argv)


def test_two_copies_share_no_folder(command: Callable[..., head.HeadCommand]) -> None:
    long = "a-long-folder-name" * 3
    made = [command(name) for name in (f"one-{long}", f"two-{long}")]
    folders = [folder for one in made for folder in (one.temp_dir, one.haproxy_dir)]
    assert len(set(folders)) == 4
    assert all(len(str(one.temp_dir)) <= head.LONGEST_TEMP_DIR for one in made)
    assert all(len(str(one.haproxy_dir)) <= head.LONGEST_HAPROXY_DIR for one in made)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_ports_that_collide_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="same number"):
        ports(ray_gcs=20_003)
    with pytest.raises(InvalidSpec) as caught:
        ports(ray_worker_first=22_000)
    assert caught.value.field == "ray_worker_first"


def test_a_head_that_ended_is_not_waited_for(
    command: Callable[..., head.HeadCommand], tmp_path: Path
) -> None:
    made, token = command(), tmp_path / "ray_token"
    with pytest.raises(HeadNotReady, match="ended"):
        head.wait_ready(made, token_file=token, timeout_s=30, alive=lambda: False)
    with pytest.raises(HeadNotReady, match="within"):
        head.wait_ready(made, token_file=token, timeout_s=0)


def test_processes_of_a_head_are_known_by_their_mark(tmp_path: Path) -> None:
    marked = {**os.environ, "RAYDECK_RAY_TEMP_DIR": str(tmp_path)}
    mine = subprocess.Popen(["/bin/sleep", "60"], env=marked)
    reader = subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path)
    try:
        assert head.orphans_of(tmp_path) == [mine.pid]
    finally:
        for process in (mine, reader):
            process.kill()
            process.wait()


def test_haproxys_pages_move_to_loopback(tmp_path: Path) -> None:
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "frontend a\n    bind :9101\nlisten b\n  bind *:8404\nfrontend c\n    bind 10.0.0.1:8000\n"
    )
    wrapper = Path(head.__file__).parent / "cluster" / "haproxy_on_loopback.sh"
    ran = subprocess.run(
        [wrapper, "-db", "-f", config, "-sf", "12"],
        env={**os.environ, "RAYDECK_HAPROXY_BINARY": "/bin/echo"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == ["-db", "-f", f"{config}.loopback", "-sf", "12"]
    lines = Path(f"{config}.loopback").read_text().split("\n")
    assert [line.strip() for line in lines if "bind" in line] == [
        "bind 127.0.0.1:9101",
        "bind 127.0.0.1:8404",
        "bind 10.0.0.1:8000",
    ]


@pytest.mark.parametrize(
    ("cores", "ranks", "binding"),
    [
        ([0, 1], 1, "nobind"),
        ([0, 1], 2, "0|1"),
        ([0, 1, 2, 3, 4], 2, "0,1|2,3"),
        ([3], 2, "3|3"),
    ],
)
def test_ranks_on_cpu_get_cores_of_their_own(cores: list[int], ranks: int, binding: str) -> None:
    assert omp_binding(cores, ranks=ranks) == binding


def test_stages_compile_and_single_ranks_do_not() -> None:
    assert cpu_environment(tensor_parallel_size=2, pipeline_parallel_size=1)["TORCHDYNAMO_DISABLE"] == "1"
    staged = cpu_environment(tensor_parallel_size=1, pipeline_parallel_size=2)
    assert "TORCHDYNAMO_DISABLE" not in staged
    assert staged["VLLM_CPU_CI_ENV"] == "1"
