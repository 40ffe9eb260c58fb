"""pgonce in the frameworks that people have. Each module needs its framework, and nothing imports it by itself."""
