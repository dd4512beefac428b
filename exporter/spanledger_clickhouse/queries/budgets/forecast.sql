-- Of spent, daily_burn_rate, daily_deviation, amount (Float64, USD), as_of and period_end: the spend at the end of the
-- period, and when the amount is exhausted. The bands hold 80 % if days are independent: 1.2816 standard deviations of
-- the mean of seven days.
dateDiff('second', as_of, period_end) / 86400 AS days_left,
1.2816 * daily_deviation / sqrt(7) AS half_band,
amount - spent AS remaining,
spent + daily_burn_rate * days_left AS projected_usd,
spent + greatest(0., daily_burn_rate - half_band) * days_left AS projected_low_usd,
spent + (daily_burn_rate + half_band) * days_left AS projected_high_usd,
multiIf(remaining <= 0, as_of, daily_burn_rate > 0 AND remaining / daily_burn_rate < 36500,
    as_of + toIntervalSecond(toInt64(86400 * remaining / daily_burn_rate)), NULL) AS exhausted_at,
multiIf(remaining <= 0, as_of, isNotNull(exhausted_at),
    as_of + toIntervalSecond(toInt64(86400 * remaining / (daily_burn_rate + half_band))), NULL) AS exhausted_earliest,
multiIf(remaining <= 0, as_of, daily_burn_rate > half_band AND remaining / (daily_burn_rate - half_band) < 36500,
    as_of + toIntervalSecond(toInt64(86400 * remaining / (daily_burn_rate - half_band))), NULL) AS exhausted_latest
