-- A month by one dimension, as it is listed, as it was agreed, and with what is shared out; to twelve decimals.
SELECT nullIf(toString({by}), '') AS {by}, toDecimal128(sum(list_usd), 12) AS list_usd, toDecimal128(sum(contracted_usd), 12) AS contracted_usd,
       toDecimal128(sum(amortised_usd), 12) AS amortised_usd, toDecimal128(sum(effective_usd), 12) AS effective_usd
FROM effective_costs
WHERE month = {month:Date}
GROUP BY {by}
ORDER BY effective_usd DESC, {by}
