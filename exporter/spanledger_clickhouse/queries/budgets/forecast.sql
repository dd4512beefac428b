-- The one forecast of all views, reports and commands. Of spent, daily_burn_rate, amount (Float64, USD), daily (day and cost of each day
-- with spend, up to as_of; [] where there is no day to learn from), as_of, period_start and period_end: the spend at the end of the period, and when
-- the amount is, or was, used up.
--
-- Each day to come costs the mean of the last seven full days, times its weekday's share: the mean of that weekday over whole weeks of the
-- last four, over the mean of these (1 where there are less than two weeks). The band is half_widths standard deviations of a day
-- (from its weekday's expectation, over 28 days) times sqrt(n + n * n / 7) for n days to come: those vary by themselves, and the mean
-- of seven days may be off. `benchmarks/bench_forecast.py` measures how often it holds. Below seven full days there is no band.
1.5 AS half_widths,
toDate(as_of) AS today,
arrayMap(i -> arraySum(d -> if(d.1 = today - i, d.2, 0.), daily), range(1, 29)) AS history,
arrayFilter(d -> d.1 < today AND d.2 > 0, daily) AS earlier,
if(empty(earlier), 0, dateDiff('day', earlier[1].1, today)) AS full_days,
toInt64(least(28, full_days)) AS known_days,
intDiv(known_days, 7) * 7 AS week_days,
arraySum(arraySlice(history, 1, week_days)) / greatest(1, week_days) AS week_mean,
arrayMap(w -> if(known_days < 14 OR week_mean <= 0, 1.,
    arraySum((cost, i) -> if(toDayOfWeek(today - i) = w AND i <= week_days, cost, 0.), history, range(1, 29)) / intDiv(week_days, 7) / week_mean), range(1, 8)) AS shares,
arrayMap(k -> (greatest(0, dateDiff('second', greatest(as_of, toDateTime(today + k, 'UTC')), least(period_end, toDateTime(today + k + 1, 'UTC')))) / 86400) AS portion,
    range(0, toUInt32(greatest(0, dateDiff('day', today, toDate(period_end)) + 1)))) AS portions,
arrayMap((portion, k) -> portion * shares[toDayOfWeek(today + k)], portions, range(0, length(portions))) AS weights,
arraySum(weights) AS days_to_come,
arraySum(portions) AS calendar_days,
sqrt(arraySum((cost, i) -> if(i <= known_days, pow(cost - if(week_mean > 0, week_mean, daily_burn_rate) * shares[toDayOfWeek(today - i)], 2), 0.), history, range(1, 29))
    / greatest(1, known_days - 1)) AS daily_deviation,
half_widths * daily_deviation * sqrt(calendar_days + calendar_days * calendar_days / 7) AS half_band,
empty(daily) OR full_days >= 7 OR calendar_days = 0 AS has_band,
amount - spent AS remaining,
spent + daily_burn_rate * days_to_come AS projected_usd,
if(has_band, least(projected_usd, greatest(spent, projected_usd - if(empty(daily), 0., half_band))), NULL) AS projected_low_usd,
if(has_band, projected_usd + if(empty(daily), 0., half_band), NULL) AS projected_high_usd,
arrayFilter(d -> d.1 >= toDate(period_start), daily) AS whole_days,
arraySum(d -> if(d.1 > toDate(period_start), d.2, 0.), whole_days) AS after_first_day,
arrayMap(d -> if(d.1 > toDate(period_start), d, (d.1, greatest(0., spent - after_first_day))), whole_days) AS in_period, -- a period may begin within a day
arrayCumSum(arrayMap(d -> d.2, in_period)) AS sums,
arrayFirstIndex(s -> s >= amount, sums) AS crossing,
if(remaining > 0, NULL, if(crossing = 0, least(as_of, period_end), least(as_of, greatest(period_start, toDateTime(in_period[crossing].1, 'UTC')) + toIntervalSecond(toInt64(
    dateDiff('second', greatest(period_start, toDateTime(in_period[crossing].1, 'UTC')), least(as_of, toDateTime(in_period[crossing].1 + 1, 'UTC')))
    * greatest(0., 1 - (sums[crossing] - amount) / in_period[crossing].2)))))) AS crossed_at,
arrayMap(rate -> if(rate <= 0 OR remaining <= 0, NULL, (
    arrayFirstIndex(s -> s >= remaining / rate, arrayCumSum(weights)) AS k,
    if(k = 0, NULL, greatest(as_of, toDateTime(today + k - 1, 'UTC')) + toIntervalSecond(toInt64(86400 * portions[k]
        * (1 - (arraySum(arraySlice(weights, 1, k)) - remaining / rate) / weights[k])))) AS at).2),
    [daily_burn_rate, if(days_to_come > 0, (projected_usd + half_band - spent) / days_to_come, 0.), if(days_to_come > 0, (projected_usd - half_band - spent) / days_to_come, 0.)]) AS ahead,
if(remaining <= 0, crossed_at, ahead[1]) AS exhausted_at,
if(remaining <= 0, crossed_at, if(has_band, ahead[2], NULL)) AS exhausted_earliest,
if(remaining <= 0, crossed_at, if(has_band, ahead[3], NULL)) AS exhausted_latest
