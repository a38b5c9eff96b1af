"""What records and saved models say: tables, figures, the strength of the search. Never trains."""
