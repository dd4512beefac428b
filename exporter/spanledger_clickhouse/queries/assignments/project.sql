coalesce(toString(c.project), project_of_feature.assigned, project_of_service.assigned)
