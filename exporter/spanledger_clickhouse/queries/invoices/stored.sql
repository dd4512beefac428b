SELECT day, toString(provider), project, toString(model), toString(kind), toDecimal128(amount_usd, 12), rounding_usd, toString(source)
FROM invoices FINAL
WHERE day >= {first:Date} AND day <= {last:Date} AND source != 'replaced'
ORDER BY day, provider, project, model, kind
