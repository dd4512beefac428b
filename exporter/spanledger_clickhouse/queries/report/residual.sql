SELECT if(count() = 0, NULL, sum(residual_usd)) FROM reconciliation WHERE day >= toDate({since} + INTERVAL 1 DAY - INTERVAL 1 SECOND) AND day < toDate({until})
