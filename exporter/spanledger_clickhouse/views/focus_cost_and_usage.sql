-- Usage in the columns of FOCUS (focus.finops.org) for FinOps tools: one row per hour, consumer, model and meter. Columns
-- that FOCUS does not have begin with x_. FOCUS has no unknown cost: unpriced usage costs 0 there, and x_PriceStatus says so.
-- BilledCost has negotiated discounts (`spanledger contract`), ListCost has not; credits and flat amounts are no usage (`effective_costs`).
CREATE OR REPLACE VIEW {db}.focus_cost_and_usage AS
WITH (SELECT groupArray((toString(provider), model, since, until, toDecimal64(percent, 6))) FROM {db}.contracts FINAL WHERE kind = 'discount') AS discounts
SELECT
    toDecimal128(ListCost * (1 - discount / 100), 12) AS BilledCost,
    'spanledger'                                      AS BillingAccountId,
    'Spanledger'                                      AS BillingAccountName,
    'USD'                                             AS BillingCurrency,
    toDateTime(toStartOfMonth(ChargePeriodStart) + INTERVAL 1 MONTH, 'UTC') AS BillingPeriodEnd,
    toDateTime(toStartOfMonth(ChargePeriodStart), 'UTC') AS BillingPeriodStart,
    'Usage'                                           AS ChargeCategory,
    CAST(NULL, 'Nullable(String)')                    AS ChargeClass,
    concat(c.model, ', ', meter.1)                    AS ChargeDescription,
    'Usage-Based'                                     AS ChargeFrequency,
    toStartOfHour(c.start_time) + INTERVAL 1 HOUR     AS ChargePeriodEnd,
    toStartOfHour(c.start_time)                       AS ChargePeriodStart,
    CAST(NULL, 'Nullable(String)')                    AS CommitmentDiscountCategory,
    CAST(NULL, 'Nullable(String)')                    AS CommitmentDiscountId,
    CAST(NULL, 'Nullable(String)')                    AS CommitmentDiscountName,
    CAST(NULL, 'Nullable(String)')                    AS CommitmentDiscountStatus,
    CAST(NULL, 'Nullable(String)')                    AS CommitmentDiscountType,
    toUInt64(sum(meter.2))                            AS ConsumedQuantity,
    if(meter.1 IN ('tools', 'other'), 'Units', 'Tokens') AS ConsumedUnit,
    BilledCost                                        AS ContractedCost,
    if(PricingQuantity = 0, NULL, toDecimal128(toFloat64(ContractedCost) / toFloat64(PricingQuantity), 18)) AS ContractedUnitPrice,
    ContractedCost                                    AS EffectiveCost,
    c.provider                                        AS HostProviderName,
    c.provider                                        AS InvoiceIssuer,
    c.provider                                        AS InvoiceIssuerName,
    sum(ifNull(meter.3, 0))                           AS ListCost,
    if(PricingQuantity = 0, NULL, toDecimal128(toFloat64(ListCost) / toFloat64(PricingQuantity), 18)) AS ListUnitPrice,
    'Standard'                                        AS PricingCategory,
    'USD'                                             AS PricingCurrency,
    ConsumedQuantity                                  AS PricingQuantity,
    ConsumedUnit                                      AS PricingUnit,
    c.provider                                        AS Provider,
    c.provider                                        AS Publisher,
    nullIf(toString(c.inference_geo), '')             AS RegionId,
    RegionId                                          AS RegionName,
    c.model                                           AS ResourceId,
    c.model                                           AS ResourceName,
    'Model'                                           AS ResourceType,
    'AI and Machine Learning'                         AS ServiceCategory,
    concat(c.provider, ' API')                        AS ServiceName,
    c.provider                                        AS ServiceProviderName,
    'Generative AI'                                   AS ServiceSubcategory,
    if(c.price_key = '', c.model, toString(c.price_key)) AS SkuId,
    meter.1                                           AS SkuMeter,
    concat(SkuId, '/', meter.1)                       AS SkuPriceId,
    nullIf(toString(c.tenant_id), '')                 AS SubAccountId,
    SubAccountId                                      AS SubAccountName,
    toJSONString(mapFilter((name, value) -> value != '', map(
        'feature', ifNull(toString(c.feature), ''), 'team', ifNull(toString(c.team), ''), 'project', ifNull(toString(c.project), ''),
        'tier', ifNull(toString(c.customer_tier), ''), 'service', toString(c.service), 'environment', ifNull(toString(c.environment), '')))) AS Tags,
    c.feature                                         AS x_Feature,
    c.team                                            AS x_Team,
    c.project                                         AS x_Project,
    c.customer_tier                                   AS x_Tier,
    c.service                                         AS x_Service,
    c.environment                                     AS x_Environment,
    c.model                                           AS x_Model,
    c.operation                                       AS x_Operation,
    meter.1                                           AS x_TokenType,
    c.service_tier                                    AS x_ServiceTier,
    c.price_status                                    AS x_PriceStatus,
    c.price_version                                   AS x_PriceVersion,
    count()                                           AS x_Calls
FROM
(
    SELECT *, toDate(start_time) AS day, {fragment:contracts/discount} AS discount, model AS model, input_tokens AS input_tokens, output_tokens AS output_tokens
    FROM {db}.llm_calls AS c FINAL
    WHERE {window}
) AS c
ARRAY JOIN [
    ('input', toFloat64({sum:input}), c.input_cost_usd),
    ('cache_read', toFloat64({sum:cache_read}), c.cache_read_cost_usd),
    ('cache_write', toFloat64({sum:cache_write}), c.cache_write_cost_usd),
    ('output', toFloat64(c.output_tokens), c.output_cost_usd),
    ('tools', toFloat64({sum:tools}), c.tools_cost_usd),
    ('other', toFloat64(if(c.other_cost_usd != 0, 1, 0)), c.other_cost_usd)
] AS meter
WHERE meter.2 > 0 OR meter.3 != 0
GROUP BY
    ChargePeriodStart, ChargePeriodEnd, meter.1, c.provider, c.model, c.operation, c.inference_geo, c.price_key, c.tenant_id,
    c.feature, c.team, c.project, c.customer_tier, c.service, c.environment, c.service_tier, c.price_status, c.price_version, discount
ORDER BY ChargePeriodStart, c.provider, c.model, meter.1, c.tenant_id, c.feature, c.service, c.environment
