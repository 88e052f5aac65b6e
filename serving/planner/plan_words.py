"""Says in sentences what an account means: the verdict with its reasons, and the sum line by line. Pure."""

from __future__ import annotations

from serving.planner.memory import Rooms, ranks_per_node, usable_bytes
from serving.planner.plan_accounting import Account, spare_bytes
from serving.planner.request import GIB, PlanRequest
from serving.planner.result import ByteRange, Verdict

UTILISATION = "gpu_memory_utilization"
KV_CACHE = "kv_cache_memory_bytes"
ESTIMATED = "activations, graphs and runtime"
"""The parts that are estimates: every figure that rests on them says which estimate it belongs to."""


def gib(size: int) -> str:
    """A size in GiB with two decimals, sign and unit."""
    return f"{size / GIB:.2f} GiB" if abs(size) >= GIB // 100 else f"{size / (1 << 20):.1f} MiB"


def words_for(request: PlanRequest, account: Account) -> tuple[Verdict, tuple[str, ...], str]:
    """(verdict, reasons, refused field)."""
    short = _short_at_start(request)
    if short:
        return "refused", (short,), UTILISATION
    if account.rooms is None:
        return (
            "unknown",
            (
                "Nothing says how much memory there is: name an accelerator, the node's memory or "
                "kv_cache_memory_bytes.",
            ),
            "",
        )
    if not account.fits(upper=False):
        return "does_not_fit", (_missing(request, account),), _kv_cache_at_fault(request, account)
    spare = spare_bytes(request, account, upper=True)
    if spare is not None and spare < 0:
        at_best = spare_bytes(request, account, upper=False) or 0
        if at_best < 0:
            field = _kv_cache_at_fault(request, account)
            return "does_not_fit", (_too_large(request, account, missing=-at_best),), field
        return "tight", (f"At the upper estimate {gib(-spare)} are missing beside the asked KV cache.",), ""
    if not account.fits(upper=True):
        return "tight", (_tight(account),), ""
    return "fits", (_fits(request, account),), ""


def _short_at_start(request: PlanRequest) -> str:
    """vLLM refuses when less is free at start than is asked for (measured free memory only)."""
    card = request.accelerator
    if card is None or request.kv_cache_memory_bytes is not None:
        return ""
    free = card.free_at_start_bytes.get(request.tensor_parallel_size)
    asked = card.usable_bytes * request.gpu_memory_utilization
    if free is None or asked <= free:
        return ""
    most = free / card.usable_bytes
    return (
        f"{gib(free)} are free at start on {card.name} with tensor parallel {request.tensor_parallel_size}, "
        f"less than the requested {gib(int(asked))}: gpu_memory_utilization can be at most {most:.3f}."
    )


def _kv_cache_at_fault(request: PlanRequest, account: Account) -> str:
    """The field of an asked KV cache, where all the rest would fit; empty where it would not, or none was
    asked."""
    usable = usable_bytes(request)
    if request.kv_cache_memory_bytes is None or account.parts is None:
        return ""
    rest = max(account.parts.used(stage, upper=False) for stage in range(len(account.parts.stages)))
    return KV_CACHE if usable is None or rest <= usable else ""


def _too_large(request: PlanRequest, account: Account, *, missing: int) -> str:
    assert account.parts is not None
    usable = usable_bytes(request) or 0
    rest = max(account.parts.used(stage, upper=False) for stage in range(len(account.parts.stages)))
    # Asked for in bytes, or as a number of blocks.
    asked = request.kv_cache_memory_bytes or missing + usable - rest
    return (
        f"The asked KV cache of {gib(asked)} and {gib(rest)} for the weights and the "
        f"rest do not fit in the {gib(usable)} of one rank: {gib(missing)} are missing."
    )


def _missing(request: PlanRequest, account: Account) -> str:
    assert account.rooms is not None and account.geometry is not None and account.parts is not None
    rooms = account.rooms
    is_exact = rooms.most == rooms.least
    worst = min(range(len(rooms.most)), key=lambda stage: rooms.most[stage])
    room = rooms.most[worst]
    weights = account.parts.weights(worst)
    if room <= 0:
        at = "" if is_exact else f", even at the lower estimate of {ESTIMATED}"
        return (
            f"No memory is left for the KV cache: weights of {gib(weights)} per rank and the rest exceed the "
            f"available memory by {gib(-room)}{at}."
        )
    needed = max(account.geometry.needed_bytes())
    least = _gap(account, rooms.most)
    longest = account.longest_request(upper=False)
    request_words = (
        f"One request of {request.max_model_len:,} tokens needs {gib(needed)} of KV cache per rank; "
    )
    if is_exact:
        at_most = f" The longest request that fits has {longest:,} tokens." if longest else ""
        return f"{request_words}{gib(least)} are missing.{at_most}"
    return (
        f"{request_words}{gib(_gap(account, _middle(rooms)))} are missing at the expected estimate of "
        f"{ESTIMATED}, {gib(least)} at the lower one.{_longest(account)}"
    )


def _longest(account: Account) -> str:
    lower, upper = account.longest_request(upper=False), account.longest_request(upper=True)
    if not lower:
        return ""
    surely = f"{upper:,} at the upper one" if upper else "none at the upper one"
    return f" The longest request that fits has {lower:,} tokens at the lower estimate, {surely}."


def _tight(account: Account) -> str:
    assert account.rooms is not None
    expected = _gap(account, _middle(account.rooms))
    middle = f"{gib(expected)} are missing at the expected one, " if expected > 0 else ""
    return (
        f"A request of full length fits at the {'lower' if middle else 'lower and the expected'} estimate of "
        f"{ESTIMATED} only; {middle}{gib(max(_gap(account, account.rooms.least), 1))} "
        f"{'' if middle else 'are missing '}at the upper one."
    )


def _middle(rooms: Rooms) -> tuple[int, ...]:
    """The expected rooms, negative where the rest is expected to take more than there is."""
    return tuple((most + least) // 2 for most, least in zip(rooms.most, rooms.least, strict=True))


def _gap(account: Account, rooms: tuple[int, ...]) -> int:
    """What the stage that lacks most lacks for one request; negative where it has room to spare."""
    assert account.geometry is not None
    needed = account.geometry.needed_bytes()
    if not needed:
        return -min(rooms)
    return max(need - have for need, have in zip(needed, rooms, strict=True))


def _fits(request: PlanRequest, account: Account) -> str:
    memory = account.memory
    assert memory is not None
    is_exact = memory.kv_cache_range.low == memory.kv_cache_range.high
    at = "" if is_exact else f" at the expected estimate of {ESTIMATED}; one fits at the upper one too"
    return (
        f"{memory.kv_cache_tokens:,} tokens of KV cache hold {memory.max_concurrency:.2f} requests of "
        f"{request.max_model_len:,} tokens at once{at}."
    )


def arithmetic(request: PlanRequest, account: Account) -> tuple[str, ...]:
    """The sum, readable from top to bottom, per rank: the total, minus its parts, equals what is left."""
    if account.parts is None or account.geometry is None:
        return ()
    lines = [*_total_lines(request, account), *_part_lines(account)]
    if account.memory is not None:
        lines += _left_lines(request, account)
        lines += _cache_lines(request, account)
    return tuple(lines)


def _total_lines(request: PlanRequest, account: Account) -> list[str]:
    usable = usable_bytes(request)
    if usable is None or account.memory is None:
        return []
    if request.kv_cache_memory_bytes is None:
        asked = account.memory.requested_bytes or 0
        return [f"memory {gib(usable)} × utilisation {request.gpu_memory_utilization:g} = {gib(asked)}"]
    ranks = ranks_per_node(request)
    if request.accelerator is None and ranks > 1 and request.node_memory_bytes:
        return [f"memory {gib(request.node_memory_bytes)} of the node ÷ {ranks} ranks = {gib(usable)}"]
    return [f"memory {gib(usable)}"]


def _part_lines(account: Account) -> list[str]:
    assert account.parts is not None
    lines = []
    for index, stage in enumerate(account.parts.stages):
        named = f" of stage {index + 1}" if len(account.parts.stages) > 1 else ""
        parts = ", ".join(
            f"{part.replace('_', ' ')} {gib(size)}"
            for part, size in sorted(stage.parts.items(), key=lambda item: -item[1])
        )
        lines.append(f"− weights{named} {gib(stage.total_bytes)} ({stage.layers} layers: {parts})")
        if offloaded := account.parts.offloaded(index):
            lines.append(f"+ of these in the node's memory {gib(offloaded)}")
    bands = ByteRange(
        min(band.low for band in account.parts.activation),
        max(band.high for band in account.parts.activation),
    )
    for name, band in (
        ("activations", bands),
        ("CUDA graphs", account.parts.graphs),
        ("runtime", account.parts.runtime),
    ):
        if band.high:
            lines.append(f"− {name} {_band(band)}")
    return lines


def _left_lines(request: PlanRequest, account: Account) -> list[str]:
    """What the sum comes to: the cache's room, or with an asked cache what is left beside it or missing."""
    memory = account.memory
    assert memory is not None and account.parts is not None
    if request.kv_cache_memory_bytes is None:
        expected = f", expected {gib(memory.kv_cache_bytes)}" if not _is_exact(memory.kv_cache_range) else ""
        return [f"= KV cache {_band(memory.kv_cache_range)}{expected}"]
    lines = [f"− KV cache {gib(request.kv_cache_memory_bytes)}, as asked"]
    least = spare_bytes(request, account, upper=True)
    most = spare_bytes(request, account, upper=False)
    if least is None or most is None:
        return lines
    where = " on the fullest stage" if len(account.parts.stages) > 1 else ""
    if most < 0:
        return [*lines, f"= {_band(ByteRange(-most, -least))} missing{where}"]
    if least < 0:
        return [*lines, f"= {gib(-least)} missing to {gib(most)} left{where}"]
    return [*lines, f"= {_band(ByteRange(least, most))} left{where}"]


def _cache_lines(request: PlanRequest, account: Account) -> list[str]:
    geometry, memory = account.geometry, account.memory
    assert geometry is not None and memory is not None
    if not geometry.groups:
        return ["No layer keeps anything per token: the cache limits nothing."]
    block = max(geometry.bytes_per_block)
    needed = geometry.blocks_per_request()
    is_exact = memory.kv_cache_range.low == memory.kv_cache_range.high
    return [
        f"{'' if is_exact else 'expected: '}{gib(memory.kv_cache_bytes)} ÷ {block:,} bytes a block = "
        f"{memory.num_blocks:,} blocks",
        f"a request of {request.max_model_len:,} tokens holds {needed:,} blocks in {len(geometry.groups)} "
        f"group{'s' if len(geometry.groups) > 1 else ''}",
        f"{memory.num_blocks:,} ÷ {needed:,} = {memory.max_concurrency:.2f} requests at once, "
        f"{memory.kv_cache_tokens:,} tokens",
    ]


def _is_exact(band: ByteRange) -> bool:
    return gib(band.low) == gib(band.high)


def _band(band: ByteRange) -> str:
    return gib(band.low) if _is_exact(band) else f"{gib(band.low)} to {gib(band.high)}"
