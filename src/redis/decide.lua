-- One decision over all rules of a step, or one give-back. This is limiter.c in Lua: whoever
-- changes one changes both.
--
-- A key holds its counter as 14 bytes, little endian: the number of the window (6), the units
-- admitted in the window before it (4) and in it (4). Anything else under the key is taken for
-- nothing and overwritten, and so are counts that no rule can have. Time is this server's own, in ms.
--
-- decide:    ARGV[1] = how many of KEYS, from the first, can deny; the others are shadow rules
--            then for each key: algorithm letter, window in ms, quota, cost
--            returns '1' (charged) or '0' (nothing charged but shadow rules that admit), then for
--            each key 14 bytes: the time that counts (6), prev (4), cur (4), before the charge
-- give-back: ARGV[1] = 'give-back', then for each key: window in ms, number of the window, cost
local call, floor, pack, unpack = redis.call, math.floor, struct.pack, struct.unpack

if ARGV[1] == 'give-back' then
    for i, key in ipairs(KEYS) do
        local state = redis.pcall('GET', key)
        local ttl = call('PTTL', key)
        if state and #state == 14 and ttl > 0 then
            local index, prev, cur = unpack('<I6I4I4', state)
            local given, cost = ARGV[3 * i] + 0, ARGV[3 * i + 1] + 0
            if index == given then
                cur = cur - math.min(cost, cur)
            elseif index == given + 1 then
                prev = prev - math.min(cost, prev)
            end
            call('PSETEX', key, ttl, pack('<I6I4I4', index, prev, cur))
        end
    end
    return '1'
end

local t = call('TIME')
local clock = t[1] * 1000 + floor(t[2] / 1000)
local live, all, charged, reply = ARGV[1] + 0, true, {}, ''

for i, key in ipairs(KEYS) do
    local window, quota, cost = ARGV[4 * i - 1] + 0, ARGV[4 * i] + 0, ARGV[4 * i + 1] + 0
    local now, index, prev, cur = clock, floor(clock / window), 0, 0
    local state = redis.pcall('GET', key)
    if state and #state == 14 then
        local i0, p, c = unpack('<I6I4I4', state)
        if p > 1000000000 or c > 1000000000 then
            p, c = 0, 0
        end
        if i0 == index then
            prev, cur = p, c
        elseif i0 == index - 1 then
            prev = c
        elseif i0 > index then
            prev, cur = p, c
            if i0 == index + 1 then
                index, now = i0, i0 * window
            end
        end
    end
    local used = (cur + cost) * window
    if ARGV[4 * i - 2] == 's' then
        used = used + prev * (window - now % window)
    end
    if used <= quota * window then
        charged[i] = pack('<I6I4I4', index, prev, cur + cost)
    elseif i <= live then
        all = false
    end
    reply = reply .. pack('<I6I4I4', now, prev, cur)
end

for i, key in ipairs(KEYS) do
    if charged[i] and (all or i > live) then
        call('PSETEX', key, 2 * ARGV[4 * i - 1], charged[i])
    end
end
return (all and '1' or '0') .. reply
