-- What closed months before the period have cost beyond what was sealed and carried.
SELECT ifNull(sum(amount), 0) FROM ({adjustments})
