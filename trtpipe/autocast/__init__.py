"""16-bit lowering: casts by rules and by measured tensor ranges."""
