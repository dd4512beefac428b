SELECT day, toString(provider), project, toString(model), toString(kind), toString(source)
FROM invoices FINAL
WHERE day >= {first:Date} AND day <= {last:Date} AND source != 'replaced'
