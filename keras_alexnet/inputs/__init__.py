"""Records to network input: reading order, views, preprocessing."""
