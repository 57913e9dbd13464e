-- What a result store wants written of one task: documents and parts of joins, all of it or nothing.
--
-- A plan is made of flat arguments (kern_redis_client.plans makes them):
--   database, class, key, life, document                                            one document
--   database, 'p', how many arguments, documents, own, documents…, parts, parts…    anything else
--     a document:        class, key, life, document, known, verdict
--     a part of a join:  'k', join, due, id, member, success, part, size, body, errors, token, life, closing
--     a part of a chord: 'c', chord, member, id, ordered, score, life, group's life, claim, claim's life, done's life,
--                        closing, count
-- class: 's' success, 'f' another final state, 'n' any other. Lives are in ms, those of chords in s; '0' is for ever.
-- known, verdict: sha1 of what is stored, and 'w' or 'k' (write, keep) for it, where Python had to decide that.
-- closing: what a part is known to end its join as: '' not, '1' complete, '0' failed; of a chord 'done' or 'failed'.
--
-- An answer is 1: written, 0: written, but for the own document, 'error' with a text, or 'again' with what Python has to
-- decide before the plan can be written: {'d', n} a document, {'k', n, verdict, messages} and {'c', n, count, added} the
-- part that ends its join. A number means that all is written, everything else that nothing is.

local KERN_FINAL = {SUCCESS = true, FAILURE = true, REVOKED = true}
local KERN_DOCUMENT, KERN_PART = 6, 13

-- The state that a stored document tells of, by its first bytes; nil where that takes more than a look.
local function kern_state_of(text)
    local state = string.match(text, '^{"status": ?"([^"\\]*)"')
    if state then
        return state
    end
    -- MessagePack: a map, its first key, a short text.
    local at = string.match(text, '^[\128-\143]\166status()') or string.match(text, '^\222..\166status()')
    local length
    if at then
        length = (string.byte(text, at) or 0) - 160
        return length > 0 and length < 32 and string.sub(text, at + 1, at + length) or nil
    end
    -- Pickle, protocols 4 and 5: a frame, a dictionary, its first key, a short text.
    at = string.match(text, '^\128[\004\005]\149........}\148%(\140\006status\148\140()')
    if at then
        length = string.byte(text, at) or 0
        return string.sub(text, at + 1, at + length)
    end
    return nil
end

-- Whether what is stored stays: a success always, what is final against what is not.
local function kern_stays(state, class)
    return state == 'SUCCESS' or (class == 'n' and KERN_FINAL[state] == true)
end

local function kern_write_document(call, key, life, document)
    local set
    if life == '0' then
        set = call('SET', key, document)
    else
        set = call('SET', key, document, 'PX', life)
    end
    if set.err then
        return set.err
    end
    -- Whoever may write here and may not announce it has been told so when he connected.
    redis.pcall('PUBLISH', key, document)
    return nil
end

local function kern_one_document(class, key, life, document)
    local set
    if life == '0' then
        set = redis.pcall('SET', key, document, 'NX')
    else
        set = redis.pcall('SET', key, document, 'PX', life, 'NX')
    end
    if set then
        if set.err then
            return {'error', set.err}
        end
        redis.pcall('PUBLISH', key, document)
        return 1
    end
    local stored = redis.pcall('GET', key)
    if type(stored) == 'table' then
        return {'error', stored.err .. ': ' .. key}
    end
    if stored == document then
        return 1
    end
    if stored then
        local state = kern_state_of(stored)
        if not state then
            return {'again', {{'d', 1}}}
        end
        if kern_stays(state, class) then
            return 0
        end
    end
    local problem = kern_write_document(redis.pcall, key, life, document)
    return problem and {'error', problem} or 1
end

-- Looking at documents: what is to be written, or why not. Nothing is written here.
local function kern_look_at_documents(argv, at, count, reports)
    local verdicts, stored_now = {}, {}
    for number = 1, count do
        local class, key, known = argv[at], argv[at + 1], argv[at + 4]
        local stored = stored_now[key]
        if stored == nil then
            stored = redis.pcall('GET', key)
            if type(stored) == 'table' then
                return nil, stored.err .. ': ' .. key
            end
        end
        local keep = false
        if stored and stored ~= argv[at + 3] then
            local state = kern_state_of(stored)
            if state then
                keep = kern_stays(state, class)
            elseif known ~= '' and redis.sha1hex(stored) == known then
                keep = argv[at + 5] == 'k'
            else
                reports[#reports + 1] = {'d', number}
            end
        end
        verdicts[number] = not keep
        stored_now[key] = keep and stored or argv[at + 3]
        at = at + KERN_DOCUMENT
    end
    return verdicts
end

local function kern_is(key, kind)
    local found = redis.call('TYPE', key).ok
    return found == kind or found == 'none'
end

local function kern_join(key)
    local row = redis.pcall(
        'HMGET', key, 'opened', 'policy', 'needed', 'size', 'succeeded', 'failed', 'closed', 'deadline'
    )
    if row.err then
        return nil, row.err .. ': ' .. key
    end
    if not kern_is(key .. '.parts', 'hash') or not kern_is(key .. '.members', 'zset') then
        return nil, 'WRONGTYPE of ' .. key .. '.parts or .members'
    end
    return {
        key = key, opened = row[1], policy = row[2], needed = tonumber(row[3] or nil), size = tonumber(row[4] or nil),
        succeeded = tonumber(row[5] or 0), failed = tonumber(row[6] or 0), closed = row[7],
        deadline = tonumber(row[8] or nil), fresh = {}, set = {},
        -- Before it is open they may not be all there.
        members = row[1] and redis.call('EXISTS', key .. '.members') == 1,
    }
end

-- '1': complete, '0': failed, nil: neither yet.
local function kern_verdict(join)
    local total = join.size
    if not total then
        return join.opened and '1' or nil
    end
    if join.policy == 'collect' then
        return join.succeeded + join.failed >= total and '1' or nil
    end
    local needed = total
    if join.policy == 'any' then
        needed = 1
    elseif join.policy == 'n-of-m' then
        needed = join.needed or total
    end
    if join.succeeded >= needed then
        return '1'
    end
    return total - join.failed < needed and '0' or nil
end

-- How long a join is kept: so long after its last change, and not before its deadline.
local function kern_keep_join(join, life, now)
    if life == '0' then
        return
    end
    local left = tonumber(life)
    if join.deadline and join.deadline > now then
        left = left + join.deadline - now
    end
    for _, key in ipairs({join.key, join.key .. '.parts', join.key .. '.members'}) do
        redis.call('PEXPIRE', key, string.format('%.0f', left))
    end
end

local function kern_now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Counting a part in memory. Answers what Python has to know, or nil.
local function kern_look_at_part(argv, at, joins)
    local key, member, size, body, errors, token = argv[at + 1], argv[at + 4], argv[at + 7], argv[at + 8],
        argv[at + 9], argv[at + 10]
    local join, problem = joins[key], nil
    if not join then
        join, problem = kern_join(key)
        if not join then
            return nil, problem
        end
        joins[key] = join
        joins[#joins + 1] = join
    end
    join.due, join.id, join.life = argv[at + 2], argv[at + 3], argv[at + 11]
    local verdict
    if join.closed then
        if string.sub(join.closed, 2) ~= token or join.ended then
            return nil
        end
        -- This very plan has ended it, and the answer was lost on its way.
        verdict = string.sub(join.closed, 1, 1)
    else
        if join.fresh[member] or redis.call('HEXISTS', key .. '.parts', member) == 1 then
            return nil
        end
        if join.members and not redis.call('ZSCORE', key .. '.members', member) then
            return nil
        end
        join.fresh[member] = argv[at + 6]
        if argv[at + 5] == '1' then
            join.succeeded = join.succeeded + 1
        else
            join.failed = join.failed + 1
        end
        if not join.size and size ~= '' then
            join.size = tonumber(size)
        end
        for field, value in pairs({body = body, errors = errors}) do
            if value ~= '' and not join.set[field] and redis.call('HEXISTS', key, field) == 0 then
                join.set[field] = value
            end
        end
        verdict = kern_verdict(join)
        if not verdict then
            return nil
        end
        join.closed = verdict .. token
    end
    join.ended = true
    local field = verdict == '1' and 'body' or 'errors'
    return {verdict, join.set[field] or redis.call('HGET', key, field) or ''}
end

local function kern_count_parts(join, call)
    local written
    for member, part in pairs(join.fresh) do
        written = call('HSET', join.key .. '.parts', member, part)
        if type(written) == 'table' and written.err then
            return written.err
        end
        call = redis.call
    end
    if not written then
        return nil
    end
    redis.call('HSET', join.key, 'succeeded', join.succeeded, 'failed', join.failed)
    if join.size then
        redis.call('HSET', join.key, 'size', join.size)
    end
    for field, value in pairs(join.set) do
        redis.call('HSET', join.key, field, value)
    end
    if join.closed then
        redis.call('HSET', join.key, 'closed', join.closed)
        redis.call('ZREM', join.due, join.id)
    end
    kern_keep_join(join, join.life, kern_now())
    return nil
end

-- Chords in Celery's layout. Answers the number of parts if this one completes it, and whether it is added to them.
local function kern_look_at_chord(argv, at, added)
    local base, ordered = argv[at + 1], argv[at + 4] == '1'
    if not kern_is(base .. '.j', ordered and 'zset' or 'list') or not kern_is(base .. '.d', 'set') then
        return nil, 'WRONGTYPE of ' .. base .. '.j or .d (is result_chord_ordered the same everywhere?)'
    end
    local row = redis.pcall('MGET', base .. '.c', base .. '.t', base .. '.s')
    if row[1] == 'done' then
        return 'over'
    end
    local fresh = redis.call('SISMEMBER', base .. '.d', argv[at + 3]) == 0
    local count
    if ordered then
        count = redis.call('ZCARD', base .. '.j')
        fresh = fresh and not redis.call('ZSCORE', base .. '.j', argv[at + 2])
    else
        count = redis.call('LLEN', base .. '.j')
    end
    if fresh then
        added[base] = (added[base] or 0) + 1
    end
    count = count + (added[base] or 0)
    local size = tonumber(row[3] or nil)
    if size and not row[1] and count == size + (tonumber(row[2] or nil) or 0) then
        return count, fresh and 1 or 0
    end
    return nil
end

local function kern_count_chord(argv, at, call)
    local base, life, group_life = argv[at + 1], argv[at + 6], argv[at + 7]
    if redis.call('GET', base .. '.c') == 'done' then
        return nil
    end
    if redis.call('SISMEMBER', base .. '.d', argv[at + 3]) == 0 then
        local added
        if argv[at + 4] == '1' then
            added = call('ZADD', base .. '.j', argv[at + 5], argv[at + 2])
        else
            added = call('RPUSH', base .. '.j', argv[at + 2])
        end
        if type(added) == 'table' and added.err then
            return added.err
        end
        redis.call('SADD', base .. '.d', argv[at + 3])
    end
    if life ~= '0' then
        for _, suffix in ipairs({'.j', '.t', '.s', '.d'}) do
            redis.call('EXPIRE', base .. suffix, life)
        end
        if group_life ~= '0' then
            redis.call('EXPIRE', base, group_life)
        end
    end
    if argv[at + 11] == 'done' then
        redis.call('DEL', base .. '.j', base .. '.t', base .. '.s', base .. '.d')
        redis.call('SET', base .. '.c', 'done', 'EX', argv[at + 10])
    elseif argv[at + 11] == 'failed' then
        redis.call('SET', base .. '.c', argv[at + 8], 'EX', argv[at + 9])
        redis.call('DEL', base .. '.s')
    end
    return nil
end

local function kern_whole_plan(argv, at)
    local documents, own = tonumber(argv[at + 3]), argv[at + 4] == '1'
    local first_document = at + 5
    local first_part = first_document + documents * KERN_DOCUMENT + 1
    local parts = tonumber(argv[first_part - 1])
    local reports, joins, added, again = {}, {}, {}, false
    local verdicts, problem = kern_look_at_documents(argv, first_document, documents, reports)
    if not verdicts then
        return {'error', problem}
    end
    again = #reports > 0
    for number = 1, parts do
        local here = first_part + (number - 1) * KERN_PART
        local closing, found = '', nil
        if argv[here] == 'k' then
            found, problem = kern_look_at_part(argv, here, joins)
            if found then
                closing = found[1]
                reports[#reports + 1] = {'k', number, found[1], found[2]}
            end
            again = again or closing ~= argv[here + 12]
        else
            found, problem = kern_look_at_chord(argv, here, added)
            if type(found) == 'number' then
                reports[#reports + 1] = {'c', number, found, problem}
                again = again or argv[here + 11] == '' or tonumber(argv[here + 12]) ~= found
                problem = nil
            elseif not problem then
                again = again or argv[here + 11] ~= ''
            end
        end
        if problem then
            return {'error', problem}
        end
    end
    if again then
        return {'again', reports}
    end
    -- From here on it is written. Of all writes only the first can be refused (for want of memory, or because this is a
    -- replica); then nothing has been written.
    local call = redis.pcall
    for number = 1, documents do
        if verdicts[number] then
            local here = first_document + (number - 1) * KERN_DOCUMENT
            problem = kern_write_document(call, argv[here + 1], argv[here + 2], argv[here + 3])
            if problem then
                return {'error', problem}
            end
            call = redis.call
        end
    end
    for _, join in ipairs(joins) do
        problem = kern_count_parts(join, call)
        if problem then
            return {'error', problem}
        end
        if next(join.fresh) then
            call = redis.call
        end
    end
    for number = 1, parts do
        local here = first_part + (number - 1) * KERN_PART
        if argv[here] == 'c' then
            problem = kern_count_chord(argv, here, call)
            if problem then
                return {'error', problem}
            end
            call = redis.call
        end
    end
    return own and not verdicts[1] and 0 or 1
end

-- The position behind a plan.
local function kern_skip_plan(argv, at)
    if argv[at + 1] == 'p' then
        return at + tonumber(argv[at + 2])
    end
    return at + 5
end

-- Write the plan at *at*; answers the position behind it, and its answer. *home* is the script's own database, as text.
local function kern_plan(argv, at, home)
    local away = argv[at] ~= home
    if away then
        local selected = redis.pcall('SELECT', argv[at])
        if selected.err then
            return kern_skip_plan(argv, at), {'error', selected.err}
        end
    end
    local answer
    if argv[at + 1] == 'p' then
        local fine
        fine, answer = pcall(kern_whole_plan, argv, at)
        if not fine then
            answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)}
        end
    else
        answer = kern_one_document(argv[at + 1], argv[at + 2], argv[at + 3], argv[at + 4])
    end
    if away then
        redis.call('SELECT', home)
    end
    return kern_skip_plan(argv, at), answer
end
