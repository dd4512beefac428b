"""Ships spool segments to their destination: shipper, sinks, background thread, dead letters."""
