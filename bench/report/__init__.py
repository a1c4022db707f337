"""The report: tables, figures and pages made from the rows of runs.csv."""
