"""What every package of the application side stands on: exception barrier, settings, readers of untrusted JSON, finalizers."""
