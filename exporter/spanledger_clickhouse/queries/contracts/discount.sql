-- Of provider, model and day: the largest discount in per cent that was agreed; discounts: (provider, model, since, until, percent).
arrayMax(arrayPushBack(arrayMap(d -> d.5, arrayFilter(d -> d.1 IN ('', toString(provider))
    AND (d.2 IN ('', model) OR startsWith(model, concat(d.2, '-20')) OR (endsWith(d.2, '*') AND startsWith(model, substring(d.2, 1, length(d.2) - 1))))
    AND day >= d.3 AND day < d.4, discounts)), toDecimal64(0, 6)))
