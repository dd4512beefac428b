-- Usage in the columns of FOCUS (focus.finops.org) for FinOps tools: one row per hour, consumer, model and meter. Columns
-- that FOCUS does not have begin with x_. Unpriced usage has a cost of NULL and its x_PriceStatus.
CREATE OR REPLACE VIEW {db}.focus_cost_and_usage AS
SELECT
    sum(meter.3)                                      AS BilledCost,
    'spanledger'                                      AS BillingAccountId,
    'USD'                                             AS BillingCurrency,
    toStartOfMonth(ChargePeriodStart) + INTERVAL 1 MONTH AS BillingPeriodEnd,
    toStartOfMonth(ChargePeriodStart)                 AS BillingPeriodStart,
    'Usage'                                           AS ChargeCategory,
    CAST(NULL, 'Nullable(String)')                    AS ChargeClass,
    concat(c.model, ', ', meter.1)                    AS ChargeDescription,
    'Usage-Based'                                     AS ChargeFrequency,
    toStartOfHour(c.start_time) + INTERVAL 1 HOUR     AS ChargePeriodEnd,
    toStartOfHour(c.start_time)                       AS ChargePeriodStart,
    sum(meter.2)                                      AS ConsumedQuantity,
    if(meter.1 IN ('tools', 'other'), 'Units', 'Tokens') AS ConsumedUnit,
    sum(meter.3)                                      AS ContractedCost,
    sum(meter.3)                                      AS EffectiveCost,
    c.provider                                        AS HostProviderName,
    c.provider                                        AS InvoiceIssuerName,
    sum(meter.3)                                      AS ListCost,
    'Standard'                                        AS PricingCategory,
    'USD'                                             AS PricingCurrency,
    sum(meter.2)                                      AS PricingQuantity,
    ConsumedUnit                                      AS PricingUnit,
    c.inference_geo                                   AS RegionId,
    c.model                                           AS ResourceId,
    'Model'                                           AS ResourceType,
    'AI and Machine Learning'                         AS ServiceCategory,
    c.operation                                       AS ServiceName,
    c.provider                                        AS ServiceProviderName,
    'Generative AI'                                   AS ServiceSubcategory,
    c.price_key                                       AS SkuId,
    meter.1                                           AS SkuMeter,
    concat(c.price_key, '/', meter.1)                 AS SkuPriceId,
    c.tenant_id                                       AS SubAccountId,
    map('feature', ifNull(toString(c.feature), ''), 'service', toString(c.service), 'environment', ifNull(toString(c.environment), '')) AS Tags,
    c.feature                                         AS x_Feature,
    c.service                                         AS x_Service,
    c.model                                           AS x_Model,
    meter.1                                           AS x_TokenType,
    c.service_tier                                    AS x_ServiceTier,
    c.price_status                                    AS x_PriceStatus,
    c.price_version                                   AS x_PriceVersion,
    count()                                           AS x_Calls
FROM {db}.llm_calls AS c FINAL
ARRAY JOIN [
    ('input', {sum:input}, c.input_cost_usd),
    ('cache_read', {sum:cache_read}, c.cache_read_cost_usd),
    ('cache_write', {sum:cache_write}, c.cache_write_cost_usd),
    ('output', c.output_tokens, c.output_cost_usd),
    ('tools', {sum:tools}, c.tools_cost_usd),
    ('other', toUInt64(0), c.other_cost_usd)
] AS meter
WHERE (meter.2 > 0 OR meter.3 != 0) AND {window}
GROUP BY
    ChargePeriodStart, ChargePeriodEnd, meter.1, c.provider, c.model, c.operation, c.inference_geo, c.price_key, c.tenant_id,
    c.feature, c.service, c.environment, c.service_tier, c.price_status, c.price_version
ORDER BY ChargePeriodStart
