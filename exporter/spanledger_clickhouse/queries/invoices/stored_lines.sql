SELECT day, toString(provider), project, toString(model), toString(kind)
FROM invoices FINAL
WHERE day >= {first:Date} AND day <= {last:Date} AND amount_usd != 0
