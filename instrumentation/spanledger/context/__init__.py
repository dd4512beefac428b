"""OpenTelemetry context in, attribution out: baggage, scopes, propagation, the calling code where attribution is missing."""
