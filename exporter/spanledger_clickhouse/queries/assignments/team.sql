coalesce(toString(c.team), team_of_feature.assigned, team_of_service.assigned)
