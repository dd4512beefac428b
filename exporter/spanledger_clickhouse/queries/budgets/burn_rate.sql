-- Of a group's days (day, cost) before and at as_of: the days themselves, and the mean daily spend of the last seven full days, or of
-- as many as there are since the first spend; of the day under way, where spend began today.
arraySort(groupArrayIf((assumeNotNull(day), assumeNotNull(cost)), cost != 0)) AS daily,
if(countIf(cost > 0 AND day < toDate(as_of)) = 0,
    sumIf(cost, day = toDate(as_of)) / greatest(1 / 24, dateDiff('second', toStartOfDay(as_of), as_of) / 86400),
    sumIf(cost, day < toDate(as_of) AND day >= toDate(as_of) - 7)
        / least(7, greatest(1, dateDiff('day', minIf(day, cost > 0), toDate(as_of))))) AS daily_burn_rate
