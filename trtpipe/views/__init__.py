"""The layout of records for people: blocks of metadata and tables, and an HTML report made of them."""
