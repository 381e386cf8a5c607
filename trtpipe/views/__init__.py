"""How what trtpipe knows is laid out for people: blocks of facts and tables, and a page made of them."""
