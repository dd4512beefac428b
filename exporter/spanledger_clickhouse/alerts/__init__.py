"""Budget alerts: each crossed threshold is sent once to Slack, PagerDuty and webhooks.

evaluate.py finds crossed thresholds, delivery_log.py delivers exactly once across guard replicas, messages.py formats
the payloads, destinations.py sends them.
"""
