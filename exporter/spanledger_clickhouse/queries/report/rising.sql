SELECT feature, slope_share
FROM cost_trend_at(as_of = {as_of_text})
WHERE rising
ORDER BY slope_share DESC
