SELECT hour, hourly_cost_usd, normal_cost_usd, score, arrayFilter(x -> x != '', top_users.1), arrayFilter(x -> x != '', top_features.1)
FROM cost_anomalies_at(as_of = {moment_text}) WHERE method = 'same_hour_mad' ORDER BY hour DESC
