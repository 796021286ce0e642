"""The Lua scripts of the Redis store, one for each method; Redis runs each as a whole or not at all.

`redis.py` describes the keys. The first arguments of each script are the durations of a lease and of a tombstone, in
milliseconds.
"""

from __future__ import annotations

_COMMON = """
local LEASE, REMEMBERED = tonumber(ARGV[1]), tonumber(ARGV[2])
local INDEX, DUE, FENCE = KEYS[1] .. 'index', KEYS[1] .. 'due', KEYS[1] .. 'fence'
local time = redis.call('TIME')
local MICROSECONDS = time[1] * 1000000 + time[2]
local NOW = math.floor(MICROSECONDS / 1000)

local HOLDINGS, OWNED, OWNED_BYTES = KEYS[1] .. 'holdings', KEYS[1] .. 'owned', KEYS[1] .. 'owned-bytes'

local function session_of(id) return KEYS[1] .. 'session:' .. id end
local function lease_of(id) return KEYS[1] .. 'lease:' .. id end
local function mark_of(id) return KEYS[1] .. 'mark:' .. id end

local function ends(id, at)
  redis.call('PEXPIREAT', session_of(id), at)
  redis.call('PEXPIREAT', mark_of(id), at + REMEMBERED)
end

-- A session does not end before its lease.
local function outlives_lease(id)
  if redis.call('PTTL', session_of(id)) < LEASE then ends(id, NOW + LEASE) end
end

-- Who has a session, and how many bytes it takes; nothing for one that nobody has counted.
local function holding(id)
  local held = redis.call('HGET', HOLDINGS, id)
  if held then
    local bytes, owner = string.match(held, '^(%d+) (.*)$')
    return owner, tonumber(bytes)
  end
end

local function disown(id)
  local owner, bytes = holding(id)
  if not owner then return end
  redis.call('HDEL', HOLDINGS, id)
  if redis.call('HINCRBY', OWNED, owner, -1) > 0 then
    redis.call('HINCRBY', OWNED_BYTES, owner, -bytes)
  else
    redis.call('HDEL', OWNED, owner)
    redis.call('HDEL', OWNED_BYTES, owner)
  end
end

-- Count what a session takes: against whoever has it, else against this owner.
local function own(id, owner, bytes)
  local known, before = holding(id)
  if known == nil then redis.call('HINCRBY', OWNED, owner, 1) end
  if before == bytes then return end
  owner = known or owner
  redis.call('HSET', HOLDINGS, id, string.format('%.0f %s', bytes, owner))
  redis.call('HINCRBY', OWNED_BYTES, owner, bytes - (before or 0))
end

-- The tenant that an id begins with, with its length.
local function tenant_of(id)
  local length, rest = string.match(id, '^(%d+):(.*)$')
  return string.sub(rest, 1, tonumber(length))
end

local function erased_of(id) return KEYS[1] .. 'erased:' .. tenant_of(id) end

-- The name of its share; see name_of_tenant.
local function owner_of(id)
  local tenant = tenant_of(id)
  return tenant == '' and '' or 'tenant ' .. tenant
end

-- Where there is no memory left, the first write that needs some is refused: HSET, so that nothing is half done.
local function keep(id, record, holder, newest, call_id, ttl, expires, owner, bytes)
  redis.call('HSET', session_of(id), 'record', record, 'holder', holder, 'newest', newest, 'call_id', call_id)
  redis.call('HSET', mark_of(id), 'kind', 'expired', 'at', expires, 'holder', holder)
  redis.call('ZADD', INDEX, 0, id)
  redis.call('ZADD', DUE, NOW + ttl, id)
  ends(id, NOW + ttl)
  own(id, owner, tonumber(bytes))
end

local function unlist(id)
  disown(id)
  redis.call('ZREM', INDEX, id)
  redis.call('ZREM', DUE, id)
end

-- What became of a session that is not there. One that was not due yet, Redis has lost.
local function gone(id)
  local mark = redis.call('HMGET', mark_of(id), 'kind', 'at')
  if not mark[1] or (mark[1] == 'expired' and redis.call('PTTL', mark_of(id)) > REMEMBERED) then return {'unknown'} end
  return mark
end

-- One that is higher than all before.
local function next_fence()
  local fence = string.format('%.0f', math.max(tonumber(redis.call('GET', FENCE) or 0) + 1, MICROSECONDS))
  redis.call('SET', FENCE, fence)
  return fence
end

-- Whether the holder of a lease on a session that is not there may not write it again.
local function lost(id, fence)
  local mark = redis.call('HMGET', mark_of(id), 'kind', 'holder')
  if mark[1] == 'deleted' or (mark[2] and mark[2] ~= fence) then return true end
  local erased = redis.call('GET', erased_of(id))
  return erased and tonumber(fence) <= tonumber(erased)
end

local function sweep(most)
  local due = redis.call('ZRANGEBYSCORE', DUE, '-inf', NOW, 'LIMIT', 0, most)
  local living, swept = {}, 0
  for _, id in ipairs(due) do
    local ttl = redis.call('PTTL', session_of(id))
    if ttl == -2 then
      unlist(id)
      swept = swept + 1
    else
      table.insert(living, {id, NOW + math.max(ttl, 1)})
    end
  end
  for _, one in ipairs(living) do redis.pcall('ZADD', DUE, one[2], one[1]) end -- if not now, then another time
  return swept, #due
end
"""

_LAST = """
local answer = method()
-- What a replica has may be old: it answers nothing. (To delete nothing takes no memory, but a replica refuses it.)
local refused = redis.pcall('DEL', KEYS[1] .. 'nothing')
if type(refused) == 'table' and refused.err and string.find(refused.err, 'READONLY') then return refused end
return answer
"""


def script(method: str) -> str:
    """Complete one of the method bodies below to a script."""
    return f"{_COMMON}\nlocal function method()\n{method}\nend\n{_LAST}"


# Arguments after the durations: capacity; owner; most sessions and bytes that it may have (empty: any number); total
# bytes of the new sessions; and five values for each of them.
ADD = """
local capacity, owner, most, most_bytes = tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6])
local bytes, wanted, count = tonumber(ARGV[7]), {}, (#ARGV - 7) / 5
for at = 8, #ARGV, 5 do
  local id = ARGV[at]
  if wanted[id] or redis.call('EXISTS', session_of(id)) == 1 then return {'exists', (at - 8) / 5} end
  wanted[id] = true
end
for id in pairs(wanted) do
  if redis.call('ZSCORE', INDEX, id) then unlist(id) end -- it has ended, and was not swept yet
end
local function refusal()
  local sessions = tonumber(redis.call('HGET', OWNED, owner) or 0)
  local has_bytes = tonumber(redis.call('HGET', OWNED_BYTES, owner) or 0)
  if (most and sessions + count > most) or (most_bytes and has_bytes + bytes > most_bytes) then
    return {'quota', sessions, has_bytes}
  end
  local total = redis.call('ZCARD', INDEX)
  if total + count <= capacity then return end
  local owners = redis.call('HLEN', OWNED) + (sessions == 0 and 1 or 0)
  if total + count > 2 * capacity or sessions + count > capacity / owners then return {'full', total} end
end
local refused = refusal()
while refused do
  if sweep(500) == 0 then return refused end
  refused = refusal()
end
for at = 8, #ARGV, 5 do
  keep(ARGV[at], ARGV[at + 1], '', '', '', tonumber(ARGV[at + 2]), ARGV[at + 3], owner, ARGV[at + 4])
end
return {'done'}
"""

GET = """
local record = redis.call('HGET', session_of(ARGV[3]), 'record')
if not record then return gone(ARGV[3]) end
return {'done', record}
"""

PAGE_OF = """
local tenant, after, most = ARGV[3], ARGV[4], tonumber(ARGV[5])
local ids = redis.call('ZRANGEBYLEX', INDEX, '(' .. tenant .. after, '(' .. tenant .. '\\255', 'LIMIT', 0, most)
local found = {#ids == most and ids[most] or ''}
for _, id in ipairs(ids) do
  local record = redis.call('HGET', session_of(id), 'record')
  if record then
    table.insert(found, id)
    table.insert(found, record)
  else
    unlist(id)
  end
end
return found
"""

ACQUIRE = """
local id, call_id = ARGV[3], ARGV[4]
local found = redis.call('HMGET', session_of(id), 'record', 'call_id')
if not found[1] then return gone(id) end
local same_call = call_id ~= '' and found[2] == call_id
if not same_call and redis.call('EXISTS', lease_of(id)) == 1 then return {'busy', found[1]} end
local fence = next_fence()
redis.call('HSET', session_of(id), 'holder', fence, 'newest', fence, 'call_id', call_id)
redis.call('HSET', mark_of(id), 'holder', fence)
redis.call('SET', lease_of(id), '', 'PX', LEASE)
outlives_lease(id)
return {'done', found[1], fence, same_call and 1 or 0}
"""

WRITE = """
local id, fence, record, held, call_id, ttl, expires, bytes = unpack(ARGV, 3)
local found = redis.call('HMGET', session_of(id), 'holder', 'call_id')
if found[1] then
  if found[1] ~= fence then return {'taken'} end
  call_id = found[2]
elseif lost(id, fence) then
  return {'taken'}
end
if held == '1' then
  keep(id, record, fence, fence, call_id, tonumber(ttl), expires, owner_of(id), bytes)
  redis.call('SET', lease_of(id), '', 'PX', LEASE)
  outlives_lease(id)
else
  keep(id, record, '', fence, '', tonumber(ttl), expires, owner_of(id), bytes)
  redis.call('DEL', lease_of(id))
end
if tonumber(redis.call('GET', FENCE) or 0) < tonumber(fence) then redis.call('SET', FENCE, fence) end
return {'done'}
"""

# A lease that was just given back is neither held again nor lost. If Redis has no memory left, a lease that has ended
# stays ended.
RENEW = """
local lost_ones = {}
for at = 3, #ARGV, 2 do
  local id, fence = ARGV[at], ARGV[at + 1]
  local found = redis.call('HMGET', session_of(id), 'holder', 'newest')
  if not found[1] then
    if lost(id, fence) then table.insert(lost_ones, (at - 3) / 2) end
  elseif found[2] ~= fence then
    table.insert(lost_ones, (at - 3) / 2)
  elseif found[1] == fence then
    if redis.call('PEXPIRE', lease_of(id), LEASE) == 0 then redis.pcall('SET', lease_of(id), '', 'PX', LEASE) end
    outlives_lease(id)
  end
end
return lost_ones
"""

DROP = """
local id, fence = ARGV[3], ARGV[4]
if redis.call('HGET', session_of(id), 'holder') == fence then
  redis.call('DEL', lease_of(id))
  redis.call('HSET', session_of(id), 'holder', '', 'call_id', '')
  redis.call('HSET', mark_of(id), 'holder', '')
end
return {'done'}
"""

# Commands that free memory come first, so that the script works when there is none left.
DELETE = """
local id = ARGV[3]
local record = redis.call('HGET', session_of(id), 'record')
if not record then return gone(id) end
if redis.call('EXISTS', lease_of(id)) == 1 then return {'busy', record} end
redis.call('DEL', session_of(id))
unlist(id)
redis.call('HSET', mark_of(id), 'kind', 'deleted', 'at', ARGV[4])
redis.call('PEXPIRE', mark_of(id), REMEMBERED)
return {'done', record}
"""

# Commands that free memory come first here too. Leases that are older than `erased` cannot write sessions of the tenant
# any more, not even sessions that had expired or that Redis has lost.
ERASE = """
local tenant, at, most = ARGV[3], ARGV[4], tonumber(ARGV[5])
local ids = redis.call('ZRANGEBYLEX', INDEX, '(' .. tenant, '(' .. tenant .. '\\255', 'LIMIT', 0, most)
local erased = {#ids == most and 1 or 0}
redis.call('DEL', KEYS[1] .. 'nothing')
for _, id in ipairs(ids) do
  local _, bytes = holding(id)
  if redis.call('DEL', session_of(id), lease_of(id)) > 0 then
    table.insert(erased, id)
    table.insert(erased, bytes or 0)
  end
  unlist(id)
  redis.call('HSET', mark_of(id), 'kind', 'deleted', 'at', at)
  redis.call('PEXPIRE', mark_of(id), REMEMBERED)
end
redis.call('SET', erased_of(tenant), next_fence(), 'PX', REMEMBERED)
return erased
"""

SWEEP = "return {sweep(tonumber(ARGV[3]))}"

COUNT = """
return redis.call('ZCARD', INDEX)
"""

KEPT = """
return {tonumber(redis.call('HGET', OWNED, ARGV[3]) or 0), tonumber(redis.call('HGET', OWNED_BYTES, ARGV[3]) or 0)}
"""

# Corrects the counts for servers of version 0.1, which do not count: adds sessions that they added, and removes those
# that they removed. Each run does a part, and leaves consistent counts; the last one returns an empty string.
RECOUNT = """
local after, most = ARGV[3], tonumber(ARGV[4])
if after == '' and redis.call('HLEN', HOLDINGS) == redis.call('ZCARD', INDEX) then return '' end
local counting = string.sub(after, 1, 1) ~= '>'
if counting then
  local ids = redis.call('ZRANGEBYLEX', INDEX, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, most)
  for _, id in ipairs(ids) do
    if redis.call('HEXISTS', HOLDINGS, id) == 0 then
      own(id, owner_of(id), redis.call('HSTRLEN', session_of(id), 'record'))
    end
  end
  return #ids == most and ids[most] or '>0'
end
local cursor, found = unpack(redis.call('HSCAN', HOLDINGS, string.sub(after, 2), 'COUNT', most))
for at = 1, #found, 2 do
  if not redis.call('ZSCORE', INDEX, found[at]) then disown(found[at]) end
end
return cursor == '0' and '' or '>' .. cursor
"""

# A write that changes nothing: refused where writes are refused, but not because there is no memory left.
CHECK = "redis.call('DEL', KEYS[1] .. 'nothing') return {'done'}"

# A bucket that does not exist is full. A bucket expires when it is full again.
SPEND = """
local bucket = KEYS[1] .. 'bucket:' .. ARGV[3]
local tokens, rate, burst = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found, level = redis.call('HMGET', bucket, 'level', 'at'), burst
if found[1] then
  local since = math.max(0, MICROSECONDS - tonumber(found[2]))
  level = math.min(burst, tonumber(found[1]) + since / 1000000 * rate)
end
level = level - tokens
if tokens > 0 then
  redis.call('HSET', bucket, 'level', string.format('%.17g', level), 'at', string.format('%.0f', MICROSECONDS))
  redis.call('PEXPIRE', bucket, math.ceil((burst - level) / rate * 1000) + 1000)
end
return string.format('%.17g', level)
"""
