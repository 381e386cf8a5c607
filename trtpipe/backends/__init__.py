"""The rooms that hold vendor packages, each behind the same narrow door (``base.Backend``)."""
