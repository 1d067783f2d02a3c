-- SPDX-License-Identifier: Apache-2.0
-- Decides over all rules of a step; gives back, settles or prolongs earlier charges. This is
-- core/limiter.c in Lua: a change to one is a change to both. decide_plain.lua does what most calls
-- need. redis/script.c encodes the call and decodes the reply.
--
-- All keys are read before any is charged. So a counter has one key, and callers never give the
-- same key twice in a call: one of its two charges would be lost.
--
-- Numbers in records, replies and values are unsigned and little endian. A tick is a ms, or a us
-- for buckets whose window is a minute or less. Time is this server's own.
--
-- The call, for n rules; lines with (o) only where overrides are on:
--
--   KEYS[i]          a counter
--   KEYS[n+i]        (o) its identity's hash of overrides: a field for each rule
--   ARGV[1]          how many rules, from the first, can deny; the others are shadow rules.
--                    -1 - that number: a peek, which charges nothing and starts no block
--   ARGV[2i]         a record
--   ARGV[2i+1]       ms until nothing of a charge counts any more: how long the key lives at least
--   ARGV[2n+1+i]     (o) the rule's name, then name, quota (or "unlimited") and burst of each of
--                    its tiers, with a blank after each word
--
-- A record:
--
--   offset  bytes  meaning
--        0      1  kind: 0 sliding window, 1 fixed window, 2 bucket, 3 log; + 4 ticks are us;
--                  + 8 charged on response; + 16 may hold a block; + 32 has overrides
--        1      1  act: 0 decide, 1 give back, 2 settle without a charge, 3 settle with a charge,
--                  4 prolong pending units
--        2      4  window, in ticks
--        6      4  quota
--       10      4  cost: units to charge, or of the earlier charge
--       14      4  capacity: the burst of a bucket; otherwise the quota
--       18      4  delay, in ticks
--       22      4  block, in ms; 0: the rule does not block
--       26      7  position of the earlier charge: its window, its tick, or the period it is pending
--                  in; decide_plain.lua gets no position
--
--                  To decide, the last bytes are these instead:
--
--       26      4  units wanted as a lease, beyond the cost
--       30      2  how old a leased unit may become, in ms; 0: the counter has no leases
--       32      1  0
--
-- The reply: '1' if all live rules admit, else '0'; then for each rule its state before the charge,
-- which is one of the first three tables, and for kinds of 8 and more the fourth:
--
--   offset  bytes  of a window
--        0      7  now, in ticks: the time that the decision was made for
--        7      4  units in the window before
--       11      4  units in this window
--
--   offset  bytes  of a bucket
--        0      7  now, in ticks
--        7      8  level: units * window in ticks
--
--   offset  bytes  of a log
--        0      7  now, in ticks
--        7      4  units in the window
--       11      4  ms until the cost fits
--       15      4  ms until the first unit leaves the window
--       19      4  ms until the last one has left
--
--   offset  bytes  after it, for kinds of 8 and more
--        0      4  ms that a block still lasts
--        4      4  number of the period that a unit becomes pending in now
--        8      4  units pending
--       12      4  quota in force
--       16      4  capacity in force
--       20      1  override: 0 none, 1 a quota or a tier, 2 unlimited, 3 garbage, 4 its key is not
--                  a hash, 5 Redis refuses HGET
--
-- and last, if a lease is wanted:
--
--        0      4  units leased; charged together with the cost
--
-- Values of keys. Anything else under a key counts as nothing and is overwritten.
--
--   offset  bytes  of a window, 14 or 33 bytes
--        0      6  number of the window
--        6      4  units in the window before
--       10      4  units in it
--       14     19  tail, only while there is a block or a pending unit
--
--   offset  bytes  of a bucket, 20 or 39 bytes
--        0      7  tick that the level is of
--        7      7  level: units * window in ticks
--       14      6  ms at which the key expires
--       20     19  tail, as of a window
--
--   offset  bytes  of a log, 27 bytes and 10 for each entry
--        0      4  units in the window
--        4      4  entries, from the first, that have left the window
--        8     19  tail
--       27      6  entry: ms of a charge
--       33      4         its units
--
--   offset  bytes  of a tail
--        0      7  tick at which the block ends; 0: none
--        7      4  a period of RL_PENDING_PERIOD_MS: its number
--       11      4  units pending in the period before
--       15      4  units pending in it
local call, pcall = redis.call, redis.pcall
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local pack, unpack = struct.pack, struct.unpack
local COUNT_MAX, PRODUCT_MAX, LOG_MAX, BLOCK_MAX = 1000000000, 2251799813685248, 10000, 2678400000
local SLIDING, BUCKET, LOG = 0, 2, 3
local GIVE_BACK, SETTLE_CHARGED, PROLONG = 1, 3, 4
local PERIOD = RL_PENDING_PERIOD_MS -- the build puts the number here
local HEAD, ENTRY, CHUNK = 27, 10, 64 -- of a log: bytes, bytes, entries read at once

local t = call('TIME')
local ms = t[1] * 1000 + floor(t[2] / 1000)
local us = t[1] * 1000000 + t[2]

local function read_rule(key, record, ttl)
    local r = {key = key, ttl = ttl + 0, overridden = 0, due = {}}
    local kind
    kind, r.act, r.window, r.quota, r.cost, r.capacity, r.delay, r.block, r.position =
        unpack('<BBI4I4I4I4I4I4I7', record)
    r.algorithm, r.ticks, r.clock = kind % 4, 1, ms
    if kind % 8 >= 4 then
        r.ticks, r.clock = 1000, us
    end
    r.on_response, r.has_more = kind % 16 >= 8, kind >= 8
    r.now, r.wanted, r.leased, r.lease_ms = r.clock, 0, 0, 0
    if r.act == 0 then
        r.wanted, r.lease_ms = r.position % 4294967296, floor(r.position / 4294967296)
    end
    r.wants_lease = r.wanted > 0
    return r
end

-- A number is a quota; a word is the name of a tier, or unlimited.
local function override(r, key, tiers)
    local word = pcall('HGET', key, string.match(tiers, '^%S+'))
    if type(word) == 'table' then
        r.overridden = string.find(word.err, 'WRONGTYPE', 1, true) and 4 or 5
    end
    if type(word) ~= 'string' then
        return
    end
    local quota, capacity
    local _, at = string.find(tiers, ' ' .. word .. ' ', 1, true)
    if string.find(word, '^%d+$') and #word <= 10 then
        quota, capacity = word + 0, word + 0
        if capacity >= RL_LEASE_SHARE then -- of tiers this is taken off already
            capacity = capacity - ceil(quota * r.lease_ms * r.ticks / r.window)
        end
    elseif at and string.find(word, '^[%w._-]+$') then
        quota, capacity = string.match(tiers, '^(%S+) (%d+)', at + 1)
    end
    if word == 'unlimited' or quota == 'unlimited' then
        r.overridden, r.cost, r.wanted = 2, 0, 0
        return
    end
    quota = tonumber(quota)
    capacity = r.algorithm == BUCKET and tonumber(capacity) or quota
    if quota and quota <= (r.algorithm == LOG and LOG_MAX or COUNT_MAX)
        and max(quota, capacity) * r.window <= PRODUCT_MAX
        and capacity * r.window + r.delay * quota <= PRODUCT_MAX then
        r.overridden, r.quota, r.capacity = 1, quota, quota > 0 and capacity or 0
    else
        r.overridden = 3
    end
end

-- Iterates over up to CHUNK entries of a log from number i on; 0 is the oldest one that is stored.
local function entries(r, i)
    local chunk = call('GETRANGE', r.key, HEAD + ENTRY * i, HEAD + ENTRY * (i + CHUNK) - 1)
    local at = 1 - ENTRY
    return function()
        at = at + ENTRY
        if at < #chunk then
            return unpack('<I6I4', chunk, at)
        end
    end
end

local function load_log(r)
    local head = pcall('GETRANGE', r.key, 0, HEAD - 1)
    r.used, r.dropped, r.count, r.last, r.added = 0, 0, 0, 0, {}
    if type(head) ~= 'string' or #head < HEAD then
        return nil
    end
    local used, dropped = unpack('<I4I4', head)
    local count = (call('STRLEN', r.key) - HEAD) / ENTRY
    if count % 1 > 0 or dropped > count or used > COUNT_MAX then
        return nil
    end
    r.known, r.used, r.dropped, r.count = true, used, dropped, count
    if count > dropped then
        r.last = unpack('<I6', call('GETRANGE', r.key, -ENTRY, -1))
    end
    return string.sub(head, 9)
end

-- Reads what the key holds; returns the tail, if there is one.
local function load_state(r)
    if r.algorithm == LOG then
        return load_log(r)
    end
    local value = pcall('GET', r.key)
    local size = value and #value
    r.index, r.prev, r.cur, r.at, r.level = 0, 0, 0, 0, 0
    if r.algorithm == BUCKET and (size == 20 or size == 39) then
        local at, level = unpack('<I7I7', value)
        if level <= PRODUCT_MAX then
            r.known, r.at, r.level = true, at, level
            return size == 39 and string.sub(value, 21)
        end
    elseif r.algorithm ~= BUCKET and (size == 14 or size == 33) then
        local index, prev, cur = unpack('<I6I4I4', value)
        if prev <= COUNT_MAX and cur <= COUNT_MAX then
            r.known, r.index, r.prev, r.cur = true, index, prev, cur
            return size == 33 and string.sub(value, 15)
        end
    end
end

-- For a state that is too far ahead because the clock was set back by so many ticks: moves its
-- block back as well, and has the state stored even if the rule denies.
local function anchor(r, ticks)
    r.blocked, r.anchored = max(0, r.blocked - ticks), true
end

-- Moves the state on to a moment. r.now is then the time that the decision is made for: that of the
-- state, if it is slightly ahead.
local function roll(r, moment)
    r.now = moment
    if r.algorithm == BUCKET then
        local passed = moment - r.at
        if passed < 0 and -passed <= r.window then
            r.now = r.at
            return
        end
        if passed < 0 then
            anchor(r, -passed)
        end
        r.level, r.at = max(0, r.level - max(0, passed) * r.quota), moment
    elseif r.algorithm == LOG then
        if r.last > moment and r.last <= moment + r.window then
            r.now = r.last
        end
    else
        local index = floor(moment / r.window)
        if r.index == index + 1 then
            r.now = r.index * r.window
        elseif r.index < index then
            r.prev = r.index == index - 1 and r.cur or 0
            r.index, r.cur = index, 0
        elseif r.index > index then
            anchor(r, (r.index - index) * r.window)
            if r.algorithm == SLIDING then
                r.cur = min(r.cur + r.prev, COUNT_MAX)
            end
            r.index, r.prev = index, 0
        end
    end
end

local function charge(r, units)
    if r.algorithm == BUCKET then
        r.level = min(r.level + units * r.window, PRODUCT_MAX)
    elseif r.algorithm == LOG then
        r.last, r.used = max(r.last, r.now), r.used + units
        r.added[#r.added + 1] = pack('<I6I4', r.last, units)
    else
        r.cur = min(r.cur + units, COUNT_MAX)
    end
end

-- Charges units that were pending until a moment. A state that is past it stays where it is.
local function overdue(r, units, moment)
    if units == 0 then
        return
    end
    if r.algorithm == LOG or moment > max(r.at, r.index * r.window) then
        roll(r, moment)
    end
    charge(r, units)
end

-- Reads the tail. Units of periods that are over become charges.
local function roll_pending(r, tail)
    local period = floor(ms / PERIOD)
    r.blocked, r.period, r.before, r.pending = 0, period, 0, 0
    if not tail then
        return
    end
    local s, before, pending
    r.blocked, s, before, pending = unpack('<I7I4I4I4', tail)
    if before + pending == 0 then
        return
    end
    if s >= period then
        r.before, r.pending = before, pending
        if s <= period + 2 then
            r.period = s
        else
            r.anchored = true
        end
    else
        overdue(r, before, (s + 1) * PERIOD * r.ticks)
        if s == period - 1 then
            r.before = pending
        else
            overdue(r, pending, (s + 2) * PERIOD * r.ticks)
        end
    end
end

local function tail_of(r)
    return pack('<I7I4I4I4', r.blocked > r.now and r.blocked or 0, r.period, r.before, r.pending)
end

local function log_head(r)
    return pack('<I4I4', r.used, r.dropped) .. tail_of(r)
end

-- Of a log: stores charges that overdue() made, drops entries that have left the window, and
-- computes the waits. A log that is too far ahead of the clock becomes one entry of now.
local function sum_up(r)
    local dropped, first = r.dropped, nil
    if r.last > r.clock + r.window then
        r.dropped, r.count, r.last, r.added, dropped = 0, 1, r.clock, {}, 0
        call('PSETEX', r.key, r.ttl, log_head(r) .. pack('<I6I4', r.clock, r.used))
    elseif #r.added > 0 then
        call('APPEND', r.key, table.concat(r.added))
        r.count, r.added, dropped = r.count + #r.added, {}, nil
    end
    while not first and r.dropped < r.count do
        for time, units in entries(r, r.dropped) do
            if time > r.now - r.window then
                first = time
                break
            end
            r.dropped, r.used = r.dropped + 1, r.used - units
        end
    end
    if dropped ~= r.dropped then
        call('SETRANGE', r.key, 0, log_head(r))
    end
    r.next = first and first + r.window - r.now or 0
    r.reset = first and r.last + r.window - r.now or 0
    r.wait = 0
    local i, over = r.dropped, r.cost <= r.quota and r.used + r.cost - r.quota or 0
    while over > 0 and i < r.count do
        for time, units in entries(r, i) do
            i, over, r.wait = i + 1, over - units, time + r.window - r.now
            if over <= 0 then
                break
            end
        end
    end
end

-- What is used, and what may be used. Both are multiplied by the window.
local function used_of(r)
    local used, room
    if r.algorithm == BUCKET then
        used, room = r.level, r.capacity * r.window + r.delay * r.quota
    elseif r.algorithm == LOG then
        used, room = r.used * r.window, r.quota * r.window
    else
        used, room = r.cur * r.window, r.quota * r.window
        if r.algorithm == SLIDING then
            used = used + r.prev * (r.window - (r.now - r.index * r.window))
        end
    end
    return used, room
end

local function fits(r, units)
    local used, room = used_of(r)
    return units <= r.capacity and used + units * r.window <= room
end

-- Of units that are wanted for RL_LEASE_DEMAND_MS, those for so many ms, if they are fewer.
local function needed_in(wanted, ms)
    return ms < RL_LEASE_DEMAND_MS and floor(wanted * ms / RL_LEASE_DEMAND_MS) or wanted
end

-- How many units to lease beyond the cost: half of what can be spent before the lease ends, and no
-- more than a share of what is left.
local function lease(r)
    if r.wanted == 0 then
        return 0
    end
    local used, room = used_of(r)
    local left = floor((room - used) / r.window) - r.before - r.pending - r.cost
    local lasts = r.algorithm == BUCKET and r.lease_ms or r.window - r.now % r.window
    lasts = min(floor(lasts * 7 / 8), r.lease_ms)
    local refill = r.quota > 0 and floor(r.capacity * (r.window / r.ticks) / r.quota) or 0
    local scarce = max(needed_in(r.wanted, floor(refill / RL_LEASE_REST)), floor(left / RL_LEASE_REST))
    local rest = min(left, floor(r.capacity / RL_LEASE_REST))
    return max(0, min(needed_in(r.wanted, floor(lasts / 2)), scarce,
                      max(floor(left / RL_LEASE_SHARE), rest)))
end

local function report(r)
    local state
    if r.algorithm == BUCKET then
        state = pack('<I7I8', r.now, r.level)
    elseif r.algorithm == LOG then
        state = pack('<I7I4I4I4I4', r.now, r.used, r.wait, r.next, r.reset)
    else
        state = pack('<I7I4I4', r.now, r.prev, r.cur)
    end
    if not r.has_more then
        return state
    end
    return state .. pack('<I4I4I4I4I4B', max(0, ceil((r.blocked - r.now) / r.ticks)), r.period,
                         r.before + r.pending, r.quota, r.capacity, r.overridden)
end

-- r.left is then the log's entries without the units given back, and without dropped ones.
local function give_back_log(r)
    local left, cost = call('GETRANGE', r.key, HEAD + ENTRY * r.dropped, -1), r.cost
    for at = #left + 1 - ENTRY, 1, -ENTRY do
        local time, units = unpack('<I6I4', left, at)
        if time == r.position and cost > 0 then
            local back = min(cost, units)
            local rest = units > back and pack('<I6I4', time, units - back) or ''
            left = string.sub(left, 1, at - 1) .. rest .. string.sub(left, at + ENTRY)
            r.used, cost = r.used - back, cost - back
        end
    end
    r.left = left
end

-- Takes back a charge at r.position; of a bucket, what has not drained since.
local function give_back(r)
    if r.algorithm == BUCKET then
        local drained = max(0, r.at - r.position) * r.quota
        r.level = r.level - min(r.level, max(0, r.cost * r.window - drained))
    elseif r.algorithm == LOG then
        give_back_log(r)
    elseif r.index == r.position then
        r.cur = max(0, r.cur - r.cost)
    elseif r.index == r.position + 1 then
        r.prev = max(0, r.prev - r.cost)
    end
end

-- Removes dropped entries when the log is rewritten anyway, or when they outnumber the others.
local function store_log(r, ttl)
    local added = table.concat(r.added)
    if not r.known then
        r.left = ''
    elseif not r.left and r.dropped > CHUNK and 2 * r.dropped > r.count then
        r.left = call('GETRANGE', r.key, HEAD + ENTRY * r.dropped, -1)
    end
    if r.left then
        r.dropped = 0
        call('PSETEX', r.key, ttl, log_head(r) .. r.left .. added)
    else
        call('SETRANGE', r.key, 0, log_head(r))
        call('APPEND', r.key, added)
        call('PEXPIRE', r.key, ttl)
    end
end

local function store(r)
    local block_ms = max(0, ceil((r.blocked - r.now) / r.ticks))
    local ttl = max(r.ttl, block_ms, r.before + r.pending > 0 and 2 * PERIOD + r.ttl or 0)
    if r.algorithm == LOG then
        store_log(r, ttl)
        return
    end
    local value, tail = nil, ''
    if block_ms > 0 or r.before + r.pending > 0 then
        tail = tail_of(r)
    end
    if r.algorithm == BUCKET then
        value = pack('<I7I7I6', r.at, r.level, ms + ttl)
    else
        value = pack('<I6I4I4', r.index, r.prev, r.cur)
    end
    call('PSETEX', r.key, ttl, value .. tail)
end

-- Units whose period is over have become a charge already. A call that prolongs them may come before
-- or after this one: what their period lacks is in the other period.
local function settle(r)
    if r.position == r.period then
        local units = min(r.cost, r.pending)
        r.pending, r.before = r.pending - units, max(0, r.before - (r.cost - units))
    elseif r.position == r.period - 1 then
        local units = min(r.cost, r.before)
        r.before, r.pending = r.before - units, max(0, r.pending - (r.cost - units))
    else
        return
    end
    if r.act == SETTLE_CHARGED then
        charge(r, r.cost)
    end
    store(r)
end

-- Moves units from the period before to the current one.
local function prolong(r)
    local units = r.position == r.period - 1 and min(r.cost, r.before) or 0
    if units > 0 then
        r.before, r.pending = r.before - units, r.pending + units
        store(r)
    end
end

local n = #ARGV - 1 - #KEYS -- rules; overrides add n to both
local live, peek, all, rules, reply = ARGV[1] + 0, false, true, {}, {}
if live < 0 then
    live, peek = -1 - live, true
end

for i = 1, n do
    local r = read_rule(KEYS[i], ARGV[2 * i], ARGV[2 * i + 1])
    rules[i] = r
    if KEYS[n + i] then
        override(r, KEYS[n + i], ARGV[2 * n + 1 + i])
    end
    roll_pending(r, load_state(r))
    roll(r, r.clock)
    if r.algorithm == LOG and r.last > r.clock + r.window then
        anchor(r, r.last - r.clock)
    end
    r.blocked = min(r.blocked, r.now + (r.block > 0 and r.block or BLOCK_MAX) * r.ticks)
    if r.algorithm == LOG then
        sum_up(r)
    end
    reply[i] = report(r)
    r.admits = r.overridden == 2
        or (r.now >= r.blocked and fits(r, r.before + r.pending + r.cost))
    if r.act == 0 and not r.admits and i <= live then
        all = false
    end
    -- A block starts whether or not another rule denies too.
    if r.act == 0 and not peek and r.block > 0 and r.cost <= r.capacity and r.now >= r.blocked
        and not r.admits and not fits(r, r.cost) then
        r.blocked, r.starts_block = r.now + r.block * r.ticks, true
    end
end

for i, r in ipairs(rules) do
    if r.act == GIVE_BACK then
        if r.known then
            give_back(r)
            store(r)
        end
    elseif r.act == PROLONG then
        if r.known then
            prolong(r)
        end
    elseif r.act ~= 0 then
        if r.known or r.act == SETTLE_CHARGED then
            settle(r)
        end
    elseif r.starts_block then
        store(r)
    elseif not peek then
        local admitted = r.admits and (all or i > live)
        if admitted then
            r.leased = lease(r)
        end
        if admitted and r.on_response then
            r.pending = r.pending + r.cost
        elseif admitted and r.cost + r.leased > 0 then
            charge(r, r.cost + r.leased)
        end
        if r.anchored or (admitted and r.cost + r.leased > 0) then
            store(r)
        end
    end
    if r.wants_lease then
        reply[i] = reply[i] .. pack('<I4', r.leased)
    end
end
return (all and '1' or '0') .. table.concat(reply)
