"""Reading metrics pages: only what is wanted, joined by replica, counters turned into growth."""

import time
from pathlib import Path

import pytest

from serving import metrics

RUNNING = "ray_vllm_num_requests_running"
USAGE = "ray_vllm_kv_cache_usage_perc"
TOKENS = "ray_vllm_generation_tokens_total"


def series(name: str, value: object, replica: str = "r1", extra: str = "") -> str:
    return f'{name}{{Component="core_worker",ReplicaId="{replica}",WorkerId="w{extra}",engine="0"}} {value}'


def test_gauges_are_joined_by_replica():
    text = "\n".join(
        [
            f"# HELP {RUNNING} Number of requests",
            series(RUNNING, 3.0, "a"),
            series(RUNNING, 2.0, "b"),
            series("ray_raydeck_weights_bytes", 2.0e7, "a"),
            series("ray_vllm_e2e_request_latency_seconds_sum", 99.0, "a"),
            'ray_node_mem_used{ip="10.0.0.1"} 5.0',
        ]
    )
    page = metrics.read_page(text)
    assert page.gauges == {
        "a": {"requests_running": 3.0, "weights_bytes": 2.0e7},
        "b": {"requests_running": 2.0},
    }


def test_several_engines_of_one_replica_sum_their_requests_and_average_their_cache():
    text = "\n".join(
        [
            series(RUNNING, 3, extra="1"),
            series(RUNNING, 1, extra="2"),
            series(USAGE, 0.2, extra="1"),
            series(USAGE, 0.6, extra="2"),
        ]
    )
    figures = metrics.read_page(text).gauges["r1"]
    assert figures["requests_running"] == 4
    assert figures["kv_cache_usage"] == pytest.approx(0.4)


def test_callers_who_wait_are_summed_over_gateways_and_serves_own_count_is_not_taken():
    line = 'ray_raydeck_callers_waiting{WorkerId="%s",application="model-demo"} %s'
    wake = 'ray_serve_deployment_queued_queries{application="model-demo",deployment="engine"} 1.0'
    page = metrics.read_page("\n".join([line % ("x", 2.0), line % ("y", 3.0), wake]))
    assert page.queued == {"model-demo": 5.0}


@pytest.mark.parametrize(
    "line",
    [
        series(RUNNING, "NaN"),
        series(RUNNING, "+Inf"),
        series(RUNNING, -1),
        series(RUNNING, "many"),
        f'{RUNNING}{{ReplicaId="r1"}}',
        f"{RUNNING} 3",
        f'{RUNNING}{{WorkerId="w"}} 3',
        RUNNING,
    ],
)
def test_an_unreadable_line_is_as_good_as_missing(line):
    good = series(RUNNING, 7, "other")
    assert metrics.read_page(f"{line}\n{good}").gauges == {"other": {"requests_running": 7.0}}


def test_label_values_may_hold_braces_quotes_and_commas():
    text = RUNNING + r'{model_name="a\"}{,b",ReplicaId="r,1}"} 4 1700000000000'
    assert metrics.read_page(text).gauges == {"r,1}": {"requests_running": 4.0}}


class TestCounters:
    def grown(self, deltas, value, now, replica="r1", target="n1"):
        text = "" if value is None else series(TOKENS, value, replica)
        return deltas.grown(target=target, page=metrics.read_page(text), now=now)

    def test_the_first_reading_only_sets_the_base(self):
        assert self.grown(metrics.CounterDeltas(), 500, 100.0) is None

    def test_growth_is_the_difference(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        assert self.grown(deltas, 560, 101.0) == {"r1": {"completion_tokens": 60.0}}

    def test_a_counter_that_is_missing_has_not_moved_yet(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, None, 100.0)
        assert self.grown(deltas, None, 101.0) == {}
        assert self.grown(deltas, 12, 102.0) == {"r1": {"completion_tokens": 12.0}}

    def test_a_restarted_engine_counts_from_zero(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        assert self.grown(deltas, 20, 101.0) == {"r1": {"completion_tokens": 20.0}}

    def test_what_grew_over_a_missed_reading_is_shared_between_its_seconds(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        assert self.grown(deltas, 560, 102.0) == {"r1": {"completion_tokens": 30.0}}

    def test_growth_over_a_gap_belongs_to_no_second(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        assert self.grown(deltas, 5000, 160.0) is None
        assert self.grown(deltas, 5010, 161.0) == {"r1": {"completion_tokens": 10.0}}

    def test_pages_of_several_nodes_are_kept_apart(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        assert self.grown(deltas, 9000, 101.0, target="n2") is None
        assert self.grown(deltas, 501, 101.2) == {"r1": {"completion_tokens": 1.0}}

    def test_a_page_that_came_back_after_being_forgotten_sets_a_new_base(self):
        deltas = metrics.CounterDeltas()
        self.grown(deltas, 500, 100.0)
        deltas.forget_except({"n2"})
        assert self.grown(deltas, 700, 101.0) is None


def test_a_page_of_half_a_megabyte_is_read_in_under_thirty_milliseconds_of_cpu():
    lines = [series(f"ray_vllm_e2e_request_latency_seconds_bucket_{i}", i, f"r{i % 40}") for i in range(4500)]
    lines += [series(name, 1.0, f"r{i}") for i in range(40) for name in metrics.GAUGES]
    text = "\n".join(lines)
    assert len(text) > 450_000
    best = min(_cpu_s(text) for _ in range(5))
    assert best < 0.030
    assert len(metrics.read_page(text).gauges) == 40


def _cpu_s(text: str) -> float:
    started = time.process_time()
    metrics.read_page(text)
    return time.process_time() - started


class TestRecording:
    """A page of Ray 2.60 with one replica of vLLM 0.29 on CPU answering one request, cut to what matters."""

    @pytest.fixture
    def page(self) -> metrics.Page:
        folder = Path(__file__).resolve().parents[2] / "recordings"
        return metrics.read_page((folder / "metrics_page_one_replica.txt").read_text())

    def test_everything_of_the_replica_is_joined_under_its_id(self, page):
        assert page.gauges["20kwxnk2"] == {
            "requests_running": 1.0,
            "requests_waiting": 0.0,
            "kv_cache_usage": pytest.approx(0.00196, abs=1e-5),
            "requests_in_flight": 1.0,
            "weights_bytes": 738_592.0,
            "kv_cache_bytes": 67_108_864.0,
            "process_memory_bytes": 1_572_560_896.0,
        }
        assert page.queued == {}

    def test_its_counters_count_tokens(self, page):
        counted = {metrics.COUNTERS[name]: found for (name, _), found in page.counters.items()}
        assert counted == {"completion_tokens": ("20kwxnk2", 210.0), "prompt_tokens": ("20kwxnk2", 60.0)}


class TestIdleEngine:
    """vLLM sets its gauges only while it works."""

    before = {"requests_running": 3.0, "requests_waiting": 1.0, "kv_cache_usage": 0.5}

    def test_an_engine_without_gauges_and_without_requests_idles(self):
        assert metrics.settled({"requests_in_flight": 0.0}, self.before) == {
            "requests_in_flight": 0.0,
            "requests_running": 0.0,
            "requests_waiting": 0.0,
            "kv_cache_usage": 0.0,
        }

    def test_an_engine_in_a_long_step_keeps_its_last_figures(self):
        assert metrics.settled({"requests_in_flight": 4.0}, self.before) == {
            "requests_in_flight": 4.0,
            **self.before,
        }

    def test_without_a_last_figure_nothing_is_invented(self):
        assert metrics.settled({"requests_in_flight": 4.0}, {}) == {"requests_in_flight": 4.0}
        assert metrics.settled({"weights_bytes": 1.0}, self.before) == {"weights_bytes": 1.0}

    def test_what_the_engine_says_itself_comes_first(self):
        said = {"requests_in_flight": 4.0, "requests_running": 2.0}
        assert metrics.settled(said, self.before)["requests_running"] == 2.0
