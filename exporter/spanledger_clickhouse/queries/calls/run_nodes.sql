-- The nodes of a run above and at a call `c`: (depth, id, id of the parent, kind, name), from its trace down to itself.
arrayConcat(
    [(toUInt32(0), c.trace_id, '', 'run', toString(c.service))],
    arrayMap((step, place) -> (place, step.3, if(place = 1, c.trace_id, steps[place - 1].3), step.1, step.2), steps, arrayEnumerate(steps)),
    [(toUInt32(length(steps) + 1), c.span_id, if(empty(steps), c.trace_id, steps[-1].3), 'call', c.model)]
)
