"""The cost report: spend, breakdowns, trends, forecast and data quality."""
