"""What came out of a campaign: tables, log, statistics, plots, report, and how they are shared."""
