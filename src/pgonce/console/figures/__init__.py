"""The console's figures: pure functions that draw SVG. Positions are per cent across and pixels down."""
