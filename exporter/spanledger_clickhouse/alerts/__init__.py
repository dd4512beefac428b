"""The guard over budgets: what has come to a threshold is told once, to Slack, PagerDuty and webhooks.

watch.py finds what is to be told, telling.py sees to it that it is told once over all guards and not forgotten by one that
dies, messages.py has the words, destinations.py sends them.
"""
