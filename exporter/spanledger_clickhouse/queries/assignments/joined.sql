-- What rules assign to a call `c`: to its feature, and to its service.
LEFT JOIN (SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL WHERE dimension = 'team' AND by_dimension = 'feature') AS team_of_feature
    ON team_of_feature.value = ifNull(toString(c.feature), '')
LEFT JOIN (SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL WHERE dimension = 'team' AND by_dimension = 'service') AS team_of_service
    ON team_of_service.value = toString(c.service)
LEFT JOIN (SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL WHERE dimension = 'project' AND by_dimension = 'feature') AS project_of_feature
    ON project_of_feature.value = ifNull(toString(c.feature), '')
LEFT JOIN (SELECT value, toNullable(assigned) AS assigned FROM {db}.assignments FINAL WHERE dimension = 'project' AND by_dimension = 'service') AS project_of_service
    ON project_of_service.value = toString(c.service)
