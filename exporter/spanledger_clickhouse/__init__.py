"""What reads Spanledger's spans and writes ClickHouse: rows, schema, shipper, exporter, commands."""
