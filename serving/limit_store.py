"""How limits are kept in Redis: names of the keys and the two scripts. Pure text, shared by the gateway's
replicas, which enforce, and the console, which shows the use of each limit.

A *scope* is one key (`k:<id>`) or one deployment (`d:<name>`). Of each scope there are at most four keys:
  r  sorted set: request id, scored with the time it was admitted   (requests per minute)
  t  sorted set: "id:tokens", scored with the time it was counted   (tokens per minute)
  s  number: the tokens in t, so that no check has to add them up
  f  sorted set: request id, scored with the time its lease ends    (requests in flight)
Times are microseconds of Redis's own clock, one for all replicas. Members carry the request's id, so telling
Redis twice of one request (after a break) counts it once. Everything expires by itself.
"""

import hashlib

# One hash tag: a Redis cluster keeps all of it on one node, so one script may touch it.
PREFIX = "raydeck:{limits}:"
BORN = PREFIX + "born"
"""Made up anew when Redis has lost its data: each replica then tells again what it has admitted."""
SPENT = PREFIX + "spent"
"""Hash written by the console: `day` and `month` (UTC), and `<scope>:day`, `<scope>:month` in dollars."""
WINDOW_S = 60
LEASE_S = 15
"""A request counts as in flight this long after its replica last said so; a killed one's lapse."""

ADMITTED = 1
BORN_ANEW = 0
REQUESTS, TOKENS, IN_FLIGHT = 1, 2, 3
"""First number of a refusal: which limit. Then the scope's place, and microseconds until it may pass."""

_WINDOW = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local since = now - 60000000
local function keep(key)
  if redis.call('PTTL', key) < 70000 then redis.call('PEXPIRE', key, 140000) end
end
"""

ADMIT = (
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
"""
    + _WINDOW
    + """
local id = ARGV[#ARGV]
local scopes = (#KEYS - 1) / 4
local function total_tokens(tokens, sum)
  local old = redis.call('ZRANGEBYSCORE', tokens, '-inf', since, 'LIMIT', 0, 1000)
  if #old > 0 then
    local gone = 0
    for _, member in ipairs(old) do gone = gone + tonumber(string.match(member, ':(%d+)$')) end
    redis.call('ZREM', tokens, unpack(old))
    redis.call('DECRBY', sum, gone)
  end
  if redis.call('EXISTS', tokens) == 0 then redis.call('DEL', sum) return 0 end
  return tonumber(redis.call('GET', sum) or '0')
end
local function tokens_wait(tokens, total, limit)
  local oldest = redis.call('ZRANGE', tokens, 0, 999, 'WITHSCORES')
  local at = now
  for i = 1, #oldest, 2 do
    total = total - tonumber(string.match(oldest[i], ':(%d+)$'))
    at = tonumber(oldest[i + 1])
    if total < limit then break end
  end
  return at + 60000000 - now
end
for i = 0, scopes - 1 do
  local requests, tokens = KEYS[2 + i * 4], KEYS[3 + i * 4]
  local sum, flight = KEYS[4 + i * 4], KEYS[5 + i * 4]
  local per_minute, token_limit = tonumber(ARGV[2 + i * 3]), tonumber(ARGV[3 + i * 3])
  local in_flight = tonumber(ARGV[4 + i * 3])
  if per_minute > 0 then
    redis.call('ZREMRANGEBYSCORE', requests, '-inf', since)
    local count = redis.call('ZCARD', requests)
    if count >= per_minute then
      local first = redis.call('ZRANGE', requests, count - per_minute, count - per_minute, 'WITHSCORES')
      return {1, i, tonumber(first[2]) + 60000000 - now}
    end
  end
  if token_limit > 0 then
    local total = total_tokens(tokens, sum)
    if total >= token_limit then return {2, i, tokens_wait(tokens, total, token_limit)} end
  end
  if in_flight > 0 then
    redis.call('ZREMRANGEBYSCORE', flight, '-inf', now)
    if redis.call('ZCARD', flight) >= in_flight then return {3, i, 1000000} end
  end
end
for i = 0, scopes - 1 do
  local requests, flight = KEYS[2 + i * 4], KEYS[5 + i * 4]
  if tonumber(ARGV[2 + i * 3]) > 0 then redis.call('ZADD', requests, now, id) keep(requests) end
  if tonumber(ARGV[4 + i * 3]) > 0 then
    redis.call('ZADD', flight, now + tonumber(ARGV[#ARGV - 1]), id) keep(flight)
  end
end
return 1
"""
)
"""Admits a request under all its scopes or under none. KEYS: BORN, then r t s f of each scope; ARGV: what
BORN held, then three limits of each scope (requests, tokens, in flight; 0 is none), the lease in
microseconds, the request id. Answers 1, or 0 (BORN differs), or {which limit, place of the scope, wait}."""

NOTE = (
    _WINDOW
    + """
for i = 2, #ARGV, 5 do
  local what, place, id = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local value, age = ARGV[i + 3], tonumber(ARGV[i + 4])
  local requests, tokens = KEYS[1 + place * 4], KEYS[2 + place * 4]
  local sum, flight = KEYS[3 + place * 4], KEYS[4 + place * 4]
  if what == 'r' then redis.call('ZADD', requests, 'NX', now - age, id) keep(requests) end
  if what == 'f' then redis.call('ZADD', flight, now + tonumber(ARGV[1]), id) keep(flight) end
  if what == 't' and redis.call('ZADD', tokens, 'NX', now - age, id .. ':' .. value) == 1 then
    redis.call('INCRBY', sum, value)
    keep(tokens)
    redis.call('PEXPIRE', sum, 280000)
  end
  if what == 'x' or what == 'w' then redis.call('ZREM', flight, id) end
  if what == 'w' then redis.call('ZREM', requests, id) end
end
return 1
"""
)
"""Notes what has happened already. KEYS: r t s f of each scope; ARGV: the lease in microseconds, then
five each: what (r admitted, t tokens, f runs still, x ended, w withdrawn: never was), place of the scope,
request id, value (tokens), age in microseconds."""

ADMIT_SHA = hashlib.sha1(ADMIT.encode(), usedforsecurity=False).hexdigest()
NOTE_SHA = hashlib.sha1(NOTE.encode(), usedforsecurity=False).hexdigest()


def keys_of(scope: str) -> tuple[str, str, str, str]:
    """The four keys of a scope: r, t, s, f."""
    return tuple(f"{PREFIX}{scope}:{letter}" for letter in "rtsf")  # type: ignore[return-value]
