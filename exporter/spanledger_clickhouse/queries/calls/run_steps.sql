-- The steps around a call `c`: (kind, name, span id), the outermost first. What names no span, or the call itself, is none.
arrayFilter(step -> step.3 NOT IN ('', c.span_id, c.trace_id), JSONExtract(c.attributes['spanledger.run.path'], 'Array(Tuple(String, String, String))'))
