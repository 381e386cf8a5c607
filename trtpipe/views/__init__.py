"""The layout of records for people: blocks of facts and tables, and an HTML report made of them."""
