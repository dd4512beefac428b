"""Attribution from the OpenTelemetry context: baggage, scopes, propagation, and call sites of unattributed calls."""
