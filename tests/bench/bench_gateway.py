"""Our gateway beside LiteLLM's proxy, Ray's own OpenAI ingress and nothing at all, interleaved in one run.

Behind each stands an engine of no cost, so that what is measured is what lies between caller and engine.
Rounds go through all systems at each load in turn; ratios are of one run. `--short` is a smoke test of it.
"""

import argparse
import asyncio

from tests.bench.gateway import systems
from tests.bench.gateway.load import Outcome, closed_loop, open_loop, quantile
from tests.bench.gateway.report import (
    Cell,
    Goal,
    Results,
    chunk_goals,
    goal_lines,
    ratio_goals,
    table,
)
from tests.bench.gateway.systems import System

LOADS = (1, 16, 64)
KINDS = ("unary", "stream")
OPEN_PER_S = 100.0
MIB = 1 << 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load in each round")
    parser.add_argument("--short", action="store_true", help="one round of a second each")
    given = parser.parse_args()
    rounds, for_s = (1, 1.0) if given.short else (given.rounds, given.seconds)
    with systems.all_systems() as running:
        print(f"LiteLLM: {systems.LITELLM}, one worker; switched on: {systems.LITELLM_ON}", flush=True)
        warm_up(running)
        results = measure(running, rounds=rounds, for_s=for_s)
        ours = next(one for one in running if one.name == "raydeck")
        opened = asyncio.run(open_loop(ours.target, per_s=OPEN_PER_S, for_s=5 * for_s))
        goals = [*ratio_goals(results), *chunk_goals(results), *own_goals(ours, opened)]
        memory = {one.name: one.resident_bytes() for one in running}
    print("\n".join(table(results, [one.name for one in running])))
    print("resident: " + "  ".join(f"{name} {size / MIB:.0f} MiB" for name, size in memory.items()))
    print("\n".join(goal_lines(goals)))


def warm_up(running: list[System]) -> None:
    """What happens only once must not count."""
    for one in running:
        for stream in (False, True):
            asyncio.run(closed_loop(one.target, in_flight=4, stream=stream, for_s=2.0))


def measure(running: list[System], *, rounds: int, for_s: float) -> Results:
    """All systems at all loads, in turn."""
    results: Results = {(one.name, kind, load): Cell() for one in running for kind in KINDS for load in LOADS}
    for number in range(rounds):
        for kind in KINDS:
            for load in LOADS:
                for one in running if number % 2 == 0 else reversed(running):
                    before = one.cpu_s()
                    outcome = asyncio.run(
                        closed_loop(one.target, in_flight=load, stream=kind == "stream", for_s=for_s)
                    )
                    cell = results[one.name, kind, load]
                    cell.rounds.append(outcome)
                    cell.cpu_s.append(one.cpu_s() - before)
        print(f"round {number + 1} of {rounds}", flush=True)
    return results


def own_goals(ours: System, opened: Outcome) -> list[Goal]:
    """What is asked of our gateway alone."""
    return [
        Goal("open loop at 100/s, p50", 1000 * quantile(opened.unary_s, 0.5), 5.0, unit="ms"),
        Goal("open loop at 100/s, p99", 1000 * quantile(opened.unary_s, 0.99), 12.0, unit="ms"),
        Goal("gateway replica, resident", ours.resident_bytes() / MIB, 260.0, unit="MiB"),
        Goal("gateway and engine up after the document", ours.up_s or float("nan"), 6.0, unit="s"),
    ]


if __name__ == "__main__":
    main()
