-- SPDX-License-Identifier: Apache-2.0
-- Decides over windows and buckets whose records have kinds below 8, which most calls do.
-- decide.lua draws the formats and gives the same verdicts. This is the hot loop of a server that
-- many share, so it has no functions and no table for each rule. A tail is dropped: a key can have
-- one here only if the configuration differs between hosts or has changed.
--
-- With SET and KEEPTTL the call takes a tenth less time than with PSETEX. So a key gets a new time
-- to live only at its first charge in a window, or when its level will outlive the old one.
local call, pcall, floor = redis.call, redis.pcall, math.floor
local pack, unpack = struct.pack, struct.unpack
local t = call('TIME')
local ms = t[1] * 1000 + floor(t[2] / 1000)
local live, all, new, keep, reply = ARGV[1] + 0, true, {}, {}, ''
local anchored -- values stored even on a denial; nil as long as there are none

for i, key in ipairs(KEYS) do
    local kind, window, quota, cost, capacity, delay = unpack('<BxI4I4I4I4I4', ARGV[2 * i])
    local value = pcall('GET', key)
    local size = value and #value
    local now = ms
    if kind < 2 then
        local index, prev, cur = floor(ms / window), 0, 0
        if size == 14 or size == 33 then
            local at, p, c = unpack('<I6I4I4', value)
            if p > 1000000000 or c > 1000000000 then
                p, c = 0, 0
            end
            if at == index then
                prev, cur, keep[i] = p, c, true
            elseif at == index - 1 then
                prev = c
            elseif at == index + 1 then
                prev, cur = p, c
                index, now = at, at * window
            elseif at > index then
                cur = kind == 0 and math.min(p + c, 1000000000) or c
                anchored = anchored or {}
                anchored[i] = pack('<I6I4I4', index, 0, cur)
            end
        end
        local used = (cur + cost) * window
        if kind == 0 then
            used = used + prev * (window - now % window)
        end
        if used <= quota * window then
            new[i] = pack('<I6I4I4', index, prev, cur + cost)
        elseif i <= live then
            all = false
        end
        reply = reply .. pack('<I7I4I4', now, prev, cur)
    else
        local ticks, level, expires = 1, 0, 0
        if kind == 6 then
            ticks, now = 1000, t[1] * 1000000 + t[2]
        end
        if size == 20 or size == 39 then
            local at, l, e = unpack('<I7I7I6', value)
            if l <= 2251799813685248 then
                level, expires = l, e
                if at < now then
                    level = l - (now - at) * quota
                    if level < 0 then
                        level = 0
                    end
                elseif at <= now + window then
                    now = at
                else
                    anchored = anchored or {}
                    anchored[i] = pack('<I7I7I6', now, l, ms + ARGV[2 * i + 1])
                end
            end
        end
        local after = level + cost * window
        if cost <= capacity and after <= capacity * window + delay * quota then
            if (expires - ms) * ticks * quota >= after then
                keep[i] = true
            else
                expires = ms + ARGV[2 * i + 1]
            end
            new[i] = pack('<I7I7I6', now, after, expires)
        elseif i <= live then
            all = false
        end
        reply = reply .. pack('<I7I8', now, level)
    end
end

for i, key in ipairs(KEYS) do
    local value = (all or i > live) and new[i]
    if not value and anchored then
        value, keep[i] = anchored[i], nil -- with a new time to live
    end
    if value then
        if keep[i] then
            call('SET', key, value, 'KEEPTTL')
        else
            call('PSETEX', key, ARGV[2 * i + 1], value)
        end
    end
end
return (all and '1' or '0') .. reply
