-- The team that rules assign to a call `c`: f of its feature, s of its service.
LEFT JOIN (
    SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL
    WHERE dimension = 'team' AND by_dimension = 'feature'
) AS f ON f.value = ifNull(toString(c.feature), '')
LEFT JOIN (
    SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL
    WHERE dimension = 'team' AND by_dimension = 'service'
) AS s ON s.value = toString(c.service)
