"""What a user asks for: profiles, recipes, targets, shapes, settings, units."""
