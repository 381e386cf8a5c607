"""The back-ends, each behind the interface ``base.Backend``; the only place where their packages are imported."""
